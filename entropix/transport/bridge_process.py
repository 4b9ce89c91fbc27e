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
$r = 1 - s \sim \ell^2/\epsilon$ decide on structure of size $\ell$ in $p_1$ and may cost more than
all before them, while the target's noise grows towards $s = 1$ as $r^{-1/2}$. Times of training are
uniform in the clock v,

$$r = \delta\sinh^2(\kappa v), \qquad \sinh\kappa = \delta^{-1/2}, \qquad
  \frac{dr}{dv} = 2\kappa\sqrt{r(r + \delta)},$$

which is $\log r$ before $\delta$, where every factor of r weighs the same, and $\sqrt r$ after it:
gradients stay bounded. $\delta$ is a small part of the time $c_1^2/\epsilon$ in which the noise
covers $p_1$, of variance $c_1^2$. Paths take equal steps of $\tau$, $s = \sin^2(\pi\tau/2)$, which
shrink towards both ends. The network is given the standardised state and returns $u$ about the mean
displacement, in units of the target's standard deviation $(c^2 + \epsilon s/(r+\delta))^{1/2}$, c
the spread of the two ends: a drift towards fine structure is steep near the end, and this is not.

Methods without annotations have those of `AbstractProcess` and `AbstractObjective`.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

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
from entropix.interfaces import AbstractLoss, AbstractProcess
from entropix.models import call_network, check_parts
from entropix.networks import Fixed, FourierMLP


# The clock resolves structure down to 3% of the standard deviation of the end, but delta stays
# within this range: above it sqrt(r) would be the clock of a large part of the time, below it the
# network's level would span more than 23 and float32 resolve 1 - s near the end to few digits.
_RESOLVED = 1e-3
_LEAST_DELTA, _LARGEST_DELTA = 1e-5, 0.03


def bridge_times(num_steps: int) -> Float[Array, " steps"]:
    r"""Times from 0 to 1 at equal steps of $\tau$, $s = \sin^2(\pi\tau/2)$."""
    return as_float((1 - np.cos(np.pi * np.arange(num_steps + 1) / num_steps)) / 2)


def end_clock(v: Array, delta: Array) -> tuple[Array, Array, Array]:
    r"""Remaining time r in [0, 1] at v in [0, 1], dr/dv, and $r^{-1/2}dr/dv$, which is finite."""
    kappa = jnp.arcsinh(1 / jnp.sqrt(delta))
    root = jnp.minimum(jnp.sqrt(delta) * jnp.sinh(kappa * v), 1.0)  # of r
    steep = 2 * kappa * jnp.sqrt(root**2 + delta)
    return root**2, steep * root, steep


class StateFeatures(eqx.Module):
    r"""A `FourierMLP` of the state and random Fourier features of it.

    A perceptron of few layers learns slowly what varies on a scale much smaller than the state. The
    features $\sin b\cdot y$, $\cos b\cdot y$ with $b \sim N(0, 2I/D)$ help it to do so
    (Tancik et al., 2006.10739).

    Args:
        dim: D.
        widths: of the hidden layers.
        key: PRNG key.
    """

    frequencies: Fixed
    network: FourierMLP

    def __init__(self, dim: int, *, widths: tuple[int, ...] = (128, 128), key: Key):
        feature_key, key = jax.random.split(key)
        count = max(16, 2 * dim)
        scale = as_float((2 / dim) ** 0.5)
        self.frequencies = Fixed(scale * jax.random.normal(feature_key, (count, dim)))
        self.network = FourierMLP(
            dim + 2 * count, key=key, widths=widths, num_features=16, out_dim=dim
        )

    def __call__(
        self, level: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, " dim"]:
        phase = self.frequencies.value.astype(y.dtype) @ y
        return self.network(level, jnp.concatenate([y, jnp.sin(phase), jnp.cos(phase)]))


class BrownianMotion(AbstractProcess):
    r"""$dY_s = \sqrt\epsilon\,dB_s$ on $[0, 1]$, the reference of a Schrödinger bridge.

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

    def __init__(self, epsilon: RealScalarLike):
        self.epsilon = positive(epsilon, "epsilon", shape=())
        self.t0 = as_float(0.0)
        self.t1 = as_float(1.0)

    def drift(self, s, y):
        return jnp.zeros_like(y)

    def sigma_squared(self, s: RealLike) -> Array:
        return jnp.broadcast_to(self.epsilon, jnp.shape(s))

    def equilibrium_score(self, s, y):
        return jnp.zeros_like(y)


class BridgeProcess(AbstractProcess):
    r"""$dX_s = u_\theta(s, X_s)\,ds + \sqrt\epsilon\,dB_s$ on $[0, 1]$, a network its drift.

    A process like any other: `solve_forward` and `path_entropy` take it. The drift of a
    Schrödinger bridge is a gradient, and `equilibrium_score` is $2 u_\theta/\epsilon$. The network
    is called as `network(level, y)` with a standardised state and the level
    $\log\frac{1-s+\delta}{s+\delta}$, which falls from $-\log\delta$ to $\log\delta$, 3.5 to 11.5.

    Args:
        network: `network(level, y, condition=None) -> array of y's shape`, such as `FourierMLP`.
        process: the reference, a Brownian motion.
        start: samples of $p_0$, shape (n, *shape), whose mean and variance set the scales.
        end: samples of $p_1$, shape (m, *shape).

    Attributes:
        mean: of $p_0$ and of $p_1$.
        variance: of $p_0$ and of $p_1$, per coordinate.
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

    @property
    def delta(self) -> Array:
        r"""$\delta$, the remaining time down to which the end is resolved."""
        resolved = _RESOLVED * self.variance[1] / self.process.epsilon
        return jnp.clip(resolved, _LEAST_DELTA, _LARGEST_DELTA)

    def shifted(self, by: Float[Array, "*shape"]) -> "BridgeProcess":
        """The same process of states moved by a constant."""
        return eqx.tree_at(lambda p: p.mean, self, self.mean + by)

    def standardised(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        """The state about its mean, in units of its standard deviation for independent ends."""
        early, late = 1 - s, as_float(s)
        centre = early * self.mean[0] + late * self.mean[1]
        variance = early**2 * self.variance[0] + late**2 * self.variance[1]
        width = jnp.sqrt(variance + self.process.epsilon * early * late)
        return ((y - centre) / width).astype(y.dtype)

    def size(self, s: RealLike) -> Array:
        """The unit of the network: about the standard deviation of a Brownian bridge's drift."""
        return jnp.sqrt(self.spread + self.process.epsilon * s / (1 - s + self.delta))

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$u_\theta(s, y)$."""
        level = jnp.log(1 - s + self.delta) - jnp.log(s + self.delta)
        out = call_network(self.network, level, self.standardised(s, y), None, None)
        return (self.mean[1] - self.mean[0] + self.size(s) * out).astype(y.dtype)

    def sigma_squared(self, s: RealLike) -> Array:
        return self.process.sigma_squared(s)

    def equilibrium_score(self, s, y):
        return 2 * self.drift(s, y) / self.process.epsilon


class BridgeObjective(AbstractLoss):
    r"""The regression of $u_\theta$ on the drifts of Brownian bridges between pairs.

    An example is a pair, shape (2, *shape); times are uniform in v, stratified over a batch.

    Attributes:
        num_draws: times and noises per pair.
        antithetic: whether noise comes in pairs (z, -z) at one time.
    """

    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    coupling = None
    num_steps = 0

    def __init__(self, num_draws: int, antithetic: bool):
        self.num_draws, self.antithetic = num_draws, antithetic

    def for_model(self, model: Any, data: Array) -> "BridgeObjective":
        return self

    def noise_shape(self, shape):
        return shape[1:]

    def one(self, model: Any, start, condition, u, z, key):
        epsilon = model.process.epsilon
        rest, rate, steep = end_clock(u, model.delta)
        s = 1 - rest
        x = rest * start[0] + s * start[1] + safe_sqrt(epsilon * s * rest) * z
        drift = model.drift(s, x)
        # The rate is taken into the product: it is zero where the target is infinite.
        moved = rate * (start[1] - start[0]) - steep * safe_sqrt(epsilon * s) * z
        return (rate * squared_norm(drift) - 2 * inner(drift, moved)) / (2 * epsilon)
