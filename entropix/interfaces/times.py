"""Proposals of the times at which a loss is taken."""

import abc

import equinox as eqx

from entropix._core.arrays import RealScalarLike, Scalar
from entropix.interfaces.process import AbstractGaussianProcess


class AbstractTimes(eqx.Module):
    """A proposal of times; written for one draw, callers vmap over `u`."""

    @abc.abstractmethod
    def __call__(
        self, process: AbstractGaussianProcess, u: RealScalarLike
    ) -> tuple[Scalar, Scalar]:
        r"""The time at quantile `u` in (0, 1), and its density per unit of $-\lambda$."""
