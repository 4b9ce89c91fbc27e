r"""Diffusions between two data sets, learnt from pairs of their points.

A Brownian bridge from $x_0$ to $x_1$ in unit time, of variance $\epsilon$ per unit of it,

$$X_s = (1-s)\,x_0 + s\,x_1 + \sqrt{\epsilon s(1-s)}\,z, \qquad z \sim N(0, I),$$

moves, given its ends, with the drift $(x_1 - X_s)/(1-s)$. Over random pairs its mixture is no
Markov process; its Markovian projection, the diffusion with the same density at every time, is

$$dX_s = u(s, X_s)\,ds + \sqrt\epsilon\,dB_s, \qquad
  u(s, x) = E\left[\frac{x_1 - X_s}{1-s}\,\Big|\,X_s = x\right]
  = E\left[x_1 - x_0 - \sqrt{\frac{\epsilon s}{1-s}}\,z\,\Big|\,X_s = x\right]$$

(Peluchetti, 2312.14589; Shi et al., 2303.16852). Training minimises, but for a constant, the path
KL of that mixture from the diffusion,

$$\int_0^1\frac{1}{2\epsilon} E\left[\|u_\theta\|^2 - 2\,u_\theta\cdot\text{target}\right] ds,$$

whose least value is minus the projection's own path KL from Brownian motion, in nats. The last
$1 - s \sim \ell^2/\epsilon$ decide on structure of size $\ell$ in $p_1$ and may cost more than all
before them, while the target's noise grows towards $s = 1$ as $(1-s)^{-1/2}$. In the clock $\tau$,
$s = \sin^2(\pi\tau/2)$ and $ds = \pi\sqrt{s(1-s)}\,d\tau$, the two balance: gradients stay bounded,
and the ends are resolved to the square of a step. Times of training are uniform in it and steps of
paths equal. The network is given the standardised state and returns $u$ about the mean
displacement, in units of the target's standard deviation $(c^2 + \epsilon s/(1-s+\delta))^{1/2}$, c
the spread of the two ends: a drift towards fine structure is steep near the end, and this is not.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import (
    Key,
    RealLike,
    RealScalarLike,
    as_float,
    inner,
    safe_sqrt,
    squared_norm,
)
from entropix._core.checks import positive
from entropix._core.interfaces import AbstractProcess
from entropix.models.network_model import call_network, check_parts
from entropix.training.objective import AbstractObjective


# Shortest remaining time that the networks tell from none: structure down to 5% of sqrt(epsilon).
_RESOLVED = 3e-3


def bridge_times(num_steps: int) -> Float[Array, " steps"]:
    r"""Times from 0 to 1 at equal steps of $\tau$, $s = \sin^2(\pi\tau/2)$."""
    return as_float((1 - np.cos(np.pi * np.arange(num_steps + 1) / num_steps)) / 2)


def _level(s: Array) -> Array:
    r"""$\log\frac{1-s+\delta}{s+\delta}$, like the log-SNRs that networks embed, but finite."""
    return jnp.log1p(_RESOLVED - s) - jnp.log(s + _RESOLVED)


class BrownianMotion(AbstractProcess):
    r"""$dY_s = \sqrt\epsilon\,dB_s$ on $[0, 1]$, the reference of a Schroedinger bridge.

    Its equilibrium is flat.

    Args:
        epsilon: $\epsilon$, the variance gained in unit time, positive.

    Raises:
        ValueError: if it is not.
    """

    epsilon: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = True

    def __init__(self, epsilon: Any):
        self.epsilon = positive(epsilon, "epsilon", shape=())
        self.t0 = as_float(0.0)
        self.t1 = as_float(1.0)

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        return jnp.zeros_like(y)

    def sigma_squared(self, s: RealLike) -> Array:
        return jnp.broadcast_to(self.epsilon, jnp.shape(s))

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return jnp.zeros_like(y)


class BridgeProcess(AbstractProcess):
    r"""$dX_s = u_\theta(s, X_s)\,ds + \sqrt\epsilon\,dB_s$ on $[0, 1]$, a network its drift.

    A process like any other: `solve_forward` and `path_entropy` take it. The drift of a
    Schroedinger bridge is a gradient, and `equilibrium_score` is $2 u_\theta/\epsilon$. The network
    is called as `network(level, y)` with a standardised state and a level of the time that falls
    from 5.8 to -5.8, about the log-odds $\log\frac{1-s}{s}$.

    Args:
        network: `network(level, y, condition=None) -> array of y's shape`, such as `FourierMLP`.
        process: the reference, a Brownian motion.
        start: samples of $p_0$, shape (n, *shape), whose mean and variance set the scales.
        end: samples of $p_1$, shape (m, *shape).
    """

    network: Callable
    process: BrownianMotion
    mean: Float[Array, "2 *shape"]
    variance: Float[Array, "2"]
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    def __init__(self, network: Callable, process: BrownianMotion, start: Array, end: Array):
        check_parts(network, process, gaussian=False)
        self.network = network
        self.process = process
        self.mean = jnp.stack([jnp.mean(start, axis=0), jnp.mean(end, axis=0)])
        self.variance = jnp.stack(
            [jnp.mean(jnp.var(start, axis=0)), jnp.mean(jnp.var(end, axis=0))]
        )
        self.t0, self.t1 = process.t0, process.t1

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one state."""
        return self.mean.shape[1:]

    @property
    def spread(self) -> Array:
        """$c^2$, the variance of a displacement between independent ends."""
        return jnp.sum(self.variance)

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$u_\theta(s, y)$."""
        early, late = 1 - s, as_float(s)
        centre = early * self.mean[0] + late * self.mean[1]
        variance = early**2 * self.variance[0] + late**2 * self.variance[1]
        width = jnp.sqrt(variance + self.process.epsilon * early * late)
        standardised = ((y - centre) / width).astype(y.dtype)
        out = call_network(self.network, _level(late), standardised, None, None)
        size = jnp.sqrt(self.spread + self.process.epsilon * late / (early + _RESOLVED))
        return (self.mean[1] - self.mean[0] + size * out).astype(y.dtype)

    def sigma_squared(self, s: RealLike) -> Array:
        return self.process.sigma_squared(s)

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return 2 * self.drift(s, y) / self.process.epsilon


class BridgeObjective(AbstractObjective):
    r"""The regression of $u_\theta$ on the drifts of Brownian bridges between pairs.

    An example is a pair, shape (2, *shape); times are uniform in $\tau$, stratified over a batch.

    Attributes:
        num_draws: times and noises per pair.
        antithetic: whether noise comes in pairs (z, -z) at one time.
    """

    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def record(self) -> dict[str, Any]:
        return {"loss": "bridge matching"}

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape[1:]

    def paired(
        self, x: Float[Array, "n *shape"], z: Float[Array, "n m ..."], key: Key
    ) -> Float[Array, "n m ..."]:
        return z

    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m *shape"]:
        return jnp.broadcast_to(x, (u.shape[0], *x.shape))

    def one(
        self,
        model: Any,
        start: Float[Array, "*shape"],
        condition: Any,
        u: Float[Array, ""],
        z: Float[Array, "..."],
        key: Key | None,
    ) -> Float[Array, ""]:
        # 1 - s on its own: it keeps its digits where it is small.
        epsilon, s, rest = (
            model.process.epsilon,
            *(jnp.sin(jnp.pi / 2 * v) ** 2 for v in (u, 1 - u)),
        )
        x = rest * start[0] + s * start[1] + safe_sqrt(epsilon * s * rest) * z
        drift = model.drift(s, x)
        # The rate ds / d tau is taken into the product: sqrt(s (1 - s)) sqrt(s / (1 - s)) = s.
        rate = safe_sqrt(s * rest)
        moved = rate * (start[1] - start[0]) - jnp.sqrt(epsilon) * s * z
        return jnp.pi / (2 * epsilon) * (rate * squared_norm(drift) - 2 * inner(drift, moved))
