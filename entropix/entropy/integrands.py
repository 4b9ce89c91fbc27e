r"""Path functionals: what is integrated along a process, built in or a user's own.

Every functional of this room is an expectation

$$I = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E\left[f(s, Y_s)\right]ds,$$

and an object of this module is its $f$. The measure $\frac{\sigma^2}{2}ds$ makes it invariant under
changes of time: a rate $r$ per unit time is $f = 2r/\sigma^2$. With the thermodynamic force
$a = 2b/\sigma^2$ and a model's score (Neural Entropy, 2409.03817; Seifert, 2012)

| functional | $f$ | per unit time |
|---|---|---|
| total entropy production | $\|a - \nabla\log p\|^2$ | $\frac{2}{\sigma^2}E\|v\|^2$ |
| system | $\nabla\log p\cdot(\nabla\log p - a)$ | $-E[v\cdot\nabla\log p]$ |
| medium | $a\cdot(a - \nabla\log p)$ | $\frac{2}{\sigma^2}E[b\cdot v]$ |
| housekeeping | $\|a - \nabla\log p_{eq}\|^2$ | $\frac{2}{\sigma^2}E\|v_{eq}\|^2$ |
| path divergence | $\|e_1 - e_2\|^2$ | |

Integrands that are functions of the noise as well, such as denoising errors, are in
`entropix.entropy.denoising`.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike, inner, squared_norm
from entropix.entropy.reference import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess


def thermodynamic_force(
    process: AbstractProcess, s: RealScalarLike, y: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    r"""$a = 2b/\sigma^2$, in closed form where the drift is linear."""
    if isinstance(process, AbstractGaussianProcess):
        return process.equilibrium_score(s, y)
    return 2 * process.drift(s, y) / process.sigma_squared(s)


def checked_model(model: Any, name: str) -> AbstractModel:
    """A model, or a ValueError."""
    if not isinstance(model, AbstractModel):
        raise ValueError(f"`{name}` must be a model, got {type(model).__name__}.")
    return model


class AbstractPathFunctional(eqx.Module):
    """The integrand of a path functional; one example at a time.

    Subclass it, or wrap a function in `PathFunctional`, and pass it to `path_functional`.
    """

    process: AbstractVar[AbstractProcess]

    @abc.abstractmethod
    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        r"""$f(s, y)$, per $\frac{\sigma^2}{2}ds$."""


class AbstractControlled(AbstractPathFunctional):
    """A functional whose value for a Gaussian is known: a control variate."""

    @abc.abstractmethod
    def control(
        self, s: RealScalarLike, y: Float[Array, "*shape"], reference: GaussianReference
    ) -> Float[Array, ""]:
        r"""$\|e_r(y, s)\|^2$, whose integral `GaussianReference.integrals` knows."""


class PathFunctional(AbstractPathFunctional):
    r"""A function `f(s, y, condition)` as a path functional.

    Args:
        function: returns a scalar, per $\frac{\sigma^2}{2}ds$; a module keeps its parameters.
        process: the process along which it is integrated.
    """

    function: Callable
    process: AbstractProcess

    def __init__(self, function: Callable, process: AbstractProcess):
        if not callable(function):
            raise ValueError(
                f"`function` must be callable as f(s, y, condition), got {type(function).__name__}."
            )
        if not isinstance(process, AbstractProcess):
            raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
        self.function = function
        self.process = process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        value = jnp.asarray(self.function(s, y, condition))
        if value.shape != ():
            raise ValueError(f"`function` must return a scalar, got shape {value.shape}.")
        return value


class EntropyProduction(AbstractControlled):
    r"""$\|a - \nabla\log p\|^2$: its integral is $S_{NN}$, and $S_{tot}$ of an exact model."""

    model: AbstractModel

    def __init__(self, model: AbstractModel):
        self.model = checked_model(model, "model")

    @property
    def process(self) -> AbstractProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        if isinstance(self.process, AbstractGaussianProcess):
            return squared_norm(self.model.entropy_field(s, y, condition))
        force = thermodynamic_force(self.process, s, y)
        return squared_norm(force - self.model.score(s, y, condition))

    def control(
        self, s: RealScalarLike, y: Float[Array, "*shape"], reference: GaussianReference
    ) -> Float[Array, ""]:
        return squared_norm(reference.entropy_field(self.model.process, s, y))


class SystemEntropy(AbstractPathFunctional):
    r"""$\nabla\log p\cdot(\nabla\log p - a)$: the growth of the differential entropy of $p_s$."""

    model: AbstractModel

    def __init__(self, model: AbstractModel):
        self.model = checked_model(model, "model")

    @property
    def process(self) -> AbstractProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        score = self.model.score(s, y, condition)
        return inner(score, score - thermodynamic_force(self.process, s, y))


class MediumEntropy(AbstractPathFunctional):
    r"""$a\cdot(a - \nabla\log p)$: the heat given to the medium, in units of temperature."""

    model: AbstractModel

    def __init__(self, model: AbstractModel):
        self.model = checked_model(model, "model")

    @property
    def process(self) -> AbstractProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        force = thermodynamic_force(self.process, s, y)
        if isinstance(self.process, AbstractGaussianProcess):
            return -inner(force, self.model.entropy_field(s, y, condition))
        return inner(force, force - self.model.score(s, y, condition))


class HousekeepingEntropy(AbstractPathFunctional):
    r"""$\|a - \nabla\log p_{eq}\|^2$: what it costs to keep $p_{eq}$ stationary.

    It needs no score. It is a part of the total entropy production, which leaves the excess as the
    rest, where $p_{eq}$ is stationary: where the force is free of divergence and tangent to the
    level sets of the potential (Hatano and Sasa, 2001).
    """

    process: AbstractProcess

    def __init__(self, process: AbstractProcess):
        if not isinstance(process, AbstractProcess):
            raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
        self.process = process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        force = thermodynamic_force(self.process, s, y)
        return squared_norm(force - self.process.equilibrium_score(s, y))


class PathDivergence(AbstractPathFunctional):
    r"""$\|e_1 - e_2\|^2$: the path KL between two models of one process."""

    model: AbstractModel
    reference_model: AbstractModel

    def __init__(self, model: AbstractModel, reference_model: AbstractModel):
        self.model = checked_model(model, "model")
        self.reference_model = checked_model(reference_model, "reference_model")

    @property
    def process(self) -> AbstractProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def __call__(
        self, s: RealScalarLike, y: Float[Array, "*shape"], condition: Any
    ) -> Float[Array, ""]:
        field = self.model.entropy_field(s, y, condition)
        return squared_norm(field - self.reference_model.entropy_field(s, y))
