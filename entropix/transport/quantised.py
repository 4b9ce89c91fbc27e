r"""Distances of large samples by quantisation: cells of points in place of points.

Both samples are divided into K cells of equal numbers of points, by splitting at medians along the
axis of the largest variance. The exact plan between the means of the cells, with their weights, has
the cost $W_c^p$. The points are at a distance $r$ from the means of their cells, so that by the
triangle inequality

$$|W_p - W_c| \le r_x + r_y, \qquad r_x^p = \frac1n\sum_i\|x_i - c(x_i)\|^p,$$

and for p = 2 the plan that couples the points of two cells independently has the cost

$$W_2^2 \le W_c^2 + r_x^2 + r_y^2 .$$

The stated value is $W_c$, for p = 2 $(W_c^2 + (r_x - r_y)^2)^{1/2}$: what remains where the cells
are mapped to one another by a shift and a common stretch. Time and memory are those of the exact
plan of K points, whatever n. Cells are small in few dimensions only: $r \propto K^{-1/D}$.
"""

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.checks import is_concrete
from entropix.transport.couplings import (
    distances_of,
    error_of_root,
    on_device,
    padded,
    power_mean,
    power_root,
    solve,
    two_sample_error,
)
from entropix.transport.enclosure import outward
from entropix.transport.frame import frame


def quantised_distance(
    x: Float[Array, "n dim"], y: Float[Array, "m dim"], p: float, num_cells: int
) -> tuple[Array, Array, Array, Array]:
    """The distance, its standard error, and its lower and upper bound.

    Under `jit`, `vmap` or differentiation the host is called back.
    """
    place = frame(x, y, separately=False)
    cells = min(num_cells, len(x)), min(num_cells, len(y))
    given = jax.lax.stop_gradient((place.x, place.y))

    def host(*points: Any) -> Any:
        first, second = (np.asarray(v, np.float64) for v in points)
        return _coupled_cells(first, second, p, *cells, x.dtype)

    if is_concrete(given):
        found = host(*given)
    else:
        count = sum(cells) - 1
        whole = (len(x), len(y), (2, count))
        sizes = (*(count, cells[0], cells[1]) * 2, (), (), (), ())
        shapes = [jax.ShapeDtypeStruct(np.zeros(s).shape, jnp.int32) for s in whole]
        shapes += [jax.ShapeDtypeStruct(np.zeros(s).shape, jnp.float32) for s in sizes]
        found = jax.pure_callback(host, tuple(shapes), *given, vmap_method="sequential")
    found = tuple(jnp.asarray(part) for part in found)
    low, low_rest, high, high_rest = (part.astype(x.dtype) for part in found[-4:])
    value, stderr = _value(place.x, place.y, found[:-4], p, cells)
    bounds = jnp.maximum(low + low_rest, 0.0), high + high_rest
    return tuple(place.scale * part for part in (value, stderr, *bounds))  # pyright: ignore


@functools.partial(jax.jit, static_argnames=("p", "cells"))
def _value(x: Array, y: Array, found: Any, p: float, cells: Any) -> tuple[Array, Array]:
    of_x, of_y, entries, *parts = found
    pairs = zip(parts[:3], parts[3:], strict=True)
    weights, u, v = (high.astype(x.dtype) + low.astype(x.dtype) for high, low in pairs)

    def means(points: Array, own: Int[Array, " n"], count: int) -> tuple[Array, Array]:
        sums = jax.ops.segment_sum(points, own, count)
        centres = sums / jax.ops.segment_sum(jnp.ones_like(points[:, :1]), own, count)
        return centres, power_mean(distances_of(points, centres[own]), p)

    (centres, radius), (others, other) = means(x, of_x, cells[0]), means(y, of_y, cells[1])
    coupled = power_mean(distances_of(centres[entries[0]], others[entries[1]]), p, weights)
    error = two_sample_error(u[of_x], v[of_y])
    stderr = error_of_root(coupled, p, error, jax.lax.stop_gradient(coupled))
    if p == 2:
        coupled = power_root(coupled**2 + (radius - other) ** 2, p)
    return coupled, stderr


def _coupled_cells(
    x: np.ndarray, y: np.ndarray, p: float, num_x: int, num_y: int, dtype: Any
) -> tuple[np.ndarray, ...]:
    """Cells of both samples, the plan between their means, and the enclosure."""
    of_x, of_y = _cells(x, num_x), _cells(y, num_y)
    (centres, counts, radius), (others, other_counts, other) = (
        _means(v, own, p) for v, own in ((x, of_x), (y, of_y))
    )
    entries, weights, u, v = solve(centres, others, p, counts, other_counts)
    # A permutation has fewer entries than other plans.
    entries, weights = padded(entries, weights, num_x + num_y - 1)
    distances = np.linalg.norm(centres[entries[0]] - others[entries[1]], axis=1)
    coupled = float(weights @ distances**p) ** (1 / p)
    reach = radius + other
    rounding = 1e-9 * (coupled + reach)  # far above that of sums in float64
    upper = np.sqrt(coupled**2 + radius**2 + other**2) if p == 2 else coupled + reach
    bounds = outward(max(coupled - reach - rounding, 0.0), -np.inf, dtype)
    bounds += outward(upper + rounding, np.inf, dtype)
    high, low = zip(*(on_device(part) for part in (weights, u, v)), strict=True)
    return (*(part.astype(np.int32) for part in (of_x, of_y, entries)), *high, *low, *bounds)


def _means(points: np.ndarray, own: np.ndarray, p: float) -> tuple[np.ndarray, np.ndarray, float]:
    """Means of cells, how many points they hold, and the distance of all points from them."""
    counts = np.bincount(own)
    sums = [np.bincount(own, weights=column) for column in points.T]
    centres = np.stack(sums, axis=1) / counts[:, None]
    distances = np.linalg.norm(points - centres[own], axis=1)
    return centres, counts, float(np.mean(distances**p)) ** (1 / p)


def _cells(points: np.ndarray, count: int) -> np.ndarray:
    """A cell for each point: sizes differ by at most one."""
    own = np.empty(len(points), int)
    stack, done = [(np.arange(len(points)), count)], 0
    while stack:
        members, parts = stack.pop()
        if parts == 1:
            own[members] = done
            done += 1
            continue
        axis = np.argmax(np.var(points[members], axis=0))
        first = len(members) * (parts // 2) // parts
        ranks = np.argpartition(points[members, axis], first)
        stack.append((members[ranks[:first]], parts // 2))
        stack.append((members[ranks[first:]], parts - parts // 2))
    return own
