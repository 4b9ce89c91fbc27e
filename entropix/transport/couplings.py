r"""Optimal couplings of two samples with equal weights.

In one dimension the sorted samples are coupled in order, for every cost $|x - y|^p$, $p \ge 1$. In
more dimensions and for equal sizes the optimal coupling is a permutation, found on the host by
`scipy.optimize.linear_sum_assignment`. A coupling is piecewise constant in the points, so that the
cost may be differentiated with the coupling held fixed (the envelope theorem).

The dual potentials $u_i + v_j \le c_{ij}$, with equality along the coupling, say how the optimal
cost $c^* = \frac1n\sum u_i + \frac1n\sum v_j$ varies from sample to sample: its variance is
$\mathrm{Var}(u)/n + \mathrm{Var}(v)/n$ (del Barrio and Loubes, 1705.01299).
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.arrays import safe_sqrt
from entropix._core.checks import is_concrete


class Coupling(eqx.Module):
    """Optimal coupling of two samples of n points, and its dual potentials.

    The potentials serve standard errors; those of an assignment have single precision.

    Attributes:
        partner: index of the second sample's point for each of the first's.
        u: potential of the first sample.
        v: potential of the second sample.
    """

    partner: Int[Array, "*seeds n"]
    u: Float[Array, "*seeds n"]
    v: Float[Array, "*seeds n"]


def costs_of(x: Float[Array, "n dim"], y: Float[Array, "n dim"], p: float) -> Float[Array, " n"]:
    r"""$\|x - y\|^p$, pair by pair."""
    squared = jnp.sum((x - y) ** 2, axis=-1)
    return squared if p == 2 else _power(safe_sqrt(squared), p)


def _power(distance: Array, p: float) -> Array:
    return distance if p == 1 else distance**p


def _cuts(n: int, m: int) -> np.ndarray:
    """Where quantile functions of n and m points step: multiples of 1/n and 1/m, times n m."""
    return np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)


@functools.partial(jax.jit, static_argnames="p")
def sorted_cost(x: Float[Array, " n"], y: Float[Array, " m"], p: float) -> Float[Array, ""]:
    r"""$\int_0^1 |F^{-1}(q) - G^{-1}(q)|^p dq$ of two samples of any sizes."""
    n, m = x.shape[0], y.shape[0]
    cuts = _cuts(n, m)
    widths = jnp.asarray(np.diff(cuts) / (n * m), x.dtype)
    x, y = jnp.sort(x)[cuts[:-1] // m], jnp.sort(y)[cuts[:-1] // n]
    return jnp.sum(widths * costs_of(x[:, None], y[:, None], p))


@functools.partial(jax.jit, static_argnames="p")
def sorted_potentials(
    x: Float[Array, " n"], y: Float[Array, " m"], p: float
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    r"""Dual potentials of two samples on a line, of any sizes, for the cost $|x - y|^p$."""
    x, y = jax.lax.stop_gradient((x, y))
    order, other = jnp.argsort(x), jnp.argsort(y)
    cuts = _cuts(x.shape[0], y.shape[0])
    i, j = cuts[:-1] // y.shape[0], cuts[:-1] // x.shape[0]
    a, b = x[order][i, None], y[other][j, None]
    paired = costs_of(a, b, p)
    # Neighbours bound the step of v from both sides; take the middle. Where only one of the two
    # points changes, the bounds meet.
    upper = costs_of(a[:-1], b[1:], p) - paired[:-1]
    lower = paired[1:] - costs_of(a[1:], b[:-1], p)
    along_v = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum((upper + lower) / 2)])
    along_u = paired - along_v
    first_i = np.searchsorted(i, np.arange(x.shape[0]))
    first_j = np.searchsorted(j, np.arange(y.shape[0]))
    u = jnp.zeros_like(x).at[order].set(along_u[first_i])
    v = jnp.zeros_like(y).at[other].set(along_v[first_j])
    return u, v


def sorted_coupling(x: Float[Array, "n 1"], y: Float[Array, "n 1"]) -> Coupling:
    """The coupling of two samples of one size in one dimension, for squared distances."""
    x, y = jax.lax.stop_gradient((x[:, 0], y[:, 0]))
    order, other = jnp.argsort(x), jnp.argsort(y)
    u, v = sorted_potentials(x, y, 2.0)
    return Coupling(jnp.zeros_like(order).at[order].set(other), u, v)


def assignment(x: Float[Array, "n dim"], y: Float[Array, "n dim"], p: float) -> Coupling:
    r"""The optimal coupling for the cost $\|x - y\|^p$, computed on the host in float64.

    Under `jit`, `vmap` or differentiation the host is called back.
    """
    x, y = jax.lax.stop_gradient((x, y))
    count, dtype = x.shape[0], x.dtype

    def host(x: Any, y: Any) -> Any:
        partner, u, v = _assign(np.asarray(x, np.float64), np.asarray(y, np.float64), p)
        # Single precision: the thread of a callback does not know of a local `jax.enable_x64`.
        return partner.astype(np.int32), u.astype(np.float32), v.astype(np.float32)

    if is_concrete((x, y)):
        partner, u, v = host(x, y)
    else:
        potential = jax.ShapeDtypeStruct((count,), jnp.float32)
        shapes = (jax.ShapeDtypeStruct((count,), jnp.int32), potential, potential)
        partner, u, v = jax.pure_callback(host, shapes, x, y, vmap_method="sequential")
    return Coupling(jnp.asarray(partner), jnp.asarray(u, dtype), jnp.asarray(v, dtype))


def _assign(x: np.ndarray, y: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    from scipy.optimize import linear_sum_assignment
    from scipy.spatial.distance import cdist

    cost = cdist(x, y, "sqeuclidean") if p == 2 else cdist(x, y) ** p
    _, partner = linear_sum_assignment(cost)
    matched = cost[:, partner]  # column j: the cost of j's partner
    own = np.diagonal(matched).copy()
    # u_i - u_j <= c(i, partner of j) - c(j, partner of j): shortest paths, by Bellman and Ford.
    matched -= own
    u = np.zeros(len(x))
    for _ in range(len(x)):
        shorter = np.min(matched + u, axis=1)
        done = np.all(shorter >= u - 1e-12 * (1 + np.abs(u)))
        u = np.minimum(u, shorter)
        if done:
            break
    v = np.empty_like(u)
    v[partner] = own - u
    return partner, u, v
