"""Where batches come from: data that lie on the device, or a stream of batches from the host."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, PartitionSpec
from jaxtyping import Array, Int, PyTree

from entropix._core.arrays import Key
from entropix._core.compiled import lightly_compiled
from entropix._core.mesh import DATA, spec


_ORDER = 0x0DE5  # a stream of random numbers, far from the counters of `jax.random.split`


def floating(dtype: Any) -> Any:
    """The dtype of a batch: of integers JAX's default floating one."""
    return dtype if jnp.issubdtype(dtype, jnp.floating) else jnp.zeros(()).dtype


class Source(eqx.Module):
    """The batches of a chunk of steps; the same data for all members.

    Data on the device are visited in a new order in every epoch. The remainder of their number
    divided by the batch size is left out, another one in each epoch.

    Attributes:
        data: all examples, shape (N, *shape); of a stream shape (steps, batch, *shape). Small
            integers, as tokens may be, become floating in a batch.
        condition: arrays with the same leading axes, or None.
        streamed: whether they are the batches of this chunk of a stream.
    """

    data: Array
    condition: PyTree
    streamed: bool = eqx.field(static=True)

    def batch(
        self, i: Int[Array, ""], rows: PyTree, share: tuple[Any, int]
    ) -> tuple[Array, PyTree]:
        """Examples and conditions of one member: a share of the batch of the chunk's ith step.

        Args:
            i: the index of the step in its chunk.
            rows: which examples the steps of the chunk take, for the member; None for a stream.
            share: which share of how many.
        """
        index: Any = i
        if not self.streamed:
            part, parts = share
            size = rows.shape[1] // parts
            index = jax.lax.dynamic_slice_in_dim(rows[i], part * size, size)
        batch = self.data[index].astype(floating(self.data.dtype))
        return batch, jax.tree.map(lambda leaf: leaf[index], self.condition)

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


@functools.partial(lightly_compiled, level=1)
def epoch_orders(
    key: Key, first: Any, count: int, num_samples: int, limit: Any = None
) -> Int[Array, "count ... n"]:
    """`epoch_order` of `count` epochs from `first` on."""
    epochs = [first + jnp.int32(k) for k in range(count)]
    if count == 1:
        return epoch_order(key, epochs[0], num_samples, limit)[None]
    return jax.vmap(lambda epoch: epoch_order(key, epoch, num_samples, limit))(jnp.stack(epochs))


@functools.partial(lightly_compiled, level=1)
def rows_of_steps(
    orders: Int[Array, "epochs ... n"],
    first: Any,
    start: Any,
    length: int,
    batch_size: int,
    limit: Any = None,
) -> Int[Array, "... length batch"]:
    """Which examples `length` steps from `start` on take, from the orders of their epochs."""

    def one(orders: Array, first: Array, limit: Any) -> Array:
        batches = (orders.shape[1] if limit is None else limit) // batch_size
        step = start + jnp.arange(length)
        # Steps beyond the epochs that are given are not taken.
        epoch = jnp.minimum(step // batches - first, orders.shape[0] - 1)
        place = (step % batches)[:, None] * batch_size + jnp.arange(batch_size)
        return orders[epoch[:, None], place]

    if orders.ndim == 2:
        return one(orders, first, limit)
    axes = (1, None if jnp.ndim(first) == 0 else 0, None if limit is None else 0)
    return jax.vmap(one, in_axes=axes)(orders, first, limit)
