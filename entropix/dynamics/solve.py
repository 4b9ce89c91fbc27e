r"""One solve for all dynamics: from coordinates, a solver and a grid to a trajectory.

`solve_forward`, `solve_reverse`, `solve_flow` and `sample` differ in their coordinates only: what
the solver's time and state are, and which field drives them. Everything else (fixed and adaptive
steps, Brownian paths, chunks of samples, adjoints, saving, path functionals) is here.
"""

import abc
from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key, as_float
from entropix._core.checks import is_concrete, positive_integer
from entropix._core.chunks import in_chunks
from entropix._core.interfaces import AbstractProcess
from entropix.dynamics.brownian import AdditiveNoise, GridBrownianPath
from entropix.dynamics.solvers import Accumulate


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
            ValueError: if the solve was not `dense`.
        """
        if self.interpolation is None:
            raise ValueError("`dense` must be True in the solve for `evaluate` to interpolate.")
        coordinates, interpolation = self.interpolation
        s = as_float(s)
        t = coordinates.solver_time(s)
        state = interpolation.evaluate(t)
        if isinstance(state, tuple):
            state = state[0]
        return coordinates.leave(s, t, state)


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


class Plan(eqx.Module):
    """What the caller of a solve may choose; see `solve_forward` for the meanings."""

    solver: diffrax.AbstractSolver
    controller: diffrax.AbstractStepSizeController | None
    adjoint: diffrax.AbstractAdjoint
    path: diffrax.AbstractBrownianPath | None
    functional: Callable | None
    save: Array | str = eqx.field()
    chunk: int = eqx.field(static=True)
    dense: bool = eqx.field(static=True)
    max_steps: int = eqx.field(static=True)


def make_plan(
    solver: diffrax.AbstractSolver,
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
) -> Plan:
    """Check what is common to all solves."""
    positive_integer(max_steps, "max_steps")
    chunk = count if chunk_size is None else positive_integer(chunk_size, "chunk_size")
    if not isinstance(solver, diffrax.AbstractSolver):
        raise ValueError(f"`solver` must be a Diffrax solver, got {type(solver).__name__}.")
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
            raise ValueError(f"`save` must be None, 'steps' or an array of times, got {save!r}.")
        if controller is not None:
            raise ValueError("`save` must name times where `stepsize_controller` is given.")
    elif save is None:
        save = "end"
    else:
        save = as_float(save)
        if save.ndim != 1 or save.shape[0] < 1:
            raise ValueError(f"`save` must have shape (K,) with K >= 1, got {save.shape}.")
    return Plan(
        solver,
        controller,
        diffrax.RecursiveCheckpointAdjoint() if adjoint is None else adjoint,
        path,
        functional,
        save,
        min(chunk, count),
        bool(dense),
        max_steps,
    )


def check_times(times: Any, process: AbstractProcess, *, falling: bool) -> Array:
    """Times of the process to step through, in the direction of the solve."""
    times = as_float(times)
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


def run(
    coordinates: AbstractCoordinates,
    args: Any,
    conditions: Any,
    times: Array,
    start: Array,
    key: Key | None,
    plan: Plan,
    knots: Array | None = None,
) -> Trajectory:
    """Solve through `times` of the process, all samples, chunk by chunk.

    `args` is shared by all samples; `conditions` has a leading axis of samples. `knots` are the
    solver's times where the caller knows them.
    """
    if knots is None:
        knots = jax.vmap(coordinates.solver_time)(times)
    if isinstance(plan.save, str):
        saved = times if plan.save == "steps" else times[-1:]
        saved_knots = knots if plan.save == "steps" else knots[-1:]
    else:
        saved = plan.save
        saved_knots = jax.vmap(coordinates.solver_time)(saved)
    count = start.shape[0]
    initial = coordinates.enter(times[0], knots[0], start)

    def solve(chunk: Any, _: Array | None = None) -> Any:
        indices, x, condition = chunk
        terms: Any = diffrax.ODETerm(_field)
        if coordinates.noise(knots[0]) is not None:
            path = plan.path
            if path is None:
                assert key is not None
                path = brownian_path(plan, knots, key, indices, x)
            else:
                _check_path(path, knots, x)
            terms = diffrax.MultiTerm(terms, AdditiveNoise(path, coordinates.noise))
        solver, state = plan.solver, x
        if plan.functional is not None:
            solver = Accumulate(solver, _increment(coordinates, plan.functional))
            terms = (terms, diffrax.ODETerm(_nothing))
            shapes = jax.eval_shape(solver.increment, knots[0], knots[1], x, x)
            if any(leaf.shape != x.shape[:1] for leaf in jax.tree.leaves(shapes)):
                raise ValueError(
                    "`functional` must return scalars for one sample, got shapes "
                    f"{[leaf.shape[1:] for leaf in jax.tree.leaves(shapes)]}."
                )
            state = (x, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes))
        fixed = plan.controller is None
        controller = diffrax.StepTo(knots) if plan.controller is None else plan.controller
        adaptive = isinstance(controller, diffrax.AbstractAdaptiveStepSizeController)
        if adaptive and not isinstance(plan.save, str):
            # Between steps a path is a straight line, which has less noise than the path has.
            controller = diffrax.ClipStepSizeController(controller, step_ts=saved_knots)
        solution = diffrax.diffeqsolve(
            terms,
            solver,
            knots[0],
            knots[-1],
            None if fixed else knots[1] - knots[0],
            state,
            (coordinates, args, condition),  # BacksolveAdjoint differentiates what is in here
            stepsize_controller=controller,
            adjoint=plan.adjoint,
            max_steps=knots.shape[0] - 1 if fixed else plan.max_steps,
            saveat=_saveat(plan, saved_knots),
        )
        # Samples first: chunks are joined along the leading axis.
        states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), solution.ys)
        return states, solution.interpolation  # a solve that failed has raised (`throw=True`)

    chunk = (jnp.arange(count), initial, conditions)
    if plan.chunk == count:
        states, interpolation = solve(chunk)
    else:
        states = in_chunks(lambda c, w: solve(c, w)[0], chunk, count, plan.chunk)
        states = jax.tree.map(lambda a: a.reshape((-1, *a.shape[2:]))[:count], states)
        interpolation = None
    states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), states)
    x, functional = states if plan.functional is not None else (states, None)
    y = jax.vmap(coordinates.leave)(saved, saved_knots, x)
    # The start is known: the coordinates of the reverse SDE forget it where all signal is gone.
    y = jnp.where((saved == times[0]).reshape((-1, *[1] * start.ndim)), start, y)
    y = eqx.error_if(
        y,
        ~jnp.all(jnp.isfinite(y)),
        "a sample is not finite: the field must be finite wherever `solver` evaluates it "
        "(the default solvers never do so at infinite log-SNR)",
    )
    return Trajectory(saved, y, functional, (coordinates, interpolation) if plan.dense else None)


def _check_path(path: diffrax.AbstractBrownianPath, knots: Array, x: Array) -> None:
    """Refuse a path of another shape: broadcasting would give all samples the same noise."""
    moved = jax.eval_shape(lambda: path.evaluate(knots[0], knots[1]))
    if getattr(moved, "shape", None) != x.shape:
        shape = getattr(moved, "shape", moved)
        raise ValueError(f"`path` must have the shape of the states, {x.shape}, got {shape}.")


def _saveat(plan: Plan, saved: Array) -> diffrax.SaveAt:
    if isinstance(plan.save, str):
        steps = plan.save == "steps"
        return diffrax.SaveAt(t0=steps, steps=steps, t1=not steps, dense=plan.dense)
    return diffrax.SaveAt(ts=saved, dense=plan.dense)


def _increment(coordinates: AbstractCoordinates, functional: Callable) -> Callable:
    """The functional of states of the process, as one of the solver's states."""

    def increment(t0: Array, t1: Array, x0: Array, x1: Array) -> Any:
        s0, s1 = coordinates.process_time(t0), coordinates.process_time(t1)
        y0, y1 = coordinates.leave(s0, t0, x0), coordinates.leave(s1, t1, x1)
        return jax.vmap(functional, in_axes=(None, None, 0, 0))(s0, s1, y0, y1)

    return increment


def _field(t: Any, x: Any, args: Any) -> Any:
    coordinates, *rest = args
    return coordinates.field(t, x, tuple(rest))


def _nothing(t: Any, y: Any, args: Any) -> Any:
    return jax.tree.map(jnp.zeros_like, y)


def brownian_path(
    plan: Plan, knots: Array, key: Key, indices: Array, x: Array
) -> diffrax.AbstractBrownianPath:
    """The default path: a grid path for fixed steps, a Brownian tree for adaptive ones."""
    area = getattr(plan.solver, "minimal_levy_area", None)
    wants_area = area is not None and issubclass(diffrax.SpaceTimeLevyArea, area)
    levy_area = diffrax.SpaceTimeLevyArea if wants_area else diffrax.BrownianIncrement
    if plan.controller is None:
        return GridBrownianPath(
            knots=knots, key=key, indices=indices, shape=x.shape[1:], levy_area=levy_area
        )
    # One path for the chunk, known to a fraction of the smallest step worth taking.
    tolerance = 16 * float(jnp.finfo(x.dtype).eps)
    return diffrax.VirtualBrownianTree(
        knots[0],
        knots[-1],
        tolerance,
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.random.fold_in(key, indices[0]),
        levy_area,
    )
