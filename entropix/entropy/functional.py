"""From an integrand to a curve of estimates: checks, the two passes, and the report."""

import math
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
from entropix._core.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import AbstractDenoisingFunctional
from entropix.entropy.ends import EndRates, check_ends, num_end_points
from entropix.entropy.integrate import (
    PILOT_SHARE,
    Integrand,
    Points,
    Proposal,
    gaussian_process,
    rate_at,
    run_main,
    run_pilot,
)
from entropix.entropy.reference import GaussianReference
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


class _Measured(eqx.Module):
    """What the compiled program returns: the curve, and what its checks need."""

    curve: CurveOfIntegral
    ends: EndRates


class _Plan(eqx.Module):
    """How many evaluations are spent on what; all static."""

    sweep: int = eqx.field(static=True)
    ends: int = eqx.field(static=True)
    main: int = eqx.field(static=True)
    slope: int = eqx.field(static=True)
    cost: int = eqx.field(static=True)
    chunk: int = eqx.field(static=True)
    num_times: int = eqx.field(static=True)
    control_variate: bool = eqx.field(static=True)


def _plan(
    integrand: Integrand, num_evaluations: int, num_times: int, control_variate: bool, chunk: int
) -> _Plan:
    # The integrand of a denoising functional is evaluated at both noises of a pair.
    cost = 2 if isinstance(integrand, AbstractDenoisingFunctional) else 1
    positions = num_evaluations // cost
    draws = min(max(positions // 128, 8), 64)
    at_ends = draws * num_end_points(gaussian_process(integrand))
    sweep = max(round(PILOT_SHARE * positions), 48)
    main = 2 * -(-(positions - sweep - at_ends) // 2)
    return _Plan(
        sweep=sweep,
        ends=draws,
        main=main,
        slope=min(2048, num_evaluations),
        cost=cost,
        chunk=max(chunk // cost, 1),
        num_times=num_times,
        control_variate=control_variate,
    )


@eqx.filter_jit
def _measure(
    integrand: Integrand,
    data: Array,
    condition: Any,
    cutoff: Array | None,
    times: Array | None,
    proposal: Proposal | None,
    key: Key,
    plan: _Plan,
) -> _Measured:
    """Both passes as one program."""
    process = gaussian_process(integrand)
    pilot_key, main_key, slope_key = jax.random.split(key, 3)
    points = Points(data, condition, GaussianReference.from_data(data))
    axis = LogSNRAxis.of(process, points.reference.mean_variance, cutoff)
    pilot = run_pilot(
        integrand,
        points,
        axis,
        key=pilot_key,
        count=plan.sweep,
        end_count=min(plan.ends, plan.sweep),
        chunk=plan.chunk,
        control_variate=plan.control_variate,
    )
    proposal = pilot.proposal if proposal is None else jax.lax.stop_gradient(proposal)
    if times is None:
        edges = jnp.linspace(0.0, 1.0, plan.num_times, dtype=data.dtype)
        times = axis.times(process, edges)
    else:
        fractions = axis.fraction(process.log_snr(times))
        edges = jnp.concatenate([fractions, jnp.ones(1, data.dtype)]).astype(data.dtype)
    integral = run_main(
        integrand, points, axis, proposal, edges, key=main_key, count=plan.main, chunk=plan.chunk
    )
    slope = None
    if cutoff is not None:
        slope = _slope_at(integrand, points, axis.start_time(process), slope_key, plan.slope)
    at_ends = plan.ends * num_end_points(process)
    total = Estimate(
        value=integral.cumulative[-1],
        stderr=jnp.sqrt(integral.mc_variance[-1] + integral.data_variance[-1]),
        mc_stderr=jnp.sqrt(integral.mc_variance[-1]),
        num_evaluations=plan.cost * (plan.sweep + at_ends + plan.main),
        cutoff=cutoff,
        slope=slope,
        num_effective=integral.num_effective,
    )
    count = times.shape[0]
    cumulative, mc = integral.cumulative[:count], integral.mc_variance[:count]
    rate, rate_stderr = rates_along(times, cumulative, mc)
    curve = CurveOfIntegral(
        proposal,
        times,
        rate,
        rate_stderr,
        cumulative,
        jnp.sqrt(mc + integral.data_variance[:count]),
        jnp.sqrt(mc),
        total,
    )
    return _Measured(curve, pilot.ends)


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
        raise ValueError(
            f"`cutoff` must be given (the smallest noise standard deviation to include): the "
            f"entropy is infinite because {divergence}."
        )
    cutoff = check_cutoff(integrand, cutoff)
    if times is not None:
        times = _check_times(as_float(times, "times"), gaussian_process(integrand))
    plan = _plan(integrand, num_evaluations, num_times, control_variate, chunk_size)
    measured = _measure(integrand, data, condition, cutoff, times, proposal, key, plan)
    curve = check_ends(
        measured.curve,
        measured.ends,
        cutoff,
        data,
        noise_remedy=_noise_remedy(integrand),
    )
    return eqx.tree_at(lambda c: c.total, curve, check_estimate(curve.total))


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
        "values; pass `cutoff`, use float64, or take more `num_evaluations`"
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
