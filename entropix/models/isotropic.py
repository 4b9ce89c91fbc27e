r"""Divergences of models whose networks know their own.

The fields of a model are sums of multiples of the state and of its network, which takes a multiple
of the state. A network N of D variables may therefore be replaced by a function with the derivative

$$\frac{\nabla\cdot N}{D}\,I$$

without any change of the divergence of the fields. All their Jacobians J are then multiples of the
identity, and $\nabla\cdot v = \sum_i (J\,\mathbb 1)_i$: one product in place of D.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import with_key
from entropix._core.offered import divergence_of, passed_on
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models.denoisers import DenoiserPrediction, EDMPrediction, VPrediction
from entropix.models.flow_matching import FlowMatching
from entropix.models.gaussian_part import GaussianPart
from entropix.models.guided import Guided
from entropix.models.moved import Moved
from entropix.models.parametrisations import (
    EntropyMatching,
    NoisePrediction,
    ScoreMatching,
    VelocityPrediction,
)
from entropix.models.tempered import Tempered


def isotropic(model: AbstractModel) -> AbstractModel | None:
    """The model with a network whose Jacobian is isotropic and has the same trace.

    Only its derivatives with respect to the state are meant to be used. None where a network does
    not know its divergence, or the fields of a model are not sums of multiples.
    """
    if isinstance(model, Moved | Tempered):
        return _replaced(model, "model", isotropic(model.model))
    if isinstance(model, Guided):
        conditional = _replaced(model, "model", isotropic(model.model))
        if conditional is None or model.marginal_model is None:
            return conditional
        return _replaced(conditional, "marginal_model", isotropic(model.marginal_model))
    known = isinstance(
        model,
        DenoiserPrediction
        | EDMPrediction
        | EntropyMatching
        | FlowMatching
        | NoisePrediction
        | ScoreMatching
        | VelocityPrediction
        | VPrediction,
    )
    if not known or not isinstance(model.process, AbstractGaussianProcess):
        return None
    replaced = _replaced(model, "network", passed_on(model.network, _Isotropic(model.network)))
    if replaced is None or not isinstance(model, EntropyMatching) or model.gaussian is None:
        return replaced
    return _replaced(replaced, "gaussian", _IsotropicPart(model.gaussian))


def _replaced(model: Any, name: str, part: Any) -> Any:
    """The model with another part; None if there is none."""
    return None if part is None else eqx.tree_at(lambda m: getattr(m, name), model, part)


class _Isotropic(eqx.Module):
    """A network with its mean derivative in every direction."""

    network: Any

    def __call__(
        self, log_snr: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return _evaluate(self.network, log_snr, y, condition, key)


@eqx.filter_custom_jvp
def _evaluate(network: Any, log_snr: Any, y: Array, condition: PyTree, key: Key | None) -> Array:
    return network(log_snr, y, condition, **with_key(network, key))


@_evaluate.def_jvp
def _derivative(primals: Any, tangents: Any) -> tuple[Array, Array]:
    network, log_snr, y, condition, key = primals
    rate = divergence_of(network, log_snr, y, condition, key) / y.size
    moved = jnp.zeros_like(y) if tangents[2] is None else rate * tangents[2]
    return _evaluate(network, log_snr, y, condition, key), moved


class _IsotropicPart(eqx.Module):
    """A Gaussian part with its mean derivative in every direction."""

    part: GaussianPart

    def over_scale(self, process: AbstractGaussianProcess, s: RealScalarLike, y: State) -> State:
        return jnp.mean(self.part.slopes(process, s)) * y
