r"""Integrals of parts: by coordinate or band, by sample, by interval of log-SNR.

A functional whose `rate` returns an array has an integral of that shape. Its parts share every
evaluation, and their sum is the estimate of the whole, with the standard error of the sum.

The places are chosen as in `entropix.estimators.integral` without a control variate, from a pilot
of the sum of the parts.

**Control variate.** That of the functional is the squared norm of an affine function f of the state
and the noise. A `Partition` divides it like the field, and with $f = V(\alpha + \beta y +
\gamma z)$, V from the eigenbasis of the data to that of the parts, each part of it has the means

$$E_z[f_i^2\,|\,x] = \left(\sum_j V_{ij}(\alpha_j + \beta_j\mu x_j)\right)^2 +
\sum_j V_{ij}^2(\beta_j\Sigma + \gamma_j)^2, \qquad
E[f_i^2] = \left(\sum_j V_{ij}(\alpha_j + \beta_j\mu m_j)\right)^2 +
\sum_j V_{ij}^2\left[\beta_j^2\mu^2v_j + (\beta_j\Sigma + \gamma_j)^2\right].$$

At each place $f_i^2$ less one of these means is subtracted: the first leaves the integral of each
sample as it is, the second that of the population. It is done in those bins of the axis where the
pilot finds that the control variate of the sum reduces its mean square. Derivatives are those of
the integral without it, and at given times they lack what moves these along the axis: a change of
the schedule. A part of a non-negative integrand may come out negative by chance.

The main pass divides the proposal into strata of two independent evaluations, at random places and
with different noise. Half their squared difference is an unbiased estimate of the variance of
either, for each part, however unevenly the part is spread over the axis: the proposal follows the
sum, not the part.

- *For the population*: strata k and k' are joined at random. The first evaluations of both share
  one data point, the second evaluations another, both drawn with replacement. Covariances between k
  and k' give the variance over data points of the parts of each one's own integral.
- *For each sample*: every sample has strata of its own, and an error of its own.

All sums are taken within chunks of evaluations: memory is that of one chunk and of the result.
"""

import functools
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, safe_sqrt
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import lightly_compiled
from entropix._core.display import axes_or_new, axis, label
from entropix._core.inversion import log_snr_at
from entropix._core.precision import full_precision
from entropix.estimators.axis import LogSNRAxis
from entropix.estimators.combination import ROUNDING
from entropix.estimators.ends import check_ends
from entropix.estimators.integral import all_exact, check_estimate, checked_arguments, frozen
from entropix.estimators.noise_end import noise_end_of_parts, with_noise_end
from entropix.estimators.places import (
    Places,
    aim,
    at_place,
    blocks_of,
    chunk_of,
    control_of,
    prepare,
    rates,
)
from entropix.estimators.proposal import Proposal
from entropix.estimators.reference import GaussianReference
from entropix.estimators.transforms import Partition
from entropix.interfaces import (
    AbstractControlVariate,
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractResult,
    Estimate,
)


if TYPE_CHECKING:
    from matplotlib.axes import Axes


class PointwiseCurve(AbstractResult):
    """An integral by parts and by intervals of log-SNR, in nats.

    The leading axis of `value` is that of the samples where the call had `per_sample=True`; the
    others are those of the parts. Sums of `value` over the parts, and means over the samples, are
    `total.value`; sums over all intervals are `value`, if `times` covers the axis.

    Attributes:
        times: shape (K,), increasing.
        log_snr: of those times; infinite at exact ends.
        value: the whole integral of each part, shape (*parts,) or (N, *parts).
        stderr: its standard error for the population; of a single sample, `mc_stderr`.
        mc_stderr: its standard error for the given points.
        intervals: the integral of each part between successive times, shape (K - 1, *value.shape).
        intervals_stderr: its standard error for the population; of a single sample, the other.
        intervals_mc_stderr: its standard error for the given points.
        total: the sum over all parts, averaged over samples.
        proposal: where the evaluations were placed.
    """

    times: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "time"))
    log_snr: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "1"))
    value: Float[Array, "..."] = eqx.field(metadata=label("*part"))
    stderr: Float[Array, "..."] = eqx.field(metadata=label("*part"))
    mc_stderr: Float[Array, "..."] = eqx.field(metadata=label("*part"))
    intervals: Float[Array, "..."] = eqx.field(metadata=label("interval *part"))
    intervals_stderr: Float[Array, "..."] = eqx.field(metadata=label("interval *part"))
    intervals_mc_stderr: Float[Array, "..."] = eqx.field(metadata=label("interval *part"))
    total: Estimate = eqx.field(metadata=label())
    proposal: Proposal

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the parts: as an image if they have two axes or more, otherwise with their errors.

        With more than two axes, the mean over all but the last two is drawn.
        """
        ax = axes_or_new(ax)
        value, error = np.asarray(self.value), np.asarray(self.stderr)
        if value.shape[-1:] == (1,):
            value, error = value[..., 0], error[..., 0]
        if value.ndim < 2:
            index, value, error = np.arange(value.size), value.ravel(), error.ravel()
            ax.errorbar(index, value, 2 * error, fmt="o", ms=3, lw=1)
            ax.locator_params(axis="x", integer=True)
            ax.set_xlabel("part")
            ax.set_ylabel("integral of each part [nats]")
            return ax
        image = value.reshape(-1, *value.shape[-2:]).mean(axis=0)
        shown = ax.imshow(image, aspect="auto")
        ax.figure.colorbar(shown, ax=ax, label="integral of each part [nats]")
        return ax


@full_precision
def integrate_parts(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    per_sample: bool = False,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    times: DataLike | None = None,
    num_times: int = 2,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
    divergence: str | None = None,
    partition: Partition | None = None,
) -> PointwiseCurve:
    r"""The integral of a functional whose `rate` returns an array of parts, as a curve.

    Args:
        functional: what is integrated. Parts that sum to the integrand of interest are divided by a
            `Partition`.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: as for `integrate`; with `per_sample`, at least 16 for each sample.
        per_sample: whether each sample has an integral of its own.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: as for `integrate`.
        times: the edges of the intervals, increasing, within `[t0, t1]`; None chooses `num_times`
            of them that resolve both ends.
        num_times: see `times`.
        chunk_size: evaluations held in memory at once.
        proposal: as for `integrate`.
        divergence: as for `integrate`.
        partition: how the functional divides the field of its models into the parts, if it does.
            The control variate of the functional is then divided as well, and so is the bound on
            what lies beyond the range of the models. None where the parts are others: no control
            variate is used, and each part may hold all of the bound.

    Returns:
        A `PointwiseCurve`, in the units of the functional.

    Raises:
        ValueError: as `integrate`.
        DivergenceError: as `integrate`, for the sum of the parts.

    Example:
        The squares of the coordinates of the entropy field:

        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> model = ex.ExactModel(ex.Gaussian([0.0, 0.0], [[0.5, 0.0], [0.0, 0.2]]), process)
        >>> data = model.distribution.sample(100, key=jax.random.key(0))
        >>> partition = ex.estimators.Partition.of(True, data[0])
        >>> functional = ex.entropy.EntropyProduction(model, partition)
        >>> options = {"key": jax.random.key(1), "partition": partition}
        >>> ex.estimators.integrate_parts(functional, data, **options).value.shape
        (2,)
    """
    data, condition, cutoff, times = checked_arguments(
        functional,
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        times=times,
        num_times=num_times,
        chunk_size=chunk_size,
        proposal=proposal,
        divergence=divergence,
    )
    process: Any = functional.process
    cost = 2 if functional.uses_noise else 1
    chunk = chunk_of(functional, data, chunk_size)
    positions = num_evaluations // cost
    if per_sample and positions < 16 * data.shape[0]:
        raise ValueError(
            f"`num_evaluations` must be at least {16 * cost} for each sample, "
            f"{16 * cost * data.shape[0]}, got {num_evaluations}."
        )
    pilot_key, main_key = jax.random.split(key)
    pilot = prepare(process, data, cutoff, pilot_key, positions)
    reference = pilot.reference
    arguments = (Summed(functional), data, condition, reference)
    value, control = rates(frozen(arguments), frozen(pilot.places), pilot.noise, chunk)
    main = aim(pilot, data, value, control, np.asarray(False), proposal)
    used = main.proposal
    if proposal is None:  # the places of the integrand itself, whose means are integrated there
        controlled = aim(pilot, data, value, control, np.asarray(True), None)
        used = eqx.tree_at(lambda p: p.keep, used, controlled.proposal.keep)
    slope = None
    if cutoff is not None:
        slope = rates(arguments, blocks_of(main, pilot)[-1], pilot.noise, chunk)[0]
    left = positions - pilot.places.index.shape[0] - (0 if slope is None else slope.shape[0])
    if per_sample:
        count = max(left // data.shape[0] // 2, 6)
    else:
        count = max(left // 4, 16)
    curve = _divide(
        functional,
        data,
        condition,
        pilot.axis,
        used,
        reference,
        partition,
        cutoff,
        slope,
        times,
        main_key,
        num_times,
        count,
        per_sample,
        chunk,
        pilot.places.index.shape[0],
    )
    curve = check_ends(curve, main.ends, cutoff, data, trained=not all_exact(functional))
    total = with_noise_end(check_estimate(curve.total), functional, process, reference)
    curve = eqx.tree_at(lambda c: c.total, curve, total)
    each = data if per_sample else None
    return _with_noise_end(curve, functional, reference, partition, each)


def _with_noise_end(
    curve: PointwiseCurve,
    functional: AbstractFunctional,
    reference: GaussianReference,
    partition: Partition | None,
    each: Array | None,
) -> PointwiseCurve:
    """The curve with what lies beyond the range of the models in the errors of its parts."""

    def allowance(start: Array | None) -> Array | None:
        return noise_end_of_parts(
            functional,
            functional.process,
            reference,
            partition=partition,
            samples=each,
            residual=functional.uses_noise,
            start=start,
        )

    def added(errors: Array, bound: Array) -> Array:
        # Parts that are not those of a field: each may hold all of it.
        missing = errors.ndim - bound.ndim
        return jnp.hypot(errors, bound.reshape(bound.shape + (1,) * missing))

    whole = allowance(None)
    if whole is None:
        return curve
    starts = curve.log_snr[:-1]
    parts = jax.lax.map(allowance, starts)
    return eqx.tree_at(
        lambda c: (c.stderr, c.intervals_stderr),
        curve,
        (added(curve.stderr, whole), added(curve.intervals_stderr, parts)),
    )


class Summed(AbstractFunctional):
    """The sum of the parts of a functional."""

    functional: AbstractFunctional

    @property
    def control(self) -> AbstractControlVariate | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        """The control variate of the sum."""
        return self.functional.control

    @property
    def uses_noise(self) -> bool:  # pyright: ignore[reportIncompatibleVariableOverride]
        """Whether `rate` depends on the noise."""
        return self.functional.uses_noise

    @property
    def process(self) -> Any:
        return self.functional.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        return jnp.sum(self.functional.rate(s, y, z, condition))


class _Sums(eqx.Module):
    """What is added up for every bin of the axis and every part; the last part is the sum."""

    value: Float[Array, "..."]
    size: Float[Array, "..."]
    squares: Float[Array, "..."]  # of differences within strata
    products: Float[Array, "..."]  # of evaluations that share a data point
    own: Float[Array, "..."]  # values that have the mean of the data point
    own_products: Float[Array, "..."]  # of those
    fourth: Float[Array, "..."]  # of the sum's differences, to the fourth power


def _binned(bins: Array, values: Array, count: int) -> Array:
    """Sums of values (n, P) by bins (n,), shape (count, P), without an array (n, count, P)."""
    hot = (bins[:, None] == jnp.arange(count)).astype(values.dtype)
    return hot.T @ values


def _squares(bins: Array, values: Array, count: int) -> Array:
    """Squared differences of pairs (n, 2, P) by bins; an entry of a bin of its own is one."""
    same = (bins[:, 0] == bins[:, 1])[:, None]
    first = jnp.where(same, (values[:, 0] - values[:, 1]) ** 2, values[:, 0] ** 2)
    second = jnp.where(same, 0.0, values[:, 1] ** 2)
    return _binned(bins[:, 0], first, count) + _binned(bins[:, 1], second, count)


@functools.partial(lightly_compiled, level=1)
def _divide(
    functional: AbstractFunctional,
    data: Array,
    condition: PyTree,
    axis: LogSNRAxis,
    proposal: Proposal,
    reference: GaussianReference,
    partition: Partition | None,
    cutoff: Array | None,
    slope_rates: Array | None,
    times: Array | None,
    key: Key,
    num_times: int,
    count: int,
    per_sample: bool,
    chunk: int,
    spent: int,
) -> PointwiseCurve:
    process: Any = functional.process
    if times is None:
        edges = jnp.linspace(0.0, 1.0, num_times, dtype=data.dtype)
        times = axis.times(process, edges)
    else:
        edges = axis.fraction(log_snr_at(process, times)).astype(data.dtype)
    cost = 2 if functional.uses_noise else 1
    numbers = data.shape[0], times.shape[0]
    evaluator = _Evaluator(functional, data, condition, axis, proposal, edges, key, None)
    parts = evaluator.shape
    variate = control_of(functional)
    if variate is not None and partition is not None:
        turn = partition.turn(reference.basis)
        control = _Control(variate, process, reference, partition, turn, per_sample)
        evaluator = eqx.tree_at(
            lambda e: e.control, evaluator, control, is_leaf=lambda leaf: leaf is None
        )
    collect = _of_samples if per_sample else _of_population
    whole, bins, evaluations, number = collect(evaluator, count, chunk)
    spent = cost * (spent + evaluations + (0 if slope_rates is None else slope_rates.shape[0]))

    leading = (numbers[0],) if per_sample else ()

    def shaped(x: Array) -> Array:
        """(..., parts), the samples first."""
        return x[..., :-1].reshape(x.shape[:-1] + parts)

    value, mc, population = whole
    # The sum of the parts as they are returned, averaged over samples.
    total_value = jnp.sum(value[..., :-1], axis=-1)
    if per_sample:
        each = jax.lax.stop_gradient(total_value)
        total_value = jnp.mean(total_value)
        total_mc = jnp.sqrt(jnp.sum(mc[:, -1])) / numbers[0]
        total_error = jnp.maximum(jnp.std(each, ddof=1) / jnp.sqrt(numbers[0]), total_mc)
    else:
        total_mc, total_error = jnp.sqrt(mc[-1]), jnp.sqrt(population[-1])
    slope = None
    if slope_rates is not None:
        slope = axis.slope(process, slope_rates)
    total = Estimate(
        value=total_value,
        stderr=total_error,
        mc_stderr=total_mc,
        num_evaluations=spent,
        cutoff=cutoff,
        slope=slope,
        num_effective=number,
    )
    value, error, mc_error = (shaped(v) for v in (value, safe_sqrt(population), safe_sqrt(mc)))
    inside = [jnp.moveaxis(b, len(leading), 0)[1 : numbers[1]] for b in bins]
    part, part_mc, part_population = inside
    return PointwiseCurve(
        times,
        process.log_snr(times),
        value,
        error,
        mc_error,
        shaped(part),
        shaped(safe_sqrt(part_population)),
        shaped(safe_sqrt(part_mc)),
        total,
        proposal,
    )


class _Control(eqx.Module):
    """The parts of a control variate, less their means for the sample or for the population."""

    variate: AbstractControlVariate
    process: AbstractGaussianProcess
    reference: GaussianReference
    partition: Partition
    turn: Float[Array, "coefficients dim"]
    per_sample: bool = eqx.field(static=True)

    def _turned(self, vector: Array, power: int = 1) -> Array:
        """From the eigenbasis to that of the parts; with a power of 2, of variances."""
        return self.turn**power @ vector

    def __call__(self, s: Array, x: Array, y: Array, z: Array) -> tuple[Array, Array]:
        """What has no mean for the sample x; and the mean for it less that of the population."""
        process, reference = self.process, self.reference
        constant, slope, noise = self.variate.coefficients(
            process, s, reference.mean, reference.spread
        )
        scale = process.scale(s)
        away = reference.deviation(y, scale)
        at = self._turned(constant + slope * away + noise * reference.rotate(z))
        scaled = slope * scale
        chance = self._turned((noise + slope * process.std(s)) ** 2, 2)
        own = self._turned(constant + scaled * reference.deviation(x)) ** 2
        fluctuation = self.partition.group(at**2 - own - chance)
        if self.per_sample:
            return fluctuation, jnp.zeros_like(fluctuation)
        mean = self._turned(constant) ** 2
        spread = self._turned(scaled**2 * reference.variances, 2)
        return fluctuation, self.partition.group(own - mean - spread)


class _Evaluator(eqx.Module):
    """The parts of one evaluation, per unit of the proposal, with their sum as the last."""

    functional: AbstractFunctional
    data: Array
    condition: PyTree
    axis: LogSNRAxis
    proposal: Proposal
    edges: Array
    key: Key
    control: _Control | None

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of the parts."""

        def rate() -> Array:
            return self._parts(jnp.asarray(0), self.axis.centre, jnp.asarray(0))[0]

        return jax.eval_shape(rate).shape

    def _parts(self, index: Array, log_snr: Array, number: Array) -> tuple[Array, Array, Array]:
        """Of the functional, and of the control variate for the sample and the population."""
        functional, control, x = self.functional, self.control, self.data[index]
        place = Places(log_snr, index, number, jnp.zeros_like(number))
        process: Any = functional.process
        z = process.draw_noise(x, key=jax.random.fold_in(self.key, number))

        def rate(s: Array, y: Array, z: PyTree, condition: PyTree) -> tuple[Array, Array, Array]:
            value = functional.rate(s, y, z, condition)
            if control is None:
                return value, jnp.zeros_like(value), jnp.zeros_like(value)
            known = control(s, x, y, z)
            return value, *jax.lax.stop_gradient(known)

        return at_place(functional, self.data, self.condition, place, z, rate)

    def __call__(self, index: Array, level: Array, number: Array) -> tuple[Array, Array, Array]:
        """Parts (P + 1,) for the population and for the sample, and the bin of the axis.

        The two have the same mean over samples; the first varies less, and has no derivative but
        that of the functional.
        """
        fraction, density, keep = self.proposal.place(level)
        value, by_noise, by_sample = self._parts(index, self.axis.log_snr(fraction), number)
        weight = self.axis.jacobian(fraction) / density
        own = (weight * (value - keep * by_noise)).reshape(-1)
        parts = own - (weight * keep * by_sample).reshape(-1)
        bins = jnp.sum(fraction > self.edges)
        parts, own = (jnp.append(v, jnp.sum(v)) for v in (parts, own))
        return parts, own, bins


def _of_population(evaluator: _Evaluator, count: int, chunk: int) -> Any:
    """Values and variances for the population, from `count` pairs of strata."""
    data, dtype = evaluator.data, evaluator.data.dtype
    total, num_bins = 4 * count, evaluator.edges.shape[0] + 1
    index_key, place_key, order_key = jax.random.split(jax.random.fold_in(evaluator.key, 1), 3)
    order = jax.random.permutation(order_key, 2 * count).reshape(count, 2)
    index = jax.random.randint(index_key, (count, 2), 0, data.shape[0])
    # [pair, stratum, member]: the two strata share the data point of either member.
    offset = jax.random.uniform(place_key, (count, 2, 2), dtype, minval=1e-6)
    level = (order[..., None] + offset) / (2 * count)
    where = jnp.broadcast_to(index[:, None, :], level.shape)
    # Numbers of noise that the three keys above have not used.
    number = jnp.arange(16, 16 + total).reshape(count, 2, 2)

    def sums(args: Any, weight: Array) -> _Sums:
        values, own, bins = jax.vmap(evaluator)(*(a.reshape(-1) for a in args))
        values, own = (
            (v * jnp.repeat(weight, 4)[:, None]).reshape(-1, 2, 2, v.shape[-1])
            for v in (values, own)
        )
        bins = bins.reshape(-1, 2, 2)
        still, own = jax.lax.stop_gradient((values, own))
        flat = still.reshape(-1, 2, still.shape[-1])
        same = (bins[:, 0] == bins[:, 1])[..., None]

        def products(values: Array) -> Array:
            product = values[:, 0] * values[:, 1]
            within = jnp.where(same, product, 0.0).reshape(-1, product.shape[-1])
            by_bin = _binned(bins[:, 0].reshape(-1), within, num_bins)
            return jnp.concatenate([by_bin, jnp.sum(product, axis=(0, 1))[None]])

        steps = (flat[:, 0] - flat[:, 1]) ** 2
        return _Sums(
            _binned(bins.reshape(-1), values.reshape(-1, values.shape[-1]), num_bins),
            _binned(bins.reshape(-1), jnp.abs(still).reshape(-1, still.shape[-1]), num_bins),
            jnp.concatenate(
                [_squares(bins.reshape(-1, 2), flat, num_bins), jnp.sum(steps, axis=0)[None]]
            ),
            products(still),
            _binned(bins.reshape(-1), own.reshape(-1, own.shape[-1]), num_bins),
            products(own),
            jnp.sum(steps[:, -1] ** 2),
        )

    out = in_chunks(sums, (where, level, number), count, max(chunk // 4, 1))
    out = jax.tree.map(lambda v: jnp.sum(v, axis=0), out)

    def with_whole(sums: Array) -> Array:
        """Of each bin, then of all."""
        return jnp.concatenate([sums, jnp.sum(sums, axis=0)[None]]) / total

    value, size = with_whole(out.value), with_whole(out.size)
    covariance, own_covariance = (
        products / (2 * count) - jax.lax.stop_gradient(mean) ** 2
        for products, mean in ((out.products, value), (out.own_products, with_whole(out.own)))
    )
    stratified = out.squares / float(total) ** 2
    # Evaluations that share a data point: their covariance does not average out.
    mc = jnp.maximum(stratified + covariance / total, stratified / 4)
    mc = mc + (ROUNDING * jnp.finfo(dtype).eps * size) ** 2
    population = mc + jnp.maximum(own_covariance, 0.0) / data.shape[0]
    number_of = out.squares[-1, -1] ** 2 / jnp.maximum(out.fourth, jnp.finfo(dtype).tiny)
    number_of = jnp.where(out.fourth > 0, number_of, 2.0 * count)
    whole = (value[-1], mc[-1], population[-1])
    return whole, (value[:-1], mc[:-1], population[:-1]), total, number_of


def _of_samples(evaluator: _Evaluator, count: int, chunk: int) -> Any:
    """Values and variances of each sample, from `count` strata of its own."""
    data, dtype = evaluator.data, evaluator.data.dtype
    samples, num_bins = data.shape[0], evaluator.edges.shape[0] + 1
    shared = jnp.zeros(()), jnp.zeros(()), jnp.zeros(())  # nothing is averaged over samples
    here = max(1, min(chunk // (2 * count), samples))

    def of(which: Array, _: Array) -> _Sums:
        def strata(j: Array, weight: Array) -> _Sums:
            def one(i: Array) -> _Sums:
                def member(j: Array, m: Array) -> tuple[Array, Array]:
                    number = 2 * j + m
                    key = jax.random.fold_in(evaluator.key, i)
                    offset = jax.random.uniform(
                        jax.random.fold_in(key, number), (), dtype, minval=1e-6
                    )
                    own = eqx.tree_at(lambda e: e.key, evaluator, key)
                    _, parts, bins = own(i, (j + offset) / count, 2 * count + number)
                    return parts, bins

                values, bins = jax.vmap(lambda j: jax.vmap(lambda m: member(j, m))(jnp.arange(2)))(
                    j
                )
                values = values * weight[:, None, None]
                still = jax.lax.stop_gradient(values)
                steps = (still[:, 0] - still[:, 1]) ** 2
                flat = values.reshape(-1, values.shape[-1])
                return _Sums(
                    _binned(bins.reshape(-1), flat, num_bins),
                    _binned(bins.reshape(-1), jnp.abs(still).reshape(flat.shape), num_bins),
                    jnp.concatenate(
                        [_squares(bins, still, num_bins), jnp.sum(steps, axis=0)[None]]
                    ),
                    *shared,
                    jnp.sum(steps[:, -1] ** 2),
                )

            return jax.vmap(one)(which)

        per_block = max(1, chunk // (2 * which.shape[0]))
        out = in_chunks(strata, jnp.arange(count), count, per_block)
        return jax.tree.map(lambda v: jnp.sum(v, axis=0), out)

    out = in_chunks(of, jnp.arange(samples), samples, here)
    out = jax.tree.map(lambda v: unchunk(v, samples), out)
    total = 2 * count
    bins = out.value / total
    value = jnp.concatenate([bins, jnp.sum(bins, axis=1, keepdims=True)], axis=1)
    size = jnp.concatenate([out.size, jnp.sum(out.size, axis=1, keepdims=True)], axis=1) / total
    mc = out.squares / float(total) ** 2 + (ROUNDING * jnp.finfo(dtype).eps * size) ** 2
    squares = jnp.sum(out.squares[:, -1, -1])
    fourth = jnp.sum(out.fourth)
    number = squares**2 / jnp.maximum(fourth, jnp.finfo(dtype).tiny)
    number = jnp.where(fourth > 0, number, 1.0 * count * samples)
    whole = (value[:, -1], mc[:, -1], mc[:, -1])
    return whole, (value[:, :-1], mc[:, :-1], mc[:, :-1]), total * samples, number
