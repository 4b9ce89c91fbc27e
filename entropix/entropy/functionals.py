r"""Functionals of a process: built in, or a function of the user's.

Each is the $f$ of $\int\frac{\sigma^2}{2}E[f(s, Y_s, z)]\,ds$, see `entropix.interfaces`. With the
thermodynamic force $a = 2b/\sigma^2$ and a model's score (Neural Entropy, 2409.03817; Seifert,
2012; Kong, Brekelmans, Ver Steeg, 2302.03792)

| functional | $f$ | per unit time |
|---|---|---|
| total entropy production | $\|a - \nabla\log p\|^2$ | $\frac{2}{\sigma^2}E\|v\|^2$ |
| system | $\nabla\log p\cdot(\nabla\log p - a)$ | $-E[v\cdot\nabla\log p]$ |
| medium | $a\cdot(a - \nabla\log p)$ | $\frac{2}{\sigma^2}E[b\cdot v]$ |
| housekeeping | $\|a - \nabla\log p_{eq}\|^2$ | $\frac{2}{\sigma^2}E\|v_{eq}\|^2$ |
| path divergence | $\|e_1 - e_2\|^2$ | |
| conditional entropy $H[x_0\mid Y_s]$ | $\|\nabla\log p + z/\Sigma\|^2$ | |

The first is `EntropyProduction` in `entropix.entropy.curve`.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealScalarLike, inner, squared_norm
from entropix.entropy.curve import thermodynamic_force
from entropix.estimators import DenoisingControl
from entropix.interfaces import (
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractKernel,
    AbstractModel,
    AbstractProcess,
)
from entropix.models import checked_model


def _checked_process(process: AbstractProcess) -> AbstractProcess:
    if not isinstance(process, AbstractProcess):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
    return process


_checked_reference = functools.partial(checked_model, name="reference_model")


class PathFunctional(AbstractFunctional):
    r"""A function `f(s, y, condition)` as a functional.

    Args:
        function: returns a scalar, per $\frac{\sigma^2}{2}ds$; a module keeps its parameters.
        process: the process along which it is integrated.
    """

    function: Callable
    _process: AbstractProcess
    uses_noise = False
    control = None

    def __init__(self, function: Callable, process: AbstractProcess):
        if not callable(function):
            raise ValueError(
                f"`function` must be callable as f(s, y, condition), got {type(function).__name__}."
            )
        self.function = function
        self._process = _checked_process(process)

    @property
    def process(self) -> AbstractProcess:
        return self._process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        value = jnp.asarray(self.function(s, y, condition))
        if value.shape != ():
            raise ValueError(f"`function` must return a scalar, got shape {value.shape}.")
        return value


class SystemEntropy(AbstractFunctional):
    r"""$\nabla\log p\cdot(\nabla\log p - a)$: the growth of the differential entropy of $p_s$."""

    model: AbstractModel = eqx.field(converter=checked_model)
    uses_noise = False
    control = None

    @property
    def process(self) -> AbstractProcess:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        score = self.model.score(s, y, condition)
        return inner(score, score - thermodynamic_force(self.process, s, y))


class MediumEntropy(AbstractFunctional):
    r"""$a\cdot(a - \nabla\log p)$: the heat given to the medium, in units of temperature."""

    model: AbstractModel = eqx.field(converter=checked_model)
    uses_noise = False
    control = None

    @property
    def process(self) -> AbstractProcess:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        force = thermodynamic_force(self.process, s, y)
        if isinstance(self.process, AbstractGaussianProcess):
            return -inner(force, self.model.entropy_field(s, y, condition))
        return inner(force, force - self.model.score(s, y, condition))


class HousekeepingEntropy(AbstractFunctional):
    r"""$\|a - \nabla\log p_{eq}\|^2$: the cost of keeping $p_{eq}$ stationary.

    It needs no score. It is a part of the total entropy production, and the rest is the excess,
    where $p_{eq}$ is stationary: where the force is free of divergence and tangent to the level
    sets of the potential (Hatano and Sasa, 2001).
    """

    _process: AbstractProcess
    uses_noise = False
    control = None

    def __init__(self, process: AbstractProcess):
        self._process = _checked_process(process)

    @property
    def process(self) -> AbstractProcess:
        return self._process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        force = thermodynamic_force(self.process, s, y)
        return squared_norm(force - self.process.equilibrium_score(s, y))


class PathDivergence(AbstractFunctional):
    r"""$\|e_1 - e_2\|^2$: the path KL between models of one process; on tokens $d(f_2, f_1)$."""

    model: AbstractModel = eqx.field(converter=checked_model)
    reference_model: AbstractModel = eqx.field(converter=_checked_reference)
    uses_noise = False
    control = None

    @property
    def process(self) -> AbstractProcess | AbstractKernel:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        field = self.model.entropy_field(s, y, condition)
        reference = self.reference_model.entropy_field(s, y)
        process = self.process
        if isinstance(process, AbstractKernel):
            return jnp.sum(process.field_divergence(s, y, reference, field))
        return squared_norm(field - reference)


class ConditionalEntropy(AbstractFunctional):
    r"""$\|\nabla\log p + z/\Sigma\|^2$: the growth of $H[x_0|Y_s]$.

    It is the denoising error in units of the noise. For the exact model its mean is $D/\Sigma^2 -
    E\|\nabla\log p\|^2$, without a difference of large numbers; for a trained one it is larger, by
    the model's error.
    """

    model: AbstractModel = eqx.field(converter=checked_model)
    uses_noise = True
    control = DenoisingControl()

    @property
    def process(self) -> AbstractProcess:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        process = self.process
        assert isinstance(process, AbstractGaussianProcess)  # others have no noise z
        return squared_norm(self.model.score(s, y, condition) + z / process.std(s))
