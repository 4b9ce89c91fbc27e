r"""What a regularised plan proves of the exact distance of the same samples.

For costs $c_{ij}$ and weights $1/n$, $1/m$, any potentials with $f_i + g_j \le c_{ij}$ and any plan
$\pi$ with these marginals enclose the optimal cost (Kantorovich duality),

$$\frac1n\sum_i f_i + \frac1m\sum_j g_j \;\le\; OT \;\le\; \sum_{ij}\pi_{ij}c_{ij} .$$

An iteration that has been stopped has neither. From its potential $\tilde g$ alone follow
$f_i = \min_j(c_{ij} - \tilde g_j)$ and $g_j = \min_i(c_{ij} - f_i)$, which are feasible, and the
plan with rows $\propto e^{(\tilde g_j - c_{ij})/\epsilon}$, which is rounded to its marginals:
columns that hold too much are scaled down, and what rows and columns then lack is added as a
product (Altschuler, Weed and Rigollet, 1705.09634, algorithm 2). Everything is computed in float64
on the host, from the samples as they were given, and widened by a bound on its rounding: the
enclosure holds whatever the precision of the iteration and wherever it stopped.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.checks import is_concrete
from entropix._core.compiled import error_if
from entropix.transport.couplings import on_device
from entropix.transport.sinkhorn import Regularised


# Entries of the cost matrix held at once.
_ENTRIES = 2**22


def enclosure(
    x: Float[Array, "n dim"], y: Float[Array, "m dim"], p: float, found: Regularised, cost_fn: Any
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Lower and upper bound on $W_p$ of two samples; exact for costs that this module knows.

    Under `jit`, `vmap` or differentiation the host is called back.
    """
    given = (x, y, found.g, found.epsilon, found.frame.scale)
    if cost_fn is not None:
        given = (cost_fn.all_pairs(x, y), y, *given[2:])
    given = jax.lax.stop_gradient(given)

    def host(*arrays: Any) -> Any:
        first, second, g, epsilon, scale = (np.asarray(v, np.float64) for v in arrays)
        if cost_fn is None:
            lower, upper = _of_points(first / scale, second / scale, p, g, float(epsilon))
        else:  # how a given function rounds is not known: a few units of its precision
            rounding = 16 * float(np.finfo(x.dtype).eps)
            bounds = _bounds(lambda i: first[i], g, float(epsilon), len(first), rounding)
            lower, upper = (max(bound, 0.0) ** (1 / p) for bound in bounds)
        return *outward(lower, -np.inf, x.dtype), *outward(upper, np.inf, x.dtype)

    if is_concrete(given):
        parts = host(*given)
    else:
        shapes = (jax.ShapeDtypeStruct((), jnp.float32),) * 4
        parts = jax.pure_callback(host, shapes, *given, vmap_method="sequential")
    low, low_rest, high, high_rest = (jnp.asarray(part, x.dtype) for part in parts)
    unit = given[-1]
    lower, upper = unit * jnp.maximum(low + low_rest, 0.0), unit * (high + high_rest)
    upper = error_if(upper, ~(lower <= upper), "the enclosure of the distance must not be empty")
    return lower, upper


def outward(value: float, end: float, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """A bound as a sum of two numbers, rounded away from what it bounds in that precision."""
    high, low = on_device(value)
    if value == 0:  # nothing was rounded
        return high, low
    if dtype == np.float64:
        return high, np.asarray(np.nextafter(low, np.float32(end)))
    return np.asarray(np.nextafter(high, np.float32(end))), np.zeros_like(low)


def _of_points(
    x: np.ndarray, y: np.ndarray, p: float, g: np.ndarray, epsilon: float
) -> tuple[float, float]:
    """Bounds on the distance of points in units of the frame's scale, in the same units."""
    from scipy.spatial.distance import cdist

    origin = x[0].copy()
    x, y = x - origin, y - origin
    a, b = np.mean(x, axis=0), np.mean(y, axis=0)
    shift = a - b
    rounding = 16 * np.finfo(float).eps * (len(x) + len(y) + x.shape[1] + p)
    if p == 2:
        x, y = x - a, y - b
        rest = np.mean(x, axis=0) - np.mean(y, axis=0)
        low, high = _bounds(lambda i: cdist(x[i], y, "sqeuclidean"), g, epsilon, len(x), rounding)
        known = (shift + 2 * rest) @ shift
        low, high = low + known * (1 - 4 * rounding), high + known * (1 + 4 * rounding)
    else:
        low, high = _bounds(lambda i: cdist(x[i], y) ** p, g, epsilon, len(x), rounding)
        reach = max(float(np.max(np.linalg.norm(v, axis=1))) for v in (x, y))
        low = max(low, max(0.0, float(np.linalg.norm(shift) - rounding * reach)) ** p)
    root = 4 * np.finfo(float).eps
    return float(max(low, 0.0) ** (1 / p) * (1 - root)), float(high ** (1 / p) * (1 + root))


def _bounds(
    cost_of: Callable[[slice], np.ndarray],
    g: np.ndarray,
    epsilon: float,
    n: int,
    rounding: float,
) -> tuple[float, float]:
    """The enclosure of the optimal cost; `rounding` bounds relative errors of costs and sums."""
    m = len(g)
    rows = max(1, _ENTRIES // m)
    blocks = [slice(start, min(start + rows, n)) for start in range(0, n, rows)]

    def plan(cost: np.ndarray) -> np.ndarray:
        scores = (g - cost) / epsilon
        weights = np.exp(scores - np.max(scores, axis=1, keepdims=True))
        return weights / (n * np.sum(weights, axis=1, keepdims=True))

    f, best = np.empty(n), np.full(m, np.inf)
    held, paid, largest = np.zeros(m), np.zeros(m), 0.0
    for block in blocks:
        cost = cost_of(block)
        f[block] = np.min(cost - g, axis=1)
        best = np.minimum(best, np.min(cost - f[block, None], axis=0))
        weights = plan(cost)
        held += np.sum(weights, axis=0)
        paid += np.sum(weights * cost, axis=0)
        largest = max(largest, float(np.max(np.abs(cost))))
    dual = np.mean(f) + np.mean(best)
    sizes = np.mean(np.abs(f)) + np.mean(np.abs(best))
    lower = float((dual - rounding * sizes) / (1 + rounding)) - 4 * rounding * largest
    kept = np.minimum(1.0, 1 / (m * np.maximum(held, np.finfo(float).tiny)))
    lacking = np.maximum(1 / m - held * kept, 0.0)
    total = float(np.sum(lacking))
    upper = float(kept @ paid)
    if total > rounding:
        for block in blocks:
            cost = cost_of(block)
            missing = np.maximum(1 / n - plan(cost) @ kept, 0.0)
            upper += float(missing @ (cost @ lacking)) / total
    # Marginals agree to `rounding`: mass of that much at most is left to the largest cost.
    return lower, upper * (1 + 2 * rounding) + 4 * rounding * largest
