"""A compact diffusion transformer for images (Peebles and Xie, 2212.09748)."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import choice, exact_shape, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix.networks.embedding import NoiseEmbedding
from entropix.networks.images import PRECISIONS, cast, image_shape, zeroed
from entropix.networks.parameters import Fixed
from entropix.networks.transformer import (
    TransformerBlock,
    initial_modulation,
    modulations,
    position_angles,
    rowwise,
    sines_and_cosines,
)


class DiT(eqx.Module):
    """`network(log_snr, y, condition=None) -> array of y's shape`, a transformer over patches.

    Positions are encoded by fixed sines and cosines. The output layer is initially zero, so that
    an untrained network has stored nothing.

    Args:
        shape: (height, width) or (height, width, channels) of one image.
        patch: side of a patch; must divide height and width.
        width: size of a token, a multiple of 4 and of `heads`.
        depth: number of blocks.
        heads: number of attention heads.
        condition_dim: size of a condition vector (labels as `jax.nn.one_hot`), or None.
        precision: dtype of the computation, such as "bfloat16"; None for that of the input. The
            precision of the parameters does not change, and normalisation uses float32.
        num_features: number of Fourier features of the noise level.
        key: PRNG key of the initial weights.

    Raises:
        ValueError: if a size is not allowed, or a condition is missing or unexpected.

    References:
        Peebles and Xie, 2212.09748.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    patch: int = eqx.field(static=True)
    precision: str | None = eqx.field(static=True)
    positions: Fixed
    embedding: NoiseEmbedding
    entry: eqx.nn.Linear
    blocks: tuple[TransformerBlock, ...]
    norm: eqx.nn.LayerNorm
    modulation: eqx.nn.Linear | Array
    head: eqx.nn.Linear

    def __init__(
        self,
        shape: Sequence[int],
        *,
        key: Key,
        patch: int = 2,
        width: int = 256,
        depth: int = 6,
        heads: int = 4,
        condition_dim: int | None = None,
        precision: str | None = None,
        num_features: int = 64,
    ):
        self.shape = image_shape(shape)
        self.patch = positive_integer(patch, "patch")
        if self.shape[0] % patch or self.shape[1] % patch:
            raise ValueError(f"`patch` must divide height and width, got {patch} for {self.shape}.")
        positive_integer(heads, "heads")
        if positive_integer(width, "width") % math.lcm(4, heads):
            raise ValueError(
                f"`width` must be a multiple of 4 and of `heads` = {heads}, got {width}."
            )
        self.precision = None if precision is None else choice(precision, "precision", PRECISIONS)
        numbers = patch**2 * math.prod(self.shape[2:])
        positive_integer(depth, "depth")
        grid = [size // patch for size in self.shape[:2]]
        positions = sines_and_cosines(position_angles(grid, width // 2))
        self.positions = Fixed(jnp.asarray(positions, float))
        self.embedding, self.entry, self.blocks, self.modulation, self.head = _initial(
            key, numbers, width, depth, heads, condition_dim, num_features
        )
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)

    __repr__ = short_repr

    def __call__(self, log_snr: RealScalarLike, y: State, condition: PyTree = None) -> State:
        exact_shape(y, self.shape, "y")
        dtype = y.dtype if self.precision is None else jnp.dtype(self.precision)
        net = cast(self, dtype)
        height, width = (size // self.patch for size in self.shape[:2])
        blocks = y.astype(dtype).reshape(height, self.patch, width, self.patch, -1)
        patches = jnp.moveaxis(blocks, 1, 2).reshape(height * width, -1)
        embedding = net.embedding(log_snr, condition, dtype)
        tokens = rowwise(net.entry, patches) + self.positions.value.astype(dtype)
        for block in net.blocks:
            tokens = block(tokens, embedding)
        shift, scale = modulations(net.modulation, embedding, 2)
        patches = rowwise(net.head, jax.vmap(net.norm)(tokens) * (1 + scale) + shift)
        blocks = patches.reshape(height, width, self.patch, self.patch, -1)
        return jnp.moveaxis(blocks, 2, 1).reshape(self.shape).astype(y.dtype)


@lightly_compiled
def _initial(
    key: Key,
    numbers: int,
    width: int,
    depth: int,
    heads: int,
    condition_dim: int | None,
    num_features: int,
) -> tuple[Any, ...]:
    """The initial layers of a `DiT`, drawn by one program."""
    keys = jax.random.split(key, depth + 4)
    embedding = NoiseEmbedding(
        width, condition_dim=condition_dim, num_features=num_features, key=keys[0]
    )
    entry = eqx.nn.Linear(numbers, width, key=keys[1])
    blocks = tuple(TransformerBlock(width, heads, key=k) for k in keys[4:])
    modulation = initial_modulation(width, (0.0, 0.0), embedded=True, key=keys[2])
    head = zeroed(eqx.nn.Linear(width, numbers, key=keys[3]))
    return embedding, entry, blocks, modulation, head
