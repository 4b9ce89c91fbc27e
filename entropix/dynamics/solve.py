r"""One solve for all dynamics: from coordinates, a solver and a grid to a trajectory.

`solve_forward`, `solve_reverse`, `solve_flow` and `sample` differ in their coordinates only: what
the solver's time and state are, and which field drives them. Everything else (fixed and adaptive
steps, Brownian paths, chunks of samples, adjoints, saving, path functionals) is here.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix._core.chunks import in_chunks
from entropix._core.mesh import spread
from entropix.dynamics.brownian import AdditiveNoise, GridBrownianPath
from entropix.dynamics.plan import Plan
from entropix.dynamics.solvers import Accumulate
from entropix.dynamics.trajectory import AbstractCoordinates, Trajectory


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
        states, interpolation = solve(spread(chunk))
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
