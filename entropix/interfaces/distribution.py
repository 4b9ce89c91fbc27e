"""Densities: those whose diffusion is known, and those that generation starts from."""

import abc

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.formatting import short_repr
from entropix.interfaces.process import AbstractGaussianProcess


class AbstractDistribution(eqx.Module):
    r"""A density on $R^D$ whose diffusion by any Gaussian process is known exactly.

    `sample`, `log_prob` and `score` take any leading axes; the fields under diffusion
    (`denoise`, `entropy_field`) are written for one example, as models are.
    """

    __repr__ = short_repr

    @property
    @abc.abstractmethod
    def dim(self) -> int:
        """The dimension D."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        """Draw `n` independent samples."""

    @abc.abstractmethod
    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        r"""$\log p(x)$ in nats."""

    @abc.abstractmethod
    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        r"""$\nabla_x \log p(x)$."""

    @abc.abstractmethod
    def diffused(
        self, process: AbstractGaussianProcess, s: RealScalarLike
    ) -> "AbstractDistribution":
        r"""The density of $Y_s = \mu(s)\,x + \Sigma(s)\,z$."""

    @abc.abstractmethod
    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        r"""The posterior mean $E[x\,|\,Y_s = y]$."""

    @abc.abstractmethod
    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        r"""$e^*(y, s) = \nabla\log p_s(y) - \nabla\log p_{eq}^{(s)}(y)$, free of cancellation."""


class AbstractPrior(eqx.Module):
    """What a generative model draws its noise from."""

    @abc.abstractmethod
    def sample(self, n: int, *, key: Key) -> Array:
        """Draw `n` samples, shape (n, *shape)."""

    @abc.abstractmethod
    def log_prob(self, y: Array) -> Array:
        """Log density in nats of `y` with shape (*batch, *shape)."""
