r"""The static Schroedinger problem of two samples: entropic optimal transport.

$$OT_\epsilon = \min_\pi\ E_\pi\tfrac12\|x - y\|^2 + \epsilon\,KL(\pi\Vert p_0\otimes p_1)$$

over couplings $\pi$ of $p_0$ and $p_1$, by OTT (Cuturi et al., 2201.12324; its regularisation is
$2\epsilon$, for the cost $\|x - y\|^2$). The minimiser is the law of the ends of the Schroedinger
bridge between $p_0$ and $p_1$ over Brownian motion $dX = \sqrt\epsilon\,dB$, $s \in [0, 1]$, and
the path KL of the bridge from that motion started in $p_0$ is (Leonard, 1308.0215)

$$KL(P\Vert W^{p_0}) = KL(\pi\Vert p_0(x)\,N(y; x, \epsilon I)) =
  \frac{OT_\epsilon}{\epsilon} - h(p_1) + \frac D2\log(2\pi\epsilon),$$

with the differential entropy $h(p_1)$, which the samples alone do not tell.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.checks import positive
from entropix._core.estimate import Estimate
from entropix._core.precision import full_precision
from entropix.transport.points import as_points


class StaticBridge(eqx.Module):
    r"""The entropic plan between two samples, in numbers.

    Standard errors are those of the samples; a bias of order 1/n, upwards, comes on top.

    Attributes:
        value: $OT_\epsilon$, in units of the data squared.
        displacement: $E_\pi\frac12\|x - y\|^2$ under the plan.
        information: $KL(\pi\Vert p_0\otimes p_1)$ in nats, the mutual information of the ends.
        epsilon: $\epsilon$.
        dim: $D$.
    """

    value: Estimate
    displacement: Float[Array, ""]
    information: Float[Array, ""]
    epsilon: Float[Array, ""]
    dim: int = eqx.field(static=True)

    def path_kl(self, entropy: Any) -> Estimate:
        r"""$KL(P\Vert W^{p_0})$ in nats, given $h(p_1)$, the `entropy` of the second distribution.

        With $h(p_0)$ instead it is the path KL from the reversed motion that starts in $p_1$.
        """
        width = self.dim / 2 * jnp.log(2 * jnp.pi * self.epsilon)
        return Estimate(
            self.value.value / self.epsilon - entropy + width,
            self.value.stderr / self.epsilon,
            self.value.mc_stderr / self.epsilon,
        )


@full_precision
def static_bridge(x: Any, y: Any, *, epsilon: Any, max_iterations: int = 10_000) -> StaticBridge:
    r"""Entropic optimal transport between two samples: what a Schroedinger bridge must agree with.

    Args:
        x: samples of $p_0$, shape (n, *shape), or (n,) for numbers.
        y: samples of $p_1$, shape (m, *shape).
        epsilon: $\epsilon$, the variance that the reference gains in unit time.
        max_iterations: bound on the number of Sinkhorn iterations.

    Returns:
        A `StaticBridge`; see there for what its errors leave out.

    Raises:
        ValueError: if an argument is malformed. If the iteration does not converge, an error is
            raised as the compiled program runs.

    References:
        Cuturi et al., arXiv 2201.12324; Leonard, 1308.0215.
    """
    # Late: OTT takes longer to import than the rest of this library.
    from ott.geometry import pointcloud
    from ott.solvers import linear

    x, y = as_points(x, "x"), as_points(y, "y", like=as_points(x, "x"))
    epsilon = positive(epsilon, "epsilon", shape=())
    geometry = pointcloud.PointCloud(x, y, epsilon=2 * epsilon)
    out: Any = linear.solve(geometry, max_iterations=max_iterations)
    n, m = x.shape[0], y.shape[0]
    displacement = jnp.asarray(out.transport_cost_at_geom(geometry)) / 2
    # OTT's potentials belong to the cost |x - y|^2 and hold the logarithms of the weights.
    f, g = out.f / 2 + epsilon * jnp.log(n), out.g / 2 + epsilon * jnp.log(m)
    value = eqx.error_if(
        jnp.mean(f) + jnp.mean(g),
        ~jnp.all(jnp.asarray(out.converged)),
        "the Sinkhorn iteration must converge: pass a larger `epsilon` or `max_iterations`",
    )
    error = jnp.sqrt(jnp.var(f, ddof=1) / n + jnp.var(g, ddof=1) / m)
    return StaticBridge(
        Estimate(value, error, jnp.zeros_like(error)),
        displacement,
        (value - displacement) / epsilon,
        epsilon,
        x.shape[1],
    )
