r"""The Wasserstein distance between two samples, its error, and what chance alone makes of it.

$$W_p(x, y)^p = \min_{\pi}\sum_{ij}\pi_{ij}\|x_i - y_j\|^p$$

over couplings of the two samples with equal weights (Villani, 2009). Over new samples of two
different populations $W_p^p$ scatters around its mean like a Gaussian, with variance
$\mathrm{Var}(u)/n + \mathrm{Var}(v)/m$ in terms of the dual potentials (del Barrio and Loubes,
1705.01299; del Barrio, Gonzalez-Sanz and Loubes, 2102.06379).

That mean is the distance of the samples, not of the populations: in D > 2 dimensions it exceeds
theirs by an amount that falls only like $n^{-1/D}$. `wasserstein_null` says by how much, where
there is no distance at all.
"""

import math
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import safe_sqrt
from entropix._core.checks import choice, positive_integer
from entropix._core.estimate import format_with_error
from entropix._core.precision import full_precision
from entropix.transport.couplings import assignment, costs_of, sorted_cost, sorted_potentials
from entropix.transport.errors import two_sample_error
from entropix.transport.points import as_points, order
from entropix.transport.sinkhorn import regularise


class Wasserstein(eqx.Module):
    """A Wasserstein distance between two samples, in units of the data.

    Attributes:
        value: $W_p$: a distance, not its power.
        stderr: its scatter over new samples of the two populations, if these differ. For samples of
            one population the limit is not Gaussian: compare with `wasserstein_null` instead.
        lower: the exact distance of these samples is at least this.
        upper: and at most this; both are `value` for the exact methods, and say for "sinkhorn" how
            much the regularisation may have changed.
        method: how it was computed: "sorted" and "assignment" are exact for the samples,
            "sinkhorn" is regularised.
        num_samples: sizes of the two samples.
        p: the order.
        epsilon: the regularisation, in units of the cost; None for the exact methods.

    `float(distance)` is its value.
    """

    value: Float[Array, "*seeds"]
    stderr: Float[Array, "*seeds"]
    lower: Float[Array, "*seeds"]
    upper: Float[Array, "*seeds"]
    method: str = eqx.field(static=True)
    num_samples: tuple[int, int] = eqx.field(static=True)
    p: float = eqx.field(static=True)
    epsilon: Float[Array, "*seeds"] | None = None

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        n, m = self.num_samples
        size = f"n = {n}" if n == m else f"n = {n}, {m}"
        if isinstance(self.value, jax.core.Tracer) or self.value.ndim > 0:
            return f"W{self.p:g} = {self.value} ± {self.stderr} ({self.method}, {size})"
        value = format_with_error(float(self.value), float(self.stderr))
        if self.epsilon is not None:
            size += f"; exact in [{float(self.lower):.4g}, {float(self.upper):.4g}]"
        return f"W{self.p:g} = {value} ({self.method}, {size})"


@full_precision
def wasserstein(
    x: Any,
    y: Any,
    p: float | int = 2,
    *,
    method: str = "auto",
    max_exact: int = 2048,
    epsilon: Any = None,
    geometry: Mapping[str, Any] | None = None,
    solver: Mapping[str, Any] | None = None,
) -> Wasserstein:
    r"""$W_p$ between two samples with equal weights.

    In one dimension exact by sorting, for any sizes. In more, exact by assignment up to `max_exact`
    points (0.3 s for 1000, 3 s for 2000, on the host), and above that the p-th root of the Sinkhorn
    divergence. Samples of sizes n and m are assigned as copies, least common multiple of them, if
    these are not too many. Differentiable in the points.

    Args:
        x: samples, shape (n, *shape), or (n,) for numbers.
        y: samples, shape (m, *shape).
        p: order of the distance, at least 1; distances between points are Euclidean.
        method: "auto", or one of "sorted", "assignment", "sinkhorn".
        max_exact: largest number of points for which "auto" takes the assignment.
        epsilon: regularisation of "sinkhorn", in units of the cost; None for 0.3% of the mean cost.
        geometry: options of OTT's `PointCloud` for "sinkhorn", which "auto" then takes: see
            `sinkhorn_divergence`. A `cost_fn` must be the p-th power of a distance.
        solver: options of OTT's `Sinkhorn`, as `max_iterations` and `threshold`; likewise.

    Returns:
        A `Wasserstein`.

    Raises:
        ValueError: if an argument is malformed; if "sorted" is asked for in more than one
            dimension, or an exact method together with options of OTT.

    References:
        Villani, Optimal Transport: Old and New, 2009; Peyre and Cuturi, 1803.00567.
    """
    x, y = as_points(x, "x"), as_points(y, "y", like=as_points(x, "x"))
    p = order(p)
    choice(method, "method", ("auto", "sorted", "assignment", "sinkhorn"))
    positive_integer(max_exact, "max_exact")
    n, m = x.shape[0], y.shape[0]
    line = x.shape[1] == 1
    options = geometry is not None or solver is not None
    if method == "auto":
        if options or (not line and math.lcm(n, m) > max_exact):
            method = "sinkhorn"
        else:
            method = "sorted" if line else "assignment"
    if options and method != "sinkhorn":
        raise ValueError(
            f"`geometry` and `solver` must be None for an exact method, got method={method!r}."
        )
    low = high = used = None
    if method == "sorted":
        if not line:
            raise ValueError(
                f"`method` must be 'assignment' or 'sinkhorn' for points in {x.shape[1]} "
                "dimensions, got 'sorted'."
            )
        cost = sorted_cost(x[:, 0], y[:, 0], p)
        u, v = sorted_potentials(x[:, 0], y[:, 0], p)
    elif method == "assignment":
        size = math.lcm(n, m)
        copies, others = jnp.repeat(x, size // n, axis=0), jnp.repeat(y, size // m, axis=0)
        coupling = assignment(copies, others, p)
        cost = jnp.mean(costs_of(copies, others[coupling.partner], p))
        u = jnp.mean(coupling.u.reshape(n, -1), axis=1)
        v = jnp.mean(coupling.v.reshape(m, -1), axis=1)
    else:
        found = regularise(x, y, p, epsilon, geometry, solver)
        cost, u, v, used = jnp.maximum(found.divergence, 0.0), found.u, found.v, found.epsilon
        low, high = power_root(jnp.maximum(found.lower, 0.0), p), power_root(found.upper, p)
    value = power_root(cost, p)
    exact = jax.lax.stop_gradient(value)
    slope = jnp.where(exact > 0, 1 / (p * jnp.where(exact > 0, exact, 1.0) ** (p - 1)), 0.0)
    return Wasserstein(
        value,
        slope * two_sample_error(u, v),
        exact if low is None else low,
        exact if high is None else high,
        method,
        (n, m),
        p,
        used,
    )


def power_root(cost: Array, p: float) -> Array:
    """The p-th root, whose derivative at zero is zero."""
    if p == 1:
        return cost
    if p == 2:
        return safe_sqrt(cost)
    above = cost > 0
    return jnp.where(above, jnp.where(above, cost, 1.0) ** (1 / p), 0.0)
