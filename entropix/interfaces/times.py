"""Proposals of the times at which a loss is taken."""

import abc
from typing import Any

import equinox as eqx

from entropix._core.arrays import RealScalarLike, Scalar


class AbstractTimes(eqx.Module):
    """A proposal of times; written for one draw, callers vmap over `u`."""

    @abc.abstractmethod
    def __call__(self, process: Any, u: RealScalarLike) -> tuple[Scalar, Scalar]:
        r"""The time at quantile `u` in (0, 1), and its density per unit of $-\lambda$.

        Args:
            process: a Gaussian process, or a process of tokens; not all proposals have a meaning
                for both.
            u: the quantile.
        """
