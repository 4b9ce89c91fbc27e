r"""Quasi-Monte Carlo integration over log-SNR, data and noise, with honest standard errors.

The integral of a functional $f$ is

$$I = \int \frac{\Sigma^2}{2}\,E_{x, z}\left[f(s, \mu x + \Sigma z, z)\right](-d\lambda).$$

It is estimated in two passes.

1. A pilot (an eighth to a fifteenth of the evaluations), uniform on the Cauchy axis of
   `LogSNRAxis`, measures in 64 bins the root mean square of the integrand with and without the
   control variate. The better of the two is kept in each bin, and the bins' root mean squares
   become the proposal density, mixed with 10% of the uniform one. A part of the pilot is spent at
   both ends of the axis, see `entropix.estimators.ends`. It is not used for the value, so the
   choices cost no bias.
2. The main pass takes the nodes of 10 to 18 digital nets with independent random scramblings
   (`entropix.estimators.nets`). The coordinates of a node are the level of the proposal, the place
   of the data point along up to three leading principal components, and the noise in up to 13.
   Other components of the noise, and all of one that is not Gaussian, are independent draws.

**Errors.** The nets are independent and unbiased, so that their spread is the Monte Carlo error
for the given points, of the whole and at every edge of a curve. The spread of so few is known to
20% only. A second estimate, from the spread of evaluations at equal level as if they were
independent, is known far better, and right where a net gains nothing, as in many dimensions. It
is stated where the two variances agree within a factor of 1.5.

The sampling of the data adds Var(h)/N, where h(x) is the integral of a data point: the covariance
of independent evaluations that share a data point. They belong to different nets or, where these
seldom choose the same data point, to the pilot, where four evaluations at a time share one.

Memory is bounded by `chunk_size` evaluations (and a few numbers per evaluation), also under
differentiation, where chunks are recomputed.

Four programs are compiled: `prepare`, `rates`, `aim` and `_combine`. Only `rates` contains the
functional and its model; it serves the pilot and the main pass, whose blocks have one size. The
others depend on the process, and are compiled once for all models.
"""

import functools
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, UInt32

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import conditions, is_concrete, positive_integer, prng_key, samples
from entropix._core.chunks import in_cache, in_chunks, map_in_chunks, unchunk
from entropix._core.compiled import error_if, lightly_compiled
from entropix._core.display import axes_or_new, axis, draw_band, label, lines_of
from entropix._core.precision import full_precision
from entropix.estimators.axis import LogSNRAxis, check_cutoff
from entropix.estimators.ends import EndRates, check_ends, end_points, judge_ends
from entropix.estimators.nets import (
    LARGEST_DIM,
    LEAST_COUNT,
    group_sizes,
    grouped_order,
    net_bits,
    net_columns,
    open_unit,
    sample_at,
    standard_normal,
)
from entropix.estimators.noise_end import with_noise_end
from entropix.estimators.proposal import Proposal, learn_proposal
from entropix.estimators.reference import GaussianReference
from entropix.interfaces import (
    AbstractControlVariate,
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractKernel,
    AbstractModel,
    AbstractProcess,
    AbstractResult,
    AbstractTokenProcess,
    DivergenceError,
    Estimate,
)
from entropix.models import AbstractExactTokens, ExactModel, ExactMultimodal, TokenBlock


if TYPE_CHECKING:
    from matplotlib.axes import Axes

# Blocks of one size: a pilot, and those of the main pass.
LEAST_BLOCKS, LOG_SMALLEST_BLOCK = 8, 6
# Of fewer nets the spread is not known well enough.
LEAST_NETS = 10
# Coordinates of the nets for the number of the data point.
DATA_LEVELS = 3
# Evaluations of the pilot that share a data point.
SHARING = 4
# The relative error of a sum of evaluations, in units of the rounding of one number.
ROUNDING = 8.0
# A Monte Carlo variance made up by one difference is not known: such an estimate is refused where
# its error is not small, relative to the value and in nats. The threshold is low on purpose: of a
# badly trained network, two or three of two hundred differences may make up most of an error that
# is honest all the same.
_LEAST_EFFECTIVE = 1.05
_SMALL_RELATIVE, _SMALL_ERROR = 0.1, 0.05


class EntropyCurve(AbstractResult):
    """How an integral, such as a model's entropy, accumulates along the process, in nats.

    Attributes:
        times: shape (K,), increasing.
        log_snr: of those times; infinite at exact ends.
        rate: entropy per unit time around each of them.
        rate_stderr: its standard error (Monte Carlo).
        cumulative: entropy between the data end (or the cut-off) and each time; between each time
            and the noise end if `integrate` was called with `from_noise`.
        stderr: standard error of `cumulative`, for the population. What lies beyond the range of a
            model is in the error of `total` alone, which has the bound on it.
        mc_stderr: the same for the given points.
        total: the whole integral.
        proposal: where the evaluations were placed; pass it on to use it again.
    """

    times: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "time"))
    log_snr: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "1"))
    rate: Float[Array, "*seeds k"] = eqx.field(metadata=label("time", "nats per unit time"))
    rate_stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time", "nats per unit time"))
    cumulative: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    mc_stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    total: Estimate = eqx.field(metadata=label())
    proposal: Proposal

    def rates_along(self, coordinate: Float[Array, " k"]) -> tuple[Array, Array]:
        """Mean rates over the intervals that meet at each time, and their standard errors.

        They are per unit of a coordinate that increases along the curve, given at its times.
        """
        return _rates_of(self, coordinate)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw `cumulative` against log-SNR, from data to noise, or against time without one."""
        ax = axes_or_new(ax)
        curves = (self.times, self.log_snr, self.cumulative, self.stderr)
        for times, log_snr, value, error in zip(*map(lines_of, curves), strict=True):
            inside = np.isfinite(log_snr)
            x = log_snr if inside.sum() > 1 else times
            inside = inside if inside.sum() > 1 else np.isfinite(times)
            draw_band(ax, x[inside], value[inside], error[inside])
            if x is log_snr:
                # As far as the entropy grows: the log-SNR itself goes to infinity.
                grown = np.abs(value - value[0]), np.abs(value[-1] - value)
                seen = x[inside & (np.minimum(*grown) > 1e-3 * np.abs(value[-1] - value[0]))]
                if seen.size > 1 and not ax.xaxis_inverted():
                    ax.set_xlim(seen.max() + 1, seen.min() - 1)
                ax.set_xlabel("log-SNR  (data → noise)")
            else:
                ax.set_xlabel("time")
        ax.set_ylabel("entropy from the data end [nats]")
        return ax


@full_precision
def integrate(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    times: DataLike | None = None,
    num_times: int = 2,
    control_variate: bool | ArrayLike = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
    divergence: str | None = None,
    from_noise: bool = False,
) -> EntropyCurve:
    r"""The integral of a functional over the marginals of its process, as a curve.

    Args:
        functional: what is integrated.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the functional, at least 256, rounded down to 8, ..., 15
            times a power of 2 (in blocks of 64 below 1024); one that
            uses the noise is evaluated twice at each place.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included (Gaussian processes). None takes the
            whole axis.
        times: where to report the curve, increasing, within `[t0, t1]`; None chooses `num_times`
            of them that resolve both ends.
        num_times: see `times`.
        control_variate: whether the control variate of the functional may be used.
        chunk_size: evaluations held in memory at once.
        proposal: see `entropy_curve`.
        divergence: why the integral is known to be infinite at the data end, or None.
        from_noise: whether the curve accumulates from the noise end: `.cumulative` is then the
            integral between each time and the noise end, with its own errors.

    Returns:
        An `EntropyCurve`, in the units of the functional.

    Raises:
        ValueError: if an argument is malformed, the process has no perturbation kernel, or the
            functional is not finite.
        DivergenceError: if the integral is known or seen to be infinite.
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
    pilot = prepare(process, data, cutoff, key, num_evaluations // cost)
    arguments = (functional, data, condition, pilot.reference)
    # No derivative of the pilot is needed.
    value, control = rates(frozen(arguments), frozen(pilot.places), pilot.noise, chunk)
    main = aim(pilot, data, value, control, np.asarray(control_variate), proposal)
    # Traced programs are not called but copied: one with all blocks is enough.
    blocks = blocks_of(main, pilot) if is_concrete((arguments, main)) else [main.places]
    found = [(value, control)]
    found += [rates(arguments, places, pilot.noise, chunk) for places in blocks]
    curve = _combine(
        process,
        control_of(functional),
        pilot,
        main,
        data,
        tuple(value for value, _ in found),
        tuple(control for _, control in found),
        cutoff,
        times,
        num_times,
        cost,
        chunk,
        from_noise,
    )
    curve = check_ends(curve, main.ends, cutoff, data, trained=not all_exact(functional))
    total = with_noise_end(check_estimate(curve.total), functional, process, pilot.reference)
    return eqx.tree_at(lambda c: c.total, curve, total)


def checked_arguments(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int,
    condition: PyTree,
    cutoff: DataLike | None,
    times: DataLike | None,
    num_times: int,
    chunk_size: int,
    proposal: Proposal | None,
    divergence: str | None,
) -> tuple[Array, PyTree, Array | None, Array | None]:
    """The arguments of `integrate`, checked: data, condition, cut-off and times, converted."""
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
    process = functional.process
    if not isinstance(process, AbstractKernel):
        raise ValueError(
            "the process must be Gaussian, or have another perturbation kernel, where no paths are "
            f"simulated, got {type(process).__name__}: use `path_functional(..., along='sde')`."
        )
    cutoff = check_cutoff(functional, cutoff)
    check_divergence(divergence, cutoff)
    if times is not None:
        times = _check_times(as_float(times, "times"), process)
    return data, condition, cutoff, times


def chunk_of(functional: AbstractFunctional, data: Array, chunk_size: int) -> int:
    """How many places, of `chunk_size` evaluations at most, are evaluated at once."""
    chunk = max(chunk_size // (2 if functional.uses_noise else 1), 1)
    if not isinstance(functional.process, AbstractTokenProcess):
        return chunk
    return in_cache(chunk, data[0].size)  # a network has a row for each token


def control_of(functional: AbstractFunctional) -> AbstractControlVariate | None:
    """The control variate of a functional, whose means are known for Gaussian kernels."""
    return functional.control if isinstance(functional.process, AbstractGaussianProcess) else None


def check_divergence(reason: str | None, cutoff: DataLike | None) -> None:
    """Refuse an entropy that is known to be infinite without a cut-off."""
    if reason is not None and cutoff is None:
        raise DivergenceError(
            f"`cutoff` must be given (the smallest noise standard deviation to include): the "
            f"entropy is infinite because {reason}.",
            remedy="cutoff",
        )


def all_exact(tree: PyTree) -> bool:
    """Whether all models in a pytree are `ExactModel`s, or exact ones of tokens."""

    def exact(node: Any) -> bool:
        node = node.model if isinstance(node, TokenBlock) else node
        return isinstance(node, ExactModel | AbstractExactTokens | ExactMultimodal)

    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, AbstractModel))
    return all(exact(n) or not isinstance(n, AbstractModel) for n in nodes)


def _check_times(times: Array, process: AbstractKernel) -> Array:
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`times` must have shape (K,) with K >= 2, got {times.shape}.")
    if is_concrete((times, process)):
        host = np.asarray(times)
        low, high = float(process.t0), float(process.t1)
        if np.any(np.diff(host) <= 0) or host[0] < low or host[-1] > high:
            raise ValueError(f"`times` must increase within [{low:g}, {high:g}].")
    return times


def frozen(tree: PyTree) -> PyTree:
    """A pytree as it is, treated as a constant by differentiation."""
    if is_concrete(tree):
        return tree
    return jax.tree.map(_stop_gradient, tree)


def _stop_gradient(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf


class Places(eqx.Module):
    """Where a functional is evaluated: log-SNRs, numbers of data points, and the noise.

    Of many places, or of one. The noise is node `node` of a net with scrambling number `noise`. It
    is independent of all others if it is node 0 of a scrambling of its own.
    """

    log_snr: Float[Array, "*n"]
    index: Int[Array, "*n"]
    noise: Int[Array, "*n"]
    node: Int[Array, "*n"]


class NoiseSource(eqx.Module):
    """The noise of a place, in the principal components that vary most a net's.

    Attributes:
        key: PRNG key.
        columns: of the net, in the coordinates of the noise; none if the kernel is not Gaussian.
        basis: the principal components, shape (D, coordinates).
    """

    key: Key
    columns: UInt32[Array, "coordinates columns"]
    basis: Float[Array, "dim coordinates"]

    def __call__(self, process: AbstractKernel, x: Array, place: Places) -> PyTree:
        """The noise at one place, for examples like `x`."""
        key, num_coordinates = jax.random.fold_in(self.key, place.noise), self.columns.shape[0]
        own_key = jax.random.fold_in(key, place.node)
        if num_coordinates == 0:
            return process.draw_noise(x, key=own_key)
        seeds = jax.random.bits(key, (num_coordinates, 2), jnp.uint32)
        z = standard_normal(net_bits(place.node, self.columns, seeds), x.dtype)
        if num_coordinates < x.size:
            rest = jax.random.normal(own_key, (x.size,), x.dtype)
            return (rest + self.basis @ (z - rest @ self.basis)).reshape(x.shape)
        return (self.basis @ z).reshape(x.shape)


class _Pilot(eqx.Module):
    """The axis, and the places of the pilot: a sweep of it, then draws at its end points.

    Evaluations of the sweep share data points, `SHARING` in a row each.
    """

    reference: GaussianReference
    axis: LogSNRAxis
    fraction: Float[Array, " sweep"]
    ends: Float[Array, " points"]
    places: Places
    order: Int[Array, " n"]  # of the data
    sizes: tuple[int, ...] = eqx.field(static=True)  # of the groups in that order
    columns: UInt32[Array, "levels columns"]  # of the nets, in the coordinates of the data
    shifts: UInt32[Array, " replicates"]  # of the levels
    seeds: UInt32[Array, "replicates 1 levels 2"]
    noise: NoiseSource


def _layout(positions: int) -> tuple[int, int, int]:
    """The size of a block, the number of blocks, the first a pilot, and that of the nets."""
    block = 2 ** max(int(math.log2(positions / LEAST_BLOCKS)), LOG_SMALLEST_BLOCK)
    num_blocks = positions // block
    replicates = num_blocks - 1
    count = block * replicates
    while replicates < LEAST_NETS and count >= 2 * LEAST_COUNT * replicates:
        replicates *= 2
    return block, num_blocks, replicates


@functools.partial(lightly_compiled, level=1)
def prepare(
    process: AbstractKernel, data: Array, cutoff: Array | None, key: Key, positions: int
) -> _Pilot:
    """The axis, the reference, the places of the pilot, and the random shifts."""
    block, num_blocks, replicates = _layout(positions)
    draws = min(max(block // 24, 4), 64)
    bits_key, noise_key = jax.random.split(key)
    # One call for all that is not Gaussian: each costs compilation time.
    levels = min(data[0].size, DATA_LEVELS)
    bits = jax.random.bits(bits_key, (3 * block + (1 + 2 * levels) * replicates,), jnp.uint32)
    own, bits = bits[: 3 * block].reshape(3, block), bits[3 * block :].reshape(replicates, -1)
    shifts, seeds = bits[:, 0], bits[:, 1:].reshape(replicates, 1, levels, 2)
    reference = GaussianReference.from_data(data)
    # Tokens are names, whose variance is no scale.
    variance = reference.mean_variance
    variance = variance if isinstance(process, AbstractProcess) else jnp.ones_like(variance)
    axis = LogSNRAxis.of(process, variance, cutoff)
    ends = end_points(process, axis, data)
    sweep = block - draws * ends.shape[0]
    stratum = jnp.argsort(own[0, :sweep])
    fraction = (stratum + open_unit(own[1, :sweep], data.dtype)) / sweep
    index = (own[2] % data.shape[0]).astype(jnp.int32)
    # The same data points and noise at every end point.
    draw = jnp.tile(jnp.arange(draws), ends.shape[0])
    number = jnp.concatenate([jnp.arange(sweep), draw])
    log_snr = jnp.concatenate([axis.log_snr(fraction), jnp.repeat(ends, draws)])
    index = jnp.concatenate([index[jnp.arange(sweep) // SHARING], index[draw]])
    places = Places(log_snr, index, number, jnp.zeros_like(number))
    # The leading components of the noise have the coordinates that the net fills best.
    is_gaussian = isinstance(process, AbstractGaussianProcess)
    coordinates = min(data[0].size, LARGEST_DIM - levels) if is_gaussian else 0
    nodes = block * (num_blocks - 1) // replicates
    columns = net_columns(nodes.bit_length() - 1, levels + coordinates)
    noise = NoiseSource(noise_key, columns[levels:], reference.basis[:, ::-1][:, :coordinates])
    sizes = group_sizes(data.shape[0], levels)
    order = grouped_order(data, reference, sizes).astype(jnp.int32)
    return _Pilot(
        reference,
        axis,
        fraction,
        ends,
        places,
        order,
        sizes,
        columns[:levels],
        shifts,
        seeds,
        noise,
    )


def at_place(
    functional: AbstractFunctional,
    data: Array,
    condition: PyTree,
    place: Places,
    z: PyTree,
    rate: Callable[[Array, Array, PyTree, PyTree], PyTree],
) -> PyTree:
    r"""`rate(s, y, z, condition)` per unit of $-d\lambda$ at one place.

    It is averaged over the noise and its reflection where the functional uses the noise.
    """
    process: Any = functional.process
    x = data[place.index]
    chosen = jax.tree.map(lambda c: c[place.index], condition)
    s = process.time_of_log_snr(place.log_snr)

    def at(z: PyTree) -> PyTree:
        weight = process.weight(s, x, z)
        found = rate(s, process.perturb(s, x, z), z, chosen)
        return jax.tree.map(lambda v: weight * v, found)

    if functional.uses_noise:
        pair = jax.tree.map(lambda *v: jnp.stack(v), z, process.reflect_noise(z))
        found = jax.tree.map(lambda v: jnp.mean(v, axis=0), jax.vmap(at)(pair))
    else:
        found = at(z)
    return jax.tree.map(lambda v: process.measure(s) * v, found)


@functools.partial(lightly_compiled, level=1)
def rates(
    arguments: tuple[AbstractFunctional, Array, PyTree, GaussianReference],
    places: Places,
    noise: NoiseSource,
    chunk: int,
) -> tuple[Array, Array]:
    r"""Functional and control variate per unit of $-d\lambda$ at each place."""
    functional, data, condition, reference = arguments
    process: Any = functional.process
    variate = control_of(functional)

    def both(
        s: Array, y: Array, z: PyTree, condition: PyTree
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        value = functional.rate(s, y, z, condition)
        if variate is None:
            return value, jnp.zeros_like(value)
        return value, reference.control(variate, process, s, y, z)

    def one(place: Places) -> tuple[Array, Array]:
        z = noise(process, data[0], place)
        return at_place(functional, data, condition, place, z, both)

    count = places.log_snr.shape[0]
    out = in_chunks(lambda block, _: jax.vmap(one)(block), places, count, chunk)
    return unchunk(out[0], count), unchunk(out[1], count)


class _Main(eqx.Module):
    """The places of the main pass, net after net, and the pilot's findings."""

    ends: EndRates
    proposal: Proposal
    fraction: Float[Array, "replicates nodes"]
    density: Float[Array, "replicates nodes"]
    keep: Float[Array, "replicates nodes"]
    places: Places


def blocks_of(main: _Main, pilot: _Pilot) -> list[Places]:
    """The places of the main pass in blocks of the size of the pilot, cut on the host."""
    count, block = main.places.index.size, pilot.places.index.size
    host = jax.device_get(main.places)
    starts = range(0, count, block)
    return [jax.tree.map(lambda leaf, i=i: leaf[i : i + block], host) for i in starts]


@functools.partial(lightly_compiled, level=1)
def aim(
    pilot: _Pilot,
    data: Array,
    values: Array,
    controls: Array,
    control_variate: ArrayLike,
    proposal: Proposal | None,
) -> _Main:
    """The proposal and the places of the main pass, from the values of the pilot."""
    axis, fraction, sweep = pilot.axis, pilot.fraction, pilot.fraction.shape[0]
    values, controls = jax.lax.stop_gradient((values, controls))
    rate, at_ends = values[:sweep], values[sweep:].reshape(pilot.ends.shape[0], -1)
    factor = axis.jacobian(fraction)
    raw = factor * rate
    # A control variate that is worse than none is kept nowhere.
    controlled = jnp.where(control_variate, raw - factor * controls[:sweep], 2 * raw)
    learnt, peak = learn_proposal(fraction, raw, controlled, rate)
    ends = judge_ends(pilot.ends, at_ends, peak, axis, data, fraction, raw)
    proposal = learnt if proposal is None else jax.lax.stop_gradient(proposal)

    block, replicates, log_count = values.shape[0], pilot.shifts.shape[0], pilot.columns.shape[1]
    node = jnp.broadcast_to(jnp.arange(2**log_count, dtype=jnp.int32), (replicates, 2**log_count))
    index = sample_at(net_bits(node, pilot.columns, pilot.seeds), pilot.order, pilot.sizes)
    # Node k lies in stratum k of the levels, in every net.
    level = (node.astype(jnp.uint32) << (32 - log_count)) + (pilot.shifts[:, None] >> log_count)
    fraction, density, keep = proposal.place(open_unit(level, data.dtype))
    # Numbers of noise that the pilot has not used.
    noise = jnp.iinfo(jnp.int32).max - jnp.arange(replicates, dtype=jnp.int32)
    noise = jnp.broadcast_to(noise[:, None], node.shape)
    # Of the types that the places of the pilot have, for one program.
    places = Places(axis.log_snr(fraction), index, noise.astype(int), node.astype(int))
    places = jax.tree.map(jnp.ravel, places)
    if axis.has_cutoff:  # one more block, for the slope there
        more = jax.tree.map(lambda leaf: leaf[:block], places)
        start = jnp.full_like(more.log_snr, axis.log_snr(0.0))
        more = eqx.tree_at(lambda p: p.log_snr, more, start)
        places = jax.tree.map(lambda *parts: jnp.concatenate(parts), places, more)
    return _Main(ends, proposal, fraction, density, keep, places)


@functools.partial(lightly_compiled, level=1)
def _combine(
    process: AbstractKernel,
    variate: AbstractControlVariate | None,
    pilot: _Pilot,
    main: _Main,
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
        edges = axis.fraction(process.log_snr(times)).astype(data.dtype)
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
    steps = sign * jax.vmap(_around)(jnp.diff(sums[:, :-1], axis=1))
    mean, mc_variance = _mean_and_variance(jnp.concatenate([sums, steps], axis=1))
    mean, (mc_variance, spread) = mean[: bounds.size], jnp.split(mc_variance, [bounds.size])
    cumulative = known + mean[:, 0]
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
    change = sign * _around(jnp.diff(cumulative))
    return EntropyCurve(
        times,
        process.log_snr(times),
        _per_length(change, times),
        _per_length(jnp.sqrt(spread), times),
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
    return jnp.zeros(linear.shape[0], data.dtype)


@_by_moments.defjvp
def _by_moments_jvp(primals: PyTree, tangents: PyTree) -> tuple[Array, Array]:
    data, reference, linear, quadratic = primals
    moved = jax.vmap(reference.rotate)(tangents[0])
    first = jnp.mean(moved, axis=0)
    second = 2 * jnp.mean(jax.vmap(reference.deviation)(data) * moved, axis=0)
    return _by_moments(*primals), linear @ first + quadratic @ second


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
    pilot: _Pilot,
    main: _Main,
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
    groups, (linear, quadratic) = pilot.fraction.shape[0] // SHARING, own_integral

    def own(x: Array) -> Array:
        """The control variate's own integral of a data point, beside what is left to chance."""
        centred = reference.deviation(x)
        return linear @ centred + quadratic @ (centred**2 - reference.variances) - mean

    def parts(value: Array, fraction: Array) -> Array:
        fraction = fraction[:, None]
        return value[:, None] * (fraction > edges if from_noise else fraction <= edges)

    if replicates * (replicates - 1) * nodes**2 < groups * SHARING * (SHARING - 1) * count:
        sweep, keep = groups * SHARING, main.proposal.keep
        fraction, value, control = (v[:sweep] for v in (pilot.fraction, *found))
        kept = keep[jnp.minimum((fraction * keep.size).astype(int), keep.size - 1)]
        value = pilot.axis.jacobian(fraction) * (value - kept * control)

        def of_group(place: tuple[Array, Array, Array]) -> Array:
            value, fraction, index = place
            of = own(data[index]) + parts(value, fraction)
            return jnp.sum(of, axis=0) ** 2 - jnp.sum(of**2, axis=0)

        places = value.reshape(groups, -1), fraction.reshape(groups, -1)
        places = (*places, pilot.places.index[:sweep:SHARING])
        product = map_in_chunks(of_group, places, max(chunk // SHARING, 1))
        pairs = jnp.full((groups, 1), SHARING * (SHARING - 1.0), data.dtype)
    else:
        offset = map_in_chunks(own, data, chunk)

        def add(sums: tuple[Array, Array], net: tuple[Array, ...]) -> tuple[Any, None]:
            value, fraction, index = net
            of = offset[index] + parts(value, fraction)
            of = jnp.append(of, jnp.ones_like(of[:, :1]), axis=1)  # the last counts evaluations
            of = jax.ops.segment_sum(of, index, count)
            return (sums[0] + of, sums[1] + of**2), None

        start = jnp.zeros((count, edges.shape[0] + 1), jnp.result_type(offset, value))
        index = main.places.index[: value.size].reshape(value.shape)
        (total, square), _ = jax.lax.scan(add, (start, start), (value, main.fraction, index))
        product = total**2 - square
        product, pairs = product[:, :-1], product[:, -1:]
    covariance = jnp.sum(product, axis=0) / jnp.sum(pairs)
    # One that is smaller than its own standard error is not known: that error is an upper bound.
    spread = jnp.sqrt(jnp.sum((product - covariance * pairs) ** 2, axis=0)) / jnp.sum(pairs)
    return jax.lax.stop_gradient(jnp.maximum(covariance, spread)) / max(count - 1, 1)


def _around(x: Array) -> Array:
    """Sums over the intervals that meet at each point, from those of the intervals (first axis)."""
    padded = jnp.pad(x, [(1, 1)] + [(0, 0)] * (x.ndim - 1))
    return padded[:-1] + padded[1:]


def _per_length(values: Array, coordinate: Array) -> Array:
    """Sums over the intervals that meet at each point, per unit of their length; zero without."""
    length = _around(jnp.diff(coordinate))
    return jnp.where(length > 0, values / jnp.where(length > 0, length, 1.0), 0.0)


@lightly_compiled
def rates_along(times: Array, cumulative: Array, variance: Array) -> tuple[Array, Array]:
    """Mean rates over the intervals that meet at each time, and their standard errors.

    `times` may be any increasing coordinate. The errors are those of sums of independent parts,
    whose variances add up along it; for an `EntropyCurve` see its method `rates_along`.
    """
    rate = _per_length(_around(jnp.diff(cumulative)), times)
    spread = _around(jnp.maximum(jnp.diff(variance), 0.0))
    return rate, _per_length(jnp.sqrt(spread), times)


@lightly_compiled
def _rates_of(curve: EntropyCurve, coordinate: Array) -> tuple[Array, Array]:
    """See `EntropyCurve.rates_along`."""
    rate = _per_length(_around(jnp.diff(curve.cumulative)), coordinate)
    return rate, _per_length(curve.rate_stderr * _around(jnp.diff(curve.times)), coordinate)


def check_estimate(estimate: Estimate) -> Estimate:
    """Refuse a value that is not finite, or a large error that a few evaluations make up."""
    finite = "the field of the model must be finite on the whole axis, got NaN or infinity"
    few = (
        "a few evaluations make up all of the error, so it is not known: the field has rare large "
        "values; take more `num_evaluations`, use float64, or leave the smallest noise out"
    )

    def enough(value: Any, error: Any) -> int:
        """The number of evaluations with which such an error would be small, as a power of two."""
        allowed = np.maximum(_SMALL_RELATIVE * np.abs(value), _SMALL_ERROR)
        wanted = estimate.num_evaluations * np.max((error / allowed) ** 2)
        return 2 ** math.ceil(math.log2(wanted))

    def ruled_by_few(value: Any, error: Any, number: Any) -> Any:
        large = (error > _SMALL_RELATIVE * abs(value)) & (error > _SMALL_ERROR)
        return (number < _LEAST_EFFECTIVE) & large

    number = math.inf if estimate.num_effective is None else estimate.num_effective
    if is_concrete(estimate):
        value, error, number = (np.asarray(v) for v in (estimate.value, estimate.mc_stderr, number))
        if not np.all(np.isfinite(value) & np.isfinite(error)):
            raise ValueError(f"{finite}.")
        if np.any(ruled_by_few(value, error, number)):
            raise ValueError(
                f"{few}, got {value:.3g} ± {error:.2g} from an effective number of {number:.2g}. "
                f"About {enough(value, error)} evaluations are needed."
            )
        return estimate
    value, error = estimate.value, estimate.mc_stderr
    value = error_if(value, ~(jnp.isfinite(value) & jnp.isfinite(error)), finite)
    value = error_if(value, ruled_by_few(value, error, number), few)
    return eqx.tree_at(lambda e: e.value, estimate, value)
