r"""The clock by which a positive rate becomes constant: no gradient is needed.

$u = \int_{t_0}^s r\,dr' / \int_{t_0}^{t_1} r\,dr'$ is a fraction of the length; the warp is its
inverse. Equal times then cover equal lengths, entropies or scores, whatever the rate is of.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import DataLike, as_float
from entropix._core.checks import checked, on_host, positive_integer
from entropix._core.precision import full_precision
from entropix.interfaces import AbstractGaussianProcess, AbstractProcess, AbstractSpeed
from entropix.optimise.objectives import gaussian
from entropix.processes import MonotoneWarp, TimeChanged, UnitCurve
from entropix.transport import time_rule


@full_precision
def constant_speed(
    process: AbstractProcess,
    rate: AbstractSpeed | Callable | tuple[DataLike, DataLike],
    *,
    num_knots: int = 64,
    num_times: int = 512,
) -> AbstractProcess:
    r"""The process on the time axis on which a rate is constant.

    With `rate=KineticAction(...)` the result minimises the action over all clocks: a geodesic's
    parametrisation. With `ScoreOptimalLength` equal times cover equal lengths of the score
    (2412.07877), with `EntropicTime` equal entropies (2504.13612).

    Args:
        process: any process; one with closed-form marginals unless `rate` is a table.
        rate: an objective that is a speed; or a function of an array of times to the rates there;
            or a pair (times, rates) of arrays, the times increasing, such as `.times` and `.speed`
            of a `SpeedLimit`, or `.times` and `.rate` of an entropy curve. Not negative.
        num_knots: knots of the warp.
        num_times: times at which the rate is taken, about twice as many in all.

    Returns:
        `TimeChanged(process, warp)`.

    Raises:
        ValueError: if `rate` is none of these, or is somewhere negative or not finite.

    References:
        Williams et al., 2412.07877; Stančević et al., 2504.13612.
    """
    positive_integer(num_knots, "num_knots", 3)
    positive_integer(num_times, "num_times", 8)
    if not isinstance(process, AbstractProcess):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
    if isinstance(rate, tuple):
        times, rates = (as_float(part, "rate") for part in rate)
        if times.ndim != 1 or times.shape != rates.shape:
            raise ValueError(
                "`rate` must be a pair of arrays of one shape (k,), "
                f"got {times.shape} and {rates.shape}."
            )
        slack = 1e-5 * (process.t1 - process.t0)
        low, high = on_host(process.t0 - slack), on_host(process.t1 + slack)
        times = checked(
            times,
            "rate",
            lambda t: ((t >= low) & (t <= high)).all() & (t[1:] >= t[:-1]).all(),
            "a table of increasing times within [t0, t1], and of the rates there",
        )
        times, rates = _with_ends(process, times, rates)
    elif callable(rate):
        speed = rate if isinstance(rate, AbstractSpeed) else None
        inner = _inner_times(process, speed, num_times)
        function: Any = rate
        rates = function(inner) if speed is None else speed.rate(gaussian(process), inner)
        times, rates = _with_ends(process, inner, as_float(rates, "rate"))
    else:
        raise ValueError(
            "`rate` must be an objective that is a speed, a function of times, or a pair of "
            f"arrays, got {type(rate).__name__}."
        )
    rates = checked(rates, "rate", lambda r: (r >= 0) & (r < np.inf), "finite and not negative")
    return TimeChanged(process, MonotoneWarp(_log_rates(process, times, rates, num_knots)))


@eqx.filter_jit
def _inner_times(process: AbstractProcess, speed: AbstractSpeed | None, count: int) -> Array:
    """Increasing times that resolve both ends of the axis and of the log-SNR, without the ends."""
    places = as_float(UnitCurve.knots(count))
    times = process.t0 + (process.t1 - process.t0) * places
    if isinstance(process, AbstractGaussianProcess):
        ones = jnp.ones_like(process.t1)
        rule = time_rule(process, ones, count) if speed is None else speed.nodes(process, count)
        times = jnp.sort(jnp.concatenate([times, rule[0]]))
    return times[1:-1]


@eqx.filter_jit
def _with_ends(process: AbstractProcess, times: Array, rates: Array) -> tuple[Array, Array]:
    """The ends of the axis too, with the rates nearest to them."""
    return (
        jnp.concatenate([process.t0[None], times, process.t1[None]]),
        jnp.concatenate([rates[:1], rates, rates[-1:]]),
    )


@eqx.filter_jit
def _log_rates(process: AbstractProcess, times: Array, rates: Array, num_knots: int) -> Array:
    steps = jnp.diff(times)
    covered = jnp.cumsum(steps * (rates[1:] + rates[:-1]) / 2)
    covered = jnp.concatenate([jnp.zeros_like(covered[:1]), covered])
    total = covered[-1]
    length = process.t1 - process.t0
    places = as_float(UnitCurve.knots(num_knots))
    reached = (jnp.interp(places * total, covered, times) - process.t0) / length
    reached = reached.at[0].set(0.0).at[-1].set(1.0)
    pace = total / length / jnp.interp(process.t0 + length * reached, times, rates)
    return jax.lax.stop_gradient(UnitCurve.log_rates_through(places, reached, pace))
