"""From an integrand to a curve of estimates: checks, the two passes, and the report."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

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
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import AbstractDenoisingFunctional
from entropix.entropy.ends import EndRates, check_ends
from entropix.entropy.integrate import (
    BLOCKS,
    Integrand,
    MainPlan,
    PilotPlan,
    Places,
    Points,
    Proposal,
    evaluate,
    gaussian_process,
    plan_main,
    plan_pilot,
    read_main,
    read_pilot,
)
from entropix.entropy.reference import GaussianReference
from entropix.interfaces import (
    AbstractGaussianProcess,
    AbstractModel,
    DivergenceError,
    Estimate,
)
from entropix.models import ExactModel


# A Monte Carlo variance made up by one difference is not known: such an estimate is refused where
# its error is not small, relative to the value and in nats. The threshold is low on purpose: of a
# badly trained network, two or three of two hundred differences may make up most of an error that
# is honest all the same.
LEAST_EFFECTIVE = 1.1
_SMALL_RELATIVE, _SMALL_ERROR = 0.1, 0.05


class CurveOfIntegral(eqx.Module):
    """An integral accumulated along the process, with standard errors."""

    proposal: Proposal
    times: Float[Array, " k"]
    log_snr: Float[Array, " k"]
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
    end = _last_std(process)
    return checked(
        positive(cutoff, "cutoff", shape=()),
        "cutoff",
        lambda v: v < end,
        "a noise standard deviation below that of the process at t1",
    )


@eqx.filter_jit
def _last_std(process: AbstractGaussianProcess) -> Array:
    return process.std(process.t1)


class _Sizes(eqx.Module):
    """How many evaluations are spent on what."""

    block: int = eqx.field(static=True)
    num_blocks: int = eqx.field(static=True)
    draws: int = eqx.field(static=True)

    @classmethod
    def of(cls, positions: int) -> "_Sizes":
        num_blocks = min(max(positions // 64, 2), BLOCKS)
        block = 2 * -(-positions // (2 * num_blocks))
        return cls(block, num_blocks, min(max(block // 24, 4), 64))


class _Prepared(eqx.Module):
    reference: GaussianReference
    axis: LogSNRAxis
    pilot: PilotPlan
    bits: Array  # for the main pass
    key: Key  # of the noise


# Apart from `evaluate`, the programs below depend on the process but not on models or functionals:
# they are compiled once for all of them.


@eqx.filter_jit
def _prepare(
    process: AbstractGaussianProcess, data: Array, cutoff: Array | None, key: Key, sizes: _Sizes
) -> _Prepared:
    bits_key, noise_key = jax.random.split(key)
    reference = GaussianReference.from_data(data)
    axis = LogSNRAxis.of(process, reference.mean_variance, cutoff)
    block, pairs = sizes.block, (sizes.num_blocks - 1) * sizes.block // 2
    # One call for all that is not Gaussian: each costs compilation time.
    bits = jax.random.bits(bits_key, (2 * block + 5 * pairs,), jnp.uint32)
    pilot = plan_pilot(process, axis, data, bits[: 2 * block].reshape(block, 2), sizes.draws)
    return _Prepared(reference, axis, pilot, bits[2 * block :].reshape(pairs, 5), noise_key)


class _Aim(eqx.Module):
    """Where the main pass evaluates, and what the pilot found."""

    ends: EndRates
    proposal: Proposal
    main: MainPlan
    blocks: tuple[Places, ...]


@eqx.filter_jit
def _aim(
    prepared: _Prepared,
    data: Array,
    values: Array,
    controls: Array,
    control_variate: ArrayLike,
    proposal: Proposal | None,
) -> _Aim:
    axis, block = prepared.axis, values.shape[0]
    pilot = read_pilot(prepared.pilot, axis, data, values, controls, control_variate)
    proposal = pilot.proposal if proposal is None else jax.lax.stop_gradient(proposal)
    main = plan_main(axis, proposal, data, prepared.bits)
    blocks = main.blocks(2 * prepared.bits.shape[0] // block)
    if axis.has_cutoff:  # one more block, for the slope there
        first = blocks[0]
        start = jnp.full_like(first.log_snr, axis.log_snr(0.0))
        blocks = (*blocks, Places(start, first.index, first.noise))
    return _Aim(pilot.ends, proposal, main, blocks)


@eqx.filter_jit
def _combine(
    process: AbstractGaussianProcess,
    prepared: _Prepared,
    data: Array,
    aim: _Aim,
    values: tuple[Array, ...],
    controls: tuple[Array, ...],
    cutoff: Array | None,
    times: Array | None,
    num_times: int,
    cost: int,
    chunk: int,
) -> CurveOfIntegral:
    axis, count = prepared.axis, aim.main.fraction.shape[0]
    value, control = jnp.concatenate(values), jnp.concatenate(controls)
    slope = None
    if cutoff is not None:
        start = axis.start_time(process)
        # -d lambda = (sigma^2 / Sigma^2) ds and d ln Sigma = (Sigma^2)' ds / (2 Sigma^2).
        factor = 2 * process.sigma_squared(start) / process.var_rate(start)
        slope = factor * jnp.mean(value[count:])
    if times is None:
        edges = jnp.linspace(0.0, 1.0, num_times, dtype=data.dtype)
        times = axis.times(process, edges)
    else:
        fractions = axis.fraction(process.log_snr(times))
        edges = jnp.concatenate([fractions, jnp.ones_like(fractions[:1])]).astype(data.dtype)
    integral = read_main(
        process,
        data,
        prepared.reference,
        axis,
        aim.main,
        aim.proposal,
        edges,
        value[:count],
        control[:count],
        denoising=cost == 2,
        chunk=chunk,
    )
    total = Estimate(
        value=integral.cumulative[-1],
        stderr=jnp.sqrt(integral.mc_variance[-1] + integral.data_variance[-1]),
        mc_stderr=jnp.sqrt(integral.mc_variance[-1]),
        num_evaluations=cost * (prepared.pilot.places.index.shape[0] + value.shape[0]),
        cutoff=cutoff,
        slope=slope,
        num_effective=integral.num_effective,
    )
    reported = times.shape[0]
    cumulative, mc = integral.cumulative[:reported], integral.mc_variance[:reported]
    rate, rate_stderr = rates_along(times, cumulative, mc)
    return CurveOfIntegral(
        aim.proposal,
        times,
        process.log_snr(times),
        rate,
        rate_stderr,
        cumulative,
        jnp.sqrt(mc + integral.data_variance[:reported]),
        jnp.sqrt(mc),
        total,
    )


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
    proposal: Any = None,
) -> CurveOfIntegral:
    """Estimate an integral over log-SNR as a curve; see `entropy_curve` for the arguments."""
    data = samples(data)
    prng_key(key)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_evaluations, "num_evaluations", 256)
    positive_integer(num_times, "num_times", 2)
    positive_integer(chunk_size, "chunk_size")
    if proposal is not None and not isinstance(proposal, Proposal):
        raise ValueError(
            "`proposal` must be the `.proposal` of an entropy curve, got "
            f"{type(proposal).__name__}."
        )
    if divergence is not None and cutoff is None:
        raise DivergenceError(
            f"`cutoff` must be given (the smallest noise standard deviation to include): the "
            f"entropy is infinite because {divergence}.",
            remedy="cutoff",
        )
    cutoff = check_cutoff(integrand, cutoff)
    process = gaussian_process(integrand)
    if times is not None:
        times = _check_times(as_float(times, "times"), process)
    # The integrand of a denoising functional is evaluated at both noises of a pair.
    cost = 2 if isinstance(integrand, AbstractDenoisingFunctional) else 1
    chunk = max(chunk_size // cost, 1)
    prepared = _prepare(process, data, cutoff, key, _Sizes.of(num_evaluations // cost))
    points = Points(data, condition, prepared.reference)
    frozen = (integrand, points, prepared.pilot.places)
    if not is_concrete(frozen):  # no derivative of the pilot is needed
        frozen = jax.tree.map(_stop_gradient, frozen)
    pilot = evaluate(frozen[0], frozen[1], frozen[2:], prepared.key, chunk)
    aim = _aim(prepared, data, pilot[0][0], pilot[1][0], np.asarray(control_variate), proposal)
    values, controls = evaluate(integrand, points, aim.blocks, prepared.key, chunk)
    curve = _combine(
        process, prepared, data, aim, values, controls, cutoff, times, num_times, cost, chunk
    )
    curve = check_ends(curve, aim.ends, cutoff, data, noise_remedy=_noise_remedy(integrand))
    return eqx.tree_at(lambda c: c.total, curve, check_estimate(curve.total))


def _stop_gradient(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf


def _noise_remedy(integrand: Integrand) -> str:
    models = jax.tree.leaves(integrand, is_leaf=lambda node: isinstance(node, AbstractModel))
    if all(isinstance(node, ExactModel) or not isinstance(node, AbstractModel) for node in models):
        return ""
    return "; a network's does with `scaling=GaussianScaling.from_data(...)`"


def check_estimate(estimate: Estimate) -> Estimate:
    """Refuse a value that is not finite, or a large error that a few evaluations make up."""
    finite = "the field of the model must be finite on the whole axis, got NaN or infinity"
    few = (
        "a few evaluations make up all of the error, so it is not known: the field has rare large "
        "values; take more `num_evaluations`, use float64, or leave the smallest noise out"
    )
    number = math.inf if estimate.num_effective is None else estimate.num_effective
    if is_concrete(estimate):
        value, error = np.asarray(estimate.value), np.asarray(estimate.mc_stderr)
        if not np.all(np.isfinite(value) & np.isfinite(error)):
            raise ValueError(f"{finite}.")
        number = np.asarray(number)
        if np.any(_ruled_by_few(value, error, number)):
            raise ValueError(
                f"{few}, got {value:.3g} ± {error:.2g} from an effective number of {number:.2g}."
            )
        return estimate
    value, error = estimate.value, estimate.mc_stderr
    value = eqx.error_if(value, ~(jnp.isfinite(value) & jnp.isfinite(error)), finite)
    value = eqx.error_if(value, _ruled_by_few(value, error, number), few)
    return eqx.tree_at(lambda e: e.value, estimate, value)


def _ruled_by_few(value: Any, error: Any, number: Any) -> Any:
    large = (error > _SMALL_RELATIVE * abs(value)) & (error > _SMALL_ERROR)
    return (number < LEAST_EFFECTIVE) & large


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
