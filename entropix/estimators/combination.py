"""Values at all places to a curve: known integrals, means over nets, and their errors.

See `entropix.estimators.integral`.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.chunks import map_in_chunks
from entropix._core.compiled import lightly_compiled
from entropix._core.inversion import log_snr_at
from entropix.estimators.entropy_curve import EntropyCurve, around, per_length
from entropix.estimators.places import SHARING, Main, Pilot
from entropix.estimators.reference import GaussianReference
from entropix.interfaces import (
    AbstractControlVariate,
    AbstractGaussianProcess,
    AbstractKernel,
    Estimate,
)


# The relative error of a sum of evaluations, in units of the rounding of one number.
ROUNDING = 8.0
# Edges of a curve for which the data points are compared at once.
EDGES_AT_ONCE = 8
# Half the width of what counts as close to an edge, on the axis of unit length.
HALF_WIDTH = 1 / 64


@functools.partial(lightly_compiled, level=1)
def combine(
    process: AbstractKernel,
    variate: AbstractControlVariate | None,
    pilot: Pilot,
    main: Main,
    data: Array,
    values: tuple[Array, ...],
    controls: tuple[Array, ...],
    cutoff: Array | None,
    times: Array | None,
    num_times: int,
    cost: int,
    chunk: int,
    from_noise: bool,
) -> EntropyCurve:
    """The curve from the values of all blocks, the first of which is the pilot."""
    axis, reference, count = pilot.axis, pilot.reference, main.fraction.size
    value, control = jnp.concatenate(values[1:]), jnp.concatenate(controls[1:])
    evaluations = cost * (pilot.places.index.shape[0] + value.shape[0])
    slope = None
    if cutoff is not None:
        slope = axis.slope(process, value[count:])
    if times is None:
        edges = jnp.asarray(np.linspace(0.0, 1.0, num_times), data.dtype)
        times = axis.times(process, edges)
    else:
        edges = axis.fraction(log_snr_at(process, times)).astype(data.dtype)
    # The last edge is that of the whole integral.
    bounds = jnp.append(edges, 0.0 if from_noise else 1.0)
    if variate is None:
        known = jnp.zeros_like(bounds)
        linear = quadratic = jnp.zeros((bounds.shape[0], reference.centre.shape[0]), edges.dtype)
    else:
        assert isinstance(process, AbstractGaussianProcess)
        keep = main.proposal.keep
        own = reference.integrals(
            variate, process, axis, jnp.append(bounds, 1.0) if from_noise else bounds, keep
        )
        known, linear, quadratic = (v[-1] - v[:-1] for v in own) if from_noise else own
        moved = _by_moments(data, reference, linear, quadratic)
        known = known + moved

    value, control = (v[:count].reshape(main.fraction.shape) for v in (value, control))
    value = axis.jacobian(main.fraction) * (value - main.keep * control) / main.density
    sums, number = _sums(main.fraction, value, edges)
    sums = _accumulated(sums, from_noise)
    # The second part are the sums over the intervals that meet at each time.
    sign = -1 if from_noise else 1
    steps = sign * jax.vmap(around)(jnp.diff(sums[:, :-1], axis=1))
    mean, mc_variance = _mean_and_variance(jnp.concatenate([sums, steps], axis=1))
    mean, (mc_variance, spread) = mean[: bounds.size], jnp.split(mc_variance, [bounds.size])
    moving = _by_edges(edges, main.fraction, value)
    cumulative = known + mean[:, 0] + jnp.append(sign * moving, 0.0)
    # Where the control variate leaves nothing to chance, rounding is what remains.
    size = jax.lax.stop_gradient(jnp.abs(known) + mean[:, 1])
    rounding = ROUNDING * jnp.finfo(data.dtype).eps * size
    rounding = rounding + _rounding_of_data(data, reference, linear, quadratic)
    mc_variance = mc_variance + jax.lax.stop_gradient(rounding**2)
    arguments = (pilot, main, data, (values[0], controls[0]), value, mean[:, 0])
    data_variance = _data_variance(
        *jax.lax.stop_gradient((*arguments, bounds, (linear, quadratic))), chunk, from_noise
    )
    stderr, mc_stderr = jnp.sqrt(jnp.stack([mc_variance + data_variance, mc_variance]))
    total = Estimate(
        value=cumulative[-1],
        stderr=stderr[-1],
        mc_stderr=mc_stderr[-1],
        num_evaluations=evaluations,
        cutoff=cutoff,
        slope=slope,
        num_effective=number,
    )
    cumulative, stderr, mc_stderr = cumulative[:-1], stderr[:-1], mc_stderr[:-1]
    change = sign * around(jnp.diff(cumulative))
    return EntropyCurve(
        times,
        process.log_snr(times),
        per_length(change, times),
        per_length(jnp.sqrt(spread), times),
        cumulative,
        stderr,
        mc_stderr,
        total,
        main.proposal,
    )


@jax.custom_jvp
def _by_moments(
    data: Array, reference: GaussianReference, linear: Array, quadratic: Array
) -> Float[Array, " edges"]:
    """Zero, with the derivative of the known integral in the data.

    The reference is a constant, but the mean of the control variate is that over the data: where
    they move, their first two moments do.
    """
    return jnp.zeros(linear.shape[0], jnp.result_type(data, linear))


@_by_moments.defjvp
def _by_moments_jvp(primals: PyTree, tangents: PyTree) -> tuple[Array, Array]:
    data, reference, linear, quadratic = primals
    moved = jax.vmap(reference.rotate)(tangents[0])
    first = jnp.mean(moved, axis=0)
    second = 2 * jnp.mean(jax.vmap(reference.deviation)(data) * moved, axis=0)
    return _by_moments(*primals), linear @ first + quadratic @ second


@jax.custom_jvp
def _by_edges(
    edges: Float[Array, " edges"], fraction: Array, value: Array
) -> Float[Array, " edges"]:
    """Zero, with the derivative of the sums in the edges: the mean rate close to each of them.

    At given times, a process that changes moves them. Which evaluations are counted does not tell.
    """
    return jnp.zeros_like(edges)


@_by_edges.defjvp
def _by_edges_jvp(primals: PyTree, tangents: PyTree) -> tuple[Array, Array]:
    edges, fraction, value = jax.lax.stop_gradient(primals)

    def rate(edge: Array) -> Array:
        # As far on one side as on the other: a rate with a slope has the mean of the two.
        half = jnp.minimum(HALF_WIDTH, jnp.maximum(jnp.minimum(edge, 1 - edge), 1e-3))
        near = jnp.abs(fraction - edge) < half
        width = jnp.minimum(edge + half, 1.0) - jnp.maximum(edge - half, 0.0)
        return jnp.sum(jnp.where(near, value, 0.0)) / (width * value.size)

    moved = jax.lax.map(rate, edges) * tangents[0]
    return jnp.zeros_like(edges), moved.astype(edges.dtype)


def _rounding_of_data(
    data: Array, reference: GaussianReference, linear: Array, quadratic: Array
) -> Float[Array, " edges"]:
    r"""The error of an integral by the rounding of data, states and mean.

    Rounding a number x adds an error $\delta$ of variance $(\epsilon x)^2/12$, which changes the
    square of a deviation $\xi$ by $2\xi\delta + \delta^2$. The first term averages out over data.
    """
    flat = data.reshape(data.shape[0], -1)
    variance = jnp.finfo(data.dtype).eps ** 2 / 12 * jnp.mean(flat**2, axis=0)
    variance = variance @ reference.basis**2
    first = (linear**2 + 4 * quadratic**2 * reference.variances) @ variance / data.shape[0]
    return jnp.sqrt(first) + quadratic @ variance


def _sums(
    fraction: Float[Array, "replicates nodes"],
    value: Float[Array, "replicates nodes"],
    edges: Float[Array, " edges"],
) -> tuple[Float[Array, "replicates bins 3"], Float[Array, ""]]:
    """Sums between edges, for each net: of values, of their sizes, of squared deviations.

    Each is such that its mean over the nets is that of all. The second result is the effective
    number of evaluations that make up the squared deviations.
    """
    replicates, nodes = value.shape
    still = jax.lax.stop_gradient(value)
    # Node k has the same level in all nets (to 1/n), and is independent otherwise.
    squares = (still - jnp.mean(still, axis=0)) ** 2
    columns = jnp.stack(
        [value / nodes, jnp.abs(still) / nodes, squares / (nodes**2 * (replicates - 1.0))], axis=-1
    )
    # Short sums first: rounding.
    num_bins, rows = edges.shape[0] + 1, max(nodes // 256, 1)
    # For a few edges, comparisons with all of them compile faster than a loop.
    method = "compare_all" if edges.size < 4 else "scan"
    bins = jnp.searchsorted(edges, jax.lax.stop_gradient(fraction), method=method)
    bins = bins.reshape(replicates, rows, -1)
    bins = bins + num_bins * jnp.arange(replicates * rows).reshape(replicates, rows, 1)
    sums = jax.ops.segment_sum(columns.reshape(-1, 3), bins.ravel(), replicates * rows * num_bins)
    sums = jnp.sum(sums.reshape(replicates, rows, num_bins, 3), axis=1)

    largest = jnp.max(squares)
    weights = squares / jnp.where(largest > 0, largest, 1.0)
    first, second = jnp.sum(jnp.stack([weights, weights**2]), axis=(1, 2))
    number = first**2 / jnp.maximum(second, 1e-30)
    # One large value moves the mean of its node: without the factor its number would exceed 1.
    number = number * ((1 - 1 / replicates) ** 2 + 1 / (replicates**2 * (replicates - 1)))
    return sums, jnp.where(largest > 0, number, 1.0 * value.size)


def _accumulated(
    sums: Float[Array, "replicates bins 3"], from_noise: bool
) -> Float[Array, "replicates edges 3"]:
    """Sums up to (or from) each edge, then the whole."""
    whole = jnp.sum(sums, axis=1, keepdims=True)
    if from_noise:
        reached = jnp.cumsum(sums[:, ::-1], axis=1)[:, ::-1][:, 1:]
    else:
        reached = jnp.cumsum(sums, axis=1)[:, :-1]
    return jnp.concatenate([reached, whole], axis=1)


def _mean_and_variance(
    sums: Float[Array, "replicates parts 3"],
) -> tuple[Float[Array, "parts 3"], Float[Array, " parts"]]:
    """The mean over independent nets, and its variance.

    The variance is estimated from the spread of the nets, and from that of all evaluations as
    if they were independent. The second estimate is far more precise, and is taken where the first
    does not contradict it.
    """
    replicates, mean = sums.shape[0], jnp.mean(sums, axis=0)
    still, (value, _, independent) = jax.lax.stop_gradient((sums, tuple(mean.T)))
    # The denominator is that of an (almost) unbiased standard deviation.
    spread = jnp.sum((still[..., 0] - value) ** 2, axis=0)
    spread = spread / (replicates * (replicates - 1.5))
    agree = (spread < 1.5 * independent) & (spread > independent / 1.5)
    return mean, jnp.where(agree, independent, spread)


def _data_variance(
    pilot: Pilot,
    main: Main,
    data: Array,
    found: tuple[Array, Array],
    value: Float[Array, "replicates nodes"],
    mean: Float[Array, " edges"],
    edges: Float[Array, " edges"],
    own_integral: tuple[Array, Array],
    chunk: int,
    from_noise: bool,
) -> Float[Array, " edges"]:
    """Var(h) / N up to (or from) each edge: the covariance of evaluations that share a data point.

    Of independent ones: those of the pilot, or of different nets where these have more such pairs.
    """
    (replicates, nodes), count, reference = value.shape, data.shape[0], pilot.reference
    groups = pilot.fraction.shape[0] // SHARING

    def own(centred: Array, linear: Array, quadratic: Array, mean: Array) -> Array:
        """The control variate's own integral of a data point, beside what is left to chance."""
        return centred @ linear.T + (centred**2 - reference.variances) @ quadratic.T - mean

    def part(value: Array, fraction: Array, edge: Array) -> Array:
        return value * (fraction > edge if from_noise else fraction <= edge)

    def mean_of(product: Array, pairs: Array) -> Array:
        covariance = jnp.sum(product, axis=0) / jnp.sum(pairs)
        # One that is smaller than its own standard error is not known: that error is a bound.
        spread = jnp.sqrt(jnp.sum((product - covariance * pairs) ** 2, axis=0)) / jnp.sum(pairs)
        return jnp.maximum(covariance, spread)

    if replicates * (replicates - 1) * nodes**2 < groups * SHARING * (SHARING - 1) * count:
        sweep, keep = groups * SHARING, main.proposal.keep
        fraction, value, control = (v[:sweep] for v in (pilot.fraction, *found))
        kept = keep[jnp.minimum((fraction * keep.size).astype(int), keep.size - 1)]
        value = pilot.axis.jacobian(fraction) * (value - kept * control)

        def of_group(place: tuple[Array, Array, Array]) -> Array:
            value, fraction, index = place
            of = own(reference.deviation(data[index]), *own_integral, mean)
            of = of + part(value[:, None], fraction[:, None], edges)
            return jnp.sum(of, axis=0) ** 2 - jnp.sum(of**2, axis=0)

        places = value.reshape(groups, -1), fraction.reshape(groups, -1)
        places = (*places, pilot.places.index[:sweep:SHARING])
        product = map_in_chunks(of_group, places, max(chunk // SHARING, 1))
        pairs = jnp.full((groups, 1), SHARING * (SHARING - 1.0), data.dtype)
        covariance = mean_of(product, pairs)
    else:
        centred = map_in_chunks(reference.deviation, data, chunk)
        nets = value, main.fraction, main.places.index[: value.size].reshape(value.shape)
        start = jnp.zeros((2, count), jnp.result_type(centred, value))

        def products(at: Callable[[Array, Array, Array], Array]) -> Array:
            """At each data point, the sum over pairs of different nets of products."""

            def add(sums: tuple[Array, Array], net: tuple[Array, ...]) -> tuple[Any, None]:
                of = jax.ops.segment_sum(at(*net), net[2], count)
                return (sums[0] + of, sums[1] + of**2), None

            (total, square), _ = jax.lax.scan(add, (*start,), nets)
            return total**2 - square

        def at_edge(place: tuple[Array, ...]) -> Array:
            edge, *rest = place
            offset = own(centred, *rest)
            of = products(lambda value, fraction, i: offset[i] + part(value, fraction, edge))
            return mean_of(of, pairs)

        pairs = products(lambda value, fraction, i: jnp.ones_like(value))
        # A number for each data point and edge would be too many at once.
        covariance = map_in_chunks(at_edge, (edges, *own_integral, mean), EDGES_AT_ONCE)
    return covariance / (count - 1)
