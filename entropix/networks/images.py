"""Common parts of networks for images: shapes, precision, residual blocks, self-attention.

The layout of images is that of the data sets, (height, width) or (height, width, channels).
Channels are last inside the networks as well. The layers of `equinox.nn` only hold the arrays of
convolutions and group normalisations; the functions `convolved` and `normalised` apply them.
"""

import functools
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


def as_image(y: Array, shape: tuple[int, ...], dtype: Any) -> Float[Array, "h w c"]:
    """One example of `shape`, with an axis of channels, in the precision of the computation."""
    exact_shape(y, shape, "y")
    return y.reshape(*shape[:2], -1).astype(dtype)


def patches(x: Float[Array, "h w c"], size: int) -> Float[Array, "hp wp cpp"]:
    """Each patch of `size` x `size` pixels as the channels of one pixel."""
    h, w, c = x.shape
    x = x.reshape(h // size, size, w // size, size, c)
    return x.transpose(0, 2, 4, 1, 3).reshape(h // size, w // size, c * size**2)


def pixels(x: Float[Array, "hp wp cpp"], size: int) -> Float[Array, "h w c"]:
    """The inverse of `patches`."""
    h, w, c = x.shape
    x = x.reshape(h, w, c // size**2, size, size).transpose(0, 3, 1, 4, 2)
    return x.reshape(h * size, w * size, c // size**2)


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
    """At most 32 groups of at least four channels."""
    return eqx.nn.GroupNorm(math.gcd(channels, min(32, max(1, channels // 4))), channels)


def normalised(norm: eqx.nn.GroupNorm, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
    """`norm` of an image, computed in float32 or higher precision."""

    def of_groups(means: Float[Array, " c"]) -> Float[Array, " c"]:
        means = means.reshape(norm.groups, -1)
        return jnp.broadcast_to(jnp.mean(means, axis=1, keepdims=True), means.shape).ravel()

    wide = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    centred = wide - of_groups(jnp.mean(wide, axis=(0, 1)))
    variance = of_groups(jnp.mean(centred**2, axis=(0, 1)))
    assert norm.weight is not None
    assert norm.bias is not None
    factor = jax.lax.rsqrt(variance + norm.eps) * norm.weight
    return (factor * centred + norm.bias).astype(x.dtype)


def halved(x: Float[Array, "h w c"]) -> Float[Array, "half_h half_w c"]:
    """Means over blocks of 2 x 2, after repeating the edge of an odd axis."""
    x = jnp.pad(x, ((0, x.shape[0] % 2), (0, x.shape[1] % 2), (0, 0)), mode="edge")
    h, w, c = x.shape
    return jnp.mean(x.reshape(h // 2, 2, w // 2, 2, c), axis=(1, 3))


def doubled(x: Float[Array, "h w c"], size: tuple[int, int]) -> Float[Array, "big_h big_w c"]:
    """Every pixel twice along both axes, cropped to `size`."""
    return jnp.repeat(jnp.repeat(x, 2, axis=0), 2, axis=1)[: size[0], : size[1]]


_LAYOUT = ("NHWC", "OIHW", "NHWC")


def convolved(layer: eqx.nn.Conv2d, x: Float[Array, "h w c"]) -> Float[Array, "h w out"]:
    """`layer` of an image, for a square kernel of odd size and padding that keeps the image's size.

    On CPUs as products of matrices: XLA takes 30 times as long for a convolution in the body of a
    loop as outside, and 200 times as long for its derivative with respect to the kernel (measured
    for 64 images of 8 x 8 with 32 channels). Estimators, solvers and `fit` are loops.
    """
    assert layer.bias is not None
    reach = layer.weight.shape[-1] // 2
    padded = jnp.pad(x, [*2 * [(reach, reach)], (0, 0)])
    return strided(layer.weight, padded, 1) + layer.bias.ravel()


def strided(
    kernel: Float[Array, "out in k k"], x: Float[Array, "h w in"], stride: int
) -> Float[Array, "new_h new_w out"]:
    """A convolution without padding, of every `stride`-th pixel; see `convolved`."""
    if jax.default_backend() == "cpu":
        return _products(kernel, x, stride)
    return jax.lax.conv_general_dilated(
        x[None], kernel, (stride, stride), "VALID", dimension_numbers=_LAYOUT
    )[0]


def transposed(
    kernel: Float[Array, "out in k k"],
    x: Float[Array, "h w in"],
    stride: int,
    size: tuple[int, ...],
) -> Float[Array, "new_h new_w out"]:
    r"""The transposed convolution $y_{si+a,\,sj+b} = \sum K_{ab}\,x_{ij}$, in an image of `size`.

    The size is at least $s(h - 1) + k$ along each axis; further rows and columns are zero.
    """
    k = kernel.shape[-1]
    spread = [stride * (n - 1) + 1 for n in x.shape[:2]]
    if jax.default_backend() != "cpu":
        pads = [(k - 1, n - m) for n, m in zip(size, spread, strict=True)]
        return jax.lax.conv_general_dilated(
            x[None],
            jnp.flip(kernel, (2, 3)),
            (1, 1),
            pads,
            lhs_dilation=(stride, stride),
            dimension_numbers=_LAYOUT,
        )[0]
    # No product with the zeros between the pixels, of which a dilated image mainly consists. The
    # rows of the kernel are added first, then its columns. The derivative of a split is one array;
    # those of indexing would be k arrays of the size of the products.
    zero = jnp.zeros((), x.dtype)
    out = x @ kernel.transpose(1, 2, 3, 0).reshape(x.shape[-1], -1)
    for axis in range(2):
        parts = jax.lax.split(out, k * (out.shape[-1] // k,), axis=2)
        pads = [(0, 0, 0)] * 3
        out = zero
        for i, part in enumerate(parts):
            pads[axis] = (i, size[axis] - spread[axis] - i, stride - 1)
            out = out + jax.lax.pad(part, zero, pads)
    return out


@functools.partial(jax.checkpoint, static_argnums=2)  # the copies of x are not kept
def _products(kernel: Array, x: Array, stride: int) -> Array:
    """A convolution without padding: one product for each row of the kernel."""
    size = kernel.shape[-1]
    height, width = (stride * ((n - size) // stride) + 1 for n in x.shape[:2])
    columns = jnp.concatenate([x[:, j : j + width : stride] for j in range(size)], axis=-1)
    rows = kernel.transpose(2, 3, 1, 0).reshape(size, -1, kernel.shape[0])
    return functools.reduce(
        jnp.add, (columns[i : i + height : stride] @ rows[i] for i in range(size))
    )


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
        x: Float[Array, "h w c"],
        embedding: Float[Array, " e"],
        *,
        key: Key | None,
        resample: Callable[[Array], Array] = lambda x: x,
    ) -> Float[Array, "new_h new_w out"]:
        hidden = resample(jax.nn.silu(normalised(self.norms[0], x)))
        hidden = convolved(self.convolutions[0], hidden) + self.of_embedding(embedding)
        hidden = self.dropout(
            jax.nn.silu(normalised(self.norms[1], hidden)),
            key=key,
            inference=True if key is None else None,
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

    def __call__(self, x: Float[Array, "h w c"]) -> Float[Array, "h w c"]:
        tokens = normalised(self.norm, x).reshape(-1, x.shape[-1])
        return x + self.attention(tokens, tokens, tokens).reshape(x.shape)
