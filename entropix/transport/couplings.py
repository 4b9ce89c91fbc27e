r"""Optimal couplings of two samples with equal weights.

In one dimension the sorted samples are coupled in order, for every cost $|x - y|^p$, $p \ge 1$. In
more dimensions the optimal coupling has at most n + m - 1 entries, and is a permutation for equal
sizes; it is found on the host by the network simplex method of POT (Bonneel et al., ACM Trans.
Graph. 30, 158 (2011); Flamary et al., JMLR 22, 78 (2021)). A coupling is piecewise constant in the
points, so that the cost may be differentiated with the coupling held fixed (the envelope theorem).

The dual potentials $u_i + v_j \le c_{ij}$, with equality along the coupling, say how the optimal
cost $c^* = \frac1n\sum u_i + \frac1n\sum v_j$ varies from sample to sample: its variance is
$\mathrm{Var}(u)/n + \mathrm{Var}(v)/n$ (del Barrio and Loubes, 1705.01299). They are the influences
of the points on $c^*$, and give its standard error.
"""

import functools
import math
import os
import sys
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

    Attributes:
        partner: index of the second sample's point for each of the first's.
        u: potential of the first sample.
        v: potential of the second sample.
    """

    partner: Int[Array, "*seeds n"]
    u: Float[Array, "*seeds n"]
    v: Float[Array, "*seeds n"]


class Plan(eqx.Module):
    """Optimal coupling of samples of any sizes, and its dual potentials.

    Attributes:
        rows: indices of coupled points of the first sample.
        columns: and of the second.
        weights: their shares of the whole; zero for entries that the plan does not need.
        u: potential of the first sample, in units of the mean cost, which need not be
            representable.
        v: potential of the second sample.
    """

    rows: Int[Array, "*seeds entries"]
    columns: Int[Array, "*seeds entries"]
    weights: Float[Array, "*seeds entries"]
    u: Float[Array, "*seeds n"]
    v: Float[Array, "*seeds m"]


def distances_of(x: Float[Array, "*n dim"], y: Float[Array, "*n dim"]) -> Float[Array, "*n"]:
    r"""$\|x - y\|$, pair by pair; neither overflows nor underflows where the distance does not."""
    difference = x - y
    largest = jax.lax.stop_gradient(jnp.max(jnp.abs(difference), axis=-1, keepdims=True))
    largest = jnp.where(largest > 0, largest, 1.0)
    squared = jnp.sum((difference / largest) ** 2, axis=-1)
    return largest[..., 0] * safe_sqrt(squared)


def costs_of(x: Float[Array, "*n dim"], y: Float[Array, "*n dim"], p: float) -> Float[Array, "*n"]:
    r"""$\|x - y\|^p$, pair by pair."""
    if p == 2:
        return jnp.sum((x - y) ** 2, axis=-1)
    return _power(distances_of(x, y), p)


def _power(distance: Array, p: float) -> Array:
    return distance if p == 1 else distance**p


def power_root(cost: Array, p: float | int) -> Array:
    """The p-th root, whose derivative at zero is zero; NaN stays NaN."""
    if p == 1:
        return cost
    if p == 2:
        return safe_sqrt(cost)
    above = ~(cost <= 0)
    return jnp.where(above, jnp.where(above, cost, 1.0) ** (1 / p), 0.0)


def power_mean(
    distance: Float[Array, " n"], p: float, weight: Float[Array, " n"] | None = None
) -> Float[Array, ""]:
    r"""$(\sum_i w_i d_i^p)^{1/p}$, finite where the distances are: the largest is divided out."""
    largest = jax.lax.stop_gradient(jnp.max(distance))
    largest = jnp.where(largest > 0, largest, 1.0)
    powers = _power(distance / largest, p)
    mean = jnp.mean(powers) if weight is None else jnp.sum(weight * powers)
    return largest * power_root(mean, p)


def _cuts(n: int, m: int) -> np.ndarray:
    """Where quantile functions of n and m points step: multiples of 1/n and 1/m, times n m."""
    return np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)


@functools.partial(jax.jit, static_argnames="p")
def sorted_distance(x: Float[Array, " n"], y: Float[Array, " m"], p: float) -> Float[Array, ""]:
    r"""$(\int_0^1 |F^{-1}(q) - G^{-1}(q)|^p dq)^{1/p}$ of two samples of any sizes."""
    n, m = x.shape[0], y.shape[0]
    cuts = _cuts(n, m)
    widths = jnp.asarray(np.diff(cuts) / (n * m), x.dtype)
    x, y = jnp.sort(x)[cuts[:-1] // m], jnp.sort(y)[cuts[:-1] // n]
    return power_mean(distances_of(x[:, None], y[:, None]), p, widths)


@functools.partial(jax.jit, static_argnames="p")
def sorted_potentials(
    x: Float[Array, " n"], y: Float[Array, " m"], p: float, unit: Array | float = 1.0
) -> tuple[Float[Array, " n"], Float[Array, " m"]]:
    r"""Dual potentials of two samples on a line, of any sizes, for the cost $(|x - y|/unit)^p$."""
    x, y, unit = jax.lax.stop_gradient((x, y, unit))
    order, other = jnp.argsort(x), jnp.argsort(y)
    cuts = _cuts(x.shape[0], y.shape[0])
    i, j = cuts[:-1] // y.shape[0], cuts[:-1] // x.shape[0]
    a, b = x[order][i], y[other][j]

    def cost(a: Array, b: Array) -> Array:
        return _power(jnp.abs(a - b) / unit, p)

    paired = cost(a, b)
    # Neighbours bound the step of v from both sides; take the middle. Where only one of the two
    # points changes, the bounds meet.
    upper = cost(a[:-1], b[1:]) - paired[:-1]
    lower = paired[1:] - cost(a[1:], b[:-1])
    along_v = jnp.concatenate([jnp.zeros(1, x.dtype), jnp.cumsum((upper + lower) / 2)])
    along_u = paired - along_v
    first_i = np.searchsorted(i, np.arange(x.shape[0]))
    first_j = np.searchsorted(j, np.arange(y.shape[0]))
    u = jnp.zeros_like(x).at[order].set(along_u[first_i])
    v = jnp.zeros_like(y).at[other].set(along_v[first_j])
    return u, v


@jax.jit
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
    return _assigned(optimal_plan(x, y, p), x, y, p)


@functools.partial(jax.jit, static_argnames="p")
def _assigned(plan: Plan, x: Array, y: Array, p: float) -> Coupling:
    """A plan that couples the points one to one, with its potentials in units of the cost."""
    x, y = jax.lax.stop_gradient((x, y))
    partner = jnp.zeros_like(plan.columns).at[plan.rows].set(plan.columns)
    cost = jnp.mean(costs_of(x, y[partner], p))
    return Coupling(partner, cost * plan.u, cost * plan.v)


def optimal_plan(x: Float[Array, "n dim"], y: Float[Array, "m dim"], p: float) -> Plan:
    r"""The optimal plan for the cost $\|x - y\|^p$, computed on the host in float64.

    Under `jit`, `vmap` or differentiation the host is called back.
    """
    x, y = jax.lax.stop_gradient((x, y))
    n, m, dtype = x.shape[0], y.shape[0], x.dtype

    def host(x: Any, y: Any) -> Any:
        masses = np.ones(n, int), np.ones(m, int)
        entries, *rest = solve(np.asarray(x, np.float64), np.asarray(y, np.float64), p, *masses)
        return entries, *(part for value in rest for part in on_device(value))

    if is_concrete((x, y)):
        found = host(x, y)
    else:
        count = n if n == m else n + m - 1
        sizes = (count, count, n, n, m, m)
        shapes = tuple(jax.ShapeDtypeStruct((size,), jnp.float32) for size in sizes)
        entries = jax.ShapeDtypeStruct((2, count), jnp.int32)
        found = jax.pure_callback(host, (entries, *shapes), x, y, vmap_method="sequential")
    return _plan_of(found, dtype)


@functools.partial(jax.jit, static_argnames="dtype")
def _plan_of(found: Any, dtype: Any) -> Plan:
    entries, *parts = found
    pairs = zip(parts[::2], parts[1::2], strict=True)
    weights, u, v = (high.astype(dtype) + low.astype(dtype) for high, low in pairs)
    return Plan(entries[0], entries[1], weights, u, v)


def on_device(value: Any) -> tuple[np.ndarray, np.ndarray]:
    """A float64 result as the sum of two float32 ones.

    The thread of a callback does not know of a local `jax.enable_x64`, and may return no float64.
    """
    value = np.asarray(value, np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        high = value.astype(np.float32)
        low = (value - high).astype(np.float32)
    return high, np.where(np.isfinite(high), low, np.float32(0))


def solve(
    x: np.ndarray, y: np.ndarray, p: float, of_x: np.ndarray, of_y: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """The optimal plan of points that stand for given numbers of samples, on the host.

    Returns:
        The entries of the plan, n + m - 1 or n of them; their weights; and the potentials, in units
        of the mean cost.
    """
    from scipy.spatial.distance import cdist

    # Masses are integers, whose sums and differences are exact.
    n, m = int(np.sum(of_x)), int(np.sum(of_y))
    common = math.gcd(n, m)
    masses = of_x * float(m // common), of_y * float(n // common)
    total = float(n * (m // common))
    size = max(np.max(np.abs(x)), np.max(np.abs(y))) or 1.0
    x, y = x / size, y / size
    origin = x[0].copy()
    x, y = x - origin, y - origin
    shift = np.zeros(x.shape[1])
    if p == 2:  # a shift of either sample changes no coupling: far ones lose no digits
        a, b = np.mean(x, axis=0), np.mean(y, axis=0)
        x, y, shift = x - a, y - b, a - b
    bound = None
    while True:
        cost = cdist(x, y)  # the one matrix that is held
        bound = bound or np.max(cost) or 1.0
        # Costs above one cannot be part of the optimum, as its total is at most one from the
        # second pass on: they need no more than to be larger.
        cost /= bound
        np.minimum(cost, 2 ** (1 / p), out=cost)
        np.power(cost, p, out=cost)
        rows, columns, flows, u, v = _network_simplex(*masses, cost)
        reach = total ** (1 / p) * np.max(np.linalg.norm(x[rows] - y[columns], axis=1))
        if not 0 < 4 * reach < bound:
            break
        # All coupled costs are small against the largest, and were compared to its rounding.
        bound = reach
    shift = shift / bound
    u += 2 * (x / bound) @ shift + shift @ shift
    v -= 2 * (y / bound) @ shift
    cost = (masses[0] @ u + masses[1] @ v) / total
    if cost > 0:
        u, v = u / cost, v / cost
    else:
        u, v = 0 * u, 0 * v
    permuted = len(x) == len(y) and np.all(of_x == 1) and np.all(of_y == 1)
    count = len(rows) if permuted else len(x) + len(y) - 1
    entries, weights = padded(np.stack([rows, columns]), flows / total, count)
    return entries.astype(np.int32), weights, u, v


def padded(entries: np.ndarray, weights: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """One shape for all plans: the last entry is repeated, without a weight."""
    missing = count - len(weights)
    entries = np.pad(entries, ((0, 0), (0, missing)), mode="edge")
    return entries, np.pad(weights, (0, missing))


def _network_simplex(
    a: np.ndarray, b: np.ndarray, cost: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Entries of the optimal plan between masses, what flows there, and the potentials."""
    plan, log = _pot().lp.emd(a, b, cost, numItermax=10**9, log=True)
    if log["warning"] is not None:
        raise RuntimeError(f"the network simplex method must find an optimum: {log['warning']}")
    rows, columns = np.nonzero(plan)
    return rows, columns, plan[rows, columns], log["u"], log["v"]


def _pot() -> Any:
    """The package, imported late and without array libraries that are installed but not in use."""
    names = {"torch": "PYTORCH", "tensorflow": "TENSORFLOW", "cupy": "CUPY"}
    switches = [f"POT_BACKEND_DISABLE_{n}" for m, n in names.items() if m not in sys.modules]
    switches = [switch for switch in switches if switch not in os.environ]
    os.environ.update(dict.fromkeys(switches, "1"))
    try:
        import ot
    finally:
        for switch in switches:
            del os.environ[switch]
    return ot


@jax.jit
def two_sample_error(u: Float[Array, " n"], v: Float[Array, " m"]) -> Float[Array, ""]:
    """Standard error of the mean of u plus the mean of v, influences of independent samples.

    The scatter of a single point is unknown: its error is infinite.
    """
    u, v = jax.lax.stop_gradient((u, v))
    if min(u.shape[0], v.shape[0]) < 2:
        return jnp.full((), jnp.inf, u.dtype)
    # In units of the largest influence: squares neither overflow nor underflow.
    u, v = u - jnp.mean(u), v - jnp.mean(v)
    largest = jnp.maximum(jnp.max(jnp.abs(u)), jnp.max(jnp.abs(v)))
    unit = jnp.where(largest > 0, largest, 1.0)
    u, v = u / unit, v / unit
    return unit * jnp.sqrt(jnp.var(u, ddof=1) / u.shape[0] + jnp.var(v, ddof=1) / v.shape[0])


def error_of_root(root: Array, p: float, error: Array, unit: Array | float = 1.0) -> Array:
    """Standard error of a distance from that of its p-th power in units of `unit`.

    Zero where the distance is, and infinite where the dtype cannot hold it.
    """
    root = jax.lax.stop_gradient(root)
    above = root > 0
    safe = jnp.where(above, root, 1.0)
    scaled = unit * (error / p) * (unit / safe) ** (p - 1)
    return jnp.where(above, jnp.where(jnp.isnan(scaled), jnp.inf, scaled), 0.0)


def potential_unit(root: Array, largest: Array, p: float) -> Array:
    """A unit of length in which p-th powers of distances up to `largest` do not overflow.

    The distance itself where that will do: the potentials matter in proportion to its p-th power.
    """
    root, largest = jax.lax.stop_gradient((root, largest))
    least = largest * float(jnp.finfo(root.dtype).max) ** (-0.7 / p)
    unit = jnp.maximum(root, least)
    return jnp.where(unit > 0, unit, 1.0)
