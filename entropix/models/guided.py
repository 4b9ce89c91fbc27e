r"""Classifier-free guidance: two fields of one process, mixed or extrapolated.

$$s_w(y|c) = s(y) + w\,[s(y|c) - s(y)]$$

(Ho and Salimans, 2207.12598; $w$ is one plus their weight). Score, entropy field and velocity are
affine in the score, and the weights add up to one, so that each is mixed as it is:
$e_w = (1 - w)\,e(y) + w\,e(y|c)$ and $v_w$ alike. A field that both models keep finite at an
infinite log-SNR is finite there.
"""

from typing import Any

import jax
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import check_same_process, finite
from entropix.interfaces import AbstractModel


class Guided(AbstractModel):
    r"""A conditional model guided away from a marginal one.

    Weight 1 is the conditional model, 0 the marginal one; above 1 the condition is exaggerated.
    The guided field is a model of its own, with a neural entropy and log densities: those of what
    it generates. It is not the score of the diffusion of $p(x)^{1-w} p(x|c)^w$, which it equals at
    the data end only. Differentiable in the weight.

    Two models of the same data may be given as well, a good one and a poor one to be guided away
    from (Karras et al., 2406.02507); they may both be without a condition.

    Args:
        model: the conditional model.
        weight: $w$, any finite number.
        marginal_model: the model of the marginal density, on the same process; None for `model`
            without its condition, where its network serves both (see `ConditionDropout`).

    Raises:
        ValueError: if an argument is not allowed, the processes differ, or one network serves both
            and is given no condition.
    """

    model: AbstractModel
    weight: Float[Array, ""]
    marginal_model: AbstractModel | None

    def __init__(self, model: AbstractModel, weight: Any, marginal_model: Any = None):
        if not isinstance(model, AbstractModel):
            raise ValueError(f"`model` must be a model, got {type(model).__name__}.")
        if not (marginal_model is None or isinstance(marginal_model, AbstractModel)):
            raise ValueError(
                f"`marginal_model` must be a model or None, got {type(marginal_model).__name__}."
            )
        if marginal_model is not None:
            check_same_process(model.process, marginal_model.process, "marginal_model")
        self.model = model
        self.weight = finite(weight, "weight", shape=())
        self.marginal_model = marginal_model

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def shape(self) -> tuple[int, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.shape

    @property
    def prior(self) -> Any:
        """That of the conditional model: both fields are equilibrium's where the signal is gone."""
        return self.model.prior

    @property
    def divergence(self) -> str | None:
        if self.marginal_model is None or self.model.divergence is not None:
            return self.model.divergence
        return self.marginal_model.divergence

    def with_process(self, process: Any) -> "Guided":
        marginal = self.marginal_model
        marginal = None if marginal is None else marginal.with_process(process)
        return Guided(self.model.with_process(process), self.weight, marginal)

    def _mix(self, field: str, s: Any, y: Array, condition: Any, key: Key | None) -> Array:
        if self.marginal_model is None and condition is None:
            raise ValueError("`condition` must be given where one network serves both, got None.")
        marginal = self.model if self.marginal_model is None else self.marginal_model
        keys = (None, None) if key is None else jax.random.split(key)
        told = getattr(self.model, field)(s, y, condition, key=keys[0])
        untold = getattr(marginal, field)(s, y, None, key=keys[1])
        return (1 - self.weight) * untold + self.weight * told

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self._mix("score", s, y, condition, key)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self._mix("entropy_field", s, y, condition, key)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self._mix("velocity", s, y, condition, key)
