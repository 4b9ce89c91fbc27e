r"""Functionals of the noise as well as of the state: denoising errors.

With $y = \mu x + \Sigma z$ the error of a model's denoiser is $\|x - \hat x(y)\|^2 =
\frac{\Sigma^2}{\mu^2}\|\Sigma s(y) + z\|^2$, and per unit of $-d\lambda$

| functional | integrand |
|---|---|
| conditional entropy $H[x_0|Y_s]$ | $\frac12\|\Sigma s + z\|^2$ |
| difference of cross entropies | $\frac12(\|\Sigma s_1 + z\|^2 - \|\Sigma s_2 + z\|^2)$ |

(Kong, Brekelmans, Ver Steeg, 2302.03792; Stancevic et al., 2504.13612).
"""

import abc
from typing import Any

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike, inner, squared_norm
from entropix.entropy.integrands import checked_model
from entropix.entropy.reference import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess


class AbstractDenoisingFunctional(eqx.Module):
    """An integrand that depends on the noise as well as on the state; one example at a time."""

    process: AbstractVar[AbstractProcess]

    @abc.abstractmethod
    def error(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
        condition: Any,
    ) -> Float[Array, ""]:
        r"""The integrand per unit of $-d\lambda$ at $y = \mu x + \Sigma z$.

        It is averaged over the pair (z, -z).
        """


class AbstractControlledDenoising(AbstractDenoisingFunctional):
    """A denoising functional whose value for a Gaussian is known: a control variate."""

    @abc.abstractmethod
    def control(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
        reference: GaussianReference,
    ) -> Float[Array, ""]:
        r"""$\frac12\|\Sigma s_r + z\|^2$, whose integral `GaussianReference.integrals` knows."""


class ConditionalEntropy(AbstractControlledDenoising):
    r"""$\frac12\|\Sigma\nabla\log p + z\|^2$: the growth of $H[x_0|Y_s]$ per unit of $-d\lambda$.

    It is half the denoising error times the signal-to-noise ratio. Of the exact model its mean is
    $\frac{\Sigma^2}{2}(D/\Sigma^2 - E\|\nabla\log p\|^2)$, and no difference of large numbers; of
    a trained one it is larger, by the model's error.
    """

    model: AbstractModel

    def __init__(self, model: AbstractModel):
        self.model = checked_model(model, "model")

    @property
    def process(self) -> AbstractProcess:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.process

    def error(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
        condition: Any,
    ) -> Float[Array, ""]:
        assert isinstance(self.process, AbstractGaussianProcess)  # the integrator's to check
        score = self.model.score(s, y, condition)
        return squared_norm(self.process.std(s) * score + z) / 2

    def control(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
        reference: GaussianReference,
    ) -> Float[Array, ""]:
        process = self.process
        assert isinstance(process, AbstractGaussianProcess)
        return squared_norm(process.std(s) * reference.score(process, s, y) + z) / 2


def error_difference(
    process: AbstractGaussianProcess,
    s: RealScalarLike,
    y: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    field: Float[Array, "*shape"],
    reference: Float[Array, "*shape"],
) -> Float[Array, ""]:
    r"""$\frac12\left(\|\Sigma s_1 + z\|^2 - \|\Sigma s_2 + z\|^2\right)$, multiplied out.

    It is $\frac{\Sigma^2}{2}(s_1 - s_2)\cdot(s_1 + s_2 + 2z/\Sigma)$, written so that nothing is
    divided by $\Sigma$ and no large squares are subtracted; over a pair (z, -z) the term in
    $z/\Sigma$ cancels to its first order in $\Sigma$.

    Args:
        process: the process.
        s: time.
        y: $\mu x + \Sigma z$.
        z: the noise in it.
        field: $e_1$.
        reference: $e_2$.
    """
    # Both scores are these fields plus the equilibrium score.
    scores = field + reference + 2 * process.equilibrium_score(s, y)
    return inner(field - reference, process.var(s) / 2 * scores + process.std(s) * z)
