r"""The static Schrödinger problem of two samples: entropic optimal transport.

$$OT_\epsilon = \min_\pi\ E_\pi\tfrac12\|x - y\|^2 + \epsilon\,KL(\pi\Vert p_0\otimes p_1)$$

over couplings $\pi$ of $p_0$ and $p_1$, by OTT (Cuturi et al., 2201.12324; its regularisation is
$2\epsilon$, for the cost $\|x - y\|^2$). The minimiser is the law of the ends of the Schrödinger
bridge between $p_0$ and $p_1$ over Brownian motion $dX = \sqrt\epsilon\,dB$, $s \in [0, 1]$, and
the path KL of the bridge from that motion started in $p_0$ is (Léonard, 1308.0215)

$$KL(P\Vert W^{p_0}) = KL(\pi\Vert p_0(x)\,N(y; x, \epsilon I)) =
  \frac{OT_\epsilon}{\epsilon} - h(p_1) + \frac D2\log(2\pi\epsilon),$$

with the differential entropy $h(p_1)$, which is not estimated from the samples.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealScalarLike
from entropix._core.checks import positive, positive_integer
from entropix._core.precision import full_precision
from entropix.interfaces import Estimate
from entropix.transport.couplings import two_sample_error
from entropix.transport.frame import as_clouds, frame, to_cost_unit
from entropix.transport.sinkhorn import (
    all_pairs,
    converged,
    in_units_of_cost,
    sinkhorn_potentials,
)


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

    def path_kl(self, entropy: RealScalarLike) -> Estimate:
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
def static_bridge(
    x: DataLike, y: DataLike, *, epsilon: RealScalarLike, max_iterations: int = 10_000
) -> StaticBridge:
    r"""Entropic optimal transport between two samples: what a Schrödinger bridge must agree with.

    Args:
        x: samples of $p_0$, shape (n, *shape), or (n,) for numbers.
        y: samples of $p_1$, shape (m, *shape).
        epsilon: $\epsilon$, the variance that the reference gains in unit time.
        max_iterations: bound on the number of Sinkhorn iterations.

    Returns:
        A `StaticBridge`; see there for what its errors leave out.

    Raises:
        ValueError: if an argument is malformed, or the cost too large or too small for the
            precision of the samples. If the iteration does not converge, an error is raised as the
            compiled program runs.

    References:
        Cuturi et al., arXiv 2201.12324; Léonard, 1308.0215.
    """
    x, y = as_clouds(x, y)
    epsilon = positive(epsilon, "epsilon", shape=()).astype(x.dtype)
    positive_integer(max_iterations, "max_iterations")
    squares, information, unit, valid = _solve(x, y, epsilon, max_iterations)
    value, error, displacement = (in_units_of_cost(v, unit, 2.0) for v in squares)
    estimate = Estimate(converged(value, valid), error, jnp.zeros_like(error))
    return StaticBridge(estimate, displacement, information, epsilon, x.shape[1])


@eqx.filter_jit
def _solve(
    x: Array, y: Array, epsilon: Array, max_iterations: int
) -> tuple[tuple[Array, Array, Array], Array, Array, Array]:
    """Value, error and displacement in units of a length squared; information; that length."""
    place = frame(x, y, separately=True)
    n, m = x.shape[0], y.shape[0]
    # Of OTT's cost |x - y|^2, twice that of the problem, in the frame.
    twice = 2 * to_cost_unit(epsilon, place.scale, 2.0)
    cost = all_pairs(place.x, place.y, 2.0)
    f, g, done = sinkhorn_potentials(cost, twice, max_iterations)
    # OTT's potentials hold the logarithms of the weights.
    f, g = f + twice * jnp.log(n), g + twice * jnp.log(m)
    value = (jnp.mean(f) + jnp.mean(g)) / 2
    plan = jax.nn.softmax((g - cost) / twice, axis=1)
    displacement = jnp.sum(plan * cost) / (2 * n)
    information = (value - displacement) / (twice / 2)
    weight, of_x_and_y = place.ratio**2, place.shift_influence()
    u, v = (weight * a / 2 + b / 2 for a, b in zip((f, g), of_x_and_y, strict=True))
    shift = place.shift_cost() / 2
    squares = weight * value + shift, two_sample_error(u, v), weight * displacement + shift
    return squares, information, place.unit, done & jnp.isfinite(value)
