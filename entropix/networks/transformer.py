"""Common parts of transformers: the block, and the encoding of positions by angles."""

from collections.abc import Sequence

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix.networks.images import zeroed


def position_angles(shape: Sequence[int], count: int) -> Float[np.ndarray, "n count"]:
    """Positions times geometric frequencies between 1 and 1e-4, the same for each axis.

    Args:
        shape: of the grid of n positions.
        count: number of angles, a multiple of that of the axes.
    """
    frequencies = 1e-4 ** (np.arange(count // len(shape)) / (count // len(shape)))
    axes = (np.arange(size) for size in shape)
    grid = np.stack(np.meshgrid(*axes, indexing="ij"), axis=-1).reshape(-1, len(shape), 1)
    return (grid * frequencies).reshape(len(grid), -1)


def sines_and_cosines(angles: Float[np.ndarray, "n count"]) -> Float[np.ndarray, "n width"]:
    """The absolute encoding of positions, which is added to tokens of twice as many numbers."""
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=1)


def rotated(
    x: Float[Array, "n heads size"], angles: Float[Array, "n half"]
) -> Float[Array, "n heads size"]:
    """The rotary encoding of positions (Su et al., 2104.09864).

    Inner products of the result depend on differences of positions alone.
    """
    cos, sin = (f(angles)[:, None].astype(x.dtype) for f in (jnp.cos, jnp.sin))
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cos - second * sin, first * sin + second * cos], axis=-1)


def modulations(
    layer: eqx.nn.Linear | Array, embedding: Float[Array, " width"] | None, count: int
) -> list[Array]:
    """Scales, shifts and gates: computed from the embedding, or parameters where there is none."""
    if isinstance(layer, eqx.nn.Linear):
        assert embedding is not None
        layer = layer(embedding)
    return jnp.split(layer, count)


def initial_modulation(
    width: int, count: int, *, embedded: bool, key: Key
) -> eqx.nn.Linear | Array:
    """What `modulations` takes, initially zero."""
    if embedded:
        return zeroed(eqx.nn.Linear(width, count * width, key=key))
    return jnp.zeros(count * width)


def rowwise(layer: eqx.nn.Linear, x: Float[Array, "n in"]) -> Float[Array, "n out"]:
    """`jax.vmap(layer)(x)` as a product from the right.

    As W x a training step takes a CPU 1.4 times as long, for transposed copies.
    """
    z = x @ layer.weight.T
    return z if layer.bias is None else z + layer.bias


class TransformerBlock(eqx.Module):
    """Attention and a perceptron, with scales, shifts and gates computed from the embedding.

    This is the adaLN-Zero block of Peebles and Xie, 2212.09748. The gates are initially zero, so
    that an untrained block is its shortcut. Without an embedding, scales, shifts and gates are
    parameters.
    """

    norm: eqx.nn.LayerNorm
    attention: eqx.nn.MultiheadAttention
    widen: eqx.nn.Linear
    narrow: eqx.nn.Linear
    modulation: eqx.nn.Linear | Array

    def __init__(self, width: int, heads: int, *, embedded: bool = True, key: Key):
        keys = jax.random.split(key, 4)
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)
        self.attention = eqx.nn.MultiheadAttention(heads, width, key=keys[0])
        self.widen = eqx.nn.Linear(width, 4 * width, key=keys[1])
        self.narrow = eqx.nn.Linear(4 * width, width, key=keys[2])
        self.modulation = initial_modulation(width, 6, embedded=embedded, key=keys[3])

    def __call__(
        self,
        tokens: Float[Array, "n width"],
        embedding: Float[Array, " width"] | None,
        angles: Float[Array, "n half"] | None = None,
    ) -> Float[Array, "n width"]:
        shift, scale, gate, shift2, scale2, gate2 = modulations(self.modulation, embedding, 6)
        x = jax.vmap(self.norm)(tokens) * (1 + scale) + shift
        tokens = tokens + gate * self._attended(x, angles)
        x = jax.vmap(self.norm)(tokens) * (1 + scale2) + shift2
        return tokens + gate2 * rowwise(self.narrow, jax.nn.gelu(rowwise(self.widen, x)))

    def _attended(
        self, x: Float[Array, "n width"], angles: Float[Array, "n half"] | None
    ) -> Float[Array, "n width"]:
        """What `attention` computes, of heads that may be rotated."""
        layers = self.attention.query_proj, self.attention.key_proj, self.attention.value_proj
        shape = (x.shape[0], self.attention.num_heads, -1)
        query, key, value = (rowwise(layer, x).reshape(shape) for layer in layers)
        if angles is not None:
            query, key = rotated(query, angles), rotated(key, angles)
        heads = jax.nn.dot_product_attention(query, key, value)
        return rowwise(self.attention.output_proj, heads.reshape(x.shape))
