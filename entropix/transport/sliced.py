r"""The sliced Wasserstein distance: the mean over directions of distances on a line.

$$SW_p(x, y)^p = E_\theta\,W_p(\theta\cdot x, \theta\cdot y)^p, \qquad \theta \text{ uniform on the
unit sphere}$$

(Bonneel et al., 2015; Nadjahi et al., 2003.05783). It is exact for the samples but for the
directions, costs $n\log n$ for each, and its sampling error does not grow with the dimension. For
p = 2 the shift of the means enters on its own, $W_2(\theta\cdot x, \theta\cdot y)^2 = (\theta\cdot
\Delta)^2 + W_2(\text{centred})^2$, and is averaged exactly: $E_\theta(\theta\cdot\Delta)^2 =
|\Delta|^2/D$.
"""

import functools

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import positive_integer, prng_key
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.precision import full_precision
from entropix.interfaces import Estimate
from entropix.transport.couplings import (
    error_of_root,
    potential_unit,
    power_mean,
    power_root,
    sorted_distance,
    sorted_potentials,
    two_sample_error,
)
from entropix.transport.frame import as_clouds, frame, order, representable


@full_precision
def sliced_wasserstein(
    x: DataLike,
    y: DataLike,
    p: float | int = 2,
    *,
    key: Key,
    num_projections: int = 256,
    chunk_size: int = 64,
) -> Estimate:
    r"""$SW_p$ between two samples with equal weights, of any sizes.

    Differentiable in the points. For isotropic Gaussians of means $m_1, m_2$ and standard
    deviations $a, b$, $SW_2^2 = |m_1 - m_2|^2/D + (a - b)^2$.

    Args:
        x: samples, shape (n, *shape), or (n,) for numbers.
        y: samples, shape (m, *shape).
        p: order of the distance, at least 1.
        key: PRNG key of the directions.
        num_projections: how many.
        chunk_size: directions held in memory at once.

    Returns:
        An `Estimate` in units of the data: `mc_stderr` is the error due to the directions, and
        `stderr` also that due to the samples, honest for samples of different populations.

    Raises:
        ValueError: if an argument is malformed, or the distance too large for the precision of the
            samples.

    References:
        Bonneel et al., J. Math. Imaging Vis. 51, 22 (2015); Nadjahi et al., 2003.05783.
    """
    x, y = as_clouds(x, y)
    p = order(p)
    prng_key(key)
    count = positive_integer(num_projections, "num_projections", 2)
    positive_integer(chunk_size, "chunk_size")
    value, stderr, mc_stderr = _sliced(x, y, key, p, count, chunk_size)
    return Estimate(representable(value, "x", "y"), stderr, mc_stderr, count)


@functools.partial(jax.jit, static_argnames=("p", "count", "chunk_size"))
def _sliced(
    x: Array, y: Array, key: Key, p: float, count: int, chunk_size: int
) -> tuple[Array, Array, Array]:
    directions = jax.random.normal(key, (count, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    place = frame(x, y, separately=p == 2)

    def project(theta: Array) -> tuple[Array, Array]:
        return theta @ place.x.T, theta @ place.y.T

    def along(theta: Array, weight: Array) -> Array:
        return jax.vmap(lambda a, b: sorted_distance(a, b, p))(*project(theta))

    distances = unchunk(in_chunks(along, directions, count, chunk_size), count)
    value = power_mean(distances, p)
    # No distance in the frame exceeds one; squares need no unit of their own.
    inside = jnp.ones((), x.dtype) if p == 2 else potential_unit(value, jnp.ones_like(value), p)

    def influence(theta: Array, weight: Array) -> tuple[Array, Array]:
        u, v = jax.vmap(lambda a, b: sorted_potentials(a, b, p, inside))(*project(theta))
        return weight @ u, weight @ v

    u, v = jax.lax.stop_gradient(in_chunks(influence, directions, count, chunk_size))
    u, v = jnp.sum(u, axis=0) / count, jnp.sum(v, axis=0) / count
    unit = place.scale
    if p == 2:
        # E of (theta . Delta)^2 is |Delta|^2 / D: the shift of the means is averaged exactly.
        dim, weight = x.shape[1], place.ratio**2
        spread = weight * _scatter(distances**2)
        of_x, of_y = place.shift_influence()
        value = power_root(weight * value**2 + place.shift_cost() / dim, p)
        u, v = weight * u + of_x / dim, weight * v + of_y / dim
        unit, of_directions = place.unit, error_of_root(value, p, spread)
    else:
        scale = jnp.where(value > 0, value, 1.0)
        of_directions = error_of_root(value, p, _scatter((distances / scale) ** p), scale)
    of_points = error_of_root(value, p, two_sample_error(u, v), inside)
    return unit * value, unit * jnp.hypot(of_directions, of_points), unit * of_directions


def _scatter(values: Array) -> Array:
    return jax.lax.stop_gradient(jnp.std(values, ddof=1)) / len(values) ** 0.5
