r"""The training objective of a flow: velocities of interpolants between coupled pairs.

$$J(\theta) = \frac{1}{t_1 - t_0}\int_{t_0}^{t_1}
  E\|v_\theta(\mu x + \Sigma z, s) - \mu' x - \Sigma' z\|^2\,ds$$

(Lipman et al., 2210.02747; Albergo et al., 2303.08797), with pairs (x, z) that are independent or
coupled within each batch (Pooladian et al., 2304.14772; Tong et al., 2302.00482). In the mean over
batches x and z keep their laws; only what goes with what is chosen.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, squared_norm
from entropix.interfaces import AbstractModel, AbstractProcess
from entropix.training.checkpoint import describe
from entropix.training.objective import AbstractObjective


class FlowObjective(AbstractObjective):
    """The velocity loss of a batch.

    Attributes:
        coupling: `coupling(x, z, *, key) -> z`, the batch's noise in another order; or None.
        num_draws: times and noises per example; each is coupled to the batch on its own.
        antithetic: whether noise comes in pairs (s, z), (s, -z).
    """

    coupling: Callable | None
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def record(self) -> dict[str, Any]:
        return {"loss": "flow matching", "coupling": describe(self.coupling)}

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def paired(
        self, x: Float[Array, "n *shape"], z: Float[Array, "n m *shape"], key: Key
    ) -> Float[Array, "n m *shape"]:
        coupling = self.coupling
        if coupling is None:
            return z

        def couple(z: Array, key: Key) -> Array:
            coupled = coupling(x, z, key=key)
            if jnp.shape(coupled) != z.shape:
                raise ValueError(
                    f"`coupling` must return an array of the shape of the noise, {z.shape}, "
                    f"got {jnp.shape(coupled)}."
                )
            return jax.lax.stop_gradient(coupled)

        keys = jax.random.split(key, self.num_draws)
        return jax.vmap(couple, in_axes=(1, 0), out_axes=1)(z, keys)

    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m *shape"]:
        return jnp.broadcast_to(x, (u.shape[0], *x.shape))

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "*shape"],
        condition: Any,
        u: Float[Array, ""],
        z: Float[Array, "..."],
        key: Key | None,
    ) -> Float[Array, ""]:
        process = model.process
        s = process.t0 + u * (process.t1 - process.t0)
        std = process.std(s)
        target = process.scale_rate(s) * start + process.var_rate(s) / (2 * std) * z
        velocity = model.velocity(s, process.scale(s) * start + std * z, condition, key=key)
        return squared_norm(velocity - target)
