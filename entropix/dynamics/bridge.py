r"""Reverse dynamics in coordinates in which Gaussian data need one step.

Take a reference variance $c$ and let $P = \Sigma^2 + c\mu^2$, the variance of $N(0, cI)$ diffused.
With a progress variable $a$ that rises from noise ($a \approx 0$) to data ($a = 1$), the state

$$X = \frac{a\,y}{\mu\sqrt c}, \qquad
  F(y, s) = \frac{y + P\,\nabla\log p_s(y)}{\mu\sqrt c},$$

turns the reverse SDE and the probability flow into

$$a = \frac{c\mu^2}{P}: \quad dX = F\,da + dB_a \qquad\qquad
  a = \sqrt{\frac{c\mu^2}{P}}: \quad dX = F\,da,$$

by the chain rule alone: nothing is approximated. No coefficient of the process is left, so that
singular processes ($\sigma \to \infty$ where $\mu \to 0$) are no harder than others; the noise is
additive, so that Euler's method is of strong order one; and for data $N(m, cI)$ the field is the
constant $F = m/\sqrt c$, which every solver integrates exactly. As $c \to 0$ the SDE is stochastic
localisation (El Alaoui and Montanari, 2109.04437) with the denoiser as its drift; treating the
linear part exactly is the idea of the exponential integrators DEIS (2204.13902) and DPM-Solver
(2206.00927).

Solvers run in $t = a - 1$, from about $-1$ to $0$: near the data $\Sigma^2 \propto -t$, which
floating point resolves to its last digit only around zero. In the SDE, $-t = \Sigma^2/P$ is the
noise fraction.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float, safe_sqrt
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models.reference_variance import reference_variance as reference_variance


# Where a process ends in more noise than this signal-to-noise ratio c mu^2 / Sigma^2, the model is
# evaluated at this ratio instead: beyond it F is E[x] / sqrt(c) and depends neither on y nor on s.
NEGLIGIBLE_SIGNAL = 1e-5


class Bridge(eqx.Module):
    r"""The coordinates of the module's formulas, for the SDE or for the flow.

    Attributes:
        process: a Gaussian process.
        variance: the reference variance $c$.
        flow: False for the SDE, True for the probability flow.
    """

    process: AbstractGaussianProcess
    variance: Float[Array, ""]
    flow: bool = eqx.field(static=True)

    def total(self, s: RealLike) -> Array:
        r"""$P = \Sigma^2 + c\mu^2$."""
        return self.process.var(s) + self.variance * self.process.scale(s) ** 2

    def knots(self, num_steps: int) -> Float[Array, " knots"]:
        r"""Solver times from `t1` to `t0`, uniform in $w = \log(P/c\mu^2)^{1/3}$.

        Near the data $w \propto \Sigma^{2/3}$, so that steps in $\Sigma$ shrink towards it; near
        the noise $w^3$ is minus the log-SNR. Where $\mu(t_1) = 0$, the first step covers all that
        lies beyond a negligible signal.
        """
        return self._time(self._log_ratios(num_steps))

    def knots_at(self, times: Float[Array, " knots"]) -> Float[Array, " knots"]:
        """Solver times of given times of the process."""
        return self._time(jax.vmap(self._log_ratio)(times))

    def times(self, num_steps: int) -> Float[Array, " knots"]:
        """Times of the process at `knots(num_steps)`, from `t1` to `t0` exactly."""
        inner = self._log_ratios(num_steps)[1:-1]
        log_snr = -jnp.log(jnp.expm1(inner)) - jnp.log(self.variance)
        ends = jnp.stack([self.process.t1, self.process.t0])
        return jnp.concatenate([ends[:1], self.process.time_of_log_snr(log_snr), ends[1:]])

    def evaluation_time(self, s: RealLike) -> Array:
        """Where the model is evaluated for its field at `s`: short of a negligible signal."""
        s = as_float(s)
        odds = NEGLIGIBLE_SIGNAL / (1 - NEGLIGIBLE_SIGNAL)
        last = self.process.time_of_log_snr(jnp.log(odds / self.variance))
        return jnp.where(s > last, last, s)

    def _log_ratios(self, num_steps: int) -> Array:
        start = self._log_ratio(self.process.t1)
        limit = -jnp.log(jnp.asarray(NEGLIGIBLE_SIGNAL, start.dtype))
        root = jnp.cbrt(jnp.minimum(start, limit))
        ratios = (root * jnp.linspace(1.0, 0.0, num_steps + 1, dtype=start.dtype)) ** 3
        return ratios.at[0].set(start)

    def _log_ratio(self, s: Array) -> Array:
        r"""$\log(P/c\mu^2)$, from 0 at the data; infinite where $\mu = 0$."""
        # Infinite ends get their value, and no gradient rather than a NaN from the other branch.
        ends = jax.lax.stop_gradient(self.process.log_snr(s))
        inside = jnp.isfinite(ends)
        middle = (self.process.t0 + self.process.t1) / 2
        log_snr = self.process.log_snr(jnp.where(inside, s, middle))
        ratio = jax.nn.softplus(-log_snr - jnp.log(self.variance))
        return jnp.where(inside, ratio, jnp.where(ends > 0, 0.0, jnp.inf))

    def _time(self, log_ratio: Array) -> Array:
        safe = jnp.where(jnp.isfinite(log_ratio), log_ratio, 0.0)
        time = jnp.expm1(-safe / 2 if self.flow else -safe)
        return jnp.where(jnp.isfinite(log_ratio), time, -1.0)

    def _level(self, t: RealLike) -> tuple[Array, Array, Array]:
        r"""$s$ at solver time `t`, short of a negligible signal, and $\mu$ and $a$ at this $s$.

        Near the noise s is rounded, and $\mu$ much more so: F is a difference of large numbers that
        must belong to the same s, not to the one that was meant.
        """
        t = as_float(t)
        # In the flow, a ratio of 1e-5 in float32 and as far as rounding allows in float64.
        least = jnp.finfo(t.dtype).eps ** 0.36 if self.flow else NEGLIGIBLE_SIGNAL
        t = jnp.maximum(t, least - 1)
        a = 1 + t
        left = -t * (1 + a) if self.flow else -t  # Sigma^2 / P, whose complement is c mu^2 / P
        # The data end gets its value, and no gradient rather than a NaN from an infinite log-SNR.
        inside = left > 0
        log_left = jnp.log(jnp.where(inside, left, 1.0))
        log_snr = (2 if self.flow else 1) * jnp.log(a) - log_left - jnp.log(self.variance)
        s = jnp.where(inside, self.process.time_of_log_snr(log_snr), self.process.t0)
        scale = self.process.scale(s)
        share = self.variance * scale**2 / self.total(s)
        return s, scale, jnp.sqrt(share) if self.flow else share

    def time_at(self, t: RealLike) -> Array:
        """The time of the process at solver time `t`, exact at both ends."""
        t = as_float(t)
        inside = (t < 0) & (t > -1)
        s = self._level(jnp.where(inside, t, -0.5))[0]
        return jnp.where(inside, s, jnp.where(t < 0, self.process.t1, self.process.t0))

    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        r"""$X = a y/(\mu\sqrt c)$ at time `s` of the process, `t` of the solver."""
        standardised = y / jnp.sqrt(self.total(s))
        return standardised if self.flow else safe_sqrt(1 + as_float(t)) * standardised

    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        r"""$y = X \mu\sqrt c / a$ at time `s` of the process, `t` of the solver.

        In the SDE all states are zero where $a = 0$, and what comes back is zero.
        """
        std = jnp.sqrt(self.total(s))
        if self.flow:
            return std * x
        a = 1 + as_float(t)
        root = jnp.sqrt(jnp.where(a > 0, a, 1.0))
        return std / root * x

    def field(self, model: AbstractModel, t: RealLike, x: Array, condition: Any = None) -> Array:
        r"""$F$ for a batch of states `x`, shape (n, *shape), each with its own condition."""
        s, scale, a = self._level(t)
        if self.flow:  # what tells F of the data is a X, which is kept; in the SDE it is X
            x = x * ((1 + as_float(t)) / a)
        root = scale * jnp.sqrt(self.variance)
        score = jax.vmap(model.score, in_axes=(None, 0, 0))(s, root / a * x, condition)
        return x / a + (root / (a**2 if self.flow else a)) * score
