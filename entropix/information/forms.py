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
samples, or the mean of both, in which fitted noise cancels to first order. A gap between the forms
that is larger than the errors shows fitted noise; what was never learnt lowers both alike.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealScalarLike, squared_norm
from entropix._core.checks import choice
from entropix.estimators import GaussianReference, Partition, all_exact, error_difference
from entropix.interfaces import (
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractTokenProcess,
)
from entropix.processes import check_one_kind


class ProductField(eqx.Module):
    """The field of a product density: models of consecutive blocks of coordinates."""

    models: tuple[AbstractModel, ...]
    sizes: tuple[int, ...] = eqx.field(static=True)

    def with_process(self, process: Any) -> "ProductField":
        """The same density under another process."""
        return ProductField(tuple(m.with_process(process) for m in self.models), self.sizes)

    def entropy_field(
        self, s: RealScalarLike, y: Float[Array, " dim"], condition: PyTree
    ) -> Float[Array, "..."]:
        """$e$ of the product."""
        del condition
        cuts = [sum(self.sizes[: i + 1]) for i in range(len(self.sizes) - 1)]
        parts = zip(self.models, jnp.split(y, cuts), strict=True)
        return jnp.concatenate([m.entropy_field(s, part) for m, part in parts])


class ReferenceField(eqx.Module):
    """The field of a Gaussian of given moments, and its density at the noise end."""

    reference: GaussianReference
    process: AbstractGaussianProcess

    def with_process(self, process: AbstractGaussianProcess) -> "ReferenceField":
        """The same density under another process."""
        return ReferenceField(self.reference, process)

    def entropy_field(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> Float[Array, "*shape"]:
        """$e_r$."""
        del condition
        return self.reference.entropy_field(self.process, s, y)

    def log_prob(self, y: Float[Array, "*shape"]) -> Float[Array, ""]:
        r"""$\log r_T(y)$ of one example, as the `prior` of `log_prob`."""
        return self.reference.log_prob(self.process, self.process.t1, y)


class ModelPair(eqx.Module):
    """Two densities on one process, each with its own condition: `condition` is the pair of them.

    Attributes:
        model: of the first.
        reference: a model, or the field alone, of the second.
        marginal: whether the second density is the mean of the first over its condition.
    """

    model: AbstractModel
    reference: AbstractModel | ProductField | ReferenceField
    marginal: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        check_one_kind(self.model.process)

    @property
    def is_exact(self) -> bool:
        """Whether every field is an `ExactModel`'s, known at any noise."""
        return not isinstance(self.reference, ReferenceField) and all_exact(self)

    def with_process(self, process: Any) -> "ModelPair":
        """The same densities under another process."""
        first, second = self.model.with_process(process), self.reference.with_process(process)
        return ModelPair(first, second, self.marginal)

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: PyTree
    ) -> tuple[Float[Array, "..."], Float[Array, "..."]]:
        """$e_p$ and $e_q$."""
        own, other = condition
        field = self.model.entropy_field(s, y, own)
        return field, self.reference.entropy_field(s, y, other)


class ScoreForm(AbstractFunctional):
    """The squared difference of the fields."""

    pair: ModelPair
    partition: Partition | None = None
    uses_noise = False
    control = None

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.pair.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        field, reference = self.pair(s, y, condition)
        gap = field - reference
        return squared_norm(gap) if self.partition is None else self.partition.inner(gap, gap)


class DenoisingForm(AbstractFunctional):
    """The difference of the denoising errors."""

    pair: ModelPair
    partition: Partition | None = None
    uses_noise = True
    control = None

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.pair.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        field, reference = self.pair(s, y, condition)
        return error_difference(self.process, s, y, z, reference, field, self.partition)


class TokenForm(AbstractFunctional):
    """$d(f_p, f_q)$ of models of tokens, or the difference of their denoising losses.

    The condition is the pair of the sample and those of the models.
    """

    pair: ModelPair
    denoising: bool = eqx.field(static=True)
    partition: Partition | None = None
    uses_noise = False
    control = None

    @property
    def process(self) -> AbstractTokenProcess:
        return self.pair.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        x, own = condition
        field, reference = self.pair(s, y, own)
        if self.denoising:
            losses = [self.process.denoising_divergence(s, x, y, f) for f in (reference, field)]
            sites = losses[0] - losses[1]
        else:
            sites = self.process.divergence(y, field, reference)
        return jnp.sum(sites) if self.partition is None else self.partition.sites(sites)


def in_form(
    pair: ModelPair, form: str | None, partition: Partition | None = None
) -> ScoreForm | DenoisingForm:
    """The integrand of a divergence in one of its two forms; None takes the advice above.

    With a partition it is an array of parts, for `integrate_parts`.
    """
    if form is None:
        form = "score" if pair.is_exact else "denoising"
    if choice(form, "form", ("score", "denoising")) == "score":
        return ScoreForm(pair, partition)
    return DenoisingForm(pair, partition)
