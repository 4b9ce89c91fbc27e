r"""Uniform dequantisation: a density for data that take discrete values.

A density fitted to discrete values can grow without bound on them. With uniform noise $u$ of the
width $w$ of one level added, it cannot, and it bounds the discrete probabilities (Theis et al.,
equation 3): for $P(x) = \int_{[0, w)^D} p(x + u)\,du$,

$$E \log p(x + u) + D \log w \le E \log P(x) .$$
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import is_concrete, positive
from entropix._core.compiled import lightly_compiled


def dequantise(points: DataLike, *, key: Key, width: DataLike = 1.0) -> Float[Array, "..."]:
    """Add uniform noise on [0, width) to data on levels that lie `width` apart.

    The noise is not centred: a level becomes the interval that starts at it, and the mean grows by
    width / 2. `jnp.floor(y / width) * width` recovers the levels.

    Args:
        points: any shape; multiples of `width`.
        key: random key.
        width: distance of neighbouring levels, in the units of `points`: 1 for integers, 1/255
            for 8-bit pixels scaled to [0, 1].

    Returns:
        Floating samples of the same shape, below `points + width` even after rounding.

    Raises:
        ValueError: if the points are not multiples of `width`: continuous data need no noise.

    References:
        Theis, van den Oord, Bethge, *A note on the evaluation of generative models*, 1511.01844.
    """
    points = as_float(points, "points")
    width = positive(width, "width").astype(points.dtype)
    if width.ndim != 0:
        raise ValueError(f"`width` must be a number, got shape {width.shape}.")
    if is_concrete((points, width)):
        levels = np.asarray(points, np.float64) / float(width)
        off = np.abs(levels - np.round(levels))
        if not np.all(off <= 1e-3):
            raise ValueError(
                f"`points` must be multiples of `width` = {float(width):.6g}, "
                f"got {np.asarray(points)[~(off <= 1e-3)].flat[0]:.6g}: "
                f"continuous data need no dequantisation."
            )
    return _with_noise(points, width, key)


@functools.partial(lightly_compiled, level=1)
def _with_noise(points: Array, width: Array, key: Key) -> Array:
    noise = width * jax.random.uniform(key, points.shape, points.dtype)
    # 255 + 0.99999994 rounds to 256 in float32, which is the next level.
    return jnp.minimum(points + noise, jnp.nextafter(points + width, points))
