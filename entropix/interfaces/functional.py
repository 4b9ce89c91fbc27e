r"""Functionals: what is integrated along a process.

A functional is an expectation

$$I = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E\left[f(s, Y_s, z)\right]ds, \qquad
  Y_s = \mu x + \Sigma z,$$

and an object of this module is its $f$. The measure $\frac{\sigma^2}{2}ds$ makes it independent of
the choice of time: a rate $r$ per unit time is $f = 2r/\sigma^2$. On the axis of log-SNR the
measure is $\frac{\Sigma^2}{2}(-d\lambda)$, the same for every Gaussian process. A jump process on
tokens has a measure of its own (`AbstractTokenProcess`).
"""

import abc
from typing import TYPE_CHECKING, ClassVar

import equinox as eqx
from equinox import AbstractClassVar, AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealScalarLike
from entropix.interfaces.process import AbstractGaussianProcess, AbstractKernel, AbstractProcess


class AbstractControlVariate(eqx.Module):
    r"""A quantity close to a functional whose integral is known for any data.

    It is the squared norm of an affine function of the state and its noise,

    $$c(s, y, z) = \sum_j (\alpha_j + \beta_j (y_j - \mu m_j) + \gamma_j z_j)^2,$$

    in the eigenbasis of the covariance of the data, with m the mean of the data. The mean of c over
    data and noise depends on the first two moments of the data only. The estimator evaluates c
    beside the functional, subtracts it where that reduces the variance, and adds its known
    integral.
    """

    @abc.abstractmethod
    def coefficients(
        self,
        process: AbstractGaussianProcess,
        s: RealScalarLike,
        mean: Float[Array, " dim"],
        variance: Float[Array, " dim"],
    ) -> tuple[Float[Array, " dim"], Float[Array, " dim"], Float[Array, " dim"]]:
        r"""$\alpha$, $\beta$ and $\gamma$ at one time.

        Args:
            process: the process.
            s: time.
            mean: of the data, in the eigenbasis.
            variance: of the data along each eigenvector, bounded away from zero.
        """


class AbstractFunctional(eqx.Module):
    r"""The integrand of a functional; one example at a time.

    Subclass it, or wrap a function in `entropix.entropy.PathFunctional`, and pass it to
    `entropix.entropy.path_functional`.

    Attributes:
        process: along which it is integrated.
        uses_noise: whether `rate` depends on the noise z as well as on the state. It is then
            averaged over the pair (z, -z), and cannot be integrated along simulated paths.
        control: a control variate, or None.
    """

    if TYPE_CHECKING:  # a property or a field will do for `process`
        uses_noise: ClassVar[bool]
        control: ClassVar[AbstractControlVariate | None]

        @property
        def process(self) -> AbstractProcess | AbstractKernel: ...
    else:
        uses_noise: AbstractClassVar[bool]
        control: AbstractClassVar[AbstractControlVariate | None]
        process: AbstractVar[AbstractProcess | AbstractKernel]

    @abc.abstractmethod
    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        r"""$f(s, y, z)$, per $\frac{\sigma^2}{2}ds$: a scalar.

        An array of parts, such as one for each coordinate, is integrated part by part by
        `entropix.estimators.integrate_parts`.

        Args:
            s: time.
            y: the state $\mu x + \Sigma z$.
            z: the noise in it; None along simulated paths.
            condition: what the sample x is conditioned on, or None.
        """
