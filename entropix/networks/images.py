"""Common parts of networks for images: shapes, precision, residual blocks, self-attention.

The layout of images is that of the data sets, (height, width) or (height, width, channels).
Internally channels come first, as in `equinox.nn`.
"""

import functools
import itertools
import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import exact_shape, positive_integer, with_key
from entropix.networks.parameters import Fixed


PRECISIONS = ("float32", "bfloat16", "float16", "float64")


def image_shape(shape: Any) -> tuple[int, ...]:
    """(height, width) or (height, width, channels) as a tuple of integers."""
    if not isinstance(shape, tuple | list) or len(shape) not in (2, 3):
        raise ValueError(
            f"`shape` must be (height, width) or (height, width, channels), got {shape!r}."
        )
    return tuple(positive_integer(size, "shape") for size in shape)


def channels_first(y: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "c h w"]:
    """One image with the layout of the layers."""
    exact_shape(y, shape, "y")
    return jnp.moveaxis(y.reshape(*shape[:2], -1), -1, 0).astype(dtype)


def channels_last(image: Float[Array, "c h w"], shape: tuple[int, ...], dtype: Any) -> Array:
    """The inverse of `channels_first`."""
    return jnp.moveaxis(image, 0, -1).reshape(shape).astype(dtype)


def patches(x: Float[Array, "c h w"], size: int) -> Float[Array, "cpp hp wp"]:
    """Each patch of `size` x `size` pixels as the channels of one pixel."""
    c, h, w = x.shape
    x = x.reshape(c, h // size, size, w // size, size)
    return x.transpose(0, 2, 4, 1, 3).reshape(c * size**2, h // size, w // size)


def pixels(x: Float[Array, "cpp hp wp"], size: int) -> Float[Array, "c h w"]:
    """The inverse of `patches`."""
    c, h, w = x.shape
    x = x.reshape(c // size**2, size, size, h, w).transpose(0, 3, 1, 4, 2)
    return x.reshape(c // size**2, h * size, w * size)


class Flattened(eqx.Module):
    """A network for images, for images that are flattened to vectors.

    Args:
        network: `network(log_snr, y, condition)` with a `shape`, such as `UNet` or `DiT`.

    Raises:
        ValueError: if it does not state the shape of an image.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import entropix as ex
        >>> network = ex.UNet((8, 8), widths=(8,), key=jax.random.key(0))
        >>> ex.networks.Flattened(network)(0.0, jnp.zeros(64)).shape
        (64,)
    """

    network: Callable[..., Array]

    def __init__(self, network: Callable[..., Array]):
        if getattr(network, "shape", None) is None:
            raise ValueError(
                f"`network` must have a `shape`, such as UNet, got {type(network).__name__}."
            )
        self.network = network

    @property
    def dim(self) -> int:
        """The size of a vector."""
        return math.prod(self.network.shape)  # pyright: ignore[reportFunctionMemberAccess]

    def __call__(
        self, log_snr: RealScalarLike, y: Array, condition: PyTree = None, *, key: Key | None = None
    ) -> Array:
        image = y.reshape(self.network.shape)  # pyright: ignore[reportFunctionMemberAccess]
        return self.network(log_snr, image, condition, **with_key(self.network, key)).ravel()


def cast(module: Any, dtype: Any) -> Any:
    """`module` with floating arrays of another precision; `Fixed` arrays are not changed."""

    def one(leaf: Any) -> Any:
        return leaf.astype(dtype) if eqx.is_inexact_array(leaf) else leaf

    return jax.tree.map(one, module, is_leaf=lambda x: isinstance(x, Fixed))


def zeroed(layer: Any) -> Any:
    """A layer whose initial output is zero."""
    return eqx.tree_at(lambda m: (m.weight, m.bias), layer, replace_fn=jnp.zeros_like)


def group_norm(channels: int) -> eqx.nn.GroupNorm:
    """At most 32 groups of at least four channels; computes in float32 or higher precision."""
    return eqx.nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


def halved(x: Float[Array, "c h w"]) -> Float[Array, "c half_h half_w"]:
    """Means over blocks of 2 x 2, after repeating the edge of an odd axis."""
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2)), mode="edge")
    c, h, w = x.shape
    return jnp.mean(x.reshape(c, h // 2, 2, w // 2, 2), axis=(2, 4))


def doubled(x: Float[Array, "c h w"], size: tuple[int, int]) -> Float[Array, "c big_h big_w"]:
    """Every pixel twice along both axes, cropped to `size`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=1), 2, axis=2)[:, : size[0], : size[1]]


def convolved(layer: eqx.nn.Conv2d, x: Float[Array, "c h w"]) -> Float[Array, "out h w"]:
    """`layer(x)` for a square kernel of odd size, and padding that keeps the size of an image.

    On CPUs as products of matrices: XLA takes 30 times as long for a convolution in the body of a
    loop as outside, and 200 times as long for its derivative with respect to the kernel (measured
    for 64 images of 8 x 8 with 32 channels). Estimators, solvers and `fit` are loops.
    """
    if jax.default_backend() != "cpu":
        return layer(x)
    reach = layer.weight.shape[-1] // 2
    padded = jnp.pad(x, [(0, 0)] + 2 * [(reach, reach)])
    return _products(layer.weight, padded, 1) + layer.bias


def strided(
    kernel: Float[Array, "out in k k"], x: Float[Array, "in h w"], stride: int
) -> Float[Array, "out new_h new_w"]:
    """A convolution without padding, of every `stride`-th pixel; see `convolved`."""
    if jax.default_backend() == "cpu":
        return _products(kernel, x, stride)
    return jax.lax.conv_general_dilated(x[None], kernel, (stride, stride), "VALID")[0]


def transposed(
    kernel: Float[Array, "out in k k"],
    x: Float[Array, "in h w"],
    stride: int,
    size: tuple[int, ...],
) -> Float[Array, "out new_h new_w"]:
    r"""The transposed convolution $y_{si+a,\,sj+b} = \sum K_{ab}\,x_{ij}$, in an image of `size`.

    The size is at least $s(h - 1) + k$ along each axis; further rows and columns are zero.
    """
    count, k = kernel.shape[0], kernel.shape[-1]
    spread = [stride * (n - 1) + 1 for n in x.shape[1:]]
    if jax.default_backend() != "cpu":
        pads = [(k - 1, n - m) for n, m in zip(size, spread, strict=True)]
        flipped = jnp.flip(kernel, (2, 3))
        return jax.lax.conv_general_dilated(
            x[None], flipped, (1, 1), pads, lhs_dilation=(stride, stride)
        )[0]
    # No product with the zeros between the pixels, of which a dilated image mainly consists.
    products = kernel.transpose(2, 3, 0, 1).reshape(-1, x.shape[0]) @ x.reshape(x.shape[0], -1)
    parts = products.reshape(k, k, count, *x.shape[1:])
    zero, out = jnp.zeros((), x.dtype), jnp.zeros((count, *size), x.dtype)
    for shift in itertools.product(range(k), repeat=2):
        ends = zip(shift, size, spread, strict=True)
        pads = [(0, 0, 0), *((a, n - m - a, stride - 1) for a, n, m in ends)]
        out = out + jax.lax.pad(parts[shift], zero, pads)
    return out


@functools.partial(jax.checkpoint, static_argnums=2)  # the copies of x are not kept
def _products(kernel: Array, x: Array, stride: int) -> Array:
    """A convolution without padding: one product for each row of the kernel."""
    size, (_, height, width) = kernel.shape[-1], x.shape
    height, width = (1 + (n - size) // stride for n in (height, width))
    x = jnp.moveaxis(x, 0, -1)
    across, down = stride * (width - 1) + 1, stride * (height - 1) + 1
    columns = jnp.concatenate([x[:, j : j + across : stride] for j in range(size)], axis=-1)
    rows = kernel.transpose(2, 3, 1, 0).reshape(size, -1, kernel.shape[0])
    parts = (columns[i : i + down : stride] @ rows[i] for i in range(size))
    return jnp.moveaxis(sum(parts), -1, 0)


class ResidualBlock(eqx.Module):
    """Two convolutions with a shortcut, the embedding added between them; optionally resampled.

    The second convolution is initially zero, so that an untrained block is its shortcut.
    """

    norms: tuple[eqx.nn.GroupNorm, eqx.nn.GroupNorm]
    convolutions: tuple[eqx.nn.Conv2d, eqx.nn.Conv2d]
    of_embedding: eqx.nn.Linear
    shortcut: eqx.nn.Conv2d | None
    dropout: eqx.nn.Dropout

    def __init__(
        self, size_in: int, size_out: int, embedding: int, *, dropout: float = 0.0, key: Key
    ):
        keys = jax.random.split(key, 4)
        self.norms = (group_norm(size_in), group_norm(size_out))
        self.convolutions = (
            eqx.nn.Conv2d(size_in, size_out, 3, padding=1, key=keys[0]),
            zeroed(eqx.nn.Conv2d(size_out, size_out, 3, padding=1, key=keys[1])),
        )
        self.of_embedding = eqx.nn.Linear(embedding, size_out, key=keys[2])
        self.shortcut = None
        if size_in != size_out:
            self.shortcut = eqx.nn.Conv2d(size_in, size_out, 1, key=keys[3])
        self.dropout = eqx.nn.Dropout(dropout)

    def __call__(
        self,
        x: Float[Array, "c h w"],
        embedding: Float[Array, " e"],
        *,
        key: Key | None,
        resample: Callable[[Array], Array] = lambda x: x,
    ) -> Float[Array, "out new_h new_w"]:
        hidden = resample(jax.nn.silu(self.norms[0](x)))
        hidden = (
            convolved(self.convolutions[0], hidden) + self.of_embedding(embedding)[:, None, None]
        )
        hidden = self.dropout(
            jax.nn.silu(self.norms[1](hidden)), key=key, inference=True if key is None else None
        )
        shortcut = resample(x)
        if self.shortcut is not None:
            shortcut = convolved(self.shortcut, shortcut)
        return shortcut + convolved(self.convolutions[1], hidden)


class SelfAttention(eqx.Module):
    """Attention between all pixels, with a shortcut; initially it is the shortcut."""

    norm: eqx.nn.GroupNorm
    attention: eqx.nn.MultiheadAttention

    def __init__(self, channels: int, heads: int, *, key: Key):
        self.norm = group_norm(channels)
        attention = eqx.nn.MultiheadAttention(heads, channels, key=key)
        self.attention = eqx.tree_at(
            lambda m: m.output_proj.weight, attention, replace_fn=jnp.zeros_like
        )

    def __call__(self, x: Float[Array, "c h w"]) -> Float[Array, "c h w"]:
        tokens = self.norm(x).reshape(x.shape[0], -1).T
        return x + self.attention(tokens, tokens, tokens).T.reshape(x.shape)
