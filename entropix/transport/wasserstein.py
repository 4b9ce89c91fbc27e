r"""The Wasserstein distance between two samples, its error, and its size where there is none.

$$W_p(x, y)^p = \min_{\pi}\sum_{ij}\pi_{ij}\|x_i - y_j\|^p$$

over couplings of the two samples with equal weights (Villani, 2009). Over new samples of two
different populations $W_p^p$ scatters around its mean like a Gaussian, with variance
$\mathrm{Var}(u)/n + \mathrm{Var}(v)/m$ in terms of the dual potentials (del Barrio and Loubes,
1705.01299; del Barrio, González-Sanz and Loubes, 2102.06379).

That mean is the distance of the samples, not of the populations. Two samples of one population lie
at a distance that is not zero: about $n^{-1/2}$ on a line, $n^{-1/D}$ in D > 4 dimensions. A
distance of two samples means something only in comparison with that of two samples of one
population, of the same sizes: `wasserstein_null`.
"""

import functools
from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import choice, positive_integer, prng_key
from entropix._core.formatting import format_with_error
from entropix._core.precision import full_precision
from entropix.transport.couplings import (
    Plan,
    distances_of,
    error_of_root,
    optimal_plan,
    potential_unit,
    power_mean,
    power_root,
    sorted_distance,
    sorted_potentials,
    two_sample_error,
)
from entropix.transport.enclosure import enclosure
from entropix.transport.frame import as_clouds, order, representable
from entropix.transport.quantised import quantised_distance
from entropix.transport.sinkhorn import regularise


class Wasserstein(eqx.Module):
    """A Wasserstein distance between two samples, in units of the data.

    Attributes:
        value: $W_p$: a distance, not its power.
        stderr: its scatter over new samples of the two populations, if these differ. For samples of
            one population the limit is not Gaussian: compare with `wasserstein_null` instead.
        lower: the exact distance of these samples is at least this.
        upper: and at most this; both are `value` for the exact methods. For "sinkhorn" they are
            proved, rounding included (see `entropix.transport.enclosure`), and bound the error of
            the regularisation; for "quantised", that of cells in place of points.
        method: how it was computed: "sorted" and "assignment" are exact for the samples,
            "sinkhorn" is regularised, "quantised" couples cells of points.
        num_samples: sizes of the two samples.
        p: the order.
        epsilon: the regularisation, in units of the cost (infinite or zero where the dtype cannot
            hold these); None for the exact methods.

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
        if self.method in ("sinkhorn", "quantised"):
            size += f"; exact in [{float(self.lower):.4g}, {float(self.upper):.4g}]"
        return f"W{self.p:g} = {value} ({self.method}, {size})"


@full_precision
def wasserstein(
    x: DataLike,
    y: DataLike,
    p: float | int = 2,
    *,
    method: str = "auto",
    max_exact: int = 4096,
    epsilon: PyTree = None,
    geometry: Mapping[str, Any] | None = None,
    solver: Mapping[str, Any] | None = None,
) -> Wasserstein:
    r"""$W_p$ between two samples with equal weights.

    In one dimension exact by sorting, for any sizes. In more, exact by the network simplex method
    of POT for samples of up to `max_exact` points (0.1 s for 1000, 0.5 s for 2000, on the host),
    and above that the p-th root of the Sinkhorn divergence. Differentiable in the points. Samples
    of any common offset and size are compared alike: only their differences count, in units of
    their own.

    Args:
        x: samples, shape (n, *shape), or (n,) for numbers.
        y: samples, shape (m, *shape).
        p: order of the distance, at least 1; distances between points are Euclidean.
        method: "auto", or one of "sorted", "assignment", "sinkhorn", or "quantised": the exact plan
            of `max_exact` cells of each sample in place of its points, in the same time and memory
            for any number of points. Its error is bounded by `lower` and `upper`, and is small in
            few dimensions.
        max_exact: largest size of a sample for which "auto" takes the exact plan. Its memory is
            that of several n x m matrices in float64.
        epsilon: regularisation of "sinkhorn", in units of the cost; None for 0.3% of the mean cost
            (for p = 2, of samples of one mean).
        geometry: options of OTT's `PointCloud` for "sinkhorn", which "auto" then takes: see
            `sinkhorn_divergence`. A `cost_fn` must be the p-th power of a distance.
        solver: options of OTT's `Sinkhorn`, as `max_iterations` and `threshold`; likewise.

    Returns:
        A `Wasserstein`.

    Raises:
        ValueError: if an argument is malformed; if "sorted" is asked for in more than one
            dimension, or an exact method together with options of OTT; if the distance is too
            large for the precision of the samples.

    References:
        Villani, Optimal Transport: Old and New, 2009; Peyré and Cuturi, 1803.00567;
        Flamary et al., POT: Python Optimal Transport, JMLR 22, 78 (2021).

    Example:
        >>> import entropix as ex
        >>> distance = ex.wasserstein([[0.0, 0.0], [1.0, 0.0]], [[0.0, 3.0], [1.0, 3.0]])
        >>> print(f"{float(distance):.3f} by {distance.method}")
        3.000 by assignment
    """
    x, y = as_clouds(x, y, invariant="cost_fn" not in (geometry or {}))
    p = order(p)
    choice(method, "method", ("auto", "sorted", "assignment", "quantised", "sinkhorn"))
    positive_integer(max_exact, "max_exact")
    n, m = x.shape[0], y.shape[0]
    line = x.shape[1] == 1
    options = geometry is not None or solver is not None
    if method == "auto":
        if options or (not line and max(n, m) > max_exact):
            method = "sinkhorn"
        else:
            method = "sorted" if line else "assignment"
    if options and method != "sinkhorn":
        raise ValueError(
            f"`geometry` and `solver` must be None for an exact method, got method={method!r}."
        )
    bounds: Any = None
    used = None
    if method == "sorted":
        if not line:
            raise ValueError(
                f"`method` must be 'assignment' or 'sinkhorn' for points in {x.shape[1]} "
                "dimensions, got 'sorted'."
            )
        value, stderr = _sorted(x[:, 0], y[:, 0], p)
    elif method == "assignment":
        value, stderr = _coupled(x, y, optimal_plan(x, y, p), p)
    elif method == "quantised":
        value, stderr, *bounds = quantised_distance(x, y, p, max_exact)
    else:
        found = regularise(x, y, p, epsilon, geometry, solver)
        bounds = enclosure(x, y, p, found, (geometry or {}).get("cost_fn"))
        value, stderr = _root(found.divergence, found.u, found.v, found.unit, p)
        used = found.given_epsilon
    low, high = bounds or (jax.lax.stop_gradient(value),) * 2
    return Wasserstein(representable(value, "x", "y"), stderr, low, high, method, (n, m), p, used)


@functools.partial(jax.jit, static_argnames="p")
def _sorted(x: Array, y: Array, p: float) -> tuple[Array, Array]:
    value = sorted_distance(x, y, p)
    ends = jnp.maximum(jnp.max(x), jnp.max(y)) / 2 - jnp.minimum(jnp.min(x), jnp.min(y)) / 2
    unit = potential_unit(value, ends, p)
    u, v = sorted_potentials(x, y, p, unit)
    return value, error_of_root(value, p, two_sample_error(u, v), unit)


@functools.partial(jax.jit, static_argnames="p")
def _coupled(x: Array, y: Array, plan: Plan, p: float) -> tuple[Array, Array]:
    value = power_mean(distances_of(x[plan.rows], y[plan.columns]), p, plan.weights)
    error = two_sample_error(plan.u, plan.v)
    return value, error_of_root(value, p, error, jax.lax.stop_gradient(value))


@functools.partial(jax.jit, static_argnames="p")
def _root(divergence: Array, u: Array, v: Array, unit: Array, p: float) -> tuple[Array, Array]:
    root = power_root(jnp.maximum(divergence, 0.0), p)
    return unit * root, unit * error_of_root(root, p, two_sample_error(u, v))


class WassersteinNull(eqx.Module):
    """Distances between samples of one population.

    Attributes:
        values: one for each random split, shape (num_splits,).
        num_samples: points on each side.
        method: how they were computed, see `Wasserstein`.
        p: the order.

    `float(null)` is their mean.
    """

    values: Float[Array, "*seeds splits"]
    num_samples: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    p: float = eqx.field(static=True)

    @property
    def value(self) -> Float[Array, "*seeds"]:
        """The mean distance: what sampling alone makes of a distance of zero."""
        return jnp.mean(self.values, axis=-1)

    @property
    def scatter(self) -> Float[Array, "*seeds"]:
        """The standard deviation of one such distance."""
        return jnp.std(self.values, axis=-1, ddof=1)

    def p_value(self, distance: Wasserstein | ArrayLike) -> Array:
        """Chance of a distance as large as the given one; at least 1 / (num_splits + 1).

        That of a permutation test where the null was taken of both samples, concatenated.
        """
        known = isinstance(distance, Wasserstein)
        given = distance.value if known else as_float(distance, "distance")
        above = jnp.sum(self.values >= given[..., None], axis=-1)
        return (above + 1) / (self.values.shape[-1] + 1)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        size = f"{self.method}, n = {self.num_samples}, {self.values.shape[-1]} splits"
        if isinstance(self.values, jax.core.Tracer) or self.values.ndim > 1:
            return f"W{self.p:g} null = {self.value} ± {self.scatter} ({size})"
        value = format_with_error(float(self.value), float(self.scatter))
        return f"W{self.p:g} null = {value} ({size})"


@full_precision
def wasserstein_null(
    x: DataLike,
    p: float | int = 2,
    *,
    key: Key,
    num_samples: int | None = None,
    num_splits: int = 16,
    **options: Any,
) -> WassersteinNull:
    r"""$W_p$ between two disjoint random parts of one sample, for comparison with $W_p(x, y)$.

    Of one population, it says how much of a distance between samples of `num_samples` points each
    is due to their number. Of two samples together, `wasserstein_null(concatenate([x, y]))`, it is
    the null distribution of a permutation test of their being of one population.

    Args:
        x: samples, shape (N, *shape), or (N,) for numbers.
        p: order of the distance.
        key: PRNG key.
        num_samples: points on each side, at most half of all; None for half of all.
        num_splits: random splits. They share points, so that their mean is known less well than
            their number suggests; each is as a distance of fresh samples would be.
        options: passed to `wasserstein`.

    Returns:
        A `WassersteinNull`.

    Raises:
        ValueError: if an argument is malformed, or `num_samples` more than half of the points.
    """
    x, _ = as_clouds(x, x)
    prng_key(key)
    half = x.shape[0] // 2
    size = half if num_samples is None else positive_integer(num_samples, "num_samples")
    positive_integer(num_splits, "num_splits", 2)
    if not 1 <= size <= half:
        raise ValueError(
            f"`num_samples` must be at most half of the {x.shape[0]} samples of `x`, got {size}."
        )
    distances = []
    for split in jax.random.split(key, num_splits):
        parts = x[jax.random.permutation(split, x.shape[0])]
        distances.append(wasserstein(parts[:size], parts[size : 2 * size], p, **options))
    values = jnp.stack([distance.value for distance in distances])
    return WassersteinNull(values, size, distances[0].method, distances[0].p)
