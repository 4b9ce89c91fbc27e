r"""The sliced Wasserstein distance: the mean over directions of distances on a line.

$$SW_p(x, y)^p = E_\theta\,W_p(\theta\cdot x, \theta\cdot y)^p, \qquad \theta \text{ uniform on the
unit sphere}$$

(Bonneel et al., 2015; Nadjahi et al., 2003.05783). It is exact for the samples but for the
directions, costs $n\log n$ for each, and its sampling error does not grow with the dimension. For
p = 2 the shift of the means enters on its own, $W_2(\theta\cdot x, \theta\cdot y)^2 = (\theta\cdot
\Delta)^2 + W_2(\text{centred})^2$, and is averaged exactly: $E_\theta(\theta\cdot\Delta)^2 =
|\Delta|^2/D$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer, prng_key
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.estimate import Estimate
from entropix._core.precision import full_precision
from entropix.transport.couplings import sorted_cost, sorted_potentials
from entropix.transport.errors import two_sample_error
from entropix.transport.points import as_points, order
from entropix.transport.wasserstein import power_root


@full_precision
def sliced_wasserstein(
    x: Any,
    y: Any,
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
        ValueError: if an argument is malformed.
    """
    x, y = as_points(x, "x"), as_points(y, "y", like=as_points(x, "x"))
    p = order(p)
    prng_key(key)
    count = positive_integer(num_projections, "num_projections", 2)
    positive_integer(chunk_size, "chunk_size")
    return _sliced(x, y, key, p, count, chunk_size)


@eqx.filter_jit
def _sliced(x: Array, y: Array, key: Key, p: float, count: int, chunk_size: int) -> Estimate:
    directions = jax.random.normal(key, (count, x.shape[1]), x.dtype)
    directions = directions / jnp.linalg.norm(directions, axis=1, keepdims=True)
    exact = jnp.zeros((), x.dtype)
    of_x, of_y = jnp.zeros(x.shape[0], x.dtype), jnp.zeros(y.shape[0], y.dtype)
    if p == 2:
        mean_x, mean_y = jnp.mean(x, axis=0), jnp.mean(y, axis=0)
        shift = mean_x - mean_y
        x, y = x - mean_x, y - mean_y
        exact = jnp.sum(shift**2) / x.shape[1]
        of_x, of_y = 2 / x.shape[1] * (x @ shift), -2 / x.shape[1] * (y @ shift)

    def along(theta: Array, weight: Array) -> tuple[Array, Array, Array]:
        projected = theta @ x.T, theta @ y.T
        costs = jax.vmap(lambda a, b: sorted_cost(a, b, p))(*projected)
        u, v = jax.vmap(lambda a, b: sorted_potentials(a, b, p))(*projected)
        return costs, weight @ u, weight @ v

    costs, u, v = in_chunks(along, directions, count, chunk_size)
    costs = unchunk(costs, count)
    total = exact + jnp.mean(costs)
    value = power_root(total, p)
    root = jax.lax.stop_gradient(value)
    slope = jnp.where(root > 0, 1 / (p * jnp.where(root > 0, root, 1.0) ** (p - 1)), 0.0)
    of_directions = jax.lax.stop_gradient(jnp.std(costs, ddof=1)) / jnp.sqrt(count)
    of_points = two_sample_error(
        of_x + jnp.sum(u, axis=0) / count, of_y + jnp.sum(v, axis=0) / count
    )
    return Estimate(
        value, slope * jnp.hypot(of_directions, of_points), slope * of_directions, count
    )
