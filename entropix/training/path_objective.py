r"""The training objective along simulated paths: any process, forward from each example.

$$J(\theta) = E\int_{t_0}^{t_1} \frac{\sigma^2}{2}\,\ell(s, Y_s)\,ds \approx
  \frac{t_1 - t_0}{nm}\sum_{i,j} \frac{\sigma(s_{k+1})^2}{2}\,\ell(s_{k+1}, y^{(i)}_{k+1}),
  \qquad k = k_{ij}.$$

Every example $x_i$ is $y_0$ of one Euler-Maruyama path per step of training; steps $k_{ij}$ of it
are drawn at random, stratified over the batch, and the noise of each drawn step anew, in antithetic
pairs $(z, -z)$. Paths are data: no gradient goes through them.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import is_concrete
from entropix.interfaces import AbstractModel, AbstractProcess
from entropix.training.objective import AbstractObjective
from entropix.training.path_losses import AbstractPathLoss


class PathObjective(AbstractObjective):
    """The weighted loss of a batch along simulated paths.

    Attributes:
        loss: the loss at one state.
        num_draws: states per example, all of one path.
        antithetic: whether noise comes in pairs (z, -z) at one step; `num_draws` is even then.
    """

    loss: AbstractPathLoss
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def record(self) -> dict[str, Any]:
        return {"loss": repr(self.loss)}

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (self.loss.num_noises, *shape)

    def _step(self, u: RealScalarLike) -> Int[Array, ""]:
        """The step that holds the quantile `u`."""
        last = self.loss.num_steps - 1
        return jnp.minimum(jnp.floor(u * self.loss.num_steps).astype(int), last)

    def paired(
        self, x: Float[Array, "n *shape"], z: Float[Array, "n m ..."], key: Key
    ) -> Float[Array, "n m ..."]:
        return z

    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m *shape"]:
        """Where the steps at quantiles `u` of one path would end without their noise."""
        num_steps = self.loss.num_steps
        length = (process.t1 - process.t0) / num_steps

        def advance(y: Array, inputs: Any) -> tuple[Array, Array]:
            k, z = inputs
            s = process.t0 + k * length
            mean = (y + length * process.drift(s, y)).astype(y.dtype)
            noise = jnp.sqrt(length * process.sigma_squared(s)) * z
            return mean + noise.astype(y.dtype), mean

        noise = jax.random.normal(key, (num_steps, *x.shape), x.dtype)
        _, means = jax.lax.scan(advance, x, (jnp.arange(num_steps), noise))
        return jax.lax.stop_gradient(means[jax.vmap(self._step)(u)])

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
        duration = process.t1 - process.t0
        length = duration / self.loss.num_steps
        before = process.t0 + self._step(u) * length
        after = before + length
        std = jnp.sqrt(length * process.sigma_squared(before)).astype(start.dtype)
        loss = self.loss(model, after, start, std, z, condition, key=key)
        return duration * process.sigma_squared(after) / 2 * loss


def check_loss(loss: Any, process: AbstractProcess) -> AbstractPathLoss:
    """Refuse what is no loss along paths, and a process that a uniform grid cannot follow."""
    if not isinstance(loss, AbstractPathLoss):
        raise ValueError(
            f"`loss` must be None, LocalDenoising(...) or SlicedScoreMatching(...), "
            f"got {type(loss).__name__}."
        )
    noise = process.sigma_squared(process.t1)
    if is_concrete(noise) and not np.isfinite(np.asarray(noise)):
        raise ValueError(
            f"`loss` must be None for {type(process).__name__}, whose noise is infinite at t1, "
            f"got {loss!r}."
        )
    return loss
