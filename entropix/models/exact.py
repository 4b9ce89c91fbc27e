"""The exact model: a distribution with known diffusion in place of a perfect network."""

from typing import ClassVar

import equinox as eqx
from jaxtyping import PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix.distributions import Empirical
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess, AbstractModel
from entropix.models.network_model import check_process, collapse


class ExactModel(AbstractModel):
    r"""Score, entropy field and velocity of a known distribution under a process.

    Its neural entropy is the total entropy production $S_{tot}$, and its prior is the exact density
    at `t1`.

    Args:
        distribution: `Gaussian`, `GaussianMixture`, `Empirical`, or any `AbstractDistribution`.
        process: a Gaussian process.

    Raises:
        ValueError: if an argument has another type, or a field is evaluated with a condition.

    Example:
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> model = ex.ExactModel(ex.Gaussian([0.0], [[0.25]]), ex.CosinePath())
        >>> print(model.score(0.0, jnp.array([1.0])))
        [-4.]
    """

    is_exact: ClassVar[bool] = True
    distribution: AbstractDistribution
    process: AbstractGaussianProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, distribution: AbstractDistribution, process: AbstractGaussianProcess):
        if not isinstance(distribution, AbstractDistribution):
            raise ValueError(
                f"`distribution` must be a distribution, got {type(distribution).__name__}."
            )
        check_process(process)
        self.distribution = distribution
        self.process = process
        self.shape = (distribution.dim,)

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
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        _refuse(condition)
        return self.distribution.diffused(self.process, s).score(y)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        _refuse(condition)
        return self.distribution.entropy_field(self.process, s, y)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        # mu' E[x|y] - (Sigma^2)'/2 score is bounded at both ends; b - sigma^2/2 score is not.
        _refuse(condition)
        denoised = self.distribution.denoise(self.process, s, y)
        score = self.distribution.diffused(self.process, s).score(y)
        return self.process.scale_rate(s) * denoised - self.process.var_rate(s) / 2 * score


def _refuse(condition: PyTree) -> None:
    if condition is not None:
        raise ValueError("`condition` must be None for an ExactModel: its distribution has none.")


@eqx.filter_jit
def _final(
    distribution: AbstractDistribution, process: AbstractGaussianProcess
) -> AbstractDistribution:
    return distribution.diffused(process, process.t1)
