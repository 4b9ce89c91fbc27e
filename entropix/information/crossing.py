r"""The noise at which an information that accumulates from the noise reaches a level.

A first integral, as a curve, gives the log-SNR $\lambda_1$ where it does. A second one starts
there, and all its evaluations are spent on the noise that counts. Its value I, standard error and
rate r at $\lambda_1$ give one Newton step, $\lambda = \lambda_1 + (level - I)/r$, and the standard
error $\mathrm{stderr}(I)/r$.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.checks import is_concrete
from entropix._core.compiled import lightly_compiled
from entropix.estimators import (
    EntropyCurve,
    finite_log_snr,
    log_snr_per_log_std,
    std_of_log_snr,
)
from entropix.interfaces import AbstractGaussianProcess, Estimate


class CriticalTime(eqx.Module):
    r"""One time, on three clocks, each with its standard errors.

    A time that is not reached above the data end (or the cut-off) has an infinite `log_snr` with an
    infinite standard error, and the `time` and `ou_time` of that end.

    Attributes:
        log_snr: $\lambda$, the same for every Gaussian process.
        ou_time: t of the Ornstein-Uhlenbeck process, $\frac12\ln(1 + e^{-\lambda})$. The one of
            speciation is $\frac12\ln\Lambda$ always, negative for $\Lambda < 1$.
        time: s of the model's process; None without a model.
    """

    log_snr: Estimate
    ou_time: Estimate
    time: Estimate | None

    def __str__(self) -> str:
        text = f"log-SNR {self.log_snr}, OU time {self.ou_time}"
        return text if self.time is None else f"{text}, process time {self.time}"


def ou_time_of(log_snr: Array) -> Array:
    """The time of the Ornstein-Uhlenbeck process."""
    return jax.nn.softplus(-log_snr) / 2


def on_clocks(
    process: AbstractGaussianProcess | None,
    log_snr: Array,
    stderr: Array,
    mc_stderr: Array,
    reached: Array,
    end: Array,
) -> CriticalTime:
    """A log-SNR on all clocks; where it is not reached, the end of the axis."""
    finite = jnp.where(reached, log_snr, end)

    def shown(value: Array) -> Array:
        return jnp.where(reached, value, jnp.inf)

    def on(clock: Callable[[Array], Array]) -> Estimate:
        value, slope = jax.jvp(clock, (finite,), (jnp.ones_like(finite),))
        size = jnp.where(reached, jnp.abs(jax.lax.stop_gradient(slope)), 0.0)
        return Estimate(value, size * stderr, size * mc_stderr)

    time = None if process is None else on(process.time_of_log_snr)
    own = Estimate(shown(log_snr), shown(stderr), shown(mc_stderr))
    return CriticalTime(own, on(ou_time_of), time)


class Crossing(eqx.Module):
    """Where an information that accumulates from the noise first reaches a level."""

    log_snr: Array
    std: Array
    reached: Array
    end: Array


@lightly_compiled
def crossing_of(process: AbstractGaussianProcess, curve: EntropyCurve, level: Array) -> Crossing:
    """Of a curve that accumulates from the noise."""
    information, log_snr = curve.cumulative, finite_log_snr(curve.log_snr)
    # The first crossing from the noise, also of a curve that is not monotone within its error.
    risen = jax.lax.cummax(information[::-1])
    found = jax.lax.stop_gradient(jnp.interp(level, risen, log_snr[::-1]))
    std = std_of_log_snr(process, found)
    return Crossing(found, std, risen[-1] >= level, log_snr[0])


def is_missing(crossing: Crossing) -> bool:
    """Whether a level is known not to be reached."""
    return is_concrete(crossing) and not bool(crossing.reached)


@lightly_compiled
def missing(process: AbstractGaussianProcess, crossing: Crossing) -> CriticalTime:
    """The time of a level that is not reached."""
    zero = jnp.zeros_like(crossing.end)
    return on_clocks(process, zero, zero, zero, crossing.reached, crossing.end)


@lightly_compiled
def refined(
    own: AbstractGaussianProcess,
    process: AbstractGaussianProcess,
    crossing: Crossing,
    total: Estimate,
    level: Estimate,
) -> CriticalTime:
    """One Newton step from a crossing, with the information and its rate there."""
    s = process.time_of_log_snr(crossing.log_snr)
    assert total.slope is not None  # there is a cut-off
    # A slope per -ln Sigma as one per unit of log-SNR.
    rate = total.slope / log_snr_per_log_std(process, s)
    rate = jax.lax.stop_gradient(jnp.where(rate > 0, rate, jnp.inf))
    log_snr = crossing.log_snr + (level.value - total.value) / rate
    stderr = jnp.hypot(total.stderr, level.stderr) / rate
    mc_stderr = jnp.hypot(total.mc_stderr, level.mc_stderr) / rate
    reached = crossing.reached & (rate < jnp.inf)
    return on_clocks(own, log_snr, stderr, mc_stderr, reached, crossing.end)
