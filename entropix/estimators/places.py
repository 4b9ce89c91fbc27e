"""Where a functional is evaluated: the pilot, the main pass that it aims, and the noise.

See `entropix.estimators.integral`.
"""

import functools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int, PyTree, UInt32

from entropix._core.arrays import Key
from entropix._core.chunks import in_cache, in_chunks, unchunk
from entropix._core.compiled import lightly_compiled
from entropix.estimators.axis import LogSNRAxis
from entropix.estimators.ends import EndRates, end_points, judge_ends
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
from entropix.estimators.proposal import Proposal, learn_proposal
from entropix.estimators.reference import GaussianReference
from entropix.interfaces import (
    AbstractControlVariate,
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractKernel,
    AbstractProcess,
    AbstractTokenProcess,
)


# Blocks of one size: a pilot, and those of the main pass.
LEAST_BLOCKS, LOG_SMALLEST_BLOCK = 8, 6
# Of fewer nets the spread is not known well enough.
LEAST_NETS = 10
# Coordinates of the nets for the number of the data point.
DATA_LEVELS = 3
# Evaluations of the pilot that share a data point.
SHARING = 4


def chunk_of(functional: AbstractFunctional, data: Array, chunk_size: int) -> int:
    """How many places, of `chunk_size` evaluations at most, are evaluated at once."""
    chunk = max(chunk_size // (2 if functional.uses_noise else 1), 1)
    if not isinstance(functional.process, AbstractTokenProcess):
        return chunk
    return in_cache(chunk, data[0].size)  # a network has a row for each token


def control_of(functional: AbstractFunctional) -> AbstractControlVariate | None:
    """The control variate of a functional, whose means are known for Gaussian kernels."""
    return functional.control if isinstance(functional.process, AbstractGaussianProcess) else None


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


class Pilot(eqx.Module):
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
) -> Pilot:
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
    return Pilot(
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


class Main(eqx.Module):
    """The places of the main pass, net after net, and the pilot's findings."""

    ends: EndRates
    proposal: Proposal
    fraction: Float[Array, "replicates nodes"]
    density: Float[Array, "replicates nodes"]
    keep: Float[Array, "replicates nodes"]
    places: Places


def blocks_of(main: Main, pilot: Pilot) -> list[Places]:
    """The places of the main pass in blocks of the size of the pilot, cut on the host."""
    count, block = main.places.index.size, pilot.places.index.size
    host = jax.device_get(main.places)
    starts = range(0, count, block)
    return [jax.tree.map(lambda leaf, i=i: leaf[i : i + block], host) for i in starts]


@functools.partial(lightly_compiled, level=1)
def aim(
    pilot: Pilot,
    data: Array,
    values: Array,
    controls: Array,
    control_variate: ArrayLike,
    proposal: Proposal | None,
) -> Main:
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
    return Main(ends, proposal, fraction, density, keep, places)
