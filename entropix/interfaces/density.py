"""Estimates for single samples, and the interface of ways to compute log densities."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix.interfaces.estimate import Estimate
from entropix.interfaces.model import AbstractModel


class SampleEstimates(eqx.Module):
    """An estimate for each of N samples, such as its log density in nats.

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
    @eqx.filter_jit
    def mean(self) -> Estimate:
        """The mean over samples: `stderr` for the population, `mc_stderr` for these samples."""
        count = self.value.shape[-1]
        # The spread of the values holds the Monte Carlo noise of each already.
        spread = jnp.std(self.value, axis=-1, ddof=min(1, count - 1)) / jnp.sqrt(count)
        if count == 1:  # the spread of a population is not known from one sample
            spread = jnp.full_like(spread, jnp.inf)
        return Estimate(
            jnp.mean(self.value, axis=-1),
            spread,
            jnp.sqrt(jnp.sum(self.stderr**2, axis=-1)) / count,
            self.num_evaluations * count,
            self.cutoff,
        )


class AbstractDensityMethod(eqx.Module):
    """A way to compute log densities of samples under a model: `method` of `entropix.log_prob`."""

    @abc.abstractmethod
    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        """Log densities in nats; the arguments are those of `log_prob`, checked and converted.

        Args:
            model: any model.
            x: samples.
            prior: what generation starts from, with `log_prob(y)`.
            condition: None, or a pytree of arrays with leading axis n.
            cutoff: the smallest noise standard deviation included, or None.
            key: a PRNG key, or None where the user gave none.
            chunk_size: evaluations held in memory at once.

        Raises:
            ValueError: if the method needs a key and got none.
            DivergenceError: if a density is infinite without a cut-off.
        """
