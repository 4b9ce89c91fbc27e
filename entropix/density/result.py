"""Log densities of samples, with standard errors."""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.estimate import Estimate


class LogDensity(eqx.Module):
    """Per-sample log densities in nats.

    Attributes:
        value: shape (N,).
        stderr: Monte Carlo standard error of each, shape (N,).
        num_evaluations: evaluations of the model's field per sample; 0 where adaptive steps decide.
    """

    value: Float[Array, "*seeds n"]
    stderr: Float[Array, "*seeds n"]
    num_evaluations: int = eqx.field(static=True)

    @property
    def mean(self) -> Estimate:
        """The mean over samples: `stderr` for the population, `mc_stderr` for these samples."""
        count = self.value.shape[-1]
        monte_carlo = jnp.sqrt(jnp.sum(self.stderr**2, axis=-1)) / count
        # The spread of the values holds the Monte Carlo noise of each already.
        spread = jnp.std(self.value, axis=-1, ddof=min(1, count - 1)) / jnp.sqrt(count)
        if count == 1:  # one sample does not know how far the next one lies
            spread = jnp.full_like(spread, jnp.inf)
        return Estimate(
            jnp.mean(self.value, axis=-1), spread, monte_carlo, self.num_evaluations * count
        )
