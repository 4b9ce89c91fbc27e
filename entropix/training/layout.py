"""How a training run lies on devices: which arrays have a seed axis, and what is spread where."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from jaxtyping import Array

from entropix._core.mesh import DATA, SEED, axis_size, check_mesh, put, spec


@dataclasses.dataclass(frozen=True)
class Layout:
    """Seeds and devices of a run; hashable, no arrays.

    Attributes:
        seeds: whether there is a seed axis.
        stacked: for every array of the `Setup`, in the order of its leaves, whether it has one.
        mesh: the devices; None for the one where the arrays are.
        at_once: how many members a device steps at once; None for all it has.
    """

    seeds: bool = False
    stacked: tuple[bool, ...] = ()
    mesh: Mesh | None = None
    at_once: int | None = None

    @property
    def parts(self) -> int:
        """Into how many shares a batch is cut."""
        return axis_size(self.mesh, DATA)

    def padded(self, members: int) -> int:
        """The size of the seed axis, which every device of `"seed"` has the same share of."""
        size = axis_size(self.mesh, SEED)
        return -(-members // size) * size

    def group(self, members: int) -> int:
        """The size of equal groups that are stepped one after the other."""
        most = members if self.at_once is None else min(self.at_once, members)
        return next(size for size in range(most, 0, -1) if members % size == 0)

    def flagged(self, setup: Any, stacked: Any, shared: Any) -> Any:
        """A mark for every array of a `Setup`."""
        arrays, structure = jax.tree.flatten(eqx.filter(setup, eqx.is_array))
        flags = self.stacked or (False,) * len(arrays)
        return jax.tree.unflatten(structure, [stacked if flag else shared for flag in flags])

    def over_seeds(self, fn: Callable, setup: Any, *, last_shared: bool = False) -> Callable:
        """`fn(setup, *trees)` for every member at once; as it is where there are no seeds.

        Args:
            fn: the function of one member.
            setup: its first argument.
            last_shared: whether the last of the others has no seed axis.
        """
        arrays, rest = eqx.partition(setup, eqx.is_array)

        def of_arrays(arrays: Any, *trees: Any) -> Any:
            return fn(eqx.combine(arrays, rest), *trees)

        if not self.seeds:
            return lambda *trees: of_arrays(arrays, *trees)

        def mapped(*trees: Any) -> Any:
            axes = [self.flagged(arrays, 0, None), *(jax.tree.map(lambda _: 0, t) for t in trees)]
            if last_shared:
                axes[-1] = None
            return jax.vmap(of_arrays, in_axes=tuple(axes))(arrays, *trees)

        return mapped

    def seed_spec(self, stacked: bool = True, axis: int = 0) -> PartitionSpec:
        """The partition of an array whose seed axis is `axis`."""
        if self.mesh is None or not (self.seeds and stacked):
            return PartitionSpec()
        return spec(self.mesh, *(None,) * axis, SEED)

    def place(self, tree: Any, *, stacked: bool = True) -> Any:
        """The arrays of a tree on the devices.

        Args:
            tree: any.
            stacked: whether they have a seed axis, where the run has one. It is filled up to a
                multiple of the devices.
        """
        if self.mesh is None:
            return tree
        arrays, rest = eqx.partition(tree, eqx.is_array)
        if self.seeds and stacked:
            arrays = jax.tree.map(lambda leaf: resized(leaf, self.padded(leaf.shape[0])), arrays)
        sharding = NamedSharding(self.mesh, self.seed_spec(stacked))
        return eqx.combine(put(arrays, sharding), rest)

    def place_setup(self, setup: Any) -> Any:
        """A `Setup` on the devices."""
        arrays, rest = eqx.partition(setup, eqx.is_array)
        placed = jax.tree.map(
            lambda leaf, stacked: self.place(leaf, stacked=stacked),
            arrays,
            self.flagged(arrays, True, False),
        )
        return eqx.combine(placed, rest)


def resized(tree: Any, size: int) -> Any:
    """Arrays with a seed axis of `size`: cut, or filled up with the last member."""
    arrays, rest = eqx.partition(tree, eqx.is_array)
    return eqx.combine(jax.tree.map(lambda leaf: _resized(leaf, size), arrays), rest)


def _resized(leaf: Any, size: int) -> Any:
    # By index, and compiled: some of the shards may lie in other processes.
    have = leaf.shape[0]
    return leaf if have == size else _take(leaf, np.minimum(np.arange(size), have - 1))


@jax.jit
def _take(leaf: Array, index: Array) -> Array:
    return leaf[index]


def stack_members(members: Sequence[Any]) -> tuple[Any, tuple[bool, ...]]:
    """One tree for all members: arrays in which they differ are stacked, the others shared.

    Returns:
        The tree, and for each of its arrays whether it was stacked.
    """
    arrays, rest = eqx.partition(members[0], eqx.is_array)
    leaves, structure = jax.tree.flatten(arrays)
    others = [jax.tree.leaves(eqx.filter(member, eqx.is_array)) for member in members[1:]]
    stacked, flags = [], []
    for index, leaf in enumerate(leaves):
        same = all(_same(leaf, other[index]) for other in others)
        flags.append(not same)
        stacked.append(leaf if same else jnp.stack([leaf, *(other[index] for other in others)]))
    return eqx.combine(jax.tree.unflatten(structure, stacked), rest), tuple(flags)


def _same(a: Any, b: Any) -> bool:
    return a is b or bool(jnp.array_equal(a, b))


def map_members(
    fn: Callable, stacked: Any, shared: tuple[Any, ...], batch_size: int | None = None
) -> Any:
    """`fn(member, *shared)` for every member: results have a leading axis of members.

    Members are dealt out along `"seed"` of the ambient mesh, without communication.

    Args:
        fn: a function of one member.
        stacked: a tree of arrays with a leading axis of members.
        shared: what all members get besides.
        batch_size: members at a time on each device; None for all at once.
    """
    mesh = check_mesh(None)
    size = axis_size(mesh, SEED)
    members = jax.tree.leaves(stacked)[0].shape[0]
    arrays, rest = eqx.partition(shared, eqx.is_array)
    constant: list[Any] = []  # what is no array in a result, found while tracing

    def one(member: Any, arrays: Any) -> Any:
        result, other = eqx.partition(fn(member, *eqx.combine(arrays, rest)), eqx.is_array)
        constant[:] = [other]
        return result

    def several(stacked: Any, arrays: Any) -> Any:
        if batch_size is None:
            return jax.vmap(one, in_axes=(0, None))(stacked, arrays)
        return jax.lax.map(lambda member: one(member, arrays), stacked, batch_size=batch_size)

    if size == 1:
        result = several(stacked, arrays)
        return eqx.combine(result, constant[0])
    assert mesh is not None
    # The axis for data is left to whoever is called.
    run = jax.shard_map(
        several,
        mesh=mesh,
        in_specs=(PartitionSpec(SEED), PartitionSpec()),
        out_specs=PartitionSpec(SEED),
        check_vma=False,
    )
    result = jax.jit(run)(resized(stacked, -(-members // size) * size), arrays)
    return resized(eqx.combine(result, constant[0]), members)
