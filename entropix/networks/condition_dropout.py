"""One network for a conditional field and the marginal ones."""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import checked, finite, positive_integer
from entropix.networks.fixed import Fixed
from entropix.networks.keys import with_key


class ConditionDropout(eqx.Module):
    r"""`network` with its condition, or without: both are learnt in one training run.

    The wrapped network is handed a vector of `condition_dim + 1` numbers: the condition and a one,
    or zeros. In training (when it is given a key) a share `rate` of the conditions is left out, as
    in classifier-free guidance (Ho and Salimans, 2207.12598); afterwards, `condition=None` asks for
    the marginal field.

    A condition of several blocks, such as (y, z), is a tuple of arrays. Each block is left out on
    its own, so that one network learns the fields of x given any of them; `(None, z)` asks for
    that of x given z. The wrapped network is then handed the blocks one after the other, zeros
    where one is left out, and at the end one flag for each:
    `sum(condition_dim) + len(condition_dim)` numbers.

    Args:
        network: `network(log_snr, y, condition)`, such as
            `FourierMLP(dim, condition_dim=condition_dim + 1, key=key)`.
        condition_dim: size of a condition, or a tuple of the sizes of its blocks; integer labels
            become one-hot vectors with `jax.nn.one_hot`.
        rate: share of the conditions left out, between 0 and 1: of every block, or one for each.

    Raises:
        ValueError: if an argument is not allowed, or a condition has another size.
    """

    network: Callable
    condition_dim: int | tuple[int, ...] = eqx.field(static=True)
    rate: Fixed

    def __init__(self, network: Callable, condition_dim: int | Sequence[int], rate: Any = 0.2):
        if not callable(network):
            raise ValueError(f"`network` must be callable, got {type(network).__name__}.")
        self.network = network
        shape: tuple[int, ...] = ()
        if isinstance(condition_dim, Sequence):
            if len(condition_dim) == 0:
                raise ValueError("`condition_dim` must hold the size of a block, got none.")
            self.condition_dim = tuple(positive_integer(n, "condition_dim") for n in condition_dim)
            shape = (len(condition_dim),)
        else:
            self.condition_dim = positive_integer(condition_dim, "condition_dim")
        value = finite(rate, "rate")
        if value.shape not in ((), shape):
            raise ValueError(f"`rate` must be a number or have shape {shape}, got {value.shape}.")
        self.rate = Fixed(checked(value, "rate", lambda v: (v > 0) & (v < 1), "between 0 and 1"))

    @property
    def dim(self) -> Any:
        """The dimension of the wrapped network, where it has one."""
        return getattr(self.network, "dim", None)

    def _blocks(self, condition: Any) -> tuple[tuple[Any, ...], tuple[int, ...]]:
        """The blocks of a condition and their sizes; None where one is left out."""
        if isinstance(self.condition_dim, int):
            return (condition,), (self.condition_dim,)
        count = len(self.condition_dim)
        if condition is None:
            return (None,) * count, self.condition_dim
        if not isinstance(condition, tuple | list) or len(condition) != count:
            raise ValueError(
                f"`condition` must be a tuple of {count} blocks, None where one is left out, "
                f"got {type(condition).__name__} of {len(condition)}."
            )
        return tuple(condition), self.condition_dim

    def __call__(
        self,
        log_snr: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        blocks, sizes = self._blocks(condition)
        given = jnp.asarray([block is not None for block in blocks], y.dtype)
        if key is not None:
            kept = jax.random.bernoulli(key, 1 - self.rate.value, (len(sizes),))
            given = given * kept.astype(y.dtype)
        parts = []
        for block, size, flag in zip(blocks, sizes, given, strict=True):
            part = jnp.zeros(size, y.dtype) if block is None else jnp.asarray(block, y.dtype)
            if part.size != size:
                raise ValueError(f"`condition` must hold {size} numbers, got {part.size}.")
            parts.append(flag * part.ravel())
        inside = None if key is None else jax.random.fold_in(key, 1)
        given = jnp.concatenate([*parts, given])
        return self.network(log_snr, y, given, **with_key(self.network, inside))
