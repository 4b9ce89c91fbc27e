r"""Models at another temperature: fields sharpened or flattened without moving what they end in.

The data at temperature $T$ are $p^{1/T}$, normalised. Dividing the score by $T$ at every noise
level would be right at the data end only, would change the density the process ends in, and would
leave an infinite entropy wherever the process ends in pure noise. The factor used is that of data
$N(m, v I)$, for which everything is known: their score is divided by

$$T(s) = 1 + (T - 1)\,a(s), \qquad a = \frac{\mu^2 v}{\mu^2 v + \Sigma^2},$$

from $T$ at the data end to 1 at the noise end (Ingraham et al., Nature 623, 1070 (2023), use such a
factor to sample proteins at low temperature). With it

$$e_T = \frac{e + (T - 1)\,a\,\pi y}{T(s)}, \qquad
  v_T = \frac{v + (T - 1)\,a\,\frac{\mu'}{\mu}\,y}{T(s)},$$

whose second terms are proportional to $\mu^2$ and $\mu\mu'$ at the noise end.
"""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import positive
from entropix.distributions import Gaussian, IsotropicGaussian
from entropix.interfaces import AbstractModel
from entropix.models.network_model import check_process
from entropix.models.reference_variance import reference_variance


class Tempered(AbstractModel):
    r"""A model whose score is divided by a temperature, $s/T(s)$ with $T(t_0) = T$.

    Exact, that is a model of $p^{1/T}$, for Gaussian data of variance `variance` in every
    direction, and for well separated groups of that variance up to the weights of the groups,
    which stay as they are at every temperature. Of other data only the score at the data end is
    that of $p^{1/T}$; what is generated is not $p^{1/T}$. The field is a model of its own, with a
    neural entropy and log densities. Differentiable in the temperature.

    Args:
        model: a model of a Gaussian process.
        temperature: $T$, positive; below 1 samples gather where the density is high.
        variance: $v$, the variance of the data, or of one of the groups they consist of; None for
            what the model knows of its data.

    Raises:
        ValueError: if an argument is not allowed.
    """

    model: AbstractModel
    temperature: Float[Array, ""]
    variance: Float[Array, ""]

    def __init__(self, model: AbstractModel, temperature: Any, variance: Any = None):
        if not isinstance(model, AbstractModel):
            raise ValueError(f"`model` must be a model, got {type(model).__name__}.")
        check_process(model.process, "model.process")
        self.model = model
        self.temperature = positive(temperature, "temperature", shape=())
        self.variance = positive(reference_variance(model, variance), "variance", shape=())

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def shape(self) -> tuple[int, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.shape

    @property
    def prior(self) -> Any:
        r"""The model's prior with its covariance times $T(t_1)$, which is 1 where $\mu(t_1) = 0$.

        A prior that is not Gaussian is taken as it is: no closed form is known.
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

    def with_process(self, process: Any) -> "Tempered":
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
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self.model.score(s, y, condition, key=key) / self._temperature(s)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        field = self.model.entropy_field(s, y, condition, key=key)
        pull = self._excess(s) * self.process.scale(s) * self.process.equilibrium_score(s, y)
        return (field - pull) / self._temperature(s)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        flow = self.model.velocity(s, y, condition, key=key)
        return (flow + self._excess(s) * self.process.scale_rate(s) * y) / self._temperature(s)
