"""U-Nets for images.

The network of Ronneberger et al. (1505.04597) as used in diffusion models (Ho et al., 2006.11239;
Song et al., 2011.13456; Dhariwal and Nichol, 2105.05233): residual blocks at decreasing and then at
increasing resolution, with skip connections between them; the noise level enters every block.
"""

import itertools
import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import choice, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix.networks.embedding import NoiseEmbedding
from entropix.networks.images import (
    PRECISIONS,
    ResidualBlock,
    SelfAttention,
    as_image,
    cast,
    convolved,
    doubled,
    group_norm,
    halved,
    image_shape,
    normalised,
    patches,
    pixels,
    zeroed,
)


class Level(eqx.Module):
    """The blocks at one resolution, each optionally followed by attention."""

    blocks: tuple[ResidualBlock, ...]
    attentions: tuple[SelfAttention | None, ...]

    def __init__(
        self,
        sizes: Sequence[tuple[int, int]],
        embedding: int,
        *,
        heads: int | None,
        dropout: float,
        key: Key,
    ):
        keys = jax.random.split(key, (len(sizes), 2))
        self.blocks = tuple(
            ResidualBlock(n_in, n_out, embedding, dropout=dropout, key=k[0])
            for (n_in, n_out), k in zip(sizes, keys, strict=True)
        )
        self.attentions = tuple(
            None if heads is None else SelfAttention(n_out, heads, key=k[1])
            for (_, n_out), k in zip(sizes, keys, strict=True)
        )

    def __call__(self, i: int, x: Array, embedding: Array, key: Key | None) -> Array:
        """The `i`-th block and its attention."""
        x = self.blocks[i](x, embedding, key=key)
        attention = self.attentions[i]
        return x if attention is None else attention(x)


class UNet(eqx.Module):
    """`network(log_snr, y, condition=None, *, key=None) -> array of y's shape`, for images.

    | | `UNet(shape, key=key)` | `UNet.large(shape, key=key)` |
    |---|---|---|
    | widths | 32, 64, 128 | 128, 256, 256, 256 |
    | blocks at each resolution | 1 | 2 |
    | self-attention | none | at half of the resolution |
    | dropout | none | 0.1 |
    | intended for | MNIST | CIFAR-10, about the size of Ho et al. |

    Resolution is halved and doubled inside residual blocks, and may be odd. The output layer is
    initially zero, so that an untrained network has stored nothing.

    Args:
        shape: (height, width) or (height, width, channels) of one image.
        widths: number of channels at each resolution, starting at the full one; each resolution is
            half of the previous one.
        blocks: residual blocks at each decreasing resolution; one more at each increasing one.
        patch: side of the patches of pixels that become the channels of one, as in a transformer:
            half of the resolution costs about a quarter. It must divide height and width.
        attention: the resolutions with self-attention, as indices into `widths`.
        heads: number of attention heads, which must divide the widths with attention.
        dropout: fraction of activations omitted in training, when the network receives a `key`.
        condition_dim: size of a condition vector (labels as `jax.nn.one_hot`), or None.
        precision: dtype of the computation, such as "bfloat16"; None for that of the input. The
            precision of the parameters does not change, and normalisation uses float32.
        num_features: number of Fourier features of the noise level.
        key: PRNG key of the initial weights.

    Raises:
        ValueError: if a size is not allowed, or a condition is missing or unexpected.

    References:
        Ronneberger et al., 1505.04597; Ho et al., 2006.11239; Dhariwal and Nichol, 2105.05233.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    precision: str | None = eqx.field(static=True)
    embedding: NoiseEmbedding
    entry: eqx.nn.Conv2d
    descent: tuple[Level, ...]
    halvings: tuple[ResidualBlock, ...]
    bottom: Level
    doublings: tuple[ResidualBlock, ...]
    ascent: tuple[Level, ...]
    norm: eqx.nn.GroupNorm
    head: eqx.nn.Conv2d
    patch: int = eqx.field(static=True, default=1)  # the default is that of files without it

    def __init__(
        self,
        shape: Sequence[int],
        *,
        key: Key,
        widths: Sequence[int] = (32, 64, 128),
        blocks: int = 1,
        patch: int = 1,
        attention: Sequence[int] = (),
        heads: int = 4,
        dropout: float = 0.0,
        condition_dim: int | None = None,
        precision: str | None = None,
        num_features: int = 64,
    ):
        self.shape = image_shape(shape)
        self.precision = None if precision is None else choice(precision, "precision", PRECISIONS)
        if not isinstance(widths, Sequence) or len(widths) == 0:
            raise ValueError(f"`widths` must be a sequence of channels, got {widths!r}.")
        widths = tuple(positive_integer(w, "widths") for w in widths)
        positive_integer(blocks, "blocks")
        positive_integer(heads, "heads")
        if not 0 <= dropout < 1:
            raise ValueError(f"`dropout` must be at least 0 and below 1, got {dropout}.")
        attended = frozenset(attention)
        for i in attended:
            if i not in range(len(widths)) or widths[i] % heads:
                raise ValueError(
                    f"`attention` must hold indices into `widths` of multiples of `heads` = "
                    f"{heads}, got {i} for widths {widths}."
                )
        self.patch = positive_integer(patch, "patch")
        if self.shape[0] % patch or self.shape[1] % patch:
            raise ValueError(f"`patch` must divide height and width, got {patch} for {self.shape}.")
        channels = patch**2 * math.prod(self.shape[2:])
        (
            self.embedding,
            self.entry,
            self.descent,
            self.halvings,
            self.bottom,
            self.doublings,
            self.ascent,
            self.norm,
            self.head,
        ) = _initial(
            key, channels, widths, blocks, attended, heads, dropout, condition_dim, num_features
        )

    @classmethod
    def large(cls, shape: Sequence[int], *, key: Key, **options: Any) -> "UNet":
        """The larger network of the table above; `options` of `UNet` take precedence."""
        defaults = {
            "widths": (128, 256, 256, 256),
            "blocks": 2,
            "attention": (1,),
            "dropout": 0.1,
        }
        return cls(shape, key=key, **{**defaults, **options})

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        dtype = y.dtype if self.precision is None else jnp.dtype(self.precision)
        net = cast(self, dtype)
        count = len(self.descent)
        per_level = len(self.descent[0].blocks)
        total = count * (2 * per_level + 3) + 2
        keys = iter([None] * total if key is None else jax.random.split(key, total))
        embedding = net.embedding(log_snr, condition, dtype)
        x = convolved(net.entry, patches(as_image(y, self.shape, dtype), self.patch))
        seen = []
        for i, down in enumerate(net.descent):
            seen.append(x)
            for j in range(per_level):
                x = down(j, x, embedding, next(keys))
                seen.append(x)
            if i + 1 < count:
                x = net.halvings[i](x, embedding, key=next(keys), resample=halved)
        for j in range(2):
            x = net.bottom(j, x, embedding, next(keys))
        for i in reversed(range(count)):
            for j in range(per_level + 1):
                x = net.ascent[i](
                    j, jnp.concatenate([x, seen.pop()], axis=-1), embedding, next(keys)
                )
            if i > 0:
                height, width = seen[-1].shape[:2]
                x = net.doublings[i - 1](
                    x,
                    embedding,
                    key=next(keys),
                    resample=lambda h, size=(height, width): doubled(h, size),
                )
        out = convolved(net.head, jax.nn.silu(normalised(net.norm, x)))
        return pixels(out, self.patch).reshape(self.shape).astype(y.dtype)


@lightly_compiled
def _initial(
    key: Key,
    channels: int,
    widths: tuple[int, ...],
    blocks: int,
    attended: frozenset[int],
    heads: int,
    dropout: float,
    condition_dim: int | None,
    num_features: int,
) -> tuple[Any, ...]:
    """The initial layers of a `UNet`, drawn by one program."""
    size = 4 * widths[0]
    keys = iter(jax.random.split(key, 4 * len(widths) + 4))
    embedding = NoiseEmbedding(
        size, condition_dim=condition_dim, num_features=num_features, key=next(keys)
    )
    entry = eqx.nn.Conv2d(channels, widths[0], 3, padding=1, key=next(keys))

    def level(sizes: Sequence[tuple[int, int]], with_attention: bool) -> Level:
        return Level(
            sizes, size, heads=heads if with_attention else None, dropout=dropout, key=next(keys)
        )

    def between(n_in: int, n_out: int) -> ResidualBlock:
        return ResidualBlock(n_in, n_out, size, dropout=dropout, key=next(keys))

    descent = tuple(level([(w, w)] * blocks, i in attended) for i, w in enumerate(widths))
    pairs = list(itertools.pairwise(widths))
    halvings = tuple(between(n_in, n_out) for n_in, n_out in pairs)
    bottom = level([(widths[-1], widths[-1])] * 2, bool(attended))
    doublings = tuple(between(n_out, n_in) for n_in, n_out in pairs)
    # Every block of the ascent also receives the output of a block of the descent.
    ascent = tuple(level([(2 * w, w)] * (blocks + 1), i in attended) for i, w in enumerate(widths))
    head = zeroed(eqx.nn.Conv2d(widths[0], channels, 3, padding=1, key=next(keys)))
    norm = group_norm(widths[0])
    return embedding, entry, descent, halvings, bottom, doublings, ascent, norm, head
