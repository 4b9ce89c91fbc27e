"""Where batches come from: data that lie on the device, or a stream of batches from the host."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from entropix._core.arrays import Key
from entropix.training.layout import Layout


class AbstractSource(eqx.Module):
    """The batches of a chunk of steps."""

    @property
    @abc.abstractmethod
    def dtype(self) -> Any:
        """Of the examples."""

    @property
    @abc.abstractmethod
    def counts(self) -> Any:
        """How many examples each member sees; None: all of them."""

    @abc.abstractmethod
    def reorder(
        self, order: Any, key: Key, step: Int[Array, ""], batch_size: int, layout: Layout
    ) -> Any:
        """The order of the data at `step`: a new one where an epoch begins."""

    @abc.abstractmethod
    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: Any,
        count: Any,
        size: int,
        part: Any,
        parts: int,
    ) -> tuple[Array, Any]:
        """Examples and conditions of one member.

        Args:
            i: the index of the step in its chunk.
            step: the index of the step.
            order: of the data in this epoch, for the member.
            count: its entry of `counts`.
            size: examples in a share of the batch.
            part: which share.
            parts: how many there are.
        """

    @abc.abstractmethod
    def marked(self, stacked: Any, shared: Any, streamed: Any) -> Any:
        """A mark for every array: whether it has a seed axis, is shared, or is a stream's."""


class Resident(AbstractSource):
    """Data that fit on a device, visited in a new order in every epoch.

    The remainder of the number of examples divided by the batch size is left out, another one in
    each epoch.

    Attributes:
        data: the examples.
        condition: arrays with the same leading axis, or None.
        limit: how many of the first examples each member sees, or None for all.
    """

    data: Any
    condition: Any
    limit: Any

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def counts(self) -> Any:
        return self.limit

    def reorder(
        self, order: Any, key: Key, step: Int[Array, ""], batch_size: int, layout: Layout
    ) -> Any:
        total = self.data.shape[0]
        batches = (total if self.limit is None else self.limit) // batch_size
        new = jnp.any(step % batches == 0)  # of any member: for the others, the same order again
        return jax.lax.cond(
            new,
            lambda: epoch_order(key, step // batches, total, layout.seeds, self.limit),
            lambda: order,
        )

    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: Any,
        count: Any,
        size: int,
        part: Any,
        parts: int,
    ) -> tuple[Array, Any]:
        batches = (self.data.shape[0] if count is None else count) // (size * parts)
        start = ((step % batches) * parts + part) * size
        index = jax.lax.dynamic_slice_in_dim(order, start, size)
        return self.data[index], jax.tree.map(lambda leaf: leaf[index], self.condition)

    def marked(self, stacked: Any, shared: Any, streamed: Any) -> Any:
        condition = jax.tree.map(lambda _: shared, self.condition)
        return Resident(shared, condition, None if self.limit is None else stacked)


class Streamed(AbstractSource):
    """The batches of one chunk of a stream, the same for all members.

    Attributes:
        data: shape (steps, batch, *shape).
        condition: arrays with the same leading axes, or None.
    """

    data: Any
    condition: Any

    @property
    def dtype(self) -> Any:
        return self.data.dtype

    @property
    def counts(self) -> Any:
        return None

    def reorder(
        self, order: Any, key: Key, step: Int[Array, ""], batch_size: int, layout: Layout
    ) -> Any:
        return order

    def batch(
        self,
        i: Int[Array, ""],
        step: Int[Array, ""],
        order: Any,
        count: Any,
        size: int,
        part: Any,
        parts: int,
    ) -> tuple[Array, Any]:
        return self.data[i], jax.tree.map(lambda leaf: leaf[i], self.condition)

    def marked(self, stacked: Any, shared: Any, streamed: Any) -> Any:
        return Streamed(streamed, jax.tree.map(lambda _: streamed, self.condition))


@eqx.filter_jit
def epoch_order(
    key: Key, epoch: Int[Array, "*epochs"], num_samples: int, seeds: bool, limit: Any = None
) -> Int[Array, "*seeds n"]:
    """The order of the data in an epoch: a permutation, its first `limit` entries one of these."""

    def one(key: Key, epoch: Array, limit: Any) -> Array:
        key = jax.random.fold_in(key, epoch)
        if limit is None:
            return jax.random.permutation(key, num_samples)
        ranks = jax.random.bits(key, (num_samples,), jnp.uint32) >> 1
        inside = jnp.arange(num_samples) < limit
        return jnp.argsort(jnp.where(inside, ranks, np.uint32(2**32 - 1)))

    if not seeds:
        return one(key, epoch, limit)
    axes = (0, None if jnp.ndim(epoch) == 0 else 0, None if limit is None else 0)
    return jax.vmap(one, in_axes=axes)(key, epoch, limit)
