"""How a training run lies on devices."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec, Sharding, SingleDeviceSharding
from jaxtyping import Array, PyTree

from entropix._core.mesh import DATA, SEED, axis_size, check_mesh, put, spec


@dataclasses.dataclass(frozen=True)
class Layout:
    """Members and devices of a run; hashable, no arrays.

    In an ensemble every array of the setup and of the state has a leading axis of members, in a
    single run none has; data have none in either.

    Attributes:
        members: whether there is an axis of members.
        mesh: the devices; None for the one where the arrays are.
        at_once: how many members a device steps at once; None for all it has.
    """

    members: bool = False
    mesh: Mesh | None = None
    at_once: int | None = None

    @property
    def parts(self) -> int:
        """Into how many shares a batch is cut."""
        return axis_size(self.mesh, DATA)

    def padded(self, members: int) -> int:
        """The size of the axis of members: every device along `"seed"` has the same share of it."""
        size = axis_size(self.mesh, SEED)
        return -(-members // size) * size

    def group(self, members: int) -> int:
        """The size of equal groups that are stepped one after the other."""
        most = members if self.at_once is None else min(self.at_once, members)
        return next(size for size in range(most, 0, -1) if members % size == 0)

    def over_members(self, fn: Callable, *, last_shared: bool = False) -> Callable:
        """`fn` of one member for every member at once; `fn` itself in a single run.

        Args:
            fn: its arguments have an axis of members.
            last_shared: whether the last one has not.
        """
        if not self.members:
            return fn

        def mapped(*args: PyTree) -> PyTree:
            axes: list[Any] = [eqx.if_array(0)] * len(args)
            if last_shared:
                axes[-1] = None
            return eqx.filter_vmap(fn, in_axes=tuple(axes))(*args)

        return mapped

    @property
    def spec(self) -> PartitionSpec:
        """The partition of an array of the setup or the state."""
        if self.mesh is None or not self.members:
            return PartitionSpec()
        return spec(self.mesh, SEED)

    def place(self, tree: PyTree, *, shared: bool = False) -> PyTree:
        """The arrays of a tree on the devices.

        Args:
            tree: any.
            shared: whether they have no axis of members, in an ensemble either. The axis is filled
                up to a multiple of the devices.
        """
        if self.mesh is None:
            return tree
        arrays, rest = eqx.partition(tree, eqx.is_array)
        if self.members and not shared:
            arrays = jax.tree.map(lambda leaf: resized(leaf, self.padded(leaf.shape[0])), arrays)
        sharding = NamedSharding(self.mesh, PartitionSpec() if shared else self.spec)
        return eqx.combine(put(arrays, sharding), rest)

    def sharding(self, shape: tuple[int, ...]) -> Sharding:
        """Where an array of a saved state can lie: spread over members, if it divides."""
        if self.mesh is None:
            return SingleDeviceSharding(jnp.zeros(()).devices().pop())
        divides = self.members and shape and shape[0] % axis_size(self.mesh, SEED) == 0
        return NamedSharding(self.mesh, self.spec if divides else PartitionSpec())


def resized(tree: PyTree, size: int) -> PyTree:
    """Arrays with an axis of members of `size`: cut, or filled up with the last member."""

    def one(leaf: Any) -> Any:
        if not eqx.is_array(leaf) or leaf.shape[0] == size:
            return leaf
        # By index, and compiled: some of the shards may lie in other processes.
        return _take(leaf, np.minimum(np.arange(size), leaf.shape[0] - 1))

    return jax.tree.map(one, tree)


@jax.jit
def _take(leaf: Array, index: Array) -> Array:
    return leaf[index]


def map_members(
    fn: Callable, stacked: PyTree, shared: tuple[PyTree, ...], batch_size: int | None = None
) -> PyTree:
    """`fn(member, *shared)` for every member: results have a leading axis of members.

    Members are divided along `"seed"` of the ambient mesh, without communication.

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

    def one(member: PyTree, arrays: PyTree) -> PyTree:
        result, other = eqx.partition(fn(member, *eqx.combine(arrays, rest)), eqx.is_array)
        constant[:] = [other]
        return result

    def several(stacked: PyTree, arrays: PyTree) -> PyTree:
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
