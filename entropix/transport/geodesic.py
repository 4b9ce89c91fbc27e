r"""Geodesics of $W_2$ between samples, and how far the path of a diffusion lies from one.

The displacement interpolation of two samples is the geodesic between them,

$$x_i(t) = (1 - t)\,x_i + t\,T(x_i), \qquad W_2(x(0), x(t)) = t\,W_2(x(0), x(1))$$

with the optimal map T (McCann, 1997). For samples of one size T is the optimal assignment. For
others, and large ones, it is the barycentric map of the regularised plan, $T(x_i) = n\sum_j
\pi_{ij} y_j$ (Pooladian and Niles-Weed, 2109.12004), which averages over the plan and so falls
short of the spread of y by about $\epsilon$ in each direction.

The densities $p_s$ of a process lead from $p_0$ to $p_T$; so does the geodesic $g_t$, the shortest
path. At the fraction of its own length that the process has covered,
$t(s) = \int_{t_0}^s\sqrt{E\|v\|^2}\,dr \big/ \mathrm{length}$, the two are compared:

$$d(s) = W_2(p_s, g_{t(s)}),$$

between samples, next to the $W_2$ of two samples of $p_s$ of the same size. All three ($p_0$,
$p_T$, $p_s$) are sampled from different data, so that chance brings none together.
"""

from collections.abc import Mapping
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, safe_sqrt
from entropix._core.checks import choice, finite, positive_integer
from entropix._core.precision import full_precision
from entropix.interfaces import AbstractModel
from entropix.transport.couplings import assignment, sorted_coupling
from entropix.transport.frame import as_clouds
from entropix.transport.sinkhorn import barycentric_map, regularise
from entropix.transport.speed import check_speed_options, measure_speeds
from entropix.transport.wasserstein import wasserstein


@full_precision
def displacement_interpolation(
    x: DataLike,
    y: DataLike,
    t: DataLike,
    *,
    method: str = "auto",
    max_exact: int = 4096,
    epsilon: PyTree = None,
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
    return ((1 - t) * points + t * target).reshape(*t.shape[:-2], *np.shape(np.asarray(x)))


class GeodesicDeviation(eqx.Module):
    r"""What `geodesic_deviation` found, in units of the data.

    Attributes:
        times: of the process, shape (K,).
        fraction: share of the path's length covered by then, the geodesic's t.
        distance: $W_2$ between samples of $p_s$ and of the geodesic.
        null: $W_2$ between two samples of $p_s$ of the same size.
        w2: $W_2$ between samples of the two ends.
        num_samples: size of every sample.
    """

    times: Float[Array, "*seeds k"]
    fraction: Float[Array, "*seeds k"]
    distance: Float[Array, "*seeds k"]
    null: Float[Array, "*seeds k"]
    w2: Float[Array, "*seeds"]
    num_samples: int = eqx.field(static=True)

    @property
    def excess(self) -> Float[Array, "*seeds k"]:
        r"""$\sqrt{d^2 - \mathrm{null}^2}$: the deviation less the bias of samples, or zero."""
        return safe_sqrt(jnp.maximum(self.distance**2 - self.null**2, 0.0))

    @property
    def relative(self) -> Float[Array, "*seeds k"]:
        """The excess as a share of the distance of the ends."""
        return self.excess / self.w2[..., None]


@full_precision
def geodesic_deviation(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    times: DataLike | None = None,
    num_samples: int = 500,
    num_times: int = 64,
    num_speeds: int = 2048,
    condition: PyTree = None,
    chunk_size: int = 4096,
) -> GeodesicDeviation:
    r"""Distance of a process from the geodesic between its ends, along its length.

    The model enters by the speed of its probability flow, which says how much of the length is
    covered when; the path itself is that of the data under the model's process.

    Args:
        model: any model.
        data: samples of the data distribution, shape (N, *shape), N >= 6.
        key: PRNG key.
        times: times of the process, shape (K,); None for seven at equal distances along the path.
        num_samples: points in each sample, at most a third of the data.
        num_times: nodes in time for the length.
        num_speeds: points at which each node's speed is evaluated.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.

    Returns:
        A `GeodesicDeviation`.

    Raises:
        ValueError: if an argument is malformed.

    References:
        McCann, *A convexity principle for interacting gases*, Adv. Math. 128, 153 (1997).
    """
    sizes = {"num_times": num_times, "num_speeds": num_speeds, "chunk_size": chunk_size}
    data, condition = check_speed_options(model, data, condition, key, minimum=6, **sizes)
    positive_integer(num_samples, "num_samples", 2)
    if times is not None:
        times = finite(times, "times").astype(data.dtype)
        if times.ndim != 1:
            raise ValueError(f"`times` must have shape (K,), got {times.shape}.")
    process = model.process
    speed_key, part_key, noise_key = jax.random.split(key, 3)
    counts = {"num_times": num_times, "num_samples": num_speeds, "chunk": chunk_size}
    _, profile, _ = measure_speeds(model, data, condition, key=speed_key, **counts)
    # Times, and the share of the length covered by then, from one end to the other.
    steps = profile.weights * profile.speed
    total = jnp.sum(steps)
    clock = [process.t0[None], profile.times, process.t1[None]]
    clock = jnp.concatenate([part.astype(profile.times.dtype) for part in clock])
    covered = jnp.pad((jnp.cumsum(steps) - steps / 2) / total, 1, constant_values=(0, 1))
    if times is None:
        fraction = jnp.arange(1, 8, dtype=covered.dtype) / 8
        times = jnp.interp(fraction, covered, clock)
    else:
        fraction = jnp.interp(times, clock, covered)

    count = min(num_samples, data.shape[0] // 3)
    index = jax.random.permutation(part_key, data.shape[0])[: 3 * count].reshape(3, count)
    start, last, middle = data[index].reshape(3, count, -1)
    z = jax.random.normal(noise_key, (3, *start.shape), data.dtype)
    end = process.perturb(process.t1, last, z[0])
    on_geodesic = displacement_interpolation(start, end, fraction, max_exact=count)
    distance, null = [], []
    for k in range(times.shape[0]):
        of_path = process.perturb(times[k], middle, z[1])
        again = process.perturb(times[k], start, z[2])
        distance.append(wasserstein(of_path, on_geodesic[k], max_exact=count).value)
        null.append(wasserstein(of_path, again, max_exact=count).value)
    w2 = wasserstein(start, end, max_exact=count).value
    return GeodesicDeviation(times, fraction, jnp.stack(distance), jnp.stack(null), w2, count)
