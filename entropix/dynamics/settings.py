"""What the caller of a solve may choose, checked: solver, steps, adjoint, path, what to save."""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import as_float
from entropix._core.checks import is_concrete, positive_integer
from entropix.dynamics.coordinates import AbstractCoordinates
from entropix.dynamics.solvers import InteriorMidpoint
from entropix.interfaces import AbstractKernel, AbstractProcess


class SolveSettings(eqx.Module):
    """What the caller of a solve of `count` samples may choose; see `solve_forward`.

    Raises:
        ValueError: if an argument is not allowed.
    """

    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController | None
    adjoint: diffrax.AbstractAdjoint
    path: diffrax.AbstractBrownianPath | None
    functional: Callable | None
    save: Array | str
    chunk: int = eqx.field(static=True)
    dense: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)

    def __init__(
        self,
        solver: Any,
        controller: Any,
        adjoint: Any,
        count: int,
        *,
        path: Any = None,
        functional: Any = None,
        save: Any = None,
        chunk_size: int | None = None,
        dense: bool = False,
        max_steps: int = 4096,
    ):
        self.max_steps = positive_integer(max_steps, "max_steps")
        chunk = count if chunk_size is None else positive_integer(chunk_size, "chunk_size")
        if not isinstance(solver, diffrax.AbstractSolver):
            raise ValueError(f"`solver` must be a Diffrax solver, got {type(solver).__name__}.")
        for name, given, kind in (
            ("stepsize_controller", controller, diffrax.AbstractStepSizeController),
            ("adjoint", adjoint, diffrax.AbstractAdjoint),
        ):
            if not (given is None or isinstance(given, kind)):
                raise ValueError(f"`{name}` must be one of Diffrax's, got {type(given).__name__}.")
        if functional is not None and not callable(functional):
            raise ValueError(
                f"`functional` must be a function increment(s0, s1, y0, y1), "
                f"got {type(functional).__name__}."
            )
        if not (path is None or isinstance(path, diffrax.AbstractBrownianPath)):
            raise ValueError(f"`path` must be a Diffrax Brownian path, got {type(path).__name__}.")
        if isinstance(adjoint, diffrax.ImplicitAdjoint):
            raise ValueError(
                "`adjoint` must be one for trajectories, got ImplicitAdjoint, which is for steady "
                "states and would return wrong gradients."
            )
        for name, given in (("path", path is not None), ("dense", dense)):
            if given and chunk < count:
                raise ValueError(f"`chunk_size` must be None where `{name}` is given.")
        if isinstance(save, str):
            if save != "steps":
                raise ValueError(
                    f"`save` must be None, 'steps' or an array of times, got {save!r}."
                )
            if controller is not None:
                raise ValueError("`save` must name times where `stepsize_controller` is given.")
        elif save is not None:
            save = as_float(save, "save")
            if save.ndim != 1 or save.shape[0] < 1:
                raise ValueError(f"`save` must have shape (K,) with K >= 1, got {save.shape}.")
        self.solver, self.controller = solver, controller
        self.adjoint = diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint
        self.path, self.functional = path, functional
        self.save = "end" if save is None else save
        self.chunk, self.dense = min(chunk, count), bool(dense)


def flow_solver(solver: Any, controller: Any, *, has_score: bool) -> Any:
    """The solver of a flow: the default one takes fixed steps only.

    The velocity of a flow without a score is finite at both ends, and its paths may be straight
    lines, along which the first stage of the midpoint method then stays.
    """
    if solver is None:
        if controller is not None:
            raise ValueError(
                "`solver` must be given where `stepsize_controller` is, diffrax.Tsit5() for "
                "example: the default solver has no error estimate."
            )
        return InteriorMidpoint() if has_score else diffrax.Midpoint()
    adapts = isinstance(controller, diffrax.AbstractAdaptiveStepSizeController)
    if adapts and not isinstance(solver, diffrax.AbstractAdaptiveSolver):
        raise ValueError(
            "`solver` must have an error estimate where `stepsize_controller` adapts the steps, "
            f"got {type(solver).__name__}."
        )
    return solver


def check_times(times: Any, process: AbstractProcess | AbstractKernel, *, falling: bool) -> Array:
    """Times of the process to step through, in the direction of the solve.

    Args:
        times: shape (n,), n >= 2, within `[t0, t1]`.
        process: the process.
        falling: whether they must decrease, from noise to data, or else increase.

    Returns:
        The times as an array of floating point.

    Raises:
        ValueError: if the times are not as above. Traced times are not checked.
    """
    times = as_float(times, "times")
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`times` must have shape (n,) with n >= 2, got {times.shape}.")
    if not is_concrete((times, process.t0, process.t1)):
        return times
    host, low, high = np.asarray(times), float(process.t0), float(process.t1)
    steps = np.diff(host) * (-1 if falling else 1)
    if not ((steps > 0).all() and host.min() >= low and host.max() <= high):
        word = "decreasing" if falling else "increasing"
        raise ValueError(
            f"`times` must be {word} and within [{low:g}, {high:g}], got {host.tolist()}."
        )
    return times


def with_saved(times: Array, save: Array | str) -> Array:
    """Add the times to save at to the steps, so that states there are steps, not interpolated."""
    if isinstance(save, str):
        return times
    if not is_concrete((times, save)):
        raise ValueError(
            "`save` must be known when the program is traced: pass all steps as `times` and "
            "`save='steps'` instead."
        )
    host, wanted = np.asarray(times), np.asarray(save, np.asarray(times).dtype)
    falling = host[0] > host[-1]
    if np.any(np.diff(wanted) * (-1 if falling else 1) <= 0):
        word = "decreasing" if falling else "increasing"
        raise ValueError(f"`save` must be {word}, like the times of the solve, got {wanted}.")
    low, high = host.min(), host.max()
    if not (wanted.min() >= low and wanted.max() <= high):
        raise ValueError(
            f"`save` must lie within the times of the solve, [{low:g}, {high:g}], got {wanted}."
        )
    merged = np.unique(np.concatenate([host, wanted]))
    return jnp.asarray(merged[::-1] if falling else merged)


def solve_grid(
    coordinates: AbstractCoordinates,
    process: AbstractProcess,
    times: Any,
    num_steps: int,
    save: Array | str,
    *,
    falling: bool,
) -> tuple[Array, Array | None]:
    """Times of the process, and the solver's where they are known better than from those."""
    if times is not None:
        return with_saved(check_times(times, process, falling=falling), save), None
    times, knots = _default_steps(coordinates, num_steps)
    return (times, knots) if isinstance(save, str) else (with_saved(times, save), None)


@eqx.filter_jit
def _default_steps(coordinates: AbstractCoordinates, num_steps: int) -> tuple[Array, Array]:
    return coordinates.steps(num_steps)
