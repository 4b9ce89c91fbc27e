r"""Losses for a score along simulated paths: nothing is asked of the process but drift and noise.

Where a process has no closed transition kernel (`Langevin`), its denoising loss cannot be written
down. One Euler-Maruyama step of length h has a kernel,

$$y_{k+1} = m_k + \sigma_k\sqrt h\,z, \qquad m_k = y_k + b(y_k, s_k)\,h, \qquad z \sim N(0, I),$$

and the law of the simulated chain at step k + 1 is the mean of that kernel over $y_k$. Its score is
hence the regression, on $y_{k+1}$, of the score of the kernel, $-z/(\sigma_k\sqrt h)$: denoising
over one step in place of the whole path (Vincent, 2011; De Bortoli et al., 2106.01357). Or it is
found without any kernel, by integration by parts (Hyvaerinen, 2005; Song et al., 1905.07088).

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
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike, inner, squared_norm
from entropix._core.checks import positive_integer
from entropix.interfaces import AbstractModel


class AbstractPathLoss(eqx.Module):
    """A loss at one state of a simulated path; see `PathObjective` for the paths."""

    num_steps: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def num_noises(self) -> int:
        """How many standard normal arrays one evaluation takes, that of the step included."""

    @abc.abstractmethod
    def __call__(
        self,
        model: AbstractModel,
        s: RealScalarLike,
        mean: Float[Array, "*shape"],
        std: RealScalarLike,
        noise: Float[Array, "num_noises *shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, ""]:
        r"""The loss at $y$ = `mean` + `std` * `noise[0]`, time `s`, before the weight.

        Args:
            model: any model.
            s: the time at the end of a step.
            mean: $m_k$, where the step ends without noise.
            std: $\sigma_k\sqrt h$.
            noise: standard normal.
            condition: what the network takes besides.
            key: for networks with dropout.
        """


class LocalDenoising(AbstractPathLoss):
    r"""Denoising over the last step of a simulated path, for `fit(..., loss=LocalDenoising())`.

    The target of the score at $(s_{k+1}, y_{k+1})$ is

    $$\tau = -\frac{y_{k+1} - y_k - b(y_k, s_k)\,h}{\sigma_k^2 h} = -\frac{z}{\sigma_k\sqrt h}.$$

    Its variance grows as 1/h. Antithetic pairs $(y_k, z)$, $(y_k, -z)$, the default of `fit`, take
    that growth away: the two targets are opposite at states that are close.

    What is learned is the score of the Euler-Maruyama chain, which differs from that of the process
    by O(h), at times $t_0 + h$ and later; the first step is left to the network's smoothness.

    Args:
        num_steps: steps of a path, uniform in time; $h = (t_1 - t_0)/$`num_steps` must be short
            against the fastest relaxation of the drift. Under a drift that grows faster than
            linearly (`DoubleWell`, `QuarticLattice`) steps that are too long throw points far out
            to infinity, and `fit` then reports a loss that is not finite.

    Raises:
        ValueError: if `num_steps` is not an integer of at least 2.

    References:
        Vincent, Neural Computation 23, 1661 (2011); De Bortoli et al., arXiv 2106.01357.
    """

    num_steps: int = eqx.field(static=True)

    def __init__(self, num_steps: int = 64):
        self.num_steps = positive_integer(num_steps, "num_steps", 2)

    @property
    def num_noises(self) -> int:
        return 1

    def __call__(
        self,
        model: AbstractModel,
        s: RealScalarLike,
        mean: Float[Array, "*shape"],
        std: RealScalarLike,
        noise: Float[Array, "num_noises *shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, ""]:
        z = noise[0]
        y = mean + std * z
        field = model.entropy_field(s, y, condition, key=key)
        reference = model.process.equilibrium_score(s, y)
        return squared_norm(field) + 2 * inner(field, reference + z / std)


class SlicedScoreMatching(AbstractPathLoss):
    r"""Sliced score matching at the states of a simulated path, for `fit(..., loss=...)`.

    $E_v[\|s_\theta\|^2 + 2\,v\cdot(\nabla s_\theta)\,v]$, twice the usual form so that it is the
    squared error up to a constant, with probes $v = \pm 1$ in each coordinate (Hutchinson; the form
    with reduced variance of Song et al.). No target, so no variance that grows with 1/h, and any
    density at the states will do; it costs one forward derivative of the model for each probe.

    Args:
        num_steps: steps of a path, as in `LocalDenoising`.
        num_probes: independent v for each state.

    Raises:
        ValueError: if `num_steps` is not an integer of at least 2, or `num_probes` of at least 1.

    References:
        Hyvaerinen, JMLR 6, 695 (2005); Song et al., arXiv 1905.07088.
    """

    num_steps: int = eqx.field(static=True)
    num_probes: int = eqx.field(static=True)

    def __init__(self, num_steps: int = 64, num_probes: int = 1):
        self.num_steps = positive_integer(num_steps, "num_steps", 2)
        self.num_probes = positive_integer(num_probes, "num_probes")

    @property
    def num_noises(self) -> int:
        return 1 + self.num_probes

    def __call__(
        self,
        model: AbstractModel,
        s: RealScalarLike,
        mean: Float[Array, "*shape"],
        std: RealScalarLike,
        noise: Float[Array, "num_noises *shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, ""]:
        y = mean + std * noise[0]

        def field_at(y: Array) -> Array:
            return model.entropy_field(s, y, condition, key=key)

        field, derivative = jax.linearize(field_at, y)
        probes = jnp.where(noise[1:] > 0, 1.0, -1.0).astype(y.dtype)
        divergence = jnp.mean(jax.vmap(lambda v: inner(v, derivative(v)))(probes))
        reference = model.process.equilibrium_score(s, y)
        return squared_norm(field) + 2 * inner(field, reference) + 2 * divergence
