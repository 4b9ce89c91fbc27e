r"""A model under any Gaussian process, whatever the one it was trained with.

Two processes carry the same data to states that differ by a factor where their log-SNRs agree:
$u = y/\mu$ and $\lambda$ are what a denoiser knows. With $\lambda(s) = \tilde\lambda(\tilde s)$ and
$\tilde y = y\,\tilde\mu/\mu$

$$\nabla\log p_s(y) = \frac{\tilde\mu}{\mu}\,\nabla\log\tilde p_{\tilde s}(\tilde y), \qquad
  v = \mu' D - \frac{(\Sigma^2)'}{2}\,\nabla\log p_s, \qquad
  D = \frac{y + \Sigma^2\,\nabla\log p_s}{\mu},$$

the second form of the velocity bounded at both ends of the axis.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.distributions.isotropic import IsotropicGaussian
from entropix.models import ExactModel


def translate(model: AbstractModel, process: AbstractGaussianProcess) -> AbstractModel:
    """The model under another process: the same denoiser at every log-SNR.

    Where its equilibrium stays, and for exact models, that is `model.with_process`.
    """
    if isinstance(model, ExactModel):
        return model.with_process(process)
    own = model.process
    if own.is_static and process.is_static:
        here, there = equilibrium_std(own), equilibrium_std(process)
        if abs(here - there) <= 1e-6 * here:
            return model.with_process(process)
    return Translated(model, process)


def equilibrium_std(process: AbstractGaussianProcess) -> float:
    r"""$\kappa$ of a process with a static equilibrium."""
    return float(process.equilibrium_precision(process.t1)) ** -0.5


class Translated(AbstractModel):
    """A model under a process that is not its own; see the module.

    Args:
        model: a model of a Gaussian process.
        process: the process to see it under.
    """

    model: AbstractModel
    process: AbstractGaussianProcess

    def __init__(self, model: AbstractModel, process: AbstractGaussianProcess):
        self.model = model
        self.process = process

    @property
    def shape(self) -> tuple[int, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.shape

    @property
    def prior(self) -> IsotropicGaussian:
        process = self.process
        if process.is_static:
            width = 1 / jnp.sqrt(process.equilibrium_precision(process.t1))
        else:
            width = process.std(process.t1)
        return IsotropicGaussian(self.shape or (), width)

    @property
    def divergence(self) -> str | None:
        if self.process.is_finite:
            return self.model.divergence
        return f"the equilibrium of {type(self.process).__name__} collapses at the data end"

    def with_process(self, process: AbstractGaussianProcess) -> "Translated":
        return Translated(self.model, process)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        own = self.model.process
        at = own.time_of_log_snr(self.process.log_snr(s))
        factor = own.scale(at) / self.process.scale(s)
        return factor * self.model.score(at, factor * y, condition, key=key)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self.score(s, y, condition, key=key) - self.process.equilibrium_score(s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        process = self.process
        score = self.score(s, y, condition, key=key)
        denoised = (y + process.var(s) * score) / process.scale(s)
        return process.scale_rate(s) * denoised - process.var_rate(s) / 2 * score
