r"""Two forms of one integral over a pair of fields.

With the scores $s_p$ of the first density and $s_q$ of the second, expectations over diffused
samples of the first,

$$\int\frac{\sigma^2}{2}E\|s_p - s_q\|^2\,ds \qquad\text{("score")}$$

$$\int\frac{\sigma^2}{2}E\left[\left\|s_q + \tfrac{z}{\Sigma}\right\|^2 -
\left\|s_p + \tfrac{z}{\Sigma}\right\|^2\right]ds \qquad\text{("denoising")}$$

agree where $s_p$ is exact, because $E[s_p + z/\Sigma\,|\,y] = 0$ (Franzese et al., 2310.09031; Kong
et al., 2302.03792). The errors of trained models affect them differently. On samples that no model
was trained on:

- The score form is never negative, and changes in proportion to the errors of the fields. A field
  that underfits its condition makes it too small; for independent variables it reports how far
  apart the two fields are by chance.
- The denoising form is the truth, less the path KL of the first model, plus the path KL of the
  second: errors enter as squares, and in part cancel. For independent variables it is zero within
  its error, or negative where the first model overfits.
- The denoising form has the spread of the pointwise log ratios $\log p/q$: its standard error is
  the larger of the two, most of all where the truth is small.

For exact models take the score form. For trained ones take the denoising form with held-out
samples. A gap to the score form that is larger than the errors is what the networks miss.
"""

import abc
from typing import TypeAlias

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealScalarLike, squared_norm
from entropix._core.checks import choice
from entropix.estimators import GaussianReference, error_difference
from entropix.interfaces import AbstractFunctional, AbstractGaussianProcess, AbstractModel
from entropix.models import ExactModel


class AbstractFieldPair(eqx.Module):
    """The entropy fields of two densities on one process.

    Attributes:
        model: of the first density; its process is that of both.
        marginal: whether the second density is the mean of the first over its condition.
    """

    model: AbstractVar[AbstractModel]
    marginal: AbstractVar[bool]

    @property
    @abc.abstractmethod
    def is_exact(self) -> bool:
        """Whether every field is an `ExactModel`'s, known at any noise."""

    @abc.abstractmethod
    def with_process(self, process: AbstractGaussianProcess) -> "AbstractFieldPair":
        """The same densities under another process; of exact pairs only."""

    @abc.abstractmethod
    def conditions_of(self, condition: PyTree) -> tuple[PyTree, PyTree]:
        """What each of the two densities is conditioned on, None for nothing."""

    @abc.abstractmethod
    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        """$e_p$ and $e_q$."""


class ModelPair(AbstractFieldPair):
    """Two models, each with its own condition: `condition` is the pair of them."""

    model: AbstractModel
    reference_model: AbstractModel
    marginal: bool = eqx.field(static=True)

    def __init__(
        self, model: AbstractModel, reference_model: AbstractModel, marginal: bool = False
    ):
        self.model = model
        self.reference_model = reference_model
        self.marginal = marginal

    @property
    def is_exact(self) -> bool:
        return all_exact(self.model, self.reference_model)

    def with_process(self, process: AbstractGaussianProcess) -> "ModelPair":
        models = (self.model.with_process(process), self.reference_model.with_process(process))
        return ModelPair(*models, self.marginal)

    def conditions_of(self, condition: PyTree) -> tuple[PyTree, PyTree]:
        return condition

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        own, other = condition
        field = self.model.entropy_field(s, y, own)
        return field, self.reference_model.entropy_field(s, y, other)


class ProductPair(AbstractFieldPair):
    """A model of a vector, and models of its consecutive blocks of coordinates."""

    model: AbstractModel
    marginal_models: tuple[AbstractModel, ...]
    sizes: tuple[int, ...] = eqx.field(static=True)
    marginal = False

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
    def is_exact(self) -> bool:
        return all_exact(self.model, *self.marginal_models)

    def with_process(self, process: AbstractGaussianProcess) -> "ProductPair":
        marginals = tuple(m.with_process(process) for m in self.marginal_models)
        return ProductPair(self.model.with_process(process), marginals, self.sizes)

    def conditions_of(self, condition: PyTree) -> tuple[PyTree, PyTree]:
        return None, None

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        del condition
        cuts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        parts = zip(self.marginal_models, jnp.split(y, cuts), strict=True)
        product = jnp.concatenate([m.entropy_field(s, part) for m, part in parts])
        return self.model.entropy_field(s, y), product


class ReferencePair(AbstractFieldPair):
    """A model, with its condition, and a Gaussian."""

    model: AbstractModel
    reference: GaussianReference
    marginal = False

    def __init__(self, model: AbstractModel, reference: GaussianReference):
        self.model = model
        self.reference = reference

    @property
    def is_exact(self) -> bool:
        return False

    def with_process(self, process: AbstractGaussianProcess) -> "ReferencePair":
        return ReferencePair(self.model.with_process(process), self.reference)

    def conditions_of(self, condition: PyTree) -> tuple[PyTree, PyTree]:
        return condition, None

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> tuple[Float[Array, "*shape"], Float[Array, "*shape"]]:
        field = self.model.entropy_field(s, y, condition)
        return field, self.reference.entropy_field(self.model.process, s, y)


class ScoreForm(AbstractFunctional):
    """The squared difference of the fields."""

    pair: AbstractFieldPair
    uses_noise = False
    control = None

    def __init__(self, pair: AbstractFieldPair):
        self.pair = pair

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.pair.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        field, reference = self.pair(s, y, condition)
        return squared_norm(field - reference)


class DenoisingForm(AbstractFunctional):
    """The difference of the denoising errors."""

    pair: AbstractFieldPair
    uses_noise = True
    control = None

    def __init__(self, pair: AbstractFieldPair):
        self.pair = pair

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.pair.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        field, reference = self.pair(s, y, condition)
        return error_difference(self.process, s, y, z, reference, field)


Form: TypeAlias = ScoreForm | DenoisingForm


def in_form(pair: AbstractFieldPair, form: str | None) -> Form:
    """The integrand of a divergence in one of its two forms; None takes the advice above."""
    if form is None:
        form = "score" if pair.is_exact else "denoising"
    if choice(form, "form", ("score", "denoising")) == "score":
        return ScoreForm(pair)
    return DenoisingForm(pair)


def all_exact(*models: AbstractModel) -> bool:
    """Whether all of them are `ExactModel`s."""
    return all(isinstance(model, ExactModel) for model in models)
