"""Where batches come from: data that lie on the device, or a stream of batches from the host."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree

from entropix._core.arrays import Key
from entropix._core.mesh import DATA, spec


_ORDER = 0x0DE5  # a stream of random numbers, far from the counters of `jax.random.split`


class Source(eqx.Module):
    """The batches of a chunk of steps; the same data for all members.

    Data on the device are visited in a new order in every epoch. The remainder of their number
    divided by the batch size is left out, another one in each epoch.

    Attributes:
        data: all examples, shape (N, *shape); of a stream shape (steps, batch, *shape).
        condition: arrays with the same leading axes, or None.
        streamed: whether they are the batches of this chunk of a stream.
    """

    data: Array
    condition: PyTree
    streamed: bool = eqx.field(static=True)

    def reorder(
        self, order: PyTree, key: Key, step: Int[Array, ""], batch_size: int, limit: PyTree
    ) -> PyTree:
        """The order of the data of all members at `step`: a new one where an epoch begins."""
        if self.streamed:
            return order
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
        batch_size: int,
        share: tuple[Any, int],
    ) -> tuple[Array, PyTree]:
        """Examples and conditions of one member: a share of the batch of `step`, the chunk's ith.

        Args:
            i: the index of the step in its chunk.
            step: the index of the step.
            order: of the data in this epoch, for the member.
            limit: how many of the first examples it sees; None for all.
            batch_size: examples of the whole batch.
            share: which share of how many.
        """
        index: Any = i
        if not self.streamed:
            (part, parts), total = share, self.data.shape[0] if limit is None else limit
            size = batch_size // parts
            start = ((step % (total // batch_size)) * parts + part) * size
            index = jax.lax.dynamic_slice_in_dim(order, start, size)
        return self.data[index], jax.tree.map(lambda leaf: leaf[index], self.condition)

    def spec(self, mesh: Mesh) -> PartitionSpec:
        """The partition of its arrays: a stream brings every device its part alone."""
        return spec(mesh, None, DATA) if self.streamed else PartitionSpec()


@eqx.filter_jit
def epoch_order(key: Key, epoch: Any, num_samples: int, limit: Any = None) -> Int[Array, "... n"]:
    """The order of the data in an epoch: a permutation, its first `limit` entries one of these.

    Args:
        key: of a run, or of all members.
        epoch: its index, the same for all members or one for each.
        num_samples: N.
        limit: how many of the first examples each member sees; None for all.
    """

    def one(key: Key, epoch: Array, limit: Any) -> Array:
        key = jax.random.fold_in(jax.random.fold_in(key, _ORDER), epoch)
        if limit is None:
            return jax.random.permutation(key, num_samples)
        ranks = jax.random.bits(key, (num_samples,), jnp.uint32) >> 1
        inside = jnp.arange(num_samples) < limit
        return jnp.argsort(jnp.where(inside, ranks, np.uint32(2**32 - 1)))

    if key.ndim == 0:
        return one(key, epoch, limit)
    axes = (0, None if jnp.ndim(epoch) == 0 else 0, None if limit is None else 0)
    return jax.vmap(one, in_axes=axes)(key, epoch, limit)
