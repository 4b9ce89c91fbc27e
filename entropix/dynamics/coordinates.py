r"""The coordinates in which a process or a model is solved.

**The reverse equations.** Take a reference variance $c$ and let $P = \Sigma^2 + c\mu^2$, the
variance of $N(0, cI)$ diffused. With a progress variable $a$ that rises from noise ($a \approx 0$)
to data ($a = 1$), the state

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

**A process's own time and state** serve the forward SDE, and a flow that has no score: with an
optimal coupling its paths are straight there, and one step of Euler's method follows a straight
path to its end. The reverse coordinates are made for independent pairs: they divide by a power of
$\Sigma$ what vanishes at the data end for a score, and only for a score.
"""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealLike, as_float, safe_sqrt
from entropix._core.inversion import log_snr_at
from entropix.interfaces import AbstractGaussianProcess, AbstractProcess


# Where a process ends in more noise than this signal-to-noise ratio c mu^2 / Sigma^2, the model is
# evaluated at this ratio instead: beyond it F is E[x] / sqrt(c) and depends neither on y nor on s.
NEGLIGIBLE_SIGNAL = 1e-5


class AbstractCoordinates(eqx.Module):
    """What a solver's time and state mean. Solver time ascends; states have a sample axis."""

    @abc.abstractmethod
    def steps(self, num_steps: int) -> tuple[Float[Array, " knots"], Float[Array, " knots"]]:
        """Default steps over the whole axis: times of the process, and of the solver."""

    @abc.abstractmethod
    def solver_time(self, s: Array) -> Array:
        """The solver's time at a time of the process."""

    @abc.abstractmethod
    def process_time(self, t: Array) -> Array:
        """The inverse."""

    @abc.abstractmethod
    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        """The solver's states of states `y` at time `s` of the process, `t` of the solver."""

    @abc.abstractmethod
    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        """The inverse of `enter`."""

    @abc.abstractmethod
    def field(self, t: RealLike, x: Array, args: PyTree) -> Array:
        """The drift of `x` in the solver's time; `args` is (model or process, conditions)."""

    @abc.abstractmethod
    def noise(self, t: RealLike) -> Array | None:
        """The standard deviation of the additive noise per root of solver time; None for ODEs."""


class OwnCoordinates(AbstractCoordinates):
    """The process's own time and state: its SDE, or the flow of a model that has no score."""

    process: AbstractProcess
    flow: bool = eqx.field(static=True)

    def steps(self, num_steps: int) -> tuple[Float[Array, " knots"], Float[Array, " knots"]]:
        share = jnp.arange(num_steps + 1) / num_steps
        times = self.process.t0 * (1 - share) + self.process.t1 * share
        return times, times

    def solver_time(self, s: Array) -> Array:
        return s

    def process_time(self, t: Array) -> Array:
        return t

    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        return y

    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        return x

    def field(self, t: RealLike, x: Array, args: PyTree) -> Array:
        source, condition = args
        if self.flow:
            return jax.vmap(source.velocity, in_axes=(None, 0, 0))(t, x, condition)
        return jax.vmap(source.drift, in_axes=(None, 0))(t, x)

    def noise(self, t: RealLike) -> Array | None:
        return None if self.flow else self.process.diffusion(t)


class TimeReversed(AbstractCoordinates):
    """The same coordinates of an ODE, solved in the opposite direction."""

    ahead: AbstractCoordinates

    def steps(self, num_steps: int) -> tuple[Float[Array, " knots"], Float[Array, " knots"]]:
        times, knots = self.ahead.steps(num_steps)
        return times[::-1], -knots[::-1]

    def solver_time(self, s: Array) -> Array:
        return -self.ahead.solver_time(s)

    def process_time(self, t: Array) -> Array:
        return self.ahead.process_time(-t)

    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        return self.ahead.enter(s, -as_float(t), y)

    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        return self.ahead.leave(s, -as_float(t), x)

    def field(self, t: RealLike, x: Array, args: PyTree) -> Array:
        return -self.ahead.field(-as_float(t), x, args)

    def noise(self, t: RealLike) -> None:
        return None


class ReverseCoordinates(AbstractCoordinates):
    r"""The coordinates of the module's formulas, from noise to data, for the SDE or for the flow.

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

    def steps(self, num_steps: int) -> tuple[Float[Array, " knots"], Float[Array, " knots"]]:
        r"""Steps from `t1` to `t0` exactly, uniform in $w = \log(P/c\mu^2)^{1/3}$.

        Near the data $w \propto \Sigma^{2/3}$, so that steps in $\Sigma$ shrink towards it; near
        the noise $w^3$ is minus the log-SNR. Where $\mu(t_1) = 0$, the first step covers all that
        lies beyond a negligible signal.
        """
        start = self._log_ratio(self.process.t1)
        limit = -jnp.log(jnp.asarray(NEGLIGIBLE_SIGNAL, start.dtype))
        root = jnp.cbrt(jnp.minimum(start, limit))
        ratios = (root * jnp.linspace(1.0, 0.0, num_steps + 1, dtype=start.dtype)) ** 3
        ratios = ratios.at[0].set(start)
        log_snr = -jnp.log(jnp.expm1(ratios[1:-1])) - jnp.log(self.variance)
        ends = jnp.stack([self.process.t1, self.process.t0])
        inner = self.process.time_of_log_snr(log_snr)
        return jnp.concatenate([ends[:1], inner, ends[1:]]), self._time(ratios)

    def evaluation_time(self, s: RealLike) -> Array:
        """Where the model is evaluated for its field at `s`: short of a negligible signal."""
        s = as_float(s)
        odds = NEGLIGIBLE_SIGNAL / (1 - NEGLIGIBLE_SIGNAL)
        last = self.process.time_of_log_snr(jnp.log(odds / self.variance))
        return jnp.where(s > last, last, s)

    def _log_ratio(self, s: Array) -> Array:
        r"""$\log(P/c\mu^2)$, from 0 at the data; infinite where $\mu = 0$."""
        # Infinite ends get their value, and no gradient rather than a NaN from the other branch.
        log_snr = log_snr_at(self.process, s)
        inside = jnp.isfinite(log_snr)
        ratio = jax.nn.softplus(-jnp.where(inside, log_snr, 0.0) - jnp.log(self.variance))
        return jnp.where(inside, ratio, jnp.where(log_snr > 0, 0.0, jnp.inf))

    def _time(self, log_ratio: Array) -> Array:
        safe = jnp.where(jnp.isfinite(log_ratio), log_ratio, 0.0)
        time = jnp.expm1(-safe / 2 if self.flow else -safe)
        return jnp.where(jnp.isfinite(log_ratio), time, -1.0)

    def _evaluated(self, t: RealLike) -> tuple[Array, Array, Array]:
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

    def solver_time(self, s: Array) -> Array:
        return self._time(self._log_ratio(s))

    def process_time(self, t: Array) -> Array:
        inside = (t < 0) & (t > -1)
        s = self._evaluated(jnp.where(inside, t, -0.5))[0]
        return jnp.where(inside, s, jnp.where(t < 0, self.process.t1, self.process.t0))

    def enter(self, s: RealLike, t: RealLike, y: Array) -> Array:
        standardised = y / jnp.sqrt(self.total(s))
        return standardised if self.flow else safe_sqrt(1 + as_float(t)) * standardised

    def leave(self, s: RealLike, t: RealLike, x: Array) -> Array:
        # In the SDE all states are zero where a = 0, and what comes back is zero.
        std = jnp.sqrt(self.total(s))
        if self.flow:
            return std * x
        a = 1 + as_float(t)
        return std / jnp.sqrt(jnp.where(a > 0, a, 1.0)) * x

    def field(self, t: RealLike, x: Array, args: PyTree) -> Array:
        model, condition = args
        s, scale, a = self._evaluated(t)
        if self.flow:  # F depends on the data through a X, which is kept; in the SDE through X
            x = x * ((1 + as_float(t)) / a)
        root = scale * jnp.sqrt(self.variance)
        score = jax.vmap(model.score, in_axes=(None, 0, 0))(s, root / a * x, condition)
        return x / a + (root / (a**2 if self.flow else a)) * score

    def noise(self, t: RealLike) -> Array | None:
        return None if self.flow else jnp.ones_like(as_float(t))
