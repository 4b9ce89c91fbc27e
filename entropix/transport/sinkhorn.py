r"""The Sinkhorn divergence: entropy-regularised optimal transport, debiased.

$$S_\epsilon(x, y) = OT_\epsilon(x, y) - \tfrac12 OT_\epsilon(x, x) - \tfrac12 OT_\epsilon(y, y)$$

with cost $\|x - y\|^p$ (Genevay, Peyre and Cuturi, 1706.00292; Feydy et al., 1810.08278), by OTT
(Cuturi et al., 2201.12324).
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.checks import positive
from entropix.transport.points import as_points, order


# Share of the mean cost taken as the regularisation where none is given. The root of the divergence
# is then within 0.1% of the exact W2 of the same points (W1: 1.6%, W3: 0.6%; in two dimensions).
RELATIVE_EPSILON = 0.003
# Cost matrices above this size are recomputed in blocks rather than held.
_HELD_ENTRIES = 2**26


def sinkhorn_divergence(
    x: Any, y: Any, *, p: float | int = 2, epsilon: Any = None, max_iterations: int = 10_000
) -> Float[Array, ""]:
    r"""$S_\epsilon$ between two samples with equal weights, in units of the cost $\|x - y\|^p$.

    Non-negative, zero for equal samples, and differentiable; as $\epsilon \to 0$ it becomes
    $W_p^p$.

    Args:
        x: samples, shape (n, *shape), or (n,) for numbers.
        y: samples, shape (m, *shape).
        p: exponent of the distance, at least 1.
        epsilon: the regularisation, in units of the cost; None for 0.3% of the mean cost.
        max_iterations: bound on the number of Sinkhorn iterations.

    Returns:
        The divergence; its p-th root is comparable with a Wasserstein distance.

    Raises:
        ValueError: if an argument is malformed. If the iteration does not converge, an error is
            raised as the compiled program runs.
    """
    # Late: OTT takes longer to import than the rest of this library.
    from ott.geometry import costs, pointcloud
    from ott.tools import sinkhorn_divergence as ott_divergence

    x, y = as_points(x, "x"), as_points(y, "y", like=x)
    p = order(p)
    if p == 2:
        cost = costs.SqEuclidean()
    else:
        cost = costs.Euclidean() if p == 1 else costs.EuclideanP(p)
    relative = epsilon is None
    held = max(x.shape[0], y.shape[0]) ** 2 <= _HELD_ENTRIES
    divergence, out = ott_divergence.sinkhorn_divergence(
        pointcloud.PointCloud,
        x,
        y,
        cost_fn=cost,
        epsilon=RELATIVE_EPSILON if relative else positive(epsilon, "epsilon"),
        relative_epsilon="mean" if relative else None,
        batch_size=None if held else 512,
        solve_kwargs={"max_iterations": max_iterations},
    )
    converged = jnp.all(jnp.asarray(out.converged))
    return eqx.error_if(
        divergence,
        ~converged,
        "the Sinkhorn iteration must converge: pass a larger `epsilon` or `max_iterations`",
    )
