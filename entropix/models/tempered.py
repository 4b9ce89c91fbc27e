r"""Models at another temperature, with the same density at the noise end.

The density at temperature $T$ is $p^{1/T}$, normalised. Dividing the score by $T$ at every noise
level would be correct only at the data end, would change the density in which the process ends, and
would lead to an infinite entropy of processes that end in pure noise. Instead, the score is divided
by the factor that is exact for data $N(m, v I)$,

$$T(s) = 1 + (T - 1)\,a(s), \qquad a = \frac{\mu^2 v}{\mu^2 v + \Sigma^2},$$

which changes from $T$ at the data end to 1 at the noise end (Ingraham et al., Nature 623, 1070
(2023), use such a factor to sample proteins at low temperature). Then

$$e_T = \frac{e + (T - 1)\,a\,\pi y}{T(s)}, \qquad
  v_T = \frac{v + (T - 1)\,a\,\frac{\mu'}{\mu}\,y}{T(s)},$$

where the second terms are proportional to $\mu^2$ and $\mu\mu'$ at the noise end.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, State
from entropix._core.checks import positive
from entropix.distributions import Gaussian, IsotropicGaussian
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractPrior,
)
from entropix.models.network_model import check_process, checked_model
from entropix.models.reference_variance import reference_variance


class Tempered(AbstractModel):
    r"""A model whose score is divided by a temperature, $s/T(s)$ with $T(t_0) = T$.

    This is an exact model of $p^{1/T}$ for Gaussian data of variance `variance` in every direction.
    For well-separated groups of this variance it is exact except for the weights of the groups,
    which do not change. For other data only the score at the data end is that of $p^{1/T}$, and the
    generated density differs. The model has its own neural entropy and log densities.
    Differentiable in the temperature.

    Args:
        model: a model of a Gaussian process.
        temperature: $T$, positive; below 1 samples concentrate where the density is high.
        variance: $v$, the variance of the data, or of one group of them; None for that stored in
            the model.

    Raises:
        ValueError: if an argument is not allowed.

    References:
        Ingraham et al., Nature 623, 1070 (2023).
    """

    model: AbstractModel
    temperature: Float[Array, ""]
    variance: Float[Array, ""]
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self, model: AbstractModel, temperature: DataLike, variance: DataLike | None = None
    ):
        checked_model(model)
        check_process(model.process, "model.process")
        self.model = model
        self.temperature = positive(temperature, "temperature", shape=())
        self.variance = positive(reference_variance(model, variance), "variance", shape=())
        self.shape = model.shape

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def prior(self) -> AbstractDistribution | AbstractPrior:
        r"""The prior of the model with its covariance times $T(t_1)$, which is 1 if $\mu(t_1) = 0$.

        A prior that is not Gaussian is not changed, for lack of a closed form.
        """
        prior, factor = self.model.prior, self._temperature(self.process.t1)
        if isinstance(prior, IsotropicGaussian):
            return IsotropicGaussian(prior.shape, prior.std * jnp.sqrt(factor))
        if isinstance(prior, Gaussian):
            return Gaussian(prior.mean, prior.covariance * factor)
        return prior

    @property
    def divergence(self) -> str | None:
        return self.model.divergence

    def with_process(self, process: AbstractGaussianProcess) -> "Tempered":
        return Tempered(self.model.with_process(process), self.temperature, self.variance)

    def _excess(self, s: RealScalarLike) -> Array:
        r"""$(T - 1)\,a/\mu$."""
        scale = self.process.scale(s)
        total = scale**2 * self.variance + self.process.var(s)
        return (self.temperature - 1) * scale * self.variance / total

    def _temperature(self, s: RealScalarLike) -> Array:
        r"""$T(s)$."""
        return 1 + self.process.scale(s) * self._excess(s)

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return self.model.score(s, y, condition, key=key) / self._temperature(s)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        field = self.model.entropy_field(s, y, condition, key=key)
        pull = self._excess(s) * self.process.scale(s) * self.process.equilibrium_score(s, y)
        return (field - pull) / self._temperature(s)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        flow = self.model.velocity(s, y, condition, key=key)
        return (flow + self._excess(s) * self.process.scale_rate(s) * y) / self._temperature(s)
