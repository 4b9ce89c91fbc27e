r"""A linear path around a network, for data that are approximately Gaussian.

The entropy field of a Gaussian is linear in the state and in the condition, with matrices that
depend on the noise level. In many dimensions a multilayer perceptron learns such a map slowly,
because it must invert LayerNorm and the activation in every direction. Here

$$\mathrm{out} = \mathrm{network}(\lambda, y, c) + \sum_k g_k(\lambda)\,W_k\,[y, c],$$

so that the network only needs to learn the non-linear part. Where the moments of the data are
known, `entropix.models.GaussianPart` gives the exact map, and nothing linear need be learnt.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import optional_size, positive_integer, with_key
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix._core.offered import divergence_of, passed_on


_LEVEL = 4.0  # log-SNR at which the bounded embedding is 1/2, as in FourierMLP


class LinearSkip(eqx.Module):
    r"""A network plus linear maps of state and condition, with weights that depend on the level.

    Args:
        network: `network(log_snr, y, condition)` for vectors `y`, such as `FourierMLP`.
        dim: size of `y`.
        condition_dim: size of a condition, or None.
        num_flags: how many of the last numbers of a condition are flags. The weights $g_k$ depend
            on them. Within a `ConditionDropout`, the number of its blocks.
        num_maps: number of matrices $W_k$.
        width: size of the hidden layer that computes the weights $g_k$.
        key: PRNG key of the initial weights. The weights $g_k$ start at zero.

    Raises:
        ValueError: if a size is not allowed.
    """

    network: Callable
    dim: int = eqx.field(static=True)
    condition_dim: int | None = eqx.field(static=True)
    num_flags: int = eqx.field(static=True)
    maps: Float[Array, "maps dim inputs"]
    gate: eqx.nn.MLP

    def __init__(
        self,
        network: Callable,
        dim: int,
        *,
        key: Key,
        condition_dim: int | None = None,
        num_flags: int = 0,
        num_maps: int = 8,
        width: int = 64,
    ):
        if not callable(network):
            raise ValueError(f"`network` must be callable, got {type(network).__name__}.")
        self.network = network
        self.dim = positive_integer(dim, "dim")
        self.condition_dim = optional_size(condition_dim, "condition_dim")
        self.num_flags = positive_integer(num_flags, "num_flags", 0)
        if self.num_flags > (condition_dim or 0):
            raise ValueError(
                f"`num_flags` must be at most `condition_dim`, {condition_dim}, got {num_flags}."
            )
        positive_integer(num_maps, "num_maps")
        positive_integer(width, "width")
        shape = (num_maps, self.dim, self.dim + (condition_dim or 0))
        self.maps, self.gate = _initial(key, shape, 9 + self.num_flags, width)

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        inputs = y
        if condition is not None:
            inputs = jnp.concatenate([y, jnp.asarray(condition, y.dtype).ravel()])
        # The maps are applied first, so that no matrix is computed for each example.
        linear = self._weights(log_snr, y, condition) @ (self.maps @ inputs)
        return self.network(log_snr, y, condition, **with_key(self.network, key)) + linear

    def _weights(self, log_snr: RealScalarLike, y: State, condition: PyTree) -> Array:
        """The weights of the maps."""
        angle = 2 * jnp.arctan(log_snr / _LEVEL) * jnp.arange(1, 5) / 2
        level = jnp.arctan(log_snr / _LEVEL)[None]
        features = jnp.concatenate([level, jnp.sin(angle), jnp.cos(angle)]).astype(y.dtype)
        if condition is not None:
            vector = jnp.asarray(condition, y.dtype).ravel()
            features = jnp.concatenate([features, vector[vector.size - self.num_flags :]])
        return self.gate(features)

    @property
    def divergence(self) -> Callable | None:
        """The divergence in closed form, if the network has one."""
        return passed_on(self.network, self._divergence)

    def _divergence(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> Array:
        traces = jnp.trace(self.maps[:, :, : self.dim], axis1=1, axis2=2)
        linear = self._weights(log_snr, y, condition) @ traces
        return divergence_of(self.network, log_snr, y, condition, key) + linear


@lightly_compiled
def _initial(key: Key, shape: tuple[int, ...], features: int, width: int) -> tuple[Any, ...]:
    """The initial maps and gate, drawn by one program."""
    map_key, gate_key = jax.random.split(key)
    maps = jax.random.normal(map_key, shape) / jnp.sqrt(shape[-1])
    gate = eqx.nn.MLP(features, shape[0], width, 2, activation=jax.nn.silu, key=gate_key)
    return maps, eqx.tree_at(
        lambda m: (m.layers[-1].weight, m.layers[-1].bias), gate, replace_fn=jnp.zeros_like
    )
