r"""Noise schedules $\beta(s)$ with closed-form integral and inverse.

The linear schedule is that of Ho et al. (2006.11239) and Song et al. (2011.13456, appendix C); the
cosine one is $e^{-B(s)} = \cos^2(\pi s/2)$ of Nichol and Dhariwal (2102.09672) without offset.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float
from entropix._core.checks import checked, on_host, positive
from entropix.interfaces import AbstractSchedule


def time_of_integral(schedule: AbstractSchedule, value: Array, t0: Array, t1: Array) -> Array:
    """The time in `[t0, t1]` at which B equals `value`; the nearer end outside.

    The inverse is never asked about a value beyond its range: it may be infinite there.
    """
    last = jax.lax.stop_gradient(schedule.integral(t1))  # a bound; its slope may be infinite
    time = jnp.clip(schedule.inverse(jnp.minimum(value, last)), t0, t1)
    return jnp.where(value >= last, t1, time)


class LinearSchedule(AbstractSchedule):
    r"""$\beta(s) = \beta_{min} + (\beta_{max} - \beta_{min})\,s$.

    Args:
        beta_min: the rate at s = 0, positive.
        beta_max: the rate at s = 1, at least `beta_min` (equality gives a constant rate).

    Raises:
        ValueError: if either is not positive and finite, or `beta_max < beta_min`.
    """

    beta_min: Float[Array, ""]
    beta_max: Float[Array, ""]

    @property
    def diverges(self) -> bool:
        return False

    def __init__(self, beta_min: Any = 0.1, beta_max: Any = 16.0):
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

    def decay(self, s: RealLike) -> Array:
        return jnp.exp(-self.integral(s) / 2)

    def decay_rate(self, s: RealLike) -> Array:
        return -self.rate(s) / 2 * self.decay(s)

    def absorbed(self, s: RealLike) -> Array:
        return -jnp.expm1(-self.integral(s))


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
