r"""Two forms of one integral over a pair of fields.

With the scores $s_p$ of the first density and $s_q$ of the second, expectations over diffused
samples of the first,

$$\int\frac{\sigma^2}{2}E\|s_p - s_q\|^2\,ds \qquad\text{("score")}$$

$$\int\frac{\sigma^2}{2}E\left[\left\|s_q + \tfrac{z}{\Sigma}\right\|^2 -
\left\|s_p + \tfrac{z}{\Sigma}\right\|^2\right]ds \qquad\text{("denoising")}$$

agree where $s_p$ is exact, because $E[s_p + z/\Sigma\,|\,y] = 0$ (Franzese et al., 2310.09031; Kong
et al., 2302.03792). For trained models they differ in what they make of errors. On samples that no
model was trained on:

- The score form is never negative, and errors of the fields change it in proportion: a field that
  underfits its condition makes it too small, and of independent variables it reports how far apart
  the two fields are by chance.
- The denoising form is the truth, less the path KL of the first model, plus the path KL of the
  second: errors enter as squares, and in part cancel. Of independent variables it is zero within
  its error, or negative where the first model overfits.
- The denoising form holds the pointwise log ratios $\log p/q$, and has their spread: its standard
  error is the larger of the two, most of all where the truth is small.

For exact models take the score form. For trained ones take the denoising form with samples held
out, and read a gap to the score form that is larger than the errors as what the networks miss.
"""

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike, squared_norm
from entropix._core.checks import choice
from entropix._core.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.entropy import AbstractDenoisingFunctional, AbstractPathFunctional
from entropix.entropy.denoising import error_difference


class AbstractFieldPair(eqx.Module):
    """The entropy fields of two densities on one process."""

    process: AbstractVar[AbstractGaussianProcess]

    @abc.abstractmethod
    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """$e_p$ and $e_q$."""


class ModelPair(AbstractFieldPair):
    """Two models, each with its own condition: `condition` is the pair of them."""

    model: AbstractModel
    reference_model: AbstractModel

    def __init__(self, model: AbstractModel, reference_model: AbstractModel):
        self.model = model
        self.reference_model = reference_model

    @property
    def process(self) -> AbstractGaussianProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        own, other = condition
        field = self.model.entropy_field(s, y, own)
        return field, self.reference_model.entropy_field(s, y, other)


class ProductPair(AbstractFieldPair):
    """A model of a vector, and models of its consecutive blocks of coordinates."""

    model: AbstractModel
    marginal_models: tuple[AbstractModel, ...]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractModel,
        marginal_models: tuple[AbstractModel, ...],
        sizes: tuple[int, ...],
    ):
        self.model = model
        self.marginal_models = marginal_models
        self.sizes = sizes

    @property
    def process(self) -> AbstractGaussianProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        del condition
        cuts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        parts = zip(self.marginal_models, jnp.split(y, cuts), strict=True)
        product = jnp.concatenate([m.entropy_field(s, part) for m, part in parts])
        return self.model.entropy_field(s, y), product


class _ScoreForm(AbstractPathFunctional):
    pair: AbstractFieldPair

    def __init__(self, pair: AbstractFieldPair):
        self.pair = pair

    @property
    def process(self) -> AbstractGaussianProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pair.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        field, reference = self.pair(s, y, condition)
        return squared_norm(field - reference)


class _DenoisingForm(AbstractDenoisingFunctional):
    pair: AbstractFieldPair

    def __init__(self, pair: AbstractFieldPair):
        self.pair = pair

    @property
    def process(self) -> AbstractGaussianProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.pair.process

    def error(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
        condition: Any,
    ) -> Float[Array, ""]:
        field, reference = self.pair(s, y, condition)
        return error_difference(self.process, s, y, z, reference, field)


def in_form(
    pair: AbstractFieldPair, form: str
) -> AbstractPathFunctional | AbstractDenoisingFunctional:
    """The integrand of a divergence in one of its two forms."""
    if choice(form, "form", ("score", "denoising")) == "score":
        return _ScoreForm(pair)
    return _DenoisingForm(pair)
