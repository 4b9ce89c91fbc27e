r"""Stratified importance sampling of integrals over log-SNR, with honest standard errors.

The integrals of this subpackage have one form,

$$I = \int \frac{\Sigma^2}{2}\,E_{x \sim data,\,z}\left[g(s, \mu x + \Sigma z)\right](-d\lambda).$$

They are estimated in two passes.

1. A pilot (a seventh of the evaluations), uniform on the Cauchy axis of `LogSNRAxis`, measures in
   64 bins the root mean square of the integrand with and without the control variate. The better of
   the two is kept in each bin, and the bins' root mean squares become the proposal density, mixed
   with 10% of the uniform one. The pilot is not used again, so the choice costs no bias. A part of
   it is spent at both ends of the axis, see `entropix.entropy.ends`.
2. The main pass places one evaluation in each of M strata of the proposal. Strata are joined at
   random into M/2 pairs, and each pair shares one data point, drawn with replacement. Successive
   differences across strata give the Monte Carlo variance; the covariance within pairs gives the
   variance over data points of each point's own integral h(x), which is what the sampling of the
   data adds: Var(h)/N.

Memory is bounded by `chunk_size` evaluations (and a few numbers per evaluation), also under
differentiation, where chunks are recomputed.
"""

from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from entropix._core.arrays import Key
from entropix._core.checks import is_concrete
from entropix._core.chunks import in_chunks, unchunk
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import AbstractControlledDenoising, AbstractDenoisingFunctional
from entropix.entropy.ends import EndRates, end_points, judge_ends
from entropix.entropy.integrands import AbstractControlled, AbstractPathFunctional
from entropix.entropy.reference import GaussianReference
from entropix.interfaces import AbstractGaussianProcess


Integrand: TypeAlias = AbstractPathFunctional | AbstractDenoisingFunctional

BINS = 64
BLOCKS = 7  # of one size: a pilot, and six of the main pass
DEFENSIVE_SHARE = 0.1
# The relative error of a sum of evaluations, in units of the rounding of one number.
_ROUNDING = 8.0


class Points(eqx.Module):
    """Data to average over: examples, their conditions, and their moments."""

    data: Float[Array, "n *shape"]
    condition: Any
    reference: GaussianReference


class Proposal(eqx.Module):
    """A piecewise-constant density over fractions of the axis.

    Attributes:
        probability: of each of the equal bins, shape (bins,).
        keep: 1 in bins where the control variate is used, else 0.
    """

    probability: Float[Array, " bins"]
    keep: Float[Array, " bins"]

    def place(self, level: Array) -> tuple[Array, Array, Array]:
        """The fraction at a level of the distribution function, its density, and `keep` there."""
        dtype = self.probability.dtype
        cdf = jnp.concatenate([jnp.zeros(1, dtype), jnp.cumsum(self.probability)])
        cdf = cdf / cdf[-1]
        index = jnp.clip(jnp.searchsorted(cdf, level, side="right", method="scan") - 1, 0, BINS - 1)
        mass = cdf[index + 1] - cdf[index]
        fraction = (index + (level - cdf[index]) / mass) / BINS
        # The open interval: rounding must not reach an exact end of the axis.
        fraction = jnp.clip(fraction, jnp.finfo(dtype).tiny, 1 - jnp.finfo(dtype).epsneg)
        return fraction, mass * BINS, self.keep[index]


def proposal_of(fraction: Array, values: Array, controlled: Array | None = None) -> Proposal:
    """The proposal proportional to the root mean square of an integrand, from pilot values.

    Args:
        fraction: where the values were taken.
        values: the integrand per unit of the axis.
        controlled: the same with the control variate subtracted, or None where there is none.
    """
    values, controlled = jax.lax.stop_gradient((values, controlled))
    bins = jnp.clip((fraction * BINS).astype(int), 0, BINS - 1)
    kernel = jnp.asarray([1.0, 2.0, 3.0, 2.0, 1.0], values.dtype)
    counts = jnp.convolve(
        jax.ops.segment_sum(jnp.ones_like(values), bins, BINS), kernel, mode="same"
    )

    def mean_square(x: Array) -> Array:
        sums = jnp.convolve(jax.ops.segment_sum(x**2, bins, BINS), kernel, mode="same")
        return sums / jnp.maximum(counts, 1.0)

    best = mean_square(values)
    keep = jnp.zeros_like(best)
    if controlled is not None:
        with_control = mean_square(controlled)
        keep = (with_control < best).astype(best.dtype)
        best = jnp.minimum(best, with_control)
    rms = jnp.sqrt(best)
    total = jnp.sum(rms)
    share = jnp.where(total > 0, rms / jnp.where(total > 0, total, 1.0), 1 / BINS)
    return Proposal((1 - DEFENSIVE_SHARE) * share + DEFENSIVE_SHARE / BINS, keep)


class Pilot(eqx.Module):
    """What the pilot pass learnt.

    Attributes:
        proposal: where the main pass should evaluate, and where the control variate helps.
        ends: the rates close to the ends of the axis.
    """

    proposal: Proposal
    ends: EndRates


def gaussian_process(integrand: Integrand) -> AbstractGaussianProcess:
    """The process, whose marginals must be known in closed form."""
    process = integrand.process
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(
            "the process must be Gaussian where no paths are simulated, got "
            f"{type(process).__name__}: use `path_functional(..., along='sde')`."
        )
    return process


def rate_at(
    integrand: Integrand, s: Array, x: Float[Array, "*shape"], z: Float[Array, "*shape"], c: Any
) -> Float[Array, ""]:
    r"""The integrand per unit of $-d\lambda$ at $\mu x + \Sigma z$, with the condition `c`."""
    process = gaussian_process(integrand)
    if isinstance(integrand, AbstractDenoisingFunctional):
        errors = [integrand.error(s, process.perturb(s, x, n), n, c) for n in (z, -z)]
        return (errors[0] + errors[1]) / 2
    return process.var(s) / 2 * integrand(s, process.perturb(s, x, z), c)


def _control_at(
    integrand: Integrand,
    s: Array,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    reference: GaussianReference,
) -> Float[Array, ""]:
    r"""The control variate of `rate_at`, zero where there is none."""
    process = gaussian_process(integrand)
    if isinstance(integrand, AbstractControlledDenoising):
        controls = [integrand.control(s, process.perturb(s, x, n), n, reference) for n in (z, -z)]
        return (controls[0] + controls[1]) / 2
    if isinstance(integrand, AbstractControlled):
        return process.var(s) / 2 * integrand.control(s, process.perturb(s, x, z), reference)
    return jnp.zeros((), x.dtype)


class Places(eqx.Module):
    """Where an integrand is evaluated: log-SNRs, numbers of data points, numbers of noises."""

    log_snr: Float[Array, " n"]
    index: Int[Array, " n"]
    noise: Int[Array, " n"]


@eqx.filter_jit
def _rates(
    integrand: Integrand, points: Points, places: Places, key: Key, chunk: int
) -> tuple[Array, Array]:
    process = gaussian_process(integrand)

    def one(place: Places) -> tuple[Array, Array]:
        x = points.data[place.index]
        condition = jax.tree.map(lambda c: c[place.index], points.condition)
        z = jax.random.normal(jax.random.fold_in(key, place.noise), x.shape, x.dtype)
        s = process.time_of_log_snr(place.log_snr)
        value = rate_at(integrand, s, x, z, condition)
        return value, _control_at(integrand, s, x, z, points.reference)

    count = places.log_snr.shape[0]
    out = in_chunks(lambda block, _: jax.vmap(one)(block), places, count, chunk)
    return unchunk(out[0], count), unchunk(out[1], count)


def evaluate(
    integrand: Integrand, points: Points, blocks: tuple[Places, ...], key: Key, chunk: int
) -> tuple[tuple[Array, ...], tuple[Array, ...]]:
    r"""Integrand and control variate per unit of $-d\lambda$ at each place of each block.

    All blocks of an estimate have one size, so that a single program, the only one that contains a
    model, is compiled and serves the pilot and the main pass alike. Where the arguments are traced,
    a program is not called but copied, and the blocks are evaluated together.
    """
    if len(blocks) > 1 and not is_concrete((integrand, points, blocks, key)):
        together = jax.tree.map(lambda *parts: jnp.concatenate(parts), *blocks)
        value, control = _rates(integrand, points, together, key, chunk)
        return (value,), (control,)
    values = [_rates(integrand, points, block, key, chunk) for block in blocks]
    return tuple(v for v, _ in values), tuple(c for _, c in values)


def _open_unit(bits: Array, dtype: Any) -> Array:
    """Random bits as numbers strictly inside (0, 1)."""
    return ((bits >> 9).astype(dtype) + 0.5) / 2**23


class PilotPlan(eqx.Module):
    """The places of the pilot: a sweep of the axis, then draws at each of its end points."""

    fraction: Float[Array, " sweep"]
    ends: Float[Array, " points"]
    places: Places


def plan_pilot(
    process: AbstractGaussianProcess,
    axis: LogSNRAxis,
    data: Array,
    bits: Array,
    draws: int,
) -> PilotPlan:
    """Places for the bits, shape (block, 2); `draws` is how many are taken at each end point."""
    ends = end_points(process, axis, data)
    sweep = bits.shape[0] - draws * ends.shape[0]
    fraction = (jnp.arange(sweep) + _open_unit(bits[:sweep, 0], data.dtype)) / sweep
    index = (bits[:sweep, 1] % data.shape[0]).astype(jnp.int32)
    noise = jnp.arange(sweep)
    # The same data points and noise at every end point.
    at_ends = jnp.repeat(ends, draws)
    again = jnp.tile(jnp.arange(draws), ends.shape[0])
    places = Places(
        jnp.concatenate([axis.log_snr(fraction), at_ends]),
        jnp.concatenate([index, index[again]]),
        jnp.concatenate([noise, noise[again]]),
    )
    return PilotPlan(fraction, ends, places)


def read_pilot(
    plan: PilotPlan,
    axis: LogSNRAxis,
    data: Array,
    values: Array,
    controls: Array,
    control_variate: ArrayLike,
) -> Pilot:
    """The proposal and the rates at the ends, from the values at the places of the plan."""
    values, controls = jax.lax.stop_gradient((values, controls))
    fraction, sweep = plan.fraction, plan.fraction.shape[0]
    rate, at_ends = values[:sweep], values[sweep:].reshape(plan.ends.shape[0], -1)
    factor = axis.jacobian(fraction)
    raw, control = factor * rate, factor * controls[:sweep]
    # One that is worse than none is kept nowhere.
    controlled = jnp.where(control_variate, raw - control, 2 * raw)
    proposal = proposal_of(fraction, raw, controlled)
    peak = peak_of(fraction, rate)
    ends = judge_ends(plan.ends, at_ends, peak, axis, data, fraction, raw)
    return Pilot(proposal, ends)


def peak_of(fraction: Array, rate: Array) -> Array:
    """The largest mean absolute rate of a bin of the axis."""
    bins = jnp.clip((fraction * BINS).astype(int), 0, BINS - 1)
    counts = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(rate), bins, BINS), 1.0)
    return jax.lax.stop_gradient(jnp.max(jax.ops.segment_sum(jnp.abs(rate), bins, BINS) / counts))


class MainPlan(eqx.Module):
    """The places of the main pass, one in each stratum of a proposal; pairs share a data point.

    Evaluation 2i and its neighbour 2i + 1 are a pair.
    """

    stratum: Int[Array, " n"]
    fraction: Float[Array, " n"]
    density: Float[Array, " n"]
    keep: Float[Array, " n"]
    places: Places

    def blocks(self, number: int) -> tuple[Places, ...]:
        """The places in blocks of one size."""
        split = jax.tree.map(lambda leaf: jnp.split(leaf, number), self.places)
        return tuple(
            Places(split.log_snr[i], split.index[i], split.noise[i]) for i in range(number)
        )


def plan_main(axis: LogSNRAxis, proposal: Proposal, data: Array, bits: Array) -> MainPlan:
    """Places for the bits, shape (pairs, 5)."""
    count = 2 * bits.shape[0]
    stratum = jnp.argsort(bits[:, :2].reshape(-1))
    offset = _open_unit(bits[:, 2:4], data.dtype).reshape(-1)
    index = jnp.repeat((bits[:, 4] % data.shape[0]).astype(jnp.int32), 2)
    fraction, density, keep = jax.vmap(proposal.place)((stratum + offset) / count)
    # Numbers of noise that the pilot has not used.
    noise = jnp.iinfo(jnp.int32).max - jnp.arange(count)
    places = Places(axis.log_snr(fraction), index, noise.astype(int))
    return MainPlan(stratum, fraction, density, keep, places)


class Integral(eqx.Module):
    r"""The main pass: cumulative values at edges of the axis, and their variances.

    `num_effective` is the number of differences between strata that make up the Monte Carlo
    variance, $(\sum d^2)^2 / \sum d^4$: of a few, the variance itself is hardly known.
    """

    cumulative: Float[Array, " edges"]
    mc_variance: Float[Array, " edges"]
    data_variance: Float[Array, " edges"]
    num_effective: Float[Array, ""]


def effective_number(squares: Array) -> Array:
    r"""$(\sum d^2)^2 / \sum d^4$ of squares $d^2$, over all axes; their number where all vanish."""
    largest = jnp.max(squares)
    weights = squares / jnp.where(largest > 0, largest, 1.0)
    number = jnp.sum(weights) ** 2 / jnp.maximum(jnp.sum(weights**2), 1e-30)
    return jax.lax.stop_gradient(jnp.where(largest > 0, number, squares.size))


def read_main(
    process: AbstractGaussianProcess,
    data: Array,
    reference: GaussianReference,
    axis: LogSNRAxis,
    plan: MainPlan,
    proposal: Proposal,
    edges: Float[Array, " edges"],
    values: Array,
    controls: Array,
    *,
    denoising: bool,
    chunk: int,
) -> Integral:
    """The integral, from the values at the places of the plan.

    `edges` are increasing fractions of the axis, the last one 1.
    """
    count, dtype = plan.fraction.shape[0], data.dtype
    pairs = count // 2
    known, linear, quadratic = reference.integrals(
        process, axis, edges, proposal.keep, denoising=denoising
    )
    values = axis.jacobian(plan.fraction) * (values - plan.keep * controls) / plan.density

    def chunk_sums(args: Any, weight: Array) -> dict[str, Array]:
        values, fractions, i = args
        before = (fractions[..., None] <= edges) * weight[:, None, None]
        parts = values[..., None] * before
        centred = jax.vmap(reference.rotate)(data[i]) - reference.mean
        own = centred @ linear.T + (centred**2 - reference.variances) @ quadratic.T
        own = own * weight[:, None]
        frozen = jax.lax.stop_gradient(parts)
        of = jax.lax.stop_gradient(own)[:, None, :] + frozen
        return {
            "sum": jnp.sum(parts, axis=(0, 1)),
            "size": jnp.sum(jnp.abs(frozen), axis=(0, 1)),
            "mean": jnp.sum(of, axis=(0, 1)) / 2,
            "product": jnp.sum(of[:, 0] * of[:, 1], axis=0),
            "part_mean": jnp.sum(frozen, axis=(0, 1)) / 2,
            "part_product": jnp.sum(frozen[:, 0] * frozen[:, 1], axis=0),
        }

    paired = (values.reshape(pairs, 2), plan.fraction.reshape(pairs, 2), plan.places.index[::2])
    out = in_chunks(chunk_sums, paired, pairs, max(chunk // 2, 1))
    sums = jax.tree.map(lambda part: jnp.sum(part, axis=0), out)
    own_covariance = sums["product"] / pairs - (sums["mean"] / pairs) ** 2
    part_covariance = sums["part_product"] / pairs - (sums["part_mean"] / pairs) ** 2

    values = jax.lax.stop_gradient(values)
    ordered = jnp.zeros(count, dtype).at[plan.stratum].set(values)
    places = jnp.zeros(count, dtype).at[plan.stratum].set(plan.fraction)
    steps = ((ordered[0::2] - ordered[1::2]) / count) ** 2
    stratified = jnp.sum(steps[:, None] * (places[0::2, None] <= edges), axis=0)
    # Two evaluations of a pair share their data point: their covariance does not average out.
    mc_variance = jnp.maximum(stratified + part_covariance / count, stratified / 4)
    # Where the control variate leaves nothing to chance, rounding is what remains.
    size = jax.lax.stop_gradient(jnp.abs(known)) + sums["size"] / count
    mc_variance = mc_variance + (_ROUNDING * jnp.finfo(dtype).eps * size) ** 2
    return Integral(
        known + sums["sum"] / count,
        mc_variance,
        jnp.maximum(own_covariance, 0.0) / data.shape[0],
        effective_number(steps),
    )
