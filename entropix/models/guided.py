r"""Classifier-free guidance: an affine combination of two fields under one process.

$$s_w(y|c) = s(y) + w\,[s(y|c) - s(y)]$$

(Ho and Salimans, 2207.12598; $w$ is one plus their weight). Entropy field and velocity are affine
in the score, and the weights add up to one, so that they combine in the same way:
$e_w = (1 - w)\,e(y) + w\,e(y|c)$, and similarly $v_w$. A field that is finite at an infinite
log-SNR for both models is finite there.

For tokens the fields f are logarithms of rates, and $f_w = (1 - w)\,f(y) + w\,f(y|c)$ mixes the
rates geometrically (Nisonoff et al., 2406.01572). Under masking $e^f/K$ is a law of the token at a
masked site, which the mixture is not: for $w > 1$ it adds up to more than one, and sites would be
unmasked too early. There $f_w$ is normalised (Schiff et al., 2412.10193; Rojas et al., 2507.08965),

$$e^{f_w} = K\,\frac{p(k|y)^{1-w}\,p(k|y, c)^w}{\sum_l p(l|y)^{1-w}\,p(l|y, c)^w},$$

which is what the samplers draw from.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, State
from entropix._core.checks import check_same_process, finite
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractPrior,
    AbstractTokenProcess,
)
from entropix.models.network_model import checked_model
from entropix.processes import check_one_kind


class Guided(AbstractModel):
    r"""A conditional model guided away from a marginal one.

    Weight 1 is the conditional model, weight 0 the marginal one; weights above 1 enhance the
    condition. The guided field is a model with its own neural entropy and log densities, those of
    its samples. Only at the data end is it the score of the diffusion of $p(x)^{1-w} p(x|c)^w$.
    Differentiable in the weight.

    A good model can also be guided away from a worse model of the same data (Karras et al.,
    2406.02507); both may be unconditional.

    Args:
        model: the conditional model.
        weight: $w$, any finite number.
        marginal_model: the model of the marginal density, under the same process; None for `model`
            without its condition, if its network supports this (see `ConditionDropout`).

    Raises:
        ValueError: if an argument is not allowed, the processes differ, or a single model is
            evaluated without a condition.

    References:
        Ho and Salimans, 2207.12598; for tokens Nisonoff et al., 2406.01572.
    """

    model: AbstractModel
    weight: Float[Array, ""]
    marginal_model: AbstractModel | None
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self, model: AbstractModel, weight: DataLike, marginal_model: AbstractModel | None = None
    ):
        check_one_kind(checked_model(model).process)
        if not (marginal_model is None or isinstance(marginal_model, AbstractModel)):
            raise ValueError(
                f"`marginal_model` must be a model or None, got {type(marginal_model).__name__}."
            )
        if marginal_model is not None:
            check_same_process(model.process, marginal_model.process, "marginal_model")
        self.model = model
        self.weight = finite(weight, "weight", shape=())
        self.marginal_model = marginal_model
        self.shape = model.shape

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def prior(self) -> AbstractDistribution | AbstractPrior:
        """The prior of the conditional model."""
        return self.model.prior

    @property
    def divergence(self) -> str | None:
        if self.marginal_model is None or self.model.divergence is not None:
            return self.model.divergence
        return self.marginal_model.divergence

    def with_process(self, process: AbstractGaussianProcess) -> "Guided":
        marginal = self.marginal_model
        marginal = None if marginal is None else marginal.with_process(process)
        return Guided(self.model.with_process(process), self.weight, marginal)

    def _mix(self, field: str, s: Any, y: Array, condition: PyTree, key: Key | None) -> Array:
        if self.marginal_model is None and condition is None:
            raise ValueError("`condition` must be given if `marginal_model` is None, got None.")
        marginal = self.model if self.marginal_model is None else self.marginal_model
        keys = (None, None) if key is None else jax.random.split(key)
        conditional = getattr(self.model, field)(s, y, condition, key=keys[0])
        unconditional = getattr(marginal, field)(s, y, None, key=keys[1])
        if not isinstance(self.process, AbstractTokenProcess):
            return (1 - self.weight) * unconditional + self.weight * conditional
        return self._mix_rates(s, y, unconditional, conditional)

    def _mix_rates(self, s: Any, y: Array, unconditional: Array, conditional: Array) -> Array:
        """The field of tokens: a jump that either model rules out is impossible."""
        possible = jnp.isfinite(unconditional) & jnp.isfinite(conditional)
        marginal, given = (jnp.where(possible, f, 0.0) for f in (unconditional, conditional))
        one_alone = jnp.where(self.weight == 0, unconditional, conditional)
        mixed = (1 - self.weight) * marginal + self.weight * given
        mixed = jnp.where(possible, mixed, one_alone)
        if not self.process.has_mask:
            return mixed
        return self.process.field(s, y, jax.nn.log_softmax(mixed, axis=-1))

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> Float[Array, "..."]:  # of tokens one axis more
        if isinstance(self.process, AbstractTokenProcess):
            field = self.entropy_field(s, y, condition, key=key)
            return field + self.process.equilibrium_score(s, y)
        return self._mix("score", s, y, condition, key)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> Float[Array, "..."]:  # of tokens one axis more
        return self._mix("entropy_field", s, y, condition, key)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return self._mix("velocity", s, y, condition, key)
