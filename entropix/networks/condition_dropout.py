"""One network for a conditional field and the marginal fields."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, State
from entropix._core.checks import checked, finite, positive_integer, with_key
from entropix._core.formatting import short_repr
from entropix._core.offered import divergence_of, passed_on
from entropix.networks.parameters import Fixed


class ConditionDropout(eqx.Module):
    r"""A network with or without its condition; both are learnt in one training run.

    The wrapped network receives `condition_dim + 1` numbers: the condition and a one, or zeros. In
    training (with a key) a fraction `rate` of the conditions is omitted, as in classifier-free
    guidance (Ho and Salimans, 2207.12598). Afterwards `condition=None` gives the marginal field.

    A condition of several blocks, such as (y, z), is a tuple of arrays. Each block is omitted
    independently, so that one network learns the fields of x given any of them; `(None, z)`
    evaluates that of x given z. The wrapped network then receives the concatenated blocks, zeros
    for omitted ones, followed by one flag for each: `sum(condition_dim) + len(condition_dim)`
    numbers.

    Args:
        network: `network(log_snr, y, condition)`, such as
            `FourierMLP(dim, condition_dim=condition_dim + 1, key=key)`.
        condition_dim: size of a condition, or a tuple of the sizes of its blocks. Convert integer
            labels to one-hot vectors with `jax.nn.one_hot`.
        rate: fraction of omitted conditions, between 0 and 1; one number, or one for each block.

    Raises:
        ValueError: if an argument is not allowed, or a condition has another size.
    """

    network: Callable
    condition_dim: int | tuple[int, ...] = eqx.field(static=True)
    rate: Fixed

    def __init__(self, network: Callable, condition_dim: int | Sequence[int], rate: DataLike = 0.2):
        if not callable(network):
            raise ValueError(f"`network` must be callable, got {type(network).__name__}.")
        self.network = network
        shape: tuple[int, ...] = ()
        if isinstance(condition_dim, Sequence):
            if len(condition_dim) == 0:
                raise ValueError("`condition_dim` must hold at least one size, got none.")
            self.condition_dim = tuple(positive_integer(n, "condition_dim") for n in condition_dim)
            shape = (len(condition_dim),)
        else:
            self.condition_dim = positive_integer(condition_dim, "condition_dim")
        value = finite(rate, "rate")
        if value.shape not in ((), shape):
            raise ValueError(f"`rate` must be a number or have shape {shape}, got {value.shape}.")
        self.rate = Fixed(checked(value, "rate", lambda v: (v > 0) & (v < 1), "between 0 and 1"))

    @property
    def dim(self) -> int | None:
        """The dimension of the wrapped network, if it has one."""
        return getattr(self.network, "dim", None)

    def _blocks(self, condition: PyTree) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """The blocks of a condition, None if omitted, and their sizes."""
        if isinstance(self.condition_dim, int):
            return (condition,), (self.condition_dim,)
        count = len(self.condition_dim)
        if condition is None:
            return (None,) * count, self.condition_dim
        if not isinstance(condition, tuple | list) or len(condition) != count:
            raise ValueError(
                f"`condition` must be a tuple of {count} blocks, None for omitted ones, "
                f"got {type(condition).__name__} of {len(condition)}."
            )
        return tuple(condition), self.condition_dim

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        joined, inside = self._joined(y, condition, key)
        return self.network(log_snr, y, joined, **with_key(self.network, inside))

    @property
    def divergence(self) -> Callable | None:
        """The divergence in closed form, if the network has one."""
        return passed_on(self.network, self._divergence)

    def _divergence(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> Array:
        joined, inside = self._joined(y, condition, key)
        return divergence_of(self.network, log_snr, y, joined, inside)

    def _joined(self, y: State, condition: PyTree, key: Key | None) -> tuple[Array, Key | None]:
        """The condition of the wrapped network, and its key."""
        blocks, sizes = self._blocks(condition)
        flags = jnp.asarray([block is not None for block in blocks], y.dtype)
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - self.rate.value, (len(sizes),))
            flags = flags * kept.astype(y.dtype)
        parts = []
        for block, size, flag in zip(blocks, sizes, flags, strict=True):
            part = jnp.zeros(size, y.dtype) if block is None else jnp.asarray(block, y.dtype)
            if part.size != size:
                raise ValueError(f"`condition` must hold {size} numbers, got {part.size}.")
            parts.append(flag * part.ravel())
        inside = None if key is None else jax.random.fold_in(key, 1)
        return jnp.concatenate([*parts, flags]), inside
