"""Trajectories, and the coordinates in which they are solved."""

import abc
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import as_float
from entropix._core.checks import is_concrete


class Trajectory(eqx.Module):
    """States of many samples along a solve.

    Attributes:
        times: of the process, shape (K,), in the order in which they were passed.
        states: shape (K, n, *shape).
        functional: what the path functional had added up to at those times, with leading axes
            (K, n); None where none was asked for.
        interpolation: what `evaluate` reads; None unless `dense=True`.
    """

    times: Float[Array, " k"]
    states: Float[Array, "k n *shape"]
    functional: Any = None
    interpolation: Any = None

    @property
    def final(self) -> Float[Array, "n *shape"]:
        """The states at the end of the solve."""
        return self.states[-1]

    def evaluate(self, s: Any) -> Float[Array, "n *shape"]:
        """The states at one time between the ends, by the solver's own interpolation.

        For an SDE that is a straight line (in the solver's coordinates) between steps, which has
        less noise than the path has.

        Raises:
            ValueError: if the solve was not `dense`, or `s` is not a time within it.
        """
        if self.interpolation is None:
            raise ValueError("`dense` must be True in the solve for `evaluate` to interpolate.")
        coordinates, interpolation = self.interpolation
        s = as_float(s, "s")
        if s.ndim != 0:
            raise ValueError(f"`s` must be one time (use jax.vmap for more), got shape {s.shape}.")
        state, outside = _interpolated(coordinates, interpolation, s)
        if is_concrete(outside) and bool(outside):
            raise ValueError(f"`s` must be a time within the solve, got {s}.")
        return state


class AbstractCoordinates(eqx.Module):
    """What a solver's time and state mean. Solver time ascends; states have a sample axis."""

    @abc.abstractmethod
    def solver_time(self, s: Array) -> Array:
        """The solver's time at one time of the process."""

    @abc.abstractmethod
    def process_time(self, t: Array) -> Array:
        """The inverse."""

    @abc.abstractmethod
    def enter(self, s: Array, t: Array, y: Array) -> Array:
        """The solver's states of states `y` at time `s` of the process, `t` of the solver."""

    @abc.abstractmethod
    def leave(self, s: Array, t: Array, x: Array) -> Array:
        """The inverse of `enter`."""

    @abc.abstractmethod
    def field(self, t: Any, x: Array, args: Any) -> Array:
        """The drift of `x` in the solver's time; `args` is (model or process, conditions)."""

    @abc.abstractmethod
    def noise(self, t: Array) -> Array | None:
        """The standard deviation of the additive noise per root of solver time; None for ODEs."""


@eqx.filter_jit
def _interpolated(
    coordinates: AbstractCoordinates, interpolation: Any, s: Array
) -> tuple[Array, Array]:
    """The states at time `s`, and whether it lies outside of the solve."""
    t = coordinates.solver_time(s)
    outside = (t < interpolation.t0) | (t > interpolation.t1)
    state = interpolation.evaluate(t)
    if isinstance(state, tuple):
        state = state[0]
    return coordinates.leave(s, t, state), outside
