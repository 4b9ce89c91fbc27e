r"""Standard errors from the influence of points.

An estimate that is smooth in the distribution of its points changes, when one point is added, by
that point's influence divided by their number: its variance is that of a mean of influences. Each
is taken for two populations: the one that the data were drawn from, and the given data themselves,
of which the points are a part drawn without replacement.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def errors_of(
    influence: Float[Array, "n r"], population: int, known: Float[Array, " n"] | float = 0.0
) -> tuple[Array, Array]:
    """Standard errors of a mean over n points with r >= 2 draws of noise each.

    A control variate moves a part of each point's influence to a term that is averaged over all
    data and over the noise exactly: that part is `known`, and adds no error but that of the data.

    Args:
        influence: what was averaged over the points, shape (n, r).
        population: number of given data.
        known: influence of these points on the term averaged over all data, shape (n,).

    Returns:
        With respect to the population of the data, and to the given data alone.
    """
    influence, known = jax.lax.stop_gradient((influence, known))
    count, draws = influence.shape
    of_points = jnp.mean(influence, axis=1)
    within = jnp.mean(jnp.var(influence, axis=1, ddof=1)) / draws
    of_data = jnp.maximum(jnp.var(of_points, ddof=1) - within, 0.0)
    of_both = jnp.maximum(jnp.var(of_points + known, ddof=1) - within, 0.0)
    left_out = 1 - count / population
    alone = (within + left_out * of_data) / count
    return jnp.sqrt(alone + of_both / population), jnp.sqrt(alone)


def split_errors(
    of_data: Float[Array, " n"], of_noise: Float[Array, " n"], population: int
) -> tuple[Array, Array]:
    """The same where a point's influence is known as the sum of the datum's and of the noise's."""
    of_data, of_noise = jax.lax.stop_gradient((of_data, of_noise))
    count = of_data.shape[0]
    left_out = 1 - count / population
    both = jnp.var(of_data + of_noise, ddof=1)
    alone = jnp.var(of_noise, ddof=1) + left_out * jnp.var(of_data, ddof=1)
    return jnp.sqrt(both / count), jnp.sqrt(alone / count)


@jax.jit
def two_sample_error(u: Float[Array, " n"], v: Float[Array, " m"]) -> Float[Array, ""]:
    """Standard error of the mean of u plus the mean of v, independent samples.

    One point alone does not know how it varies: its error is infinite.
    """
    u, v = jax.lax.stop_gradient((u, v))
    if min(u.shape[0], v.shape[0]) < 2:
        return jnp.full((), jnp.inf, u.dtype)
    # In units of the largest influence: squares neither overflow nor underflow.
    u, v = u - jnp.mean(u), v - jnp.mean(v)
    largest = jnp.maximum(jnp.max(jnp.abs(u)), jnp.max(jnp.abs(v)))
    unit = jnp.where(largest > 0, largest, 1.0)
    u, v = u / unit, v / unit
    return unit * jnp.sqrt(jnp.var(u, ddof=1) / u.shape[0] + jnp.var(v, ddof=1) / v.shape[0])
