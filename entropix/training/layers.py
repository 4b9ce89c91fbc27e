r"""Layers whose derivatives are fast on a CPU, inside the training loss.

The gradient by the weights of a layer $z_i = W x_i$ is $\sum_i g_i x_i^T = G^T X$, the rows of G
and X belonging to draws. XLA computes it up to 15 times more slowly than its transpose $X^T G$
where the layer has many more outputs than inputs. Such layers therefore multiply by $V = W^T$ from
the other side: their gradient is $X^T G$, transposed afterwards.

The derivative of a normalisation $\hat x = (x - \bar x)/\sigma$ is
$\dot{\hat x} = (\dot x - \overline{\dot x} - \hat x\,\overline{\hat x \dot x})/\sigma$, which takes
fewer passes through memory than that of its parts.

The arrays of the network, and what is saved of it, keep their layout.
"""

import dataclasses
from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key


def with_fast_derivatives(model: PyTree) -> PyTree:
    """The model with such layers in place of those of `equinox.nn`, if it is on a CPU."""

    def replaced(node: Any) -> Any:
        if type(node) is eqx.nn.LayerNorm and len(node.shape) == 1:
            return _as(_LayerNorm, node)
        if type(node) is eqx.nn.Linear and eqx.is_array(node.weight) and node.weight.ndim == 2:
            outputs, inputs = node.weight.shape
            return _as(_WideLinear, node) if outputs > inputs > 1 else node
        return node

    if jax.default_backend() != "cpu":
        return model
    # Not those of other classes, which may compute something else.
    kinds = eqx.nn.Linear, eqx.nn.LayerNorm
    return jax.tree.map(replaced, model, is_leaf=lambda node: type(node) in kinds)


# They are subclasses, so that a network which asks for the type of a layer finds it.


class _WideLinear(eqx.nn.Linear):
    """A layer with more outputs than inputs."""

    def __call__(self, x: Float[Array, " in"], *, key: Key | None = None) -> Float[Array, " out"]:
        # The barrier keeps XLA from undoing the transposition.
        z = x @ jax.lax.optimization_barrier(self.weight.T)
        return z if self.bias is None else z + self.bias


class _LayerNorm(eqx.nn.LayerNorm):
    """A normalisation of a vector."""

    def __call__(self, x: Float[Array, " n"], *args: Any, **options: Any) -> Any:
        if args or x.shape != self.shape or x.dtype not in (jnp.float32, jnp.float64):
            return eqx.nn.LayerNorm.__call__(self, x, *args, **options)
        unit = _normalised(x, self.eps)[0]
        scaled = unit if self.weight is None else self.weight * unit
        return (scaled if self.bias is None else scaled + self.bias).astype(x.dtype)


def _as(kind: type, layer: eqx.Module) -> Any:
    """The same arrays in another class."""
    new = object.__new__(kind)
    for field in dataclasses.fields(layer):
        object.__setattr__(new, field.name, getattr(layer, field.name))
    return new


@partial(jax.custom_jvp, nondiff_argnums=(1,))
def _normalised(x: Float[Array, " n"], eps: float) -> tuple[Array, Array]:
    r"""$\hat x$ and $1/\sigma$, with $\sigma^2 = \mathrm{var}(x) + \epsilon$."""
    centred = x - jnp.mean(x)
    factor = jax.lax.rsqrt(jnp.mean(centred**2) + eps)
    return centred * factor, factor


@_normalised.defjvp
def _of_normalised(eps: float, primals: Any, tangents: Any) -> Any:
    unit, factor = _normalised(*primals, eps)
    along = jnp.mean(unit * tangents[0])
    moved = factor * (tangents[0] - jnp.mean(tangents[0]) - unit * along)
    return (unit, factor), (moved, -(factor**2) * along)
