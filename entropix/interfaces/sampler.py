"""What a sampler implements: a step of a batch of states from one noise level to the next."""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Bool, Float, PyTree

from entropix._core.arrays import Key, RealLike


class NoiseLevel(eqx.Module):
    r"""A noise level: what a step needs to know of a time of the process.

    Fields have the shape of the times. `log_snr` is infinite at the data, and minus infinity
    wherever the signal is negligible. For tokens $\alpha$ and $1 - \alpha$ take the places of $\mu$
    and of $\Sigma$ and $\Sigma^2$.

    Attributes:
        s: time of the process.
        scale: $\mu(s)$.
        std: $\Sigma(s)$.
        log_snr: $\log(\mu^2/\Sigma^2)$.
        at: the time the model is evaluated at: `s`, unless the signal is negligible there.
        at_scale: $\mu$ at that time.
        at_var: $\Sigma^2$ at that time.
        gain: the factor that brings a state from `s` to that time.
    """

    s: Float[Array, "*knots"]
    scale: Float[Array, "*knots"]
    std: Float[Array, "*knots"]
    log_snr: Float[Array, "*knots"]
    at: Float[Array, "*knots"]
    at_scale: Float[Array, "*knots"]
    at_var: Float[Array, "*knots"]
    gain: Float[Array, "*knots"]

    @property
    def is_data(self) -> Bool[Array, "*knots"]:
        r"""Whether $\Sigma = 0$."""
        return self.log_snr == jnp.inf

    @property
    def is_noise(self) -> Bool[Array, "*knots"]:
        """Whether the signal is negligible."""
        return self.log_snr == -jnp.inf


class AbstractDenoiser(eqx.Module):
    """The denoiser $D(y, s)$ that `sample` hands to a sampler, for a batch of states.

    Attributes:
        condition: None, or arrays with a leading axis of the batch.
    """

    condition: AbstractVar[PyTree]

    @property
    @abc.abstractmethod
    def process(self) -> Any:
        """The process of the model: Gaussian, or of tokens."""

    @abc.abstractmethod
    def steps(self, num_steps: int) -> Float[Array, " knots"]:
        """Times of as many steps as are wanted, from `t1` to `t0`."""

    @abc.abstractmethod
    def level(self, s: RealLike) -> NoiseLevel:
        """The noise level of a time, or of an array of times."""

    @abc.abstractmethod
    def __call__(self, level: NoiseLevel, y: Float[Array, "n *shape"]) -> Float[Array, "n *shape"]:
        """$D(y, s)$; at the data a finite number without meaning.

        Of a model of tokens the entropy field, shape (n, *shape, num_tokens).
        """


class AbstractSampler(eqx.Module):
    """A method that takes states from noise to data, level by level.

    Pass one as `solver` to `sample`. A step works on a batch, shape (n, *shape). No sample may
    depend on another, so that the result depends neither on their number nor on chunks.
    """

    @abc.abstractmethod
    def init(self, y: Float[Array, "n *shape"], num_steps: int) -> PyTree:
        """What the first step is given as `carry`: a pytree of arrays."""

    @abc.abstractmethod
    def step(
        self,
        denoiser: AbstractDenoiser,
        now: NoiseLevel,
        then: NoiseLevel,
        y: Float[Array, "n *shape"],
        carry: PyTree,
        keys: Key,
    ) -> tuple[Float[Array, "n *shape"], PyTree]:
        """One step.

        Args:
            denoiser: the model; it must not be evaluated at a level that `is_data`.
            now: the level of `y`, never the data.
            then: the level to reach, never where the scale is zero.
            y: states at `now`.
            carry: from `init`, or from the step before.
            keys: one PRNG key for each sample, new at each step.

        Returns:
            States at `then`, and what the next step is given.
        """
