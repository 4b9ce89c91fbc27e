r"""Displacement interpolation: the geodesic of $W_2$ between two samples.

$$x_i(t) = (1 - t)\,x_i + t\,T(x_i), \qquad W_2(x(0), x(t)) = t\,W_2(x(0), x(1))$$

with the optimal map T (McCann, 1997). For samples of one size T is the optimal assignment. For
others, and large ones, it is the barycentric map of the regularised plan, $T(x_i) = n\sum_j
\pi_{ij} y_j$ (Pooladian and Niles-Weed, 2109.12004), which averages over the plan and so falls
short of the spread of y by about $\epsilon$ in each direction.
"""

from collections.abc import Mapping
from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.checks import choice, finite, positive_integer
from entropix._core.precision import full_precision
from entropix.transport.couplings import assignment, sorted_coupling
from entropix.transport.points import as_clouds
from entropix.transport.sinkhorn import barycentric_map, regularise


@full_precision
def displacement_interpolation(
    x: Any,
    y: Any,
    t: Any,
    *,
    method: str = "auto",
    max_exact: int = 2048,
    epsilon: Any = None,
    geometry: Mapping[str, Any] | None = None,
    solver: Mapping[str, Any] | None = None,
) -> Array:
    r"""Points at time t on the geodesic from one sample to another, equal weights.

    Differentiable in the points and in t, the coupling held fixed.

    Args:
        x: samples, shape (n, *shape), or (n,) for numbers.
        y: samples, shape (m, *shape).
        t: a number or an array of numbers, 0 at x and 1 at y.
        method: "auto", "assignment" (exact; sorting on a line) or "sinkhorn".
        max_exact: largest number of points for which "auto" takes the assignment.
        epsilon: regularisation of "sinkhorn", in units of the squared distance; None for 0.3% of
            its mean.
        geometry: options of OTT's `PointCloud` for "sinkhorn", see `sinkhorn_divergence`.
        solver: options of OTT's `Sinkhorn`.

    Returns:
        Points, shape (*t.shape, n, *shape), in the order of x.

    Raises:
        ValueError: if an argument is malformed, or an assignment is asked for of samples of
            different sizes.
    """
    points, others = as_clouds(x, y, invariant=False)
    t = finite(t, "t").astype(points.dtype)
    choice(method, "method", ("auto", "assignment", "sinkhorn"))
    positive_integer(max_exact, "max_exact")
    n, m = points.shape[0], others.shape[0]
    line = points.shape[1] == 1
    if method == "auto":
        method = "assignment" if n == m and (line or n <= max_exact) else "sinkhorn"
    if method == "assignment":
        if n != m:
            raise ValueError(
                f"`method` must be 'sinkhorn' for samples of different sizes, {n} and {m}, "
                "got 'assignment'."
            )
        coupling = sorted_coupling(points, others) if line else assignment(points, others, 2.0)
        target = others[coupling.partner]
    else:
        found = regularise(points, others, 2.0, epsilon, geometry, solver)
        target = barycentric_map(found, (geometry or {}).get("cost_fn"))
    t = t[..., None, None]
    return ((1 - t) * points + t * target).reshape(*t.shape[:-2], *jnp.shape(x))
