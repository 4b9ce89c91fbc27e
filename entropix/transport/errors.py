r"""Standard errors from the influence of points.

An estimate that is smooth in the distribution of its points changes, when one point is added, by
that point's influence divided by their number: its variance is that of a mean of influences. Each
is taken for two populations: the one that the data were drawn from, and the given data themselves,
of which the points are a part drawn without replacement.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


def errors_of(influence: Float[Array, "n r"], population: int) -> tuple[Array, Array]:
    """Standard errors of a mean over n points with r >= 2 draws of noise each.

    Args:
        influence: shape (n, r).
        population: number of given data.

    Returns:
        With respect to the population of the data, and to the given data alone.
    """
    influence = jax.lax.stop_gradient(influence)
    count, draws = influence.shape
    between = jnp.var(jnp.mean(influence, axis=1), ddof=1)
    within = jnp.mean(jnp.var(influence, axis=1, ddof=1)) / draws
    of_data = jnp.maximum(between - within, 0.0)
    left_out = 1 - count / population
    return jnp.sqrt(between / count), jnp.sqrt((within + left_out * of_data) / count)


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
