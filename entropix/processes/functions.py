"""Functions that users hand to a process, kept so that the process is a pytree."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax


def as_pytree(fn: Any, name: str, argument: str = "time") -> Callable:
    """A plain function becomes a pytree without leaves; a module keeps its parameters.

    Raises:
        ValueError: if it is not callable.
    """
    if not callable(fn):
        raise ValueError(
            f"`{name}` must be a function of {argument} or a callable module, "
            f"got {type(fn).__name__}."
        )
    wrapped: Any = fn
    if not isinstance(fn, eqx.Module | jax.tree_util.Partial):
        wrapped = jax.tree_util.Partial(fn)
    return wrapped
