"""From an integrand to a curve of estimates: checks, the two passes, and the report."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key, as_float
from entropix._core.checks import (
    checked,
    conditions,
    is_concrete,
    positive,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.estimate import Estimate
from entropix._core.interfaces import AbstractGaussianProcess
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import AbstractDenoisingFunctional
from entropix.entropy.integrate import (
    PILOT_SHARE,
    Integrand,
    Pilot,
    Points,
    gaussian_process,
    rate_at,
    run_main,
    run_pilot,
)
from entropix.entropy.reference import GaussianReference


# What counts as a plateau rather than a decaying tail. At the data end, per unit log-SNR: half a
# dimension of codimension leaves 0.25, a smooth density of the smallest resolvable variance well
# under 0.05. At the noise end, 20 units out, a decaying rate is 1e-9 of its peak.
_DATA_PLATEAU = 0.05
_NOISE_PLATEAU = 1e-3


class CurveOfIntegral(eqx.Module):
    """An integral accumulated along the process, with standard errors."""

    times: Float[Array, " k"]
    rate: Float[Array, " k"]
    rate_stderr: Float[Array, " k"]
    cumulative: Float[Array, " k"]
    stderr: Float[Array, " k"]
    mc_stderr: Float[Array, " k"]
    total: Estimate


def check_cutoff(integrand: Integrand, cutoff: Any) -> Array | None:
    """A noise standard deviation within the process, or None."""
    if cutoff is None:
        return None
    process = gaussian_process(integrand)
    return cutoff_within(process, cutoff)


def cutoff_within(process: AbstractGaussianProcess, cutoff: Any) -> Array:
    """A noise standard deviation above zero and below that of the process at t1."""
    end = process.std(process.t1)
    return checked(
        positive(cutoff, "cutoff", shape=()),
        "cutoff",
        lambda v: v < end,
        "a noise standard deviation below that of the process at t1",
    )


def _check_rates(pilot: Pilot, cutoff: Array | None, signed: bool) -> Pilot:
    """Refuse an integral that does not converge at an end of the axis.

    `signed`: whether it may as well go to minus infinity.
    """
    tail, noise, peak = pilot.tail_rate, pilot.noise_rate, pilot.peak_rate
    if signed:
        tail, noise = (jnp.abs(tail[0]), tail[1]), (jnp.abs(noise[0]), noise[1])
    pilot = check_data_end(pilot, tail, peak, cutoff)
    at_noise = (noise[0] > _NOISE_PLATEAU * peak) & (noise[0] > 3 * noise[1])
    message = (
        "the rate does not decay at the noise end, so the integral is infinite: the field must "
        "vanish there like mu(s); use `scaling=GaussianScaling.from_data(...)`"
    )
    if is_concrete(pilot):
        if bool(np.any(at_noise)):
            raise ValueError(f"{message}.")
        return pilot
    return eqx.error_if(pilot, at_noise, message)


def check_data_end(
    checked: Any, tail: tuple[Array, Array], peak: Array, cutoff: Array | None
) -> Any:
    """Return `checked`; refuse a rate that does not decay at the data end without a cut-off.

    `tail` is the mean rate per unit log-SNR close to the resolution limit and its standard error,
    `peak` the largest rate anywhere. A rate below zero is refused as one above.
    """
    if cutoff is not None:
        return checked
    size = jnp.abs(tail[0])
    at_data = (size > _DATA_PLATEAU * jnp.minimum(peak, 1.0)) & (size > 3 * tail[1])
    message = (
        "the rate does not decay at the data end, so the integral is infinite: pass `cutoff`, the "
        "smallest noise standard deviation to include"
    )
    if is_concrete((checked, at_data)):
        if bool(np.any(at_data)):
            rates = np.asarray(tail[0])
            slope = 2 * float(rates.flat[np.argmax(np.abs(rates))])
            meaning = (
                f"the data or the model look {slope:.3g} dimensions short of the space "
                "(codimension)"
                if slope > 0
                else "the model's field does not fit the noise it is given"
            )
            raise ValueError(f"{message}. The slope is {slope:.3g} per -ln(noise std): {meaning}.")
        return checked
    return eqx.error_if(checked, at_data, message)


@eqx.filter_jit
def _slope_at(integrand: Integrand, points: Points, s: Array, key: Key, count: int) -> Array:
    r"""$dI/d(-\ln\Sigma)$ at time `s`."""
    process = gaussian_process(integrand)
    index = jax.random.randint(key, (count,), 0, points.data.shape[0])
    keys = jax.random.split(jax.random.fold_in(key, 1), count)

    def one(i: Array, k: Key) -> Array:
        x = points.data[i]
        condition = jax.tree.map(lambda c: c[i], points.condition)
        return rate_at(integrand, s, x, jax.random.normal(k, x.shape, x.dtype), condition)

    # -d lambda = (sigma^2 / Sigma^2) ds and d ln Sigma = (Sigma^2)' ds / (2 Sigma^2).
    factor = 2 * process.sigma_squared(s) / process.var_rate(s)
    return factor * jnp.mean(jax.vmap(one)(index, keys))


@eqx.filter_jit
def _prepare(
    process: AbstractGaussianProcess, data: Array, condition: Any, cutoff: Array | None
) -> tuple[Points, LogSNRAxis]:
    points = Points(data, condition, GaussianReference.from_data(data))
    return points, LogSNRAxis.of(process, points.reference.mean_variance, cutoff)


def _edges(
    process: AbstractGaussianProcess, axis: LogSNRAxis, times: Any, num_times: int, dtype: Any
) -> tuple[Array, Array]:
    """Times of the curve, and the fractions of the axis at which sums are kept."""
    if times is None:
        return _default_edges(process, axis, num_times, dtype)
    times = _check_times(as_float(times, "times"), process)
    fractions = axis.fraction(process.log_snr(times))
    return times, jnp.concatenate([fractions, jnp.ones(1, dtype)]).astype(dtype)


@eqx.filter_jit
def _default_edges(
    process: AbstractGaussianProcess, axis: LogSNRAxis, num_times: int, dtype: Any
) -> tuple[Array, Array]:
    fractions = jnp.linspace(0.0, 1.0, num_times, dtype=dtype)
    return axis.times(process, fractions), fractions


def estimate_integral(
    integrand: Integrand,
    data: Any,
    *,
    key: Key,
    num_evaluations: int,
    condition: Any,
    cutoff: Any,
    times: Any,
    num_times: int,
    control_variate: bool,
    chunk_size: int,
    divergence: str | None,
) -> CurveOfIntegral:
    """Estimate an integral over log-SNR as a curve; see `entropy_curve` for the arguments."""
    data = samples(data)
    prng_key(key)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_evaluations, "num_evaluations", 256)
    positive_integer(num_times, "num_times", 2)
    positive_integer(chunk_size, "chunk_size")
    if divergence is not None and cutoff is None:
        raise ValueError(
            f"`cutoff` must be given (the smallest noise standard deviation to include): the "
            f"entropy is infinite because {divergence}."
        )
    cutoff = check_cutoff(integrand, cutoff)
    process = gaussian_process(integrand)
    pilot_key, main_key, slope_key = jax.random.split(key, 3)
    # The integrand of a denoising functional is evaluated at both noises of a pair.
    signed = isinstance(integrand, AbstractDenoisingFunctional)
    cost = 2 if signed else 1
    positions, chunk_size = num_evaluations // cost, max(chunk_size // cost, 1)
    pilot_count = max(round(PILOT_SHARE * positions), 64)
    main_count = 2 * (-(-(positions - pilot_count) // 2))
    points, axis = _prepare(process, data, condition, cutoff)
    pilot = run_pilot(
        integrand,
        points,
        axis,
        key=pilot_key,
        count=pilot_count,
        chunk=chunk_size,
        control_variate=control_variate,
    )
    pilot = _check_rates(pilot, cutoff, signed)
    times, edges = _edges(process, axis, times, num_times, data.dtype)
    integral = run_main(
        integrand,
        points,
        axis,
        pilot.proposal,
        edges,
        key=main_key,
        count=main_count,
        chunk=chunk_size,
    )
    total = Estimate(
        value=_no_nan(integral.cumulative[-1]),
        stderr=jnp.sqrt(integral.mc_variance[-1] + integral.data_variance[-1]),
        mc_stderr=jnp.sqrt(integral.mc_variance[-1]),
        num_evaluations=cost * (pilot_count + main_count),
        cutoff=cutoff,
        slope=None
        if cutoff is None
        else _slope_at(
            integrand,
            points,
            axis.start_time(process),
            slope_key,
            min(2048, num_evaluations),
        ),
    )
    count = times.shape[0]
    cumulative, mc = integral.cumulative[:count], integral.mc_variance[:count]
    rate, rate_stderr = rates_along(times, cumulative, mc)
    return CurveOfIntegral(
        times,
        rate,
        rate_stderr,
        cumulative,
        jnp.sqrt(mc + integral.data_variance[:count]),
        jnp.sqrt(mc),
        total,
    )


def _check_times(times: Array, process: Any) -> Array:
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`times` must have shape (K,) with K >= 2, got {times.shape}.")
    if is_concrete((times, process)):
        host = np.asarray(times)
        low, high = float(process.t0), float(process.t1)
        if np.any(np.diff(host) <= 0) or host[0] < low or host[-1] > high:
            raise ValueError(f"`times` must increase within [{low:g}, {high:g}].")
    return times


@eqx.filter_jit
def rates_along(times: Array, cumulative: Array, variance: Array) -> tuple[Array, Array]:
    """Mean rates over the intervals that meet at each time, and their standard errors.

    `times` may be any increasing coordinate.
    """
    rise = jnp.diff(cumulative)
    spread = jnp.maximum(jnp.diff(variance), 0.0)
    step = jnp.diff(times)

    def around(x: Array) -> Array:
        padded = jnp.concatenate([jnp.zeros(1, x.dtype), x, jnp.zeros(1, x.dtype)])
        return padded[:-1] + padded[1:]

    length = around(step)
    safe = jnp.where(length > 0, length, 1.0)
    rate = jnp.where(length > 0, around(rise) / safe, 0.0)
    return rate, jnp.where(length > 0, jnp.sqrt(around(spread)) / safe, 0.0)


def _no_nan(value: Array) -> Array:
    message = "the field of the model must be finite on the whole axis, got NaN or infinity"
    if is_concrete(value):
        if not bool(np.all(np.isfinite(value))):
            raise ValueError(f"{message}.")
        return value
    return eqx.error_if(value, ~jnp.isfinite(value), message)
