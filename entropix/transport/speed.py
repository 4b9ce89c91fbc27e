r"""The speed of the probability flow along a process.

$E\|v(Y_s, s)\|^2$ with $Y_s = \mu x + \Sigma z$, at Gauss-Legendre nodes in the clock

$$w = \sqrt{\log(1 + \Sigma^2/(c\mu^2))}, \qquad w \propto \Sigma \text{ at the data}, \qquad
  w^2 \approx -\log\mathrm{snr} \text{ at the noise},$$

with c about the data variance: integrands that are smooth in time at the data end, whether that is
approached like $\Sigma \propto s$ or like $\Sigma \propto \sqrt s$, are smooth in w, and an
infinite axis of log-SNR falls off like a Gaussian. The same x and z serve all times, so that every
integral over time is an average over (x, z), with a standard error.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.interfaces import AbstractGaussianProcess, AbstractModel


class SpeedProfile(eqx.Module):
    r"""Squared speeds of many points along a process.

    Attributes:
        times: nodes, increasing.
        weights: so that $\sum_k \mathrm{weights}_k f(\mathrm{times}_k) \approx \int f\,ds$.
        sigma_squared: $\sigma^2$ at the nodes.
        squared: $\|v\|^2$, shape (times, points, draws): `draws` of z for each x.
    """

    times: Float[Array, "*seeds k"]
    weights: Float[Array, "*seeds k"]
    sigma_squared: Float[Array, "*seeds k"]
    squared: Float[Array, "*seeds k n r"]

    @property
    def speed(self) -> Float[Array, "*seeds k"]:
        r"""$\sqrt{E\|v\|^2}$ at the nodes."""
        return jnp.sqrt(jnp.mean(self.squared, axis=(-2, -1)))

    def length(self) -> tuple[Array, Array]:
        r"""$\int\sqrt{E\|v\|^2}\,ds$, and each point's influence on it, shape (n, r)."""
        speed = self.speed
        share = self.weights / jnp.where(speed > 0, 2 * speed, 1.0)
        return jnp.sum(self.weights * speed), jnp.tensordot(share, self.squared, axes=1)

    def action(self, duration: RealScalarLike) -> tuple[Array, Array]:
        r"""$(t_1 - t_0)\int E\|v\|^2\,ds$, and each point's influence on it."""
        of_points = duration * jnp.tensordot(self.weights, self.squared, axes=1)
        return jnp.mean(of_points), jnp.asarray(of_points)

    def entropy(self) -> tuple[Array, Array]:
        r"""$\int\frac{2}{\sigma^2}E\|v\|^2\,ds$, and each point's influence on it."""
        of_points = jnp.tensordot(2 * self.weights / self.sigma_squared, self.squared, axes=1)
        return jnp.mean(of_points), of_points


def clock(log_snr: Array, variance: Array) -> Array:
    """The clock w of a log-SNR."""
    return jnp.sqrt(jax.nn.softplus(-log_snr - jnp.log(variance)))


def clock_end(process: AbstractGaussianProcess, variance: Array) -> Array:
    """The clock at `t1`; where w is infinite there, where the signal is lost to rounding."""
    dtype = variance.dtype
    log_variance = jnp.log(variance)
    rounding = 2 * jnp.log(32 * jnp.asarray(jnp.finfo(dtype).eps, dtype))
    least = rounding - jnp.minimum(log_variance, 0.0)
    unsafe = process.log_snr(jax.lax.stop_gradient(process.t1))
    inside = jnp.isfinite(unsafe) & (unsafe > least)
    middle = (process.t0 + process.t1) / 2
    end = process.log_snr(jnp.where(inside, process.t1, middle))
    end = jnp.where(inside, end, least)
    return clock(end, variance)


def time_nodes(
    process: AbstractGaussianProcess,
    variance: Array,
    num_times: int,
    start: Array | None = None,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Times of the Gauss-Legendre nodes, increasing, and their weights in ds.

    The axis begins at `t0`, or at the log-SNR `start`.
    """
    dtype = variance.dtype
    log_variance = jnp.log(variance)
    begin = jnp.zeros((), dtype) if start is None else clock(start, variance)
    span = clock_end(process, variance) - begin

    nodes, weights = np.polynomial.legendre.leggauss(num_times)
    w = begin + span * jnp.asarray((nodes + 1) / 2, dtype)
    growth = jnp.expm1(w**2)
    times = process.time_of_log_snr(-log_variance - jnp.log(growth))
    # A clock that runs fast at its end rounds the last nodes to `t1`, where nothing is left of ds.
    inside = times < process.t1
    times = jnp.where(inside, times, (process.t0 + process.t1) / 2)
    _, slope = jax.jvp(process.log_snr, (times,), (jnp.ones_like(times),))
    pace = jnp.where(inside, -2 * w * (1 + 1 / growth) / slope, 0.0)  # ds / dw
    return times, span * jnp.asarray(weights / 2, dtype) * pace


def speed_profile(
    model: AbstractModel,
    x: Float[Array, "n *shape"],
    z: Float[Array, "n r *shape"],
    condition: Any,
    variance: Array,
    num_times: int,
    chunk: int,
) -> SpeedProfile:
    """Squared speeds of `model` at `mu x + Sigma z`, for each x and each of its draws of z."""
    process = model.process
    times, weights = time_nodes(process, variance, num_times)
    count, draws = z.shape[:2]

    def at(s: Array) -> Array:
        def of_points(index: Array, _: Array) -> Array:
            i, j = index // draws, index % draws
            y = process.scale(s) * x[i] + process.std(s) * z[i, j]
            velocity = jax.vmap(model.velocity, in_axes=(None, 0, 0))(
                s, y, jax.tree.map(lambda c: c[i], condition)
            )
            return jnp.sum(velocity.reshape(index.shape[0], -1) ** 2, axis=-1)

        total = count * draws
        return unchunk(in_chunks(of_points, jnp.arange(total), total, chunk), total)

    squared = jax.lax.map(at, times).reshape(num_times, count, draws)
    return SpeedProfile(times, weights, process.sigma_squared(times), squared)
