"""Arrays that are not trained."""

from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, PyTree


class Fixed(eqx.Module):
    """An array of a network that is never trained.

    The optimiser does not receive it; with a stopped gradient alone, weight decay would change it.
    """

    value: Array


def trainable(network: PyTree) -> PyTree:
    """A tree of booleans: True at the floating arrays of `network` that are not `Fixed`."""

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, Fixed):
            return jax.tree.map(lambda _: False, leaf)
        return eqx.is_inexact_array(leaf)

    return jax.tree.map(mark, network, is_leaf=lambda x: isinstance(x, Fixed))
