r"""Wasserstein distances between samples.

$$W_p(x, y)^p = \min_\pi \sum_{ij}\pi_{ij}\,|x_i - y_j|^p$$

over couplings of two equally weighted samples: by sorting in one dimension, by an exact assignment
for moderate n, and by the debiased entropic distance (Feydy et al., 1810.08278) through OTT beyond.
The distance between two samples of one distribution is not zero: it falls like $n^{-1/D}$, and
usually dominates. Compare with the distance between two samples of the data of the same size.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import as_float, safe_sqrt
from entropix._core.checks import is_concrete, positive, positive_integer, samples


class Wasserstein(eqx.Module):
    """A distance between two samples, in units of the data; `float(result)` is its value.

    Attributes:
        value: $W_p$ (not its p-th power).
        p: the order.
        method: "sorted", "assignment" (both exact for the samples) or "sinkhorn".
        num_samples: sizes of the two samples.
    """

    value: Float[Array, ""]
    p: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    num_samples: tuple[int, int] = eqx.field(static=True)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        n, m = self.num_samples
        return f"W{self.p} = {float(self.value):.6g} ({self.method}, {n} and {m} samples)"


def wasserstein(x: Any, y: Any, p: int = 2, *, max_exact: int = 2048) -> Wasserstein:
    r"""$W_p$ between two equally weighted samples.

    Differentiable in both samples: with the optimal coupling held fixed, which by the envelope
    theorem is the gradient. Under `jit` the assignment runs on the host.

    Args:
        x: samples, shape (n, *shape).
        y: samples, shape (m, *shape).
        p: 1 or 2.
        max_exact: largest n for which the assignment is solved exactly (of order n^3: about 3 s at
            2000); beyond it, and for n not equal to m in more than one dimension, the debiased
            entropic distance is taken.

    Raises:
        ValueError: on shapes that do not fit, samples that are not finite, or another p.
    """
    x, y = samples(x, "x", minimum=1), samples(y, "y", minimum=1)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"`y` must hold examples of x's shape {x.shape[1:]}, got {y.shape[1:]}.")
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p!r}.")
    positive_integer(max_exact, "max_exact")
    sizes = (x.shape[0], y.shape[0])
    x, y = x.reshape(sizes[0], -1), y.reshape(sizes[1], -1)
    if x.shape[1] == 1:
        return Wasserstein(_sorted(x[:, 0], y[:, 0], p), p, "sorted", sizes)
    if sizes[0] == sizes[1] <= max_exact:
        return Wasserstein(_assigned(x, y, p), p, "assignment", sizes)
    return Wasserstein(_root(_sinkhorn(x, y, p, None), p), p, "sinkhorn", sizes)


def _root(power: Array, p: int) -> Array:
    return safe_sqrt(power) if p == 2 else power


def _cost(difference: Array, p: int) -> Array:
    """|d|^p over the last axis, with a zero gradient at d = 0."""
    squared = jnp.sum(difference**2, axis=-1)
    return squared if p == 2 else safe_sqrt(squared)


def _sorted(x: Array, y: Array, p: int) -> Array:
    """The distance between two quantile functions."""
    x, y = jnp.sort(x), jnp.sort(y)
    n, m = x.shape[0], y.shape[0]
    # Merged steps of both quantile functions; integers, so that no step is lost to rounding.
    cuts = np.union1d(np.arange(n + 1) * m, np.arange(m + 1) * n)
    left, length = cuts[:-1], np.diff(cuts) / (n * m)
    difference = x[left // m] - y[left // n]
    return _root(jnp.sum(jnp.asarray(length, x.dtype) * jnp.abs(difference) ** p), p)


def _assign(cost: Any) -> np.ndarray:
    from scipy.optimize import linear_sum_assignment

    return linear_sum_assignment(np.asarray(cost, np.float64))[1].astype(np.int32)


def _assigned(x: Array, y: Array, p: int) -> Array:
    fixed_x, fixed_y = jax.lax.stop_gradient((x, y))
    if p == 2:
        # |x - y|^2 up to terms that every coupling shares, centred to keep its digits.
        middle = jnp.mean(fixed_x, axis=0)
        cost = -(fixed_x - middle) @ (fixed_y - middle).T
    else:
        cost = jax.lax.map(lambda row: _cost(row - fixed_y, 1), fixed_x)
    if is_concrete(cost):
        match = jnp.asarray(_assign(cost))
    else:
        shape = jax.ShapeDtypeStruct((x.shape[0],), jnp.int32)
        match = jax.pure_callback(_assign, shape, cost, vmap_method="sequential")
    return _root(jnp.mean(_cost(x - y[match], p)), p)


def _sinkhorn(x: Array, y: Array, p: int, epsilon: Any) -> Array:
    from ott.geometry import costs, pointcloud
    from ott.tools import sinkhorn_divergence as ott

    cost = costs.SqEuclidean() if p == 2 else costs.Euclidean()
    if epsilon is None:
        fixed = jax.lax.stop_gradient((x, y))
        epsilon = 0.01 * jnp.mean(_cost(fixed[0][:256, None] - fixed[1][None, :256], p))
    result = ott.sinkhorn_divergence(
        pointcloud.PointCloud,
        x,
        y,
        cost_fn=cost,
        epsilon=epsilon,
        batch_size=1024 if max(x.shape[0], y.shape[0]) > 4096 else None,
    )
    return jnp.maximum(result[0] if isinstance(result, tuple) else result.divergence, 0.0)


def sinkhorn_divergence(x: Any, y: Any, *, p: int = 2, epsilon: Any = None) -> Float[Array, ""]:
    r"""The Sinkhorn divergence, the entropic $W_p^p$ without its bias at x = y.

    $S_\epsilon(x, y) = OT_\epsilon(x, y) - \frac12 OT_\epsilon(x, x) - \frac12 OT_\epsilon(y, y)$,
    not negative and zero at x = y.

    Args:
        x: samples, shape (n, *shape).
        y: samples, shape (m, *shape).
        p: 1 or 2, the power of the distance in the cost.
        epsilon: strength of the entropic term, in units of the cost; None for a hundredth of the
            mean cost.

    Raises:
        ValueError: as `wasserstein`, or if `epsilon` is not positive.

    References:
        Genevay et al. (1706.00292); Feydy et al. (1810.08278).
    """
    x, y = samples(x, "x", minimum=1), samples(y, "y", minimum=1)
    if x.shape[1:] != y.shape[1:]:
        raise ValueError(f"`y` must hold examples of x's shape {x.shape[1:]}, got {y.shape[1:]}.")
    if isinstance(p, bool) or p not in (1, 2):
        raise ValueError(f"`p` must be 1 or 2, got {p!r}.")
    if epsilon is not None:
        epsilon = positive(epsilon, "epsilon", shape=())
    return as_float(_sinkhorn(x.reshape(x.shape[0], -1), y.reshape(y.shape[0], -1), p, epsilon))
