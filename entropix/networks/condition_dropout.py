"""One network for a conditional field and the marginal one."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import checked, finite, positive_integer
from entropix.networks.fixed import Fixed


class ConditionDropout(eqx.Module):
    r"""`network` with its condition, or without: both are learnt in one training run.

    The wrapped network is handed a vector of `condition_dim + 1` numbers: the condition and a one,
    or zeros. In training (when it is given a key) a share `rate` of the conditions is left out, as
    in classifier-free guidance (Ho and Salimans, 2207.12598); afterwards, `condition=None` asks for
    the marginal field.

    Args:
        network: `network(log_snr, y, condition)`, such as
            `FourierMLP(dim, condition_dim=condition_dim + 1, key=key)`.
        condition_dim: size of a condition; integer labels become one-hot vectors with
            `jax.nn.one_hot`.
        rate: share of the conditions left out, between 0 and 1.

    Raises:
        ValueError: if an argument is not allowed, or a condition has another size.
    """

    network: Callable
    condition_dim: int = eqx.field(static=True)
    rate: Fixed

    def __init__(self, network: Callable, condition_dim: int, rate: Any = 0.2):
        if not callable(network):
            raise ValueError(f"`network` must be callable, got {type(network).__name__}.")
        self.network = network
        self.condition_dim = positive_integer(condition_dim, "condition_dim")
        value = finite(rate, "rate", shape=())
        self.rate = Fixed(checked(value, "rate", lambda v: (v > 0) & (v < 1), "between 0 and 1"))

    @property
    def dim(self) -> Any:
        """The dimension of the wrapped network, where it has one."""
        return getattr(self.network, "dim", None)

    def __call__(
        self,
        log_snr: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        if condition is None:
            told = jnp.zeros(self.condition_dim + 1, y.dtype)
        else:
            condition = jnp.asarray(condition, y.dtype).ravel()
            if condition.size != self.condition_dim:
                raise ValueError(
                    f"`condition` must hold {self.condition_dim} numbers, got {condition.size}."
                )
            told = jnp.concatenate([condition, jnp.ones(1, y.dtype)])
            if key is not None:
                told = told * jax.random.bernoulli(key, 1 - self.rate.value).astype(y.dtype)
        return self.network(log_snr, y, told)
