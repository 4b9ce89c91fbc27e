r"""A lower bound on the transport along a linear process, from the moments of the data.

The densities at the two ends have moments $(m, C)$ and $(\mu m, \mu^2 C + \Sigma^2)$. By Gelbrich
(1990) the distance of Gaussians with these moments bounds $W_2$ from below, with equality for
Gaussian data; as the covariances commute, with $\lambda_j$ the eigenvalues of C,

$$W_2^2 \ge (1 - \mu)^2|m|^2 +
  \sum_j\left(\sqrt{\lambda_j} - \sqrt{\mu^2\lambda_j + \Sigma^2}\right)^2.$$
"""

import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix.interfaces import AbstractGaussianProcess


def squared_lower_bound(
    process: AbstractGaussianProcess, x: Float[Array, "n dim"]
) -> tuple[Float[Array, ""], Float[Array, " n"]]:
    """The bound on $W_2^2$ between `t0` and `t1`, and each sample's influence on it."""
    scale, var = process.scale(process.t1), process.var(process.t1)
    count, dim = x.shape
    mean = jnp.mean(x, axis=0)
    centred = x - mean
    if dim <= count:
        values, basis = jnp.linalg.eigh(centred.T @ centred / count)
        coordinates = centred @ basis
    else:  # the same eigenvalues but for zeros
        values, basis = jnp.linalg.eigh(centred @ centred.T / count)
        coordinates = basis * jnp.sqrt(count * jnp.maximum(values, 0.0))
    least = 10 * jnp.finfo(x.dtype).eps * jnp.maximum(values[-1], jnp.finfo(x.dtype).tiny)
    varies = values > least
    safe = jnp.where(varies, values, 1.0)
    start, end = jnp.where(varies, jnp.sqrt(safe), 0.0), jnp.sqrt(scale**2 * safe + var)
    end = jnp.where(varies, end, jnp.sqrt(var))
    shift = (1 - scale) ** 2 * mean
    # start - end, which cancels where the data are wide against the noise.
    gap = jnp.where(varies, ((1 - scale) * (1 + scale) * safe - var) / (start + end), -end)
    bound = shift @ mean + jnp.sum(gap**2) + (dim - values.shape[0]) * var
    # d/d lambda of each term; for directions without variance the data have no influence.
    slope = jnp.where(varies, gap * (1 / jnp.sqrt(safe) - scale**2 / end), 0.0)
    influence = 2 * centred @ shift + (coordinates**2 - values) @ slope
    return bound, influence
