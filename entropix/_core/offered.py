"""Divergences that networks offer, by an optional method `divergence(log_snr, y, condition)`."""

from collections.abc import Callable

from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import with_key


# Columns of a Jacobian that a network with such a method holds at once, for each example.
COLUMNS = 16


def passed_on(network: Callable, own: Callable) -> Callable | None:
    """The `divergence` of a network around another one: its `own`, if the other has one."""
    return None if getattr(network, "divergence", None) is None else own


def divergence_of(
    network: Callable, log_snr: RealScalarLike, y: Array, condition: PyTree, key: Key | None = None
) -> Float[Array, ""]:
    """The divergence of a network that has one."""
    method: Callable = network.divergence  # pyright: ignore[reportFunctionMemberAccess]
    return method(log_snr, y, condition, **with_key(method, key))
