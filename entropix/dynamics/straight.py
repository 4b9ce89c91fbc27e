r"""The coordinates of a flow that has no score: the process's own time and state.

Paths of a flow with an optimal coupling are straight in these, and one step of Euler's method
follows a straight path to its end. Those of `Bridge` are made for independent pairs: they divide by
a power of $\Sigma$ what vanishes at the data end for a score, and only for a score.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix.dynamics.plan import check_times, with_saved
from entropix.dynamics.trajectory import AbstractCoordinates
from entropix.interfaces import AbstractProcess


class Straight(AbstractCoordinates):
    """dy = v ds, from data to noise where `onward`, else with time reversed."""

    onward: bool = eqx.field(static=True)

    def solver_time(self, s: Array) -> Array:
        return s if self.onward else -s

    def process_time(self, t: Array) -> Array:
        return t if self.onward else -t

    def enter(self, s: Array, t: Array, y: Array) -> Array:
        return y

    def leave(self, s: Array, t: Array, x: Array) -> Array:
        return x

    def field(self, t: Any, x: Array, args: Any) -> Array:
        model, condition = args
        velocity = jax.vmap(model.velocity, in_axes=(None, 0, 0))(
            self.process_time(t), x, condition
        )
        return velocity if self.onward else -velocity

    def noise(self, t: Array) -> None:
        return None


def straight_times(
    process: AbstractProcess, times: Any, num_steps: int, save: Array | str, *, onward: bool
) -> Array:
    """Equal steps over the whole axis, or those given, with the times to save at."""
    if times is not None:
        times = check_times(times, process, falling=not onward)
    else:
        ends = (process.t0, process.t1) if onward else (process.t1, process.t0)
        share = jnp.arange(num_steps + 1) / num_steps
        times = ends[0] * (1 - share) + ends[1] * share
    return with_saved(times, save)
