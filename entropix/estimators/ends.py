r"""Whether an integral over log-SNR converges, judged at both ends of its axis.

Where the data have a density, the rate of every integral of this subpackage falls off like
$e^{-\lambda}$ at the data end, and like $e^{\lambda}$ or faster at the noise end. Where they have
none, the rate stays at half the codimension, and the integral is infinite.

What can be known of the data end is limited by rounding: $y = \mu x + \Sigma z$ resolves a ratio
$\Sigma/\mu$ of noise to signal down to a few units of rounding of x. With $\lambda_r$ the log-SNR
of that limit, the rate is measured at $\lambda_r - 4$, at $\lambda_r$, at three points beyond it
and at the end of the axis. The same data points and the same noise are used at each, so that the
*ratio* of two rates is known well from a few evaluations: it is $e^{-4}$ between the first two for
a smooth density, and 1 on a plateau. A decaying rate is accepted however large it still is, because
what follows is smaller. Beyond the limit a rate can only grow again through rounding: of data with
structure that is not resolved, or of a field that subtracts large numbers.

At the noise end only a process that ends in noise ($\mu(t_1) = 0$) has an infinite axis. There, the
last two log-SNRs that the time variable resolves, four apart, are compared in the same way.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entropix._core.checks import is_concrete
from entropix._core.compiled import error_if
from entropix.estimators.axis import LogSNRAxis
from entropix.interfaces import AbstractKernel, DivergenceError


# A rate counts only above this share of its peak (of at most one nat per unit log-SNR at the data
# end: half a dimension of codimension leaves 0.25 there).
_DATA_SHARE = 0.05
_NOISE_SHARE = 1e-3
# Slower than this, in -d ln(rate) per unit log-SNR, is no decay: a smooth density has 1.
_SLOWEST_DECAY = 0.25
# How much of an integral may lie beyond the limit of resolution, relatively and in nats.
_SHARE_BEYOND = 0.02
_AMOUNT_BEYOND = 0.01
_RESOLVED = (-4.0, 0.0)
_BEYOND = (3.0, 7.0, 13.0)


class EndRates(eqx.Module):
    r"""How the rate of an integral behaves close to the ends of its axis.

    Attributes:
        slope: $dI/d(-\ln\Sigma)$ four units of log-SNR before the limit of resolution.
        slope_stderr: its standard error.
        resolved: the ratio of noise to signal at that limit.
        plateau: whether the rate fails to decay down to the limit.
        growth: whether it grows again from there to the data end of the axis, or much of the
            integral lies there.
        noise: whether it fails to decay at the noise end.
    """

    slope: Float[Array, ""]
    slope_stderr: Float[Array, ""]
    resolved: Float[Array, ""]
    plateau: Bool[Array, ""]
    growth: Bool[Array, ""]
    noise: Bool[Array, ""]


def resolution(data: Array) -> Array:
    r"""The smallest ratio $\Sigma/\mu$ that $\mu x + \Sigma z$ resolves."""
    return 8 * jnp.finfo(data.dtype).eps * jnp.sqrt(jnp.mean(data**2))


def _limit(data: Array) -> Array:
    r"""$\lambda_r$, the log-SNR of the limit of resolution."""
    return -2 * jnp.log(resolution(data))


def resolved_points(start: Array, data: Array) -> Array:
    """Two log-SNRs, the limit of resolution and one before it, not beyond the data end `start`."""
    return jnp.minimum(_limit(data) + jnp.asarray(_RESOLVED, data.dtype), start)


def _flat(size: Array, log_snr: Array, near: int, far: int) -> Array:
    """Whether the size of a rate does not decay between two points more than one unit apart."""
    step = jnp.abs(log_snr[far] - log_snr[near])
    return (size[far] > size[near] * jnp.exp(-_SLOWEST_DECAY * step)) & (step > 1)


def judge_ends(
    log_snr: Array,
    rates: Array,
    peak: Array,
    axis: LogSNRAxis,
    data: Array,
    fraction: Array,
    values: Array,
) -> EndRates:
    """Judge rates at the `end_points` of an axis, shape (points, draws), and a sweep of it.

    Args:
        log_snr: the end points.
        rates: the integrand per unit log-SNR there.
        peak: the largest mean absolute rate anywhere.
        axis: the axis.
        data: the data, for the size and the rounding of its numbers.
        fraction: where the sweep was taken, uniform.
        values: the integrand per unit of the axis there.
    """
    size, start = jnp.mean(jnp.abs(rates), axis=1), axis.log_snr(0.0)
    ends = judge_sizes(log_snr, size, 2 * rates[0], peak, start, data)
    # An integral that lies beyond the limit comes from rounding, whether or not its rate decays.
    sizes = jax.lax.stop_gradient(jnp.abs(values))
    beyond = sizes * (axis.log_snr(fraction) > _limit(data))
    beyond, whole = jnp.mean(jnp.stack([beyond, sizes]), axis=1)
    made = (beyond > _SHARE_BEYOND * whole) & (beyond > _AMOUNT_BEYOND)
    return eqx.tree_at(lambda e: e.growth, ends, ends.growth | made)


def judge_sizes(
    log_snr: Array, size: Array, slopes: Array, peak: Array, start: Array, data: Array
) -> EndRates:
    """Judge mean absolute rates close to the ends.

    Args:
        log_snr: where they were taken: all `end_points`, or the two `resolved_points` alone.
        size: the mean absolute rates there.
        slopes: draws of `EndRates.slope`.
        peak: the largest mean absolute rate anywhere.
        start: the log-SNR of the data end of the axis.
        data: the data, for the size and the rounding of its numbers.
    """
    enough = _DATA_SHARE * jnp.minimum(peak, 1.0)
    # An axis that ends before the limit of resolution is finite, and so is the integral.
    open_end = start > _limit(data)
    plateau = open_end & (size[1] > enough) & _flat(size, log_snr, 0, 1)
    growth, noise = jnp.zeros((), bool), jnp.zeros((), bool)
    last = min(size.shape[0], _AT_DATA) - 1
    for near in range(1, last):
        growth |= (size[near + 1] > enough) & _flat(size, log_snr, near, near + 1)
    if size.shape[0] > _AT_DATA:
        far = size[_AT_DATA + 1]
        # The rate of a network that has stored nothing may be rounding alone.
        enough = jnp.maximum(_NOISE_SHARE * peak, jnp.finfo(size.dtype).eps)
        noise = (far > enough) & _flat(size, log_snr, _AT_DATA, _AT_DATA + 1)
    error = jnp.std(slopes) / jnp.sqrt(slopes.size)
    ends = EndRates(jnp.mean(slopes), error, resolution(data), plateau, open_end & growth, noise)
    return jax.lax.stop_gradient(ends)


# The end points of the data end; two more are taken where a process ends in noise.
_AT_DATA = len(_RESOLVED) + len(_BEYOND) + 1


def end_points(process: AbstractKernel, axis: LogSNRAxis, data: Array) -> Array:
    """The log-SNRs close to the ends of an axis at which rates are compared."""
    start = axis.log_snr(0.0)
    beyond = jnp.minimum(_limit(data) + jnp.asarray(_BEYOND, data.dtype), start)
    points = [resolved_points(start, data), beyond, start[None]]
    if process.ends_in_noise:
        # Closer to t1 than this, differences of times are rounding.
        margin = 16 * jnp.finfo(data.dtype).eps * (process.t1 - process.t0)
        last = jnp.maximum(process.log_snr(process.t1 - margin), axis.log_snr(1.0))
        points.append(jnp.stack([last + 4, last]))
    return jax.lax.stop_gradient(jnp.concatenate(points).astype(data.dtype))


def num_end_points(process: AbstractKernel) -> int:
    """The number of `end_points`."""
    return _AT_DATA + (2 if process.ends_in_noise else 0)


def check_ends(
    value: Any, ends: EndRates, cutoff: Array | None, data: Array, *, trained: bool = False
) -> Any:
    """Return `value`; refuse an integral whose rate does not decay at an end of its axis.

    Args:
        value: what is returned, with errors attached where the rates are traced.
        ends: the rates at the ends.
        cutoff: the smallest noise standard deviation included, or None.
        data: the data, shape (n, *shape).
        trained: whether the rates are those of a network, which `scaling` may help.

    Raises:
        DivergenceError: where the rates are concrete.
    """
    noise_end = (
        "the rate does not decay at the noise end, so the integral is infinite: the field must "
        "vanish there like mu(s)"
    )
    if trained:
        noise_end += "; a network's does with `scaling=GaussianScaling.from_data(...)`"
    if is_concrete((value, ends, cutoff)):
        if bool(ends.plateau) or bool(ends.growth):
            message = _data_end_message(ends, cutoff, data)
            raise DivergenceError(f"{message}.", slope=ends.slope, remedy="cutoff")
        if bool(ends.noise):
            if jnp.finfo(data.dtype).bits < 64:
                noise_end += ". If it does, at noise that float32 times do not resolve, use float64"
            raise DivergenceError(f"{noise_end}.", remedy="scaling" if trained else None)
        return value
    value = error_if(value, ends.plateau | ends.growth, _DATA_END)
    return error_if(value, ends.noise, noise_end)


_DATA_END = (
    "the rate does not decay at the data end, so the integral is infinite: pass `cutoff`, the "
    "smallest noise standard deviation to include"
)


def _data_end_message(ends: EndRates, cutoff: Any, data: Array) -> str:
    single = jnp.finfo(data.dtype).bits < 64
    double = "use float64 (JAX_ENABLE_X64=1)"
    least, dim = float(ends.resolved), math.prod(data.shape[1:])
    if cutoff is not None:
        remedy = f", or {double}" if single else ""
        return (
            f"`cutoff` must be at least {least:.2g}{remedy}: {data.dtype} does not resolve smaller "
            f"noise at the data end, on data of this size, got {float(cutoff):.3g}"
        )
    if ends.growth and abs(float(ends.slope)) < 2 * _DATA_SHARE:
        remedy = f"{double}, or " if single else ""
        return (
            f"the rate does not decay at the data end below a noise of {least:.2g}, the smallest "
            f"that {data.dtype} resolves, so rounding decides the integral: {remedy}pass `cutoff`, "
            "the smallest noise standard deviation to include"
        )
    slope = float(ends.slope)
    meaning = "the model's field does not fit the noise it is given"
    if 0 < slope <= 1.05 * dim:
        meaning = (
            f"the data or the model look {slope:.3g} dimensions short of the space (codimension)"
        )
    elif slope > 0:
        meaning = f"more than the {dim} dimensions of the space: the field or rounding decides it"
    text = f"{_DATA_END}. The slope is {slope:.3g}"
    text += f" ± {float(ends.slope_stderr):.1g} per -ln(noise std): {meaning}"
    if single:
        text += f". If they have a density on scales below {least:.2g}, {double}"
    return text
