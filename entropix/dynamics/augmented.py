r"""A flow together with the log density of its states.

In the solver's time t and state X the flow is $dX/dt = F(X, t)$, and along it

$$\frac{d}{dt}\log p_t(X) = -\nabla\cdot F(X, t)$$

(Chen et al., 1806.07366). A state is a linear function of X at each time, $y = l(t)X$, so that

$$\log p(y_{last}) = \log prior(y_{first}) + D\log\frac{l(t_{first})}{l(t_{last})} -
  \int\nabla\cdot F\,dt.$$

The integral is a part of the solver's state: X and one integral for each probe, in one row.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealLike
from entropix.dynamics.coordinates import AbstractCoordinates
from entropix.dynamics.divergence import Divergence


class WithDivergence(AbstractCoordinates):
    """Coordinates of a flow, with the integral of its divergence after each state.

    Rows are `[state, integrals]`, shape (n, D + values). The condition of a sample is the pair of
    its own condition and its number, from which its probes are drawn.
    """

    flow: AbstractCoordinates
    divergence: Divergence
    key: Key
    example: Float[Array, "*shape"]

    def join(self, y: Float[Array, "n *shape"]) -> Float[Array, "n row"]:
        """Rows of states at which the integrals start."""
        flat = y.reshape(y.shape[0], -1)
        values = self.divergence.num_values(flat.shape[1])
        return jnp.concatenate([flat, jnp.zeros((y.shape[0], values), y.dtype)], axis=1)

    def split(
        self, rows: Float[Array, "n row"]
    ) -> tuple[Float[Array, "n *shape"], Float[Array, "n values"]]:
        """States, and integrals."""
        size = self.example.size
        return rows[:, :size].reshape(-1, *self.example.shape), rows[:, size:]

    def volume(self, s: RealLike, t: RealLike) -> Float[Array, ""]:
        r"""$\log l$ at a time of the process and of the solver."""
        return jnp.log(self.flow.leave(s, t, jnp.ones((), self.example.dtype)))

    def steps(self, num_steps: int) -> tuple[Float[Array, " knots"], Float[Array, " knots"]]:
        return self.flow.steps(num_steps)

    def solver_time(self, s: Array) -> Array:
        return self.flow.solver_time(s)

    def process_time(self, t: Array) -> Array:
        return self.flow.process_time(t)

    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        states, integrals = self.split(y)
        moved = self.flow.enter(s, t, states)
        return jnp.concatenate([moved.reshape(y.shape[0], -1), integrals], axis=1)

    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        states, integrals = self.split(x)
        moved = self.flow.leave(s, t, states)
        return jnp.concatenate([moved.reshape(x.shape[0], -1), integrals], axis=1)

    def field(self, t: RealLike, x: Array, args: PyTree) -> Array:
        model, (conditions, numbers) = args

        def one(state: Array, condition: PyTree, number: Array) -> tuple[Array, Array]:
            batched = jax.tree.map(lambda leaf: leaf[None], condition)

            def velocity(model: PyTree, state: Array) -> Array:
                return self.flow.field(t, state[None], (model, batched))[0]

            # The probes are drawn again at each evaluation: they need not be kept for all samples.
            probes = self.divergence.probes(state, self.key, number)
            return Divergence.along(velocity, model, state, probes)

        moved, stretch = jax.vmap(one)(self.split(x)[0], conditions, numbers)
        return jnp.concatenate([moved.reshape(x.shape[0], -1), stretch], axis=1)

    def noise(self, t: RealLike) -> None:
        return None
