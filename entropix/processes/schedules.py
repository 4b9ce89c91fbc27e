r"""Noise schedules $\beta(s)$ with closed-form integral and inverse.

The linear schedule is that of Ho et al. (2006.11239) and Song et al. (2011.13456, appendix C); the
cosine one is $e^{-B(s)} = \cos^2(\pi s/2)$ of Nichol and Dhariwal (2102.09672) without offset.

The learnable schedule is $\beta(s) = B_1\,F'(s)$ with $F$ a monotone curve on [0, 1] (see
`entropix.processes.curves`), so that $B(1) = B_1$ is held exactly whatever the rates are: the value
that a schedule reaches and its course are separate parameters.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, DataLike, RealLike, as_float
from entropix._core.checks import checked, on_host, positive, positive_integer
from entropix.interfaces import AbstractLearnable, AbstractSchedule
from entropix.processes.curves import UnitCurve


def check_schedule(schedule: AbstractSchedule) -> AbstractSchedule:
    """A schedule, or a `ValueError`."""
    if not isinstance(schedule, AbstractSchedule):
        raise ValueError(
            f"`schedule` must be a schedule such as LinearSchedule(0.1, 16.0), "
            f"got {type(schedule).__name__}."
        )
    return schedule


def time_of_integral(schedule: AbstractSchedule, value: Array, t0: Array, t1: Array) -> Array:
    """The time in `[t0, t1]` at which B equals `value`; the nearer end outside.

    The inverse is never asked about a value beyond its range: it may be infinite there.
    """
    last = jax.lax.stop_gradient(schedule.integral(t1))  # a bound; its slope may be infinite
    time = jnp.clip(schedule.inverse(jnp.minimum(value, last)), t0, t1)
    return jnp.where(value >= last, t1, time)


class _AbstractFiniteSchedule(AbstractSchedule):
    """A schedule of finite rate."""

    @property
    def diverges(self) -> bool:
        return False

    def decay(self, s: RealLike) -> Array:
        return jnp.exp(-self.integral(s) / 2)

    def decay_rate(self, s: RealLike) -> Array:
        return -self.rate(s) / 2 * self.decay(s)

    def absorbed(self, s: RealLike) -> Array:
        return -jnp.expm1(-self.integral(s))


class LinearSchedule(_AbstractFiniteSchedule):
    r"""$\beta(s) = \beta_{min} + (\beta_{max} - \beta_{min})\,s$.

    Args:
        beta_min: the rate at s = 0, positive.
        beta_max: the rate at s = 1, at least `beta_min` (equality gives a constant rate).

    Raises:
        ValueError: if either is not positive and finite, or `beta_max < beta_min`.
    """

    beta_min: Float[Array, ""]
    beta_max: Float[Array, ""]

    def __init__(self, beta_min: ArrayLike = 0.1, beta_max: ArrayLike = 16.0):
        self.beta_min = positive(beta_min, "beta_min", shape=())
        lower = on_host(self.beta_min)
        self.beta_max = checked(
            positive(beta_max, "beta_max", shape=()),
            "beta_max",
            lambda v: v >= lower,
            "at least `beta_min`",
        )

    def rate(self, s: RealLike) -> Array:
        return self.beta_min + (self.beta_max - self.beta_min) * as_float(s)

    def integral(self, s: RealLike) -> Array:
        s = as_float(s)
        return s * (self.beta_min + 0.5 * (self.beta_max - self.beta_min) * s)

    def inverse(self, value: RealLike) -> Array:
        slope = self.beta_max - self.beta_min
        value = as_float(value)
        return 2 * value / (self.beta_min + jnp.sqrt(self.beta_min**2 + 2 * slope * value))


class CosineSchedule(AbstractSchedule):
    r"""$e^{-B(s)/2} = \cos(\pi s/2)$, so $\beta(s) = \pi \tan(\pi s/2)$, on [0, 1].

    The rate is infinite at s = 1, where $e^{-B}$ reaches zero exactly. It has no parameters.
    """

    @property
    def diverges(self) -> bool:
        return True

    def rate(self, s: RealLike) -> Array:
        s = as_float(s)
        return jnp.pi * jnp.sin(jnp.pi / 2 * s) / self.decay(s)

    def integral(self, s: RealLike) -> Array:
        return -2 * jnp.log(self.decay(s))

    def inverse(self, value: RealLike) -> Array:
        value = as_float(value)
        absorbed = -jnp.expm1(-value)
        positive_part = absorbed > 0
        sine = jnp.sqrt(jnp.where(positive_part, absorbed, 1.0))
        angle = jnp.arctan2(sine, jnp.exp(-value / 2))
        return jnp.where(positive_part, 2 / jnp.pi * angle, 0.0)

    def decay(self, s: RealLike) -> Array:
        return jnp.sin(jnp.pi / 2 * (1 - as_float(s)))  # cos(pi s / 2) is negative at s = 1

    def decay_rate(self, s: RealLike) -> Array:
        return -jnp.pi / 2 * jnp.sin(jnp.pi / 2 * as_float(s))

    def absorbed(self, s: RealLike) -> Array:
        return jnp.sin(jnp.pi / 2 * as_float(s)) ** 2


class StraightClock(AbstractSchedule):
    r"""$e^{-B/2} = 1 - s$: the clock of `StraightLine`."""

    @property
    def diverges(self) -> bool:
        return True

    def rate(self, s: RealLike) -> Array:
        return 2 / (1 - as_float(s))

    def integral(self, s: RealLike) -> Array:
        return -2 * jnp.log1p(-as_float(s))

    def inverse(self, value: RealLike) -> Array:
        return -jnp.expm1(-as_float(value) / 2)

    def decay(self, s: RealLike) -> Array:
        return 1 - as_float(s)

    def decay_rate(self, s: RealLike) -> Array:
        return -jnp.ones_like(as_float(s))

    def absorbed(self, s: RealLike) -> Array:
        s = as_float(s)
        return s * (2 - s)


class MonotoneSchedule(_AbstractFiniteSchedule, AbstractLearnable):
    r"""A learnable schedule on [0, 1], positive and integrable whatever its parameters.

    $\log\beta$ is linear between knots at $s_i = \sin^2(\pi i/2(K-1))$, closer at both ends, and
    normalised so that $B(1)$ is `total`. Integral, inverse and their derivatives are in closed
    form, and lose no digits near s = 0.

    Args:
        log_rates: $\log\beta$ at the knots, shape (K,), K >= 2; a common constant has no effect.
        total: $B(1)$, positive.
        learn_total: whether `optimise_schedule` moves `total` too. An objective that falls with the
            distance travelled, such as an action, would take it to zero.

    Raises:
        ValueError: on a wrong shape, an entry that is not finite, or a `total` that is not
            positive.
    """

    curve: UnitCurve
    log_total: Float[Array, ""]
    learn_total: bool = eqx.field(static=True)

    def __init__(self, log_rates: DataLike, total: ArrayLike, *, learn_total: bool = False):
        self.curve = UnitCurve(log_rates)
        self.log_total = jnp.log(positive(total, "total", shape=()))
        self.learn_total = bool(learn_total)

    @classmethod
    def from_schedule(
        cls,
        base: AbstractSchedule,
        num_knots: int = 32,
        *,
        total: ArrayLike | None = None,
        learn_total: bool = False,
    ) -> "MonotoneSchedule":
        r"""The schedule whose rates at the knots are those of another.

        Args:
            base: any schedule.
            num_knots: K.
            total: $B(1)$; None takes that of `base`. Where it is another, the part of `base` up to
                there is stretched over [0, 1]: the way to start from one whose integral diverges.
            learn_total: see the class.

        Raises:
            ValueError: if `base` diverges and no `total` is given.
        """
        positive_integer(num_knots, "num_knots", 2)
        if not isinstance(base, AbstractSchedule):
            raise ValueError(f"`base` must be a schedule, got {type(base).__name__}.")
        if total is None and base.diverges:
            raise ValueError("`total` must be given for a `base` with an infinite integral.")
        total = base.integral(1.0) if total is None else positive(total, "total", shape=())
        return cls(_log_rates(base, total, num_knots), total, learn_total=learn_total)

    @classmethod
    def constant(
        cls, rate: ArrayLike, num_knots: int = 32, *, learn_total: bool = False
    ) -> "MonotoneSchedule":
        r"""$\beta(s) = \mathrm{rate}$ to start from."""
        positive_integer(num_knots, "num_knots", 2)
        return cls(np.zeros(num_knots), rate, learn_total=learn_total)

    @property
    def total(self) -> Float[Array, ""]:
        r"""$B(1)$."""
        return jnp.exp(self.log_total)

    @property
    def knots(self) -> Array:
        """The times between which the log-rate is linear."""
        return jnp.asarray(self.curve.places)

    def learnable(self) -> tuple[Any, ...]:
        rates = self.curve.log_rates
        return (rates, self.log_total) if self.learn_total else (rates,)

    def rate(self, s: RealLike) -> Array:
        return self.total * self.curve.rate(s)

    def integral(self, s: RealLike) -> Array:
        return self.total * self.curve.value(s)

    def inverse(self, value: RealLike) -> Array:
        return self.curve.inverse(as_float(value) / self.total)


@eqx.filter_jit
def _log_rates(base: AbstractSchedule, total: Array, num_knots: int) -> Array:
    """Log-rates at the knots of `base` up to B = `total`, stretched over [0, 1]."""
    end = base.inverse(total)
    places = as_float(UnitCurve.knots(num_knots))
    heights = base.integral(end * places)
    rates = base.rate(end * places) * end
    return UnitCurve.log_rates_through(places, heights, rates) - jnp.log(total)
