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

from entropix._core.arrays import Key, RealScalarLike, safe_sqrt
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.estimate import Estimate
from entropix._core.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.entropy.reference import GaussianReference
from entropix.transport.errors import errors_of


class SpeedProfile(eqx.Module):
    r"""Squared speeds of many points along a process.

    Attributes:
        times: nodes, increasing.
        weights: so that $\sum_k \mathrm{weights}_k f(\mathrm{times}_k) \approx \int f\,ds$.
        sigma_squared: $\sigma^2$ at the nodes.
        known: $qE\|v_r\|^2$ of the reference, over all data and noise.
        of_data: $qE_z\|v_r\|^2$ of the sampled points, shape (times, points).
        residual: $\|v\|^2 - q\|v_r\|^2$, shape (times, points, draws): `draws` of z for each x.
    """

    times: Float[Array, "*seeds k"]
    weights: Float[Array, "*seeds k"]
    sigma_squared: Float[Array, "*seeds k"]
    known: Float[Array, "*seeds k"]
    of_data: Float[Array, "*seeds k n"]
    residual: Float[Array, "*seeds k n r"]

    @property
    def squared(self) -> Float[Array, "*seeds k"]:
        r"""$E\|v\|^2$ at the nodes."""
        # A difference of means may fall below zero by its error, a speed may not.
        return jnp.maximum(self.known + jnp.mean(self.residual, axis=(-2, -1)), 0.0)

    @property
    def speed(self) -> Float[Array, "*seeds k"]:
        r"""$\sqrt{E\|v\|^2}$ at the nodes."""
        return safe_sqrt(self.squared)

    def _integral(self, value: Array, share: Array) -> "Integral":
        return Integral(
            value,
            jnp.asarray(jnp.tensordot(share, self.residual, axes=1)),
            jnp.asarray(jnp.tensordot(share, self.of_data, axes=1)),
        )

    def length(self) -> "Integral":
        r"""$\int\sqrt{E\|v\|^2}\,ds$."""
        speed = self.speed
        share = self.weights / jnp.where(speed > 0, 2 * speed, 1.0)
        return self._integral(jnp.sum(self.weights * speed), share)

    def action(self, duration: RealScalarLike) -> "Integral":
        r"""$(t_1 - t_0)\int E\|v\|^2\,ds$."""
        share = jnp.asarray(duration * self.weights)
        return self._integral(jnp.sum(share * self.squared), share)

    def entropy(self) -> "Integral":
        r"""$\int\frac{2}{\sigma^2}E\|v\|^2\,ds$."""
        share = 2 * self.weights / self.sigma_squared
        return self._integral(jnp.sum(share * self.squared), share)


class Integral(eqx.Module):
    """An integral over time, and what each sampled point contributes.

    Attributes:
        value: the integral.
        residual: influence of each point and draw on its sampled part, shape (n, r).
        of_data: influence of each point on its known part, shape (n,).
    """

    value: Float[Array, "*seeds"]
    residual: Float[Array, "*seeds n r"]
    of_data: Float[Array, "*seeds n"]

    def estimate(self, population: int, evaluations: int) -> Estimate:
        """With standard errors, given the number of all data."""
        errors = errors_of(self.residual, population, self.of_data)
        return Estimate(self.value, *errors, evaluations)


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
    reference: GaussianReference,
    num_times: int,
    chunk: int,
) -> SpeedProfile:
    """Squared speeds of `model` at `mu x + Sigma z`, for each x and each of its draws of z."""
    process = model.process
    times, weights = time_nodes(process, reference.mean_variance, num_times)
    count, draws = z.shape[:2]
    # The reference knows the data by their moments, which are held fixed: so must be the points.
    fixed = jax.lax.stop_gradient(x)
    centred = jax.vmap(reference.rotate)(fixed) - reference.mean

    def at(s: Array) -> tuple[Array, Array, Array, Array]:
        scale, var = process.scale(s), process.var(s)
        drift = process.scale_rate(s) * reference.mean
        gain = scale * process.scale_rate(s) * reference.spread + process.var_rate(s) / 2
        gain = gain / (scale**2 * reference.spread + var)

        def of_points(index: Array, _: Array) -> tuple[Array, Array]:
            i, j = index // draws, index % draws
            noise = process.std(s) * z[i, j]
            velocity = jax.vmap(model.velocity, in_axes=(None, 0, 0))(
                s, scale * x[i] + noise, jax.tree.map(lambda c: c[i], condition)
            )
            linear = drift + gain * (scale * centred[i] + jax.vmap(reference.rotate)(noise))
            squared = jnp.sum(velocity.reshape(index.shape[0], -1) ** 2, axis=-1)
            return squared, jnp.sum(linear**2, axis=-1)

        total = count * draws
        chunks = in_chunks(of_points, jnp.arange(total), total, chunk)
        squared, guess = (unchunk(c, total).reshape(count, draws) for c in chunks)
        of_data = jnp.sum((drift + gain * scale * centred) ** 2 + gain**2 * var, axis=-1)
        moments = scale**2 * reference.variances + var
        return jnp.sum(drift**2 + gain**2 * moments), of_data, squared, guess

    known, of_data, squared, guess = jax.lax.map(at, times)
    share = _share(jnp.tensordot(weights, squared, axes=1), jnp.tensordot(weights, guess, axes=1))
    return SpeedProfile(
        times,
        weights,
        process.sigma_squared(times),
        share * known,
        share * of_data,
        squared - share * guess,
    )


def _share(of_points: Array, guess: Array) -> Array:
    """How much of the control variate to take: its regression coefficient in the action."""
    of_points, guess = jax.lax.stop_gradient((of_points, guess))
    spread = guess - jnp.mean(guess)
    square = jnp.sum(spread**2)
    varies = square > 0
    return jnp.where(varies, jnp.sum(spread * of_points) / jnp.where(varies, square, 1.0), 1.0)


@eqx.filter_jit
def sampled_profile(
    model: AbstractModel,
    data: Array,
    condition: Any,
    *,
    key: Key,
    num_times: int,
    num_samples: int,
    chunk: int,
) -> tuple[tuple[Array, Array], SpeedProfile]:
    """Points at both ends of the process, and the speeds of `num_samples` on the way.

    Half as many data points as samples (all of them, if fewer), each with two or more draws of z.
    """
    process = model.process
    count = min(max(num_samples // 2, 2), data.shape[0])
    draws = max(num_samples // count, 2)
    index_key, noise_key = jax.random.split(key)
    index = jax.random.permutation(index_key, data.shape[0])[:count]
    x, condition = data[index], jax.tree.map(lambda c: c[index], condition)
    z = jax.random.normal(noise_key, (count, draws, *x.shape[1:]), x.dtype)
    reference = GaussianReference.from_data(data)
    profile = speed_profile(model, x, z, condition, reference, num_times, chunk)
    end = process.scale(process.t1) * x + process.std(process.t1) * z[:, 0]
    return (x.reshape(count, -1), end.reshape(count, -1)), profile
