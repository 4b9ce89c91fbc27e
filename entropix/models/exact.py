"""The exact model: a distribution whose diffusion is known stands in for a perfect network."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix.distributions import Empirical
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
)
from entropix.models.network_model import collapse


class ExactModel(AbstractModel):
    r"""Score, entropy field and velocity of a known distribution under a process.

    Its neural entropy is the total entropy production $S_{tot}$, its path KL to the truth is zero,
    and its prior is the exact density at `t1`.

    Args:
        distribution: `Gaussian`, `GaussianMixture`, `Empirical`, or any `AbstractDistribution`.
        process: a Gaussian process.

    Raises:
        ValueError: if a condition is passed: the distribution has none.
    """

    distribution: AbstractDistribution
    process: AbstractGaussianProcess

    def __init__(self, distribution: AbstractDistribution, process: AbstractGaussianProcess):
        if not isinstance(distribution, AbstractDistribution):
            raise ValueError(
                f"`distribution` must be a distribution, got {type(distribution).__name__}."
            )
        if not isinstance(process, AbstractGaussianProcess):
            raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
        self.distribution = distribution
        self.process = process

    @property
    def shape(self) -> tuple[int, ...]:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.distribution.dim,)

    @property
    def prior(self) -> AbstractDistribution:
        return _final(self.distribution, self.process)

    @property
    def divergence(self) -> str | None:
        if isinstance(self.distribution, Empirical):
            return "the data are a finite set of points"
        return collapse(self.process)

    def with_process(self, process: AbstractGaussianProcess) -> "ExactModel":
        return ExactModel(self.distribution, process)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        _refuse(condition)
        return self.distribution.diffused(self.process, s).score(y)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        _refuse(condition)
        return self.distribution.entropy_field(self.process, s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        # mu' E[x|y] - (Sigma^2)'/2 score is bounded at both ends; b - sigma^2/2 score is not.
        _refuse(condition)
        denoised = self.distribution.denoise(self.process, s, y)
        score = self.distribution.diffused(self.process, s).score(y)
        return self.process.scale_rate(s) * denoised - self.process.var_rate(s) / 2 * score


def _refuse(condition: Any) -> None:
    if condition is not None:
        raise ValueError("`condition` must be None for an ExactModel: its distribution has none.")


@eqx.filter_jit
def _final(
    distribution: AbstractDistribution, process: AbstractGaussianProcess
) -> AbstractDistribution:
    return distribution.diffused(process, process.t1)
