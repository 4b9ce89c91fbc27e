"""The centred isotropic Gaussian on arrays of any shape: what most models start from."""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer, trailing_shape
from entropix.interfaces import AbstractPrior


class IsotropicGaussian(AbstractPrior):
    r"""$N(0, \mathrm{std}^2 I)$ on arrays of shape `shape`.

    Args:
        shape: the shape of one example.
        std: the standard deviation, positive.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    std: Float[Array, ""]

    def __init__(self, shape: tuple[int, ...], std: Any):
        self.shape = tuple(int(n) for n in shape)
        self.std = positive(std, "std", shape=())

    def sample(self, n: int, *, key: Key) -> Array:
        positive_integer(n, "n")
        return _draw(self, int(n), key)

    def log_prob(self, y: Array) -> Array:
        return self._log_prob(trailing_shape(y, self.shape, "y"))

    @eqx.filter_jit
    def _log_prob(self, y: Array) -> Array:
        axes = tuple(range(y.ndim - len(self.shape), y.ndim))
        size = math.prod(self.shape)
        quadratic = jnp.sum((y / self.std) ** 2, axis=axes)
        return -quadratic / 2 - size * (jnp.log(2 * jnp.pi) / 2 + jnp.log(self.std))


@eqx.filter_jit
def _draw(prior: IsotropicGaussian, n: int, key: Key) -> Array:
    """Samples, by one program."""
    return prior.std * jax.random.normal(key, (n, *prior.shape), prior.std.dtype)
