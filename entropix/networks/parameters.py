"""The parameters of a network: which are trained, their number, and the cost of an evaluation."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree


class Fixed(eqx.Module):
    """An array of a network, or a module such as its process, that is never trained.

    The optimiser does not receive it; with a stopped gradient alone, weight decay would change it.

    Args:
        value: the array or the module; the network reads it as `.value`.
    """

    value: Any


def trainable(network: PyTree) -> PyTree:
    """Which arrays of a network `fit` trains: the floating ones that are not `Fixed`.

    Args:
        network: any pytree.

    Returns:
        A tree of booleans of the same structure.
    """

    def mark(leaf: Any) -> Any:
        if isinstance(leaf, Fixed):
            return jax.tree.map(lambda _: False, leaf)
        return eqx.is_inexact_array(leaf)

    return jax.tree.map(mark, network, is_leaf=lambda x: isinstance(x, Fixed))


class NetworkSize(NamedTuple):
    """Size of a network.

    Attributes:
        parameters: number of trained parameters.
        flops: floating-point operations of one evaluation for one example (a multiplication and an
            addition count as two), before optimisation by the compiler.
    """

    parameters: int
    flops: int


def network_size(
    network: Callable, shape: tuple[int, ...] | None = None, condition: PyTree = None
) -> NetworkSize:
    """Count the parameters of a network and the operations of one evaluation.

    Nothing is computed: the numbers come from the cost analysis of XLA.

    Args:
        network: `network(log_snr, y, condition=None)`.
        shape: shape of one example; None for `network.shape` or `(network.dim,)`.
        condition: one condition, if the network takes one.

    Raises:
        ValueError: if the shape is unknown.
    """
    if shape is None:
        dim = getattr(network, "dim", None)
        shape = getattr(network, "shape", None if dim is None else (dim,))
    if shape is None:
        raise ValueError("`shape` must be given for a network with neither `shape` nor `dim`.")
    marked = eqx.filter(network, trainable(network))
    parameters = sum(leaf.size for leaf in jax.tree.leaves(marked))
    arrays, static = eqx.partition(network, eqx.is_array)

    def evaluate(arrays: Any, y: Any, condition: Any) -> Any:
        return eqx.combine(arrays, static)(jnp.zeros((), y.dtype), y, condition)

    y = jax.ShapeDtypeStruct(tuple(shape), jnp.result_type(float))
    costs: Any = jax.jit(evaluate).lower(arrays, y, condition).cost_analysis()
    return NetworkSize(int(parameters), int(costs["flops"]))
