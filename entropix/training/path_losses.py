r"""Losses for a score along simulated paths: nothing is asked of the process but drift and noise.

Where a process has no closed transition kernel (`Langevin`), its denoising loss cannot be written
down. One Euler-Maruyama step of length h has a kernel,

$$y_{k+1} = m_k + \sigma_k\sqrt h\,z, \qquad m_k = y_k + b(y_k, s_k)\,h, \qquad z \sim N(0, I),$$

and the law of the simulated chain at step k + 1 is the mean of that kernel over $y_k$. Its score is
hence the regression, on $y_{k+1}$, of the score of the kernel, $-z/(\sigma_k\sqrt h)$: denoising
over one step in place of the whole path (Vincent, 2011; De Bortoli et al., 2106.01357). Or it is
found without any kernel, by integration by parts (Hyvärinen, 2005; Song et al., 1905.07088).

With $e$ the entropy field, $s_\theta = \nabla\log p_{eq} + e$, and $\tau$ the target, both losses
are taken relative to the reference $p_{eq}$,

$$\|s_\theta - \tau\|^2 - \|\nabla\log p_{eq} - \tau\|^2
  = \|e\|^2 + 2\,e\cdot(\nabla\log p_{eq} - \tau) \simeq \|e\|^2 + 2\,e\cdot\nabla\log p_{eq}
  + 2\,\nabla\cdot e,$$

equal in the mean, with the gradient of the usual forms and without their constant, which for the
first is $D/(\sigma^2 h)$. Weighted by $\sigma^2/2$ and integrated over time it is maximum
likelihood, up to a constant the path KL (Song et al., 2101.09258): zero for a model that has stored
nothing, and least, $-\int\frac{\sigma^2}{2}E\|e^*\|^2\,ds$, for the exact score. Without a driving
force that is $-S_{tot}$ in nats.

Every example $x_i$ is $y_0$ of one path for each step of training; m steps $k_{ij}$ of it are drawn
at random, stratified over the batch, and the noise of each drawn step anew:

$$J(\theta) = E\int_{t_0}^{t_1} \frac{\sigma^2}{2}\,\ell(s, Y_s)\,ds \approx
  \frac{t_1 - t_0}{nm}\sum_{i,j} \frac{\sigma(s_{k+1})^2}{2}\,\ell(s_{k+1}, y^{(i)}_{k+1}),
  \qquad k = k_{ij}.$$

Paths are data: no gradient goes through them.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from entropix._core.arrays import Key, RealScalarLike, inner, squared_norm
from entropix._core.checks import is_concrete, positive_integer
from entropix.interfaces import AbstractLoss, AbstractModel, AbstractProcess
from entropix.models import FlowMatching
from entropix.training.losses import check_draws


def step_of(u: RealScalarLike, num_steps: int) -> Int[Array, ""]:
    """The step of a path that holds the quantile `u` of time."""
    return jnp.minimum(jnp.floor(u * num_steps).astype(int), num_steps - 1)


def path_means(
    process: AbstractProcess,
    x: Float[Array, "*shape"],
    u: Float[Array, " m"],
    num_steps: int,
    key: Key,
) -> Float[Array, "m *shape"]:
    """Where the steps at quantiles `u` of one path from `x` would end without their noise."""
    length = (process.t1 - process.t0) / num_steps

    def advance(y: Array, inputs: Any) -> tuple[Array, Array]:
        k, z = inputs
        s = process.t0 + k * length
        mean = (y + length * process.drift(s, y)).astype(y.dtype)
        noise = jnp.sqrt(length * process.sigma_squared(s)) * z
        return mean + noise.astype(y.dtype), mean

    noise = jax.random.normal(key, (num_steps, *x.shape), x.dtype)
    _, means = jax.lax.scan(advance, x, (jnp.arange(num_steps), noise))
    return jax.lax.stop_gradient(means[jax.vmap(lambda u: step_of(u, num_steps))(u)])


class _PathLoss(AbstractLoss):
    """What the two losses share: the path, the drawn step, and the weight at its end."""

    num_steps: eqx.AbstractVar[int]

    coupling = None

    @abc.abstractmethod
    def _at(self, field_at: Callable, y: Array, score: Array, z: Array, std: Array) -> Array:
        """The loss at a state y, before the weight.

        Args:
            field_at: the entropy field as a function of the state.
            y: the state at the end of the step.
            score: that of the equilibrium there.
            z: standard normal noise; the first is that of the step.
            std: of the noise of the step.
        """

    def for_model(self, model: AbstractModel, data: Float[Array, "_ *shape"]) -> AbstractLoss:
        name = type(self).__name__
        if isinstance(model, FlowMatching):
            raise ValueError(f"`loss` must be None or FlowLoss(...) for FlowMatching, got {name}.")
        noise = model.process.sigma_squared(model.process.t1)
        if is_concrete(noise) and not np.isfinite(np.asarray(noise)):
            raise ValueError(
                f"`loss` must be None or Denoising(...) for {type(model.process).__name__}, whose "
                f"noise is infinite at t1 and no uniform grid can follow, got {name}."
            )
        return self

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "*shape"],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "num_noises *shape"],
        key: Key | None,
    ) -> Float[Array, ""]:
        process = model.process
        duration = process.t1 - process.t0
        length = duration / self.num_steps
        before = process.t0 + step_of(u, self.num_steps) * length
        after = before + length
        std = jnp.sqrt(length * process.sigma_squared(before)).astype(start.dtype)
        y = start + std * z[0]

        def field_at(y: Array) -> Array:
            return model.entropy_field(after, y, condition, key=key)

        loss = self._at(field_at, y, process.equilibrium_score(after, y), z, std)
        return duration * process.sigma_squared(after) / 2 * loss


class LocalDenoising(_PathLoss):
    r"""Denoising over the last step of a simulated path, for `fit(..., loss=LocalDenoising())`.

    The target of the score at $(s_{k+1}, y_{k+1})$ is

    $$\tau = -\frac{y_{k+1} - y_k - b(y_k, s_k)\,h}{\sigma_k^2 h} = -\frac{z}{\sigma_k\sqrt h}.$$

    Its variance grows as 1/h. Antithetic pairs $(y_k, z)$, $(y_k, -z)$, the default, take that
    growth away: the two targets are opposite at states that are close.

    What is learned is the score of the Euler-Maruyama chain, which differs from that of the process
    by O(h), at times $t_0 + h$ and later; the first step is left to the network's smoothness.

    Args:
        num_steps: steps of a path, uniform in time; $h = (t_1 - t_0)/$`num_steps` must be short
            against the fastest relaxation of the drift. Under a drift that grows faster than
            linearly (`DoubleWell`, `QuarticLattice`) steps that are too long throw points far out
            to infinity, and `fit` then reports a loss that is not finite.
        num_draws: states for each example, all of one path.
        antithetic: draw noise in pairs (z, -z) at one step. None: if `num_draws` is even.

    Raises:
        ValueError: if `num_steps` is not an integer of at least 2, or `num_draws` of at least 1.

    References:
        Vincent, Neural Computation 23, 1661 (2011); De Bortoli et al., arXiv 2106.01357.
    """

    num_steps: int = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def __init__(self, num_steps: int = 64, num_draws: int = 10, antithetic: bool | None = None):
        self.num_steps = positive_integer(num_steps, "num_steps", 2)
        self.num_draws, self.antithetic = check_draws(num_draws, antithetic)

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1, *shape)

    def _at(self, field_at: Callable, y: Array, score: Array, z: Array, std: Array) -> Array:
        field = field_at(y)
        return squared_norm(field) + 2 * inner(field, score + z[0] / std)


class SlicedScoreMatching(_PathLoss):
    r"""Sliced score matching at the states of a simulated path, for `fit(..., loss=...)`.

    $E_v[\|s_\theta\|^2 + 2\,v\cdot(\nabla s_\theta)\,v]$, twice the usual form so that it is the
    squared error up to a constant, with probes $v = \pm 1$ in each coordinate (Hutchinson; the form
    with reduced variance of Song et al.). No target, so no variance that grows with 1/h, and any
    density at the states will do; it costs one forward derivative of the model for each probe.

    Args:
        num_steps: steps of a path, as in `LocalDenoising`.
        num_probes: independent v for each state.
        num_draws: states for each example, all of one path.
        antithetic: draw noise in pairs (z, -z) at one step. None: if `num_draws` is even.

    Raises:
        ValueError: if `num_steps` is not an integer of at least 2, or another of at least 1.

    References:
        Hyvärinen, JMLR 6, 695 (2005); Song et al., arXiv 1905.07088.
    """

    num_steps: int = eqx.field(static=True)
    num_probes: int = eqx.field(static=True)
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def __init__(
        self,
        num_steps: int = 64,
        num_probes: int = 1,
        num_draws: int = 10,
        antithetic: bool | None = None,
    ):
        self.num_steps = positive_integer(num_steps, "num_steps", 2)
        self.num_probes = positive_integer(num_probes, "num_probes")
        self.num_draws, self.antithetic = check_draws(num_draws, antithetic)

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return (1 + self.num_probes, *shape)

    def _at(self, field_at: Callable, y: Array, score: Array, z: Array, std: Array) -> Array:
        field, derivative = jax.linearize(field_at, y)
        probes = jnp.where(z[1:] > 0, 1.0, -1.0).astype(y.dtype)
        divergence = jnp.mean(jax.vmap(lambda v: inner(v, derivative(v)))(probes))
        return squared_norm(field) + 2 * inner(field, score) + 2 * divergence
