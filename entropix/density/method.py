"""The interface of ways to compute a log density."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix.density.result import LogDensity
from entropix.interfaces import AbstractModel


class AbstractDensityMethod(eqx.Module):
    """A way to compute log densities of samples under a model."""

    @abc.abstractmethod
    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: Any,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> LogDensity:
        """Log densities of `x` in nats, checked arguments given."""
