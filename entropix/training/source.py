"""Where batches come from: data that lie on the device, or a stream of batches from the host."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree

from entropix._core.arrays import Key
from entropix._core.mesh import DATA, spec


class AbstractSource(eqx.Module):
    """The batches of a chunk of steps; the same data for all members.

    Attributes:
        data: examples.
        condition: arrays with the same leading axes, or None.
    """

    data: eqx.AbstractVar[Array]
    condition: eqx.AbstractVar[PyTree]

    @abc.abstractmethod
    def reorder(
        self, order: PyTree, key: Key, step: Int[Array, ""], batch_size: int, limit: PyTree
    ) -> PyTree:
        """The order of the data at `step`: a new one where an epoch begins.

        Args:
            order: the last one, of all members.
            key: of all members.
            step: the index of the step.
            batch_size: examples per step.
            limit: how many of the first examples each member sees; None for all.
        """

    @abc.abstractmethod
    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: PyTree,
        limit: PyTree,
        size: int,
        part: int | Int[Array, ""],
        parts: int,
    ) -> tuple[Array, PyTree]:
        """Examples and conditions of one member.

        Args:
            i: the index of the step in its chunk.
            step: the index of the step.
            order: of the data in this epoch, for the member.
            limit: how many examples it sees.
            size: examples in a share of the batch.
            part: which share.
            parts: how many there are.
        """

    @abc.abstractmethod
    def spec(self, mesh: Mesh) -> PartitionSpec:
        """The partition of its arrays."""


class Resident(AbstractSource):
    """Data that fit on a device, visited in a new order in every epoch.

    The remainder of the number of examples divided by the batch size is left out, another one in
    each epoch.
    """

    data: Array
    condition: PyTree

    def reorder(
        self, order: PyTree, key: Key, step: Int[Array, ""], batch_size: int, limit: PyTree
    ) -> PyTree:
        total = self.data.shape[0]
        batches = (total if limit is None else limit) // batch_size
        # Not inside of the loop over members, where `cond` would take both branches: if one member
        # begins an epoch, all are sorted, and the others get the same order again.
        new = jnp.any(step % batches == 0)
        return jax.lax.cond(
            new, lambda: epoch_order(key, step // batches, total, limit), lambda: order
        )

    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: PyTree,
        limit: PyTree,
        size: int,
        part: int | Int[Array, ""],
        parts: int,
    ) -> tuple[Array, PyTree]:
        batches = (self.data.shape[0] if limit is None else limit) // (size * parts)
        start = ((step % batches) * parts + part) * size
        index = jax.lax.dynamic_slice_in_dim(order, start, size)
        return self.data[index], jax.tree.map(lambda leaf: leaf[index], self.condition)

    def spec(self, mesh: Mesh) -> PartitionSpec:
        return PartitionSpec()


class Streamed(AbstractSource):
    """The batches of one chunk of a stream, data of shape (steps, batch, *shape)."""

    data: Array
    condition: PyTree

    def reorder(
        self, order: PyTree, key: Key, step: Int[Array, ""], batch_size: int, limit: PyTree
    ) -> PyTree:
        return order

    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: PyTree,
        limit: PyTree,
        size: int,
        part: int | Int[Array, ""],
        parts: int,
    ) -> tuple[Array, PyTree]:
        return self.data[i], jax.tree.map(lambda leaf: leaf[i], self.condition)

    def spec(self, mesh: Mesh) -> PartitionSpec:
        return spec(mesh, None, DATA)


@eqx.filter_jit
def epoch_order(key: Key, epoch: Any, num_samples: int, limit: Any = None) -> Int[Array, "... n"]:
    """The order of the data in an epoch: a permutation, its first `limit` entries one of these."""

    def one(key: Key, epoch: Array, limit: Any) -> Array:
        key = jax.random.fold_in(key, epoch)
        if limit is None:
            return jax.random.permutation(key, num_samples)
        ranks = jax.random.bits(key, (num_samples,), jnp.uint32) >> 1
        inside = jnp.arange(num_samples) < limit
        return jnp.argsort(jnp.where(inside, ranks, np.uint32(2**32 - 1)))

    if key.ndim == 0:
        return one(key, epoch, limit)
    axes = (0, None if jnp.ndim(epoch) == 0 else 0, None if limit is None else 0)
    return jax.vmap(one, in_axes=axes)(key, epoch, limit)
