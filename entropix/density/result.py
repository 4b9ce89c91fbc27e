"""Log densities of samples, with standard errors."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix.interfaces import Estimate


class LogDensity(eqx.Module):
    """Per-sample log densities in nats.

    Attributes:
        value: shape (N,).
        stderr: Monte Carlo standard error of each, shape (N,).
        num_evaluations: evaluations of the model's field per sample; 0 where adaptive steps decide.
        cutoff: the smallest noise standard deviation included, or None where there is no cut-off.
    """

    value: Float[Array, "*seeds n"]
    stderr: Float[Array, "*seeds n"]
    num_evaluations: int = eqx.field(static=True)
    cutoff: Float[Array, "*seeds"] | None = None

    @property
    def mean(self) -> Estimate:
        """The mean over samples: `stderr` for the population, `mc_stderr` for these samples."""
        return mean_estimate(self)


class BitsPerDimension(eqx.Module):
    r"""Per-image bits per dimension.

    Attributes:
        value: shape (N,), upper bounds on $-\log_2 P(x)/D$ but for their noise.
        stderr: Monte Carlo standard error of each, the noise of dequantisation included.
        num_evaluations: evaluations of the model's field per image; 0 where adaptive steps decide.
        cutoff: the smallest noise standard deviation included, or None where there is no cut-off.
    """

    value: Float[Array, "*seeds n"]
    stderr: Float[Array, "*seeds n"]
    num_evaluations: int = eqx.field(static=True)
    cutoff: Float[Array, "*seeds"] | None = None

    @property
    def mean(self) -> Estimate:
        """The mean over images: `stderr` for the population, `mc_stderr` for these images."""
        return mean_estimate(self)


@eqx.filter_jit
def mean_estimate(each: "LogDensity | BitsPerDimension") -> Estimate:
    """The mean of values that carry standard errors of their own."""
    count = each.value.shape[-1]
    monte_carlo = jnp.sqrt(jnp.sum(each.stderr**2, axis=-1)) / count
    # The spread of the values holds the Monte Carlo noise of each already.
    spread = jnp.std(each.value, axis=-1, ddof=min(1, count - 1)) / jnp.sqrt(count)
    if count == 1:  # one sample does not know how far the next one lies
        spread = jnp.full_like(spread, jnp.inf)
    return Estimate(
        jnp.mean(each.value, axis=-1),
        spread,
        monte_carlo,
        each.num_evaluations * count,
        each.cutoff,
    )
