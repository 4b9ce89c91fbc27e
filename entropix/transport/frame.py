r"""Samples as points, and the frame in which distances between them are computed.

A common shift changes no distance and a common factor multiplies every one, but not in
floating-point numbers: $\|x - y\|^2$ of points near 1000 has lost the digits that separate them,
and that of points near $10^{20}$ is infinite in single precision. Samples are therefore compared
in a frame of their own: moved to the origin, and divided by a power of two so that no distance
exceeds one. Both are exact but for the rounding of one subtraction. For squared distances each
sample may be moved on its own,

$$\|x - y\|^2 = \|x' - y'\|^2 + 2(x' - y')\cdot\Delta + \|\Delta\|^2, \qquad
  x' = x - a,\ y' = y - b,\ \Delta = a - b,$$

where the last two terms are the same for every coupling: samples that are far apart are compared
as well as others.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, as_float
from entropix._core.checks import checked, samples


def as_clouds(
    x: DataLike, y: DataLike, *, invariant: bool = True
) -> tuple[Float[Array, "n dim"], Float[Array, "m dim"]]:
    """Two samples as points of one size and precision; numbers are points on a line.

    Where only differences matter (`invariant`), NumPy arrays that are more precise than JAX is set
    to be are moved to the origin before they are rounded.
    """
    if invariant and isinstance(x, np.ndarray) and isinstance(y, np.ndarray):
        x, y = _without_offset(x, y)

    def points(given: DataLike, name: str) -> Array:
        array = as_float(given, name)
        array = samples(array[:, None] if array.ndim == 1 else array, name, minimum=1)
        return array.reshape(array.shape[0], -1)

    a, b = points(x, "x"), points(y, "y")
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"`y` must have samples of the same size as `x`, {a.shape[1]} numbers, "
            f"got {b.shape[1]}."
        )
    dtype = jnp.promote_types(a.dtype, b.dtype)
    return a.astype(dtype), b.astype(dtype)


def _without_offset(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    size = jax.dtypes.canonicalize_dtype(jnp.result_type(float)).itemsize
    for v in (x, y):
        numbers = type(v) is np.ndarray and v.dtype.kind in "iuf" and v.dtype.itemsize > size
        if not (numbers and v.ndim and v.size) or v.shape[1:] != x.shape[1:]:
            return x, y
    a, b = (np.asarray(v, np.float64) - np.asarray(x[0], np.float64) for v in (x, y))
    return (a, b) if np.all(np.isfinite(a)) and np.all(np.isfinite(b)) else (x, y)


def order(p: float | int) -> float:
    """The order of a Wasserstein distance: a finite number of at least one."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not 1 <= p < float("inf"):
        raise ValueError(f"`p` must be a finite number of at least 1, got {p!r}.")
    return float(p)


class Frame(eqx.Module):
    r"""Two samples in units in which no distance between the moved points exceeds one.

    Attributes:
        x: the first sample, moved and rescaled.
        y: the second.
        scale: what one unit of `x` and `y` is in units of the data, a power of two.
        unit: the same for `shift`; at least `scale`, so that a large shift does not overflow.
        ratio: `scale / unit`.
        shift: $\Delta$ in units of `unit`; zero where both were moved together.
        centre: what was taken from `y`, in units of `unit`.
    """

    x: Float[Array, "n dim"]
    y: Float[Array, "m dim"]
    scale: Float[Array, ""]
    unit: Float[Array, ""]
    ratio: Float[Array, ""]
    shift: Float[Array, " dim"]
    centre: Float[Array, " dim"]

    def shift_cost(self) -> Float[Array, ""]:
        r"""$2(\bar x' - \bar y')\cdot\Delta + \|\Delta\|^2$ in units of `unit` squared."""
        rest = jnp.mean(self.x, axis=0) - jnp.mean(self.y, axis=0)
        return jnp.sum((self.shift + 2 * self.ratio * rest) * self.shift)

    def shift_influence(self) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
        """What the terms of the shift add to the potentials, in the same units, up to constants."""
        x, y, shift = jax.lax.stop_gradient((self.x, self.y, 2 * self.ratio * self.shift))
        return x @ shift, -(y @ shift)


def frame(x: Float[Array, "n dim"], y: Float[Array, "m dim"], *, separately: bool) -> Frame:
    """The frame of two samples, each moved by its own mean or both by that of the pair.

    The motion and the unit are constants under differentiation: no distance depends on them.
    """

    def means(x: Array, y: Array) -> tuple[Array, Array]:
        x, y = jax.lax.stop_gradient((x, y))
        a, b = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
        return (a, b) if separately else ((a + b) / 2, (a + b) / 2)

    def largest(x: Array, y: Array) -> Array:
        return jnp.maximum(*(jnp.max(jnp.abs(v)) for v in jax.lax.stop_gradient((x, y))))

    first = power_of_two(largest(x, y))
    x, y = x / first, y / first
    a, b = means(x, y)
    x, y = x - a, y - b
    # Again: a mean far from zero is rounded by as much as matters to points that are close.
    rest_a, rest_b = means(x, y)
    x, y = x - rest_a, y - rest_b
    shift, centre = (a - b) + (rest_a - rest_b), b + rest_b
    # Norms without overflow or underflow: the largest coordinate is divided out first.
    wide = largest(x, y)
    wide = jnp.where(wide > 0, wide, 1.0)
    squares = (jnp.max(jnp.sum((v / wide) ** 2, axis=1)) for v in jax.lax.stop_gradient((x, y)))
    norm = wide * jnp.sqrt(jnp.maximum(*squares))
    second = 4 * power_of_two(norm)
    far = power_of_two(jnp.max(jnp.abs(shift)))
    second = jnp.where(norm > 0, second, far)
    unit = jnp.maximum(second, jnp.where(jnp.any(shift != 0), far, second))
    return Frame(
        x / second,
        y / second,
        first * second,
        first * unit,
        second / unit,
        shift / unit,
        centre / unit,
    )


def power_of_two(value: Float[Array, ""]) -> Float[Array, ""]:
    """The largest power of two that is not larger; one for zero."""
    safe = jnp.where(value >= jnp.finfo(value.dtype).tiny, value, 1.0)
    return safe / (2 * jnp.frexp(safe)[0])


def to_cost_unit(epsilon: Array, scale: Array, p: float) -> Array:
    """A cost in units of `scale`, kept within what the dtype can hold."""
    if p == 2:
        # Not epsilon / scale / scale, of which the compiler makes epsilon / scale^2.
        converted = (jnp.sqrt(epsilon) / scale) ** 2
    else:
        converted = jnp.exp2(jnp.log2(epsilon) - p * jnp.log2(scale))
    limits = jnp.finfo(converted.dtype)
    return jnp.clip(converted, 16 * limits.tiny, limits.max**0.5)


def representable(value: Array, name: str, other: str) -> Array:
    """A distance, or an error where its dtype cannot hold it."""
    return checked(
        value,
        name,
        lambda v: abs(v) < float("inf"),
        f"at a distance from `{other}` that {value.dtype} can hold: rescale both, or use float64",
    )
