"""Marking arrays that training must leave alone."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array


class Fixed(eqx.Module):
    """An array that is part of a network and is never trained.

    The optimiser does not see it at all: stopping its gradient alone would still let weight decay
    shrink it.
    """

    value: Array


def trainable(network: Any) -> Any:
    """A tree of booleans: True at the floating arrays of `network` that are not `Fixed`."""

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, Fixed):
            return jax.tree.map(lambda _: False, leaf)
        return eqx.is_inexact_array(leaf)

    return jax.tree.map(mark, network, is_leaf=lambda x: isinstance(x, Fixed))
