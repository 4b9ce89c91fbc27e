r"""A learnable noise schedule: piecewise-linear log-rate, closed-form integral and inverse.

$\beta(s) = B_1\,F'(s)$ with $F$ a monotone curve on [0, 1] (see `entropix.processes.curves`), so
that $B(1) = B_1$ is held exactly whatever the rates are: what a schedule reaches and how it gets
there are separate numbers.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float
from entropix._core.checks import positive, positive_integer
from entropix.interfaces import AbstractSchedule
from entropix.processes.curves import (
    AbstractLearnable,
    UnitCurve,
    checked_log_rates,
    knot_places,
    log_rates_of,
)


class MonotoneSchedule(AbstractSchedule, AbstractLearnable):
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

    @property
    def diverges(self) -> bool:
        return False

    def __init__(self, log_rates: Any, total: Any, *, learn_total: bool = False):
        self.curve = UnitCurve(checked_log_rates(log_rates))
        self.log_total = jnp.log(positive(total, "total", shape=()))
        self.learn_total = bool(learn_total)

    @classmethod
    def from_schedule(
        cls,
        base: AbstractSchedule,
        num_knots: int = 32,
        *,
        total: Any = None,
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
        cls, rate: Any, num_knots: int = 32, *, learn_total: bool = False
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

    def decay(self, s: RealLike) -> Array:
        return jnp.exp(-self.integral(s) / 2)

    def decay_rate(self, s: RealLike) -> Array:
        return -self.rate(s) / 2 * self.decay(s)

    def absorbed(self, s: RealLike) -> Array:
        return -jnp.expm1(-self.integral(s))


@eqx.filter_jit
def _log_rates(base: AbstractSchedule, total: Array, num_knots: int) -> Array:
    """Log-rates at the knots of `base` up to B = `total`, stretched over [0, 1]."""
    end = base.inverse(total)
    places = as_float(np.asarray(knot_places(num_knots)))
    heights = base.integral(end * places)
    return log_rates_of(places, heights, base.rate(end * places) * end) - jnp.log(total)
