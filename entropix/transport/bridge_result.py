r"""What a Schroedinger bridge does, and what it costs.

With the drifts $u_f$ of the forward process and $u_b$ of the reversed one, each along its own time,
the bridge has (Nelson, 1967)

$$v = \frac{u_f - u_b}{2} \quad\text{(current velocity)}, \qquad
  \nabla\log p_s = \frac{u_f + u_b}{\epsilon}.$$

Two costs, in nats, are averages over its forward paths:

$$KL(P\Vert W^{p_0}) = \int_0^1\frac{1}{2\epsilon}E\|u_f\|^2\,ds, \qquad
  S_{tot} = \int_0^1\frac{2}{\epsilon}E\|v\|^2\,ds,$$

the path KL from the reference that starts in $p_0$ (its least value for these ends; see
`static_bridge`), and the entropy production, the KL from the time-reversed process. They are linked
by $\frac12[KL(P\Vert W^{p_0}) + KL(P\Vert W^{p_1})] = \frac14 S_{tot} +
\frac{\epsilon}{8}\int_0^1 E\|\nabla\log p_s\|^2 ds$.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import choice, example_shape, positive_integer, samples
from entropix._core.estimate import Estimate
from entropix.dynamics import Trajectory, solve_forward
from entropix.transport.bridge_process import BridgeProcess, bridge_times
from entropix.transport.errors import errors_of


class SchroedingerBridge(eqx.Module):
    r"""A process between two data sets, in both directions of time.

    Attributes:
        forward: the process from $p_0$ to $p_1$, with drift $u_f$.
        backward: the process from $p_1$ to $p_0$, with drift $u_b$, in its own time $1 - s$.
        cost: $KL(P\Vert W^{p_0})$ in nats, the path KL from Brownian motion.
        entropy_production: $S_{tot} = \int\frac2\epsilon E\|v\|^2ds$ in nats.
        loss: of every step, in nats, shape (2, num_iterations, steps): backward, forward; a perfect
            network reaches minus the path KL of its direction.

    The standard errors are those of averages over paths and data; what separates the networks from
    the true drifts is not in them.
    """

    forward: BridgeProcess
    backward: BridgeProcess
    cost: Estimate | None
    entropy_production: Estimate | None
    loss: Float[Array, "2 iterations steps"] | None

    @property
    def epsilon(self) -> Float[Array, ""]:
        r"""$\epsilon$, the variance of the reference."""
        return self.forward.process.epsilon

    def trajectory(
        self, x: Any, *, key: Key, direction: str = "forward", num_steps: int = 64, **options: Any
    ) -> Trajectory:
        """Paths from given points, by `solve_forward` (which see for `options`).

        Args:
            x: points to start from, shape (n, *shape): of $p_0$, or of $p_1$ for "backward".
            key: PRNG key.
            direction: "forward" or "backward"; the times of the latter are $1 - s$.
            num_steps: steps of `diffrax.SRA1`, which shrink towards both ends.
            **options: for `solve_forward`, such as `save="steps"`.

        Returns:
            A `Trajectory`.
        """
        ahead = choice(direction, "direction", ("forward", "backward")) == "forward"
        process = self.forward if ahead else self.backward
        example_shape(process, x, "x")
        options = {"times": bridge_times(num_steps)} | options
        return solve_forward(process, x, key=key, **options)

    def transport(
        self, x: Any, *, key: Key, direction: str = "forward", num_steps: int = 64
    ) -> Float[Array, "n *shape"]:
        """Where paths from `x` end: a draw from the entropic plan given its one end.

        Args: as `trajectory`.
        """
        return self.trajectory(x, key=key, direction=direction, num_steps=num_steps).final

    def sample_pairs(
        self, x: Any, *, key: Key, direction: str = "forward", num_steps: int = 64
    ) -> tuple[Float[Array, "n *shape"], Float[Array, "n *shape"]]:
        """Pairs of the entropic plan, $(X_0, X_1)$ in either direction, one end given.

        Args: as `trajectory`.
        """
        x = samples(x, "x", minimum=1)
        end = self.transport(x, key=key, direction=direction, num_steps=num_steps)
        return (x, end) if direction == "forward" else (end, x)

    def velocity(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""The current velocity $v = (u_f - u_b)/2$ of one state."""
        return (self.forward.drift(s, y) - self.backward.drift(1 - s, y)) / 2

    def score(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$\nabla\log p_s(y) = (u_f + u_b)/\epsilon$ of one state."""
        return (self.forward.drift(s, y) + self.backward.drift(1 - s, y)) / self.epsilon

    def measure(self, x: Any, *, key: Key, num_steps: int = 64) -> tuple[Estimate, Estimate]:
        """`cost` and `entropy_production` anew, from other points of $p_0$ or with more steps.

        Args:
            x: samples of $p_0$, shape (n, *shape).
            key: PRNG key.
            num_steps: steps of the paths.
        """
        positive_integer(num_steps, "num_steps", 2)
        return measure_bridge(self.forward, self.backward, x, key=key, num_steps=num_steps)


_PATHS = 2  # from each point: two tell the noise of paths from that of points


def measure_bridge(
    forward: BridgeProcess, backward: BridgeProcess, x: Any, *, key: Key, num_steps: int
) -> tuple[Estimate, Estimate]:
    """Path KL and entropy production from forward paths, the trapezoidal rule in time."""
    x = samples(x, "x")
    starts = jnp.repeat(x, _PATHS, axis=0)
    paths = solve_forward(forward, starts, key=key, times=bridge_times(num_steps), save="steps")
    cost, production = _costs(forward, backward, paths.times, paths.states)

    def estimate(values: Array) -> Estimate:
        errors = errors_of(values.reshape(-1, _PATHS), x.shape[0])
        return Estimate(jnp.mean(values), *errors, 2 * starts.shape[0] * (num_steps + 1))

    return estimate(cost), estimate(production)


@eqx.filter_jit
def _costs(
    forward: BridgeProcess, backward: BridgeProcess, times: Array, states: Array
) -> tuple[Array, Array]:
    """Both integrals along each path, shape (n,)."""
    epsilon = forward.process.epsilon

    def at(args: Any) -> tuple[Array, Array]:
        s, y = args
        ahead = jax.vmap(forward.drift, in_axes=(None, 0))(s, y)
        back = jax.vmap(backward.drift, in_axes=(None, 0))(1 - s, y)
        axes = tuple(range(1, y.ndim))
        energy = jnp.sum(ahead**2, axis=axes) / (2 * epsilon)
        return energy, jnp.sum((ahead - back) ** 2, axis=axes) / (2 * epsilon)

    steps = jnp.pad(jnp.diff(times), 1).astype(states.dtype)
    weights = (steps[:-1] + steps[1:]) / 2
    energy, production = jax.lax.map(at, (times, states))
    return weights @ energy, weights @ production
