r"""Stratified importance sampling of integrals over log-SNR, with honest standard errors.

The integrals of this room have one form,

$$I = \int \frac{\Sigma^2}{2}\,E_{x \sim data,\,z}\left[g(s, \mu x + \Sigma z)\right](-d\lambda).$$

They are estimated in two passes.

1. A pilot (15% of the evaluations), uniform on the Cauchy axis of `LogSNRAxis`, measures in 64 bins
   the root mean square of the integrand with and without the control variate. The better of the two
   is kept in each bin, and the bins' root mean squares become the proposal density, mixed with 10%
   of the uniform one. The pilot is not used again, so the choice costs no bias. A few evaluations
   are spent at both ends, see `entropix.entropy.ends`.
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
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.interfaces import AbstractGaussianProcess
from entropix.entropy.axis import LogSNRAxis
from entropix.entropy.denoising import AbstractControlledDenoising, AbstractDenoisingFunctional
from entropix.entropy.ends import EndRates, end_rates
from entropix.entropy.integrands import AbstractControlled, AbstractPathFunctional
from entropix.entropy.reference import GaussianReference


Integrand: TypeAlias = AbstractPathFunctional | AbstractDenoisingFunctional

BINS = 64
PILOT_SHARE = 0.15
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
        index = jnp.clip(
            jnp.searchsorted(cdf, level, side="right", method="compare_all") - 1, 0, BINS - 1
        )
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


def _evaluate(
    integrand: Integrand,
    points: Points,
    axis: LogSNRAxis,
    fraction: Array,
    index: Array,
    z: Array,
) -> tuple[Array, Array]:
    """Integrand and control variate per unit of the axis, at one fraction and data point."""
    process = gaussian_process(integrand)
    s = process.time_of_log_snr(axis.log_snr(fraction))
    x = points.data[index]
    condition = jax.tree.map(lambda c: c[index], points.condition)
    factor = axis.jacobian(fraction)
    value = factor * rate_at(integrand, s, x, z, condition)
    return value, factor * _control_at(integrand, s, x, z, points.reference)


def _open_unit(bits: Array, dtype: Any) -> Array:
    """Random bits as numbers strictly inside (0, 1)."""
    return ((bits >> 9).astype(dtype) + 0.5) / 2**23


def run_pilot(
    integrand: Integrand,
    points: Points,
    axis: LogSNRAxis,
    *,
    key: Key,
    count: int,
    end_count: int,
    chunk: int,
    control_variate: bool,
) -> Pilot:
    """The first pass: a proposal over the axis, and the rates at its ends.

    It evaluates the integrand at `count` positions of the axis, and in `end_count` draws at each of
    the end points.
    """
    draw_key, noise_key = jax.random.split(key)
    dtype, process = points.data.dtype, gaussian_process(integrand)
    bits = jax.random.bits(draw_key, (count, 2), jnp.uint32)
    fraction = (jnp.arange(count) + _open_unit(bits[:, 0], dtype)) / count
    index = (bits[:, 1] % points.data.shape[0]).astype(jnp.int32)

    def noise(n: Array) -> Array:
        return jax.random.normal(jax.random.fold_in(noise_key, n), points.data.shape[1:], dtype)

    def values(args: Any, _: Array) -> tuple[Array, Array]:
        return jax.vmap(lambda f, i, n: _evaluate(integrand, points, axis, f, i, noise(n)))(*args)

    raw, control = in_chunks(values, (fraction, index, jnp.arange(count)), count, chunk)
    raw, control = jax.lax.stop_gradient((unchunk(raw, count), unchunk(control, count)))
    proposal = proposal_of(fraction, raw, raw - control if control_variate else None)

    def rate(log_snr: Array, n: Array) -> Array:
        # The data points and the noise of the first evaluations of the sweep.
        condition = jax.tree.map(lambda c: c[index[n]], points.condition)
        s = process.time_of_log_snr(log_snr)
        return rate_at(integrand, s, points.data[index[n]], noise(n), condition)

    peak = peak_of(fraction, raw / axis.jacobian(fraction))
    return Pilot(proposal, end_rates(rate, process, axis, points.data, end_count, peak))


def peak_of(fraction: Array, rate: Array) -> Array:
    """The largest mean absolute rate of a bin of the axis."""
    bins = jnp.clip((fraction * BINS).astype(int), 0, BINS - 1)
    counts = jnp.maximum(jax.ops.segment_sum(jnp.ones_like(rate), bins, BINS), 1.0)
    return jax.lax.stop_gradient(jnp.max(jax.ops.segment_sum(jnp.abs(rate), bins, BINS) / counts))


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


def run_main(
    integrand: Integrand,
    points: Points,
    axis: LogSNRAxis,
    proposal: Proposal,
    edges: Float[Array, " edges"],
    *,
    key: Key,
    count: int,
    chunk: int,
) -> Integral:
    """The second pass. `count` must be even; `edges` are increasing fractions, the last one 1."""
    pairs = count // 2
    dtype = points.data.dtype
    draw_key, noise_key = jax.random.split(key)
    # One call for all that is not Gaussian: each costs compilation time.
    bits = jax.random.bits(draw_key, (pairs, 5), jnp.uint32)
    strata = jnp.argsort(bits[:, :2].reshape(-1)).reshape(pairs, 2)
    jitter = _open_unit(bits[:, 2:4], dtype)
    index = (bits[:, 4] % points.data.shape[0]).astype(jnp.int32)
    position = jnp.arange(pairs)

    reference = points.reference
    known, linear, quadratic = reference.integrals(
        gaussian_process(integrand),
        axis,
        edges,
        proposal.keep,
        denoising=isinstance(integrand, AbstractDenoisingFunctional),
    )

    def both(stratum: Array, offset: Array, i: Array, n: Array) -> tuple[Array, Array]:
        z = jax.random.normal(jax.random.fold_in(noise_key, n), (2, *points.data.shape[1:]), dtype)

        def one(stratum: Array, offset: Array, z: Array) -> tuple[Array, Array]:
            fraction, density, keep = proposal.place((stratum + offset) / count)
            raw, control = _evaluate(integrand, points, axis, fraction, i, z)
            return (raw - keep * control) / density, fraction

        return jax.vmap(one)(stratum, offset, z)

    def chunk_sums(args: Any, weight: Array) -> dict[str, Array]:
        stratum, offset, i, n = args
        values, fractions = jax.vmap(both)(stratum, offset, i, n)
        before = (fractions[..., None] <= edges) * weight[:, None, None]
        parts = values[..., None] * before
        centred = jax.vmap(reference.rotate)(points.data[i]) - reference.mean
        own = centred @ linear.T + (centred**2 - reference.variances) @ quadratic.T
        own = own * weight[:, None]
        frozen = jax.lax.stop_gradient(parts)
        of = jax.lax.stop_gradient(own)[:, None, :] + frozen
        return {
            "sum": jnp.sum(parts, axis=(0, 1)),
            "mean": jnp.sum(of, axis=(0, 1)) / 2,
            "product": jnp.sum(of[:, 0] * of[:, 1], axis=0),
            "part_mean": jnp.sum(frozen, axis=(0, 1)) / 2,
            "part_product": jnp.sum(frozen[:, 0] * frozen[:, 1], axis=0),
            "values": jax.lax.stop_gradient(values),
            "fractions": jax.lax.stop_gradient(fractions),
        }

    args = (strata, jitter, index, position)
    out = in_chunks(chunk_sums, args, pairs, max(chunk // 2, 1))
    sums = {
        name: jnp.sum(out[name], axis=0)
        for name in ("sum", "mean", "product", "part_mean", "part_product")
    }
    own_covariance = sums["product"] / pairs - (sums["mean"] / pairs) ** 2
    part_covariance = sums["part_product"] / pairs - (sums["part_mean"] / pairs) ** 2

    order = strata.reshape(-1)
    values = jnp.zeros(count, dtype).at[order].set(unchunk(out["values"], pairs).reshape(-1))
    places = jnp.zeros(count, dtype).at[order].set(unchunk(out["fractions"], pairs).reshape(-1))
    steps = ((values[0::2] - values[1::2]) / count) ** 2
    stratified = jnp.sum(steps[:, None] * (places[0::2, None] <= edges), axis=0)
    # Two evaluations of a pair share their data point: their covariance does not average out.
    mc_variance = jnp.maximum(stratified + part_covariance / count, stratified / 4)
    # Where the control variate leaves nothing to chance, rounding is what remains.
    size = (
        jnp.abs(known) + jnp.sum(jnp.abs(values)[:, None] * (places[:, None] <= edges), 0) / count
    )
    rounding = _ROUNDING * jnp.finfo(dtype).eps * jax.lax.stop_gradient(size)
    mc_variance = mc_variance + rounding**2
    return Integral(
        known + sums["sum"] / count,
        mc_variance,
        jnp.maximum(own_covariance, 0.0) / points.data.shape[0],
        effective_number(steps),
    )
