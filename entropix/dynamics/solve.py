r"""One solve for all dynamics: from coordinates, a solver and a grid to a trajectory.

`solve_forward`, `solve_reverse`, `solve_flow` and `sample` differ in their coordinates only: what
the solver's time and state are, and which field drives them. Everything else (fixed and adaptive
steps, Brownian paths, chunks of samples, adjoints, saving, path functionals) is here.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import lineax
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import is_concrete
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import check_results, error_if
from entropix._core.mesh import spread
from entropix.dynamics.coordinates import AbstractCoordinates
from entropix.dynamics.settings import SolveSettings
from entropix.dynamics.solvers import Accumulate, GridBrownianPath, StepToKnots


class Trajectory(eqx.Module):
    """States of many samples along a solve.

    Attributes:
        times: of the process, shape (K,), in the order in which they were passed.
        states: shape (K, n, *shape).
        functional: the sums of the path functional up to those times, with leading axes (K, n);
            None where none was asked for.
        interpolation: what `evaluate` reads; None unless `dense=True`.
    """

    times: Float[Array, " k"]
    states: Float[Array, "k n *shape"]
    functional: PyTree = None
    interpolation: PyTree = None

    @property
    def final(self) -> Float[Array, "n *shape"]:
        """The states at the end of the solve."""
        return self.states[-1]

    def evaluate(self, s: DataLike) -> Float[Array, "n *shape"]:
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


def run(
    coordinates: AbstractCoordinates,
    args: PyTree,
    conditions: PyTree,
    times: Array,
    start: Array,
    key: Key | None,
    settings: SolveSettings,
    knots: Array | None = None,
) -> Trajectory:
    """Solve through `times` of the process, all samples, chunk by chunk.

    `args` is shared by all samples; `conditions` has a leading axis of samples. `knots` are the
    solver's times where the caller knows them.
    """
    if knots is None:
        knots = jax.vmap(coordinates.solver_time)(times)
    if isinstance(settings.save, str):
        steps = settings.save == "steps"
        saved, saved_knots = (times, knots) if steps else (times[-1:], knots[-1:])
        saveat = diffrax.SaveAt(t0=steps, steps=steps, t1=not steps, dense=settings.dense)
    else:
        saved = settings.save
        saved_knots = jax.vmap(coordinates.solver_time)(saved)
        saveat = diffrax.SaveAt(ts=saved_knots, dense=settings.dense)
    of_one = jax.vmap(settings.functional or (lambda *_: None), in_axes=(None, None, 0, 0))

    def increment(t0: Array, t1: Array, x0: Array, x1: Array) -> Any:
        """The functional of states of the process, as one of the solver's states."""
        s0, s1 = coordinates.process_time(t0), coordinates.process_time(t1)
        return of_one(s0, s1, coordinates.leave(s0, t0, x0), coordinates.leave(s1, t1, x1))

    count, fixed = start.shape[0], settings.controller is None
    initial = coordinates.enter(times[0], knots[0], start)

    def solve(chunk: Any, _: Array | None = None) -> Any:
        indices, x, condition = chunk
        terms: Any = diffrax.ODETerm(_field)
        if coordinates.noise(knots[0]) is not None:
            path = settings.path
            if path is None:
                assert key is not None
                path = brownian_path(settings, knots, key, indices, x)
            else:  # broadcasting would give all samples the same noise
                moved = jax.eval_shape(lambda: path.evaluate(knots[0], knots[1]))
                shape = getattr(moved, "shape", moved)
                if shape != x.shape:
                    raise ValueError(
                        f"`path` must have the shape of the states, {x.shape}, got {shape}."
                    )
            terms = diffrax.MultiTerm(terms, diffrax.ControlTerm(_noise, path))
        solver, state = settings.solver, x
        if settings.functional is not None:
            solver = Accumulate(solver, increment)
            terms = (terms, diffrax.ODETerm(lambda t, y, args: jax.tree.map(jnp.zeros_like, y)))
            shapes = jax.eval_shape(solver.increment, knots[0], knots[1], x, x)
            if any(leaf.shape != x.shape[:1] for leaf in jax.tree.leaves(shapes)):
                raise ValueError(
                    "`functional` must return scalars for one sample, got shapes "
                    f"{[leaf.shape[1:] for leaf in jax.tree.leaves(shapes)]}."
                )
            state = (x, jax.tree.map(lambda a: jnp.zeros(a.shape, a.dtype), shapes))
        controller = StepToKnots(knots) if settings.controller is None else settings.controller
        adaptive = isinstance(controller, diffrax.AbstractAdaptiveStepSizeController)
        if adaptive and not isinstance(settings.save, str):
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
            adjoint=settings.adjoint,
            max_steps=knots.shape[0] - 1 if fixed else settings.max_steps,
            saveat=saveat,
            throw=False,  # `check` reports what went wrong, outside of all loops
        )
        # Samples first: chunks are joined along the leading axis.
        states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 0, 1), solution.ys)
        return states, solution.interpolation, solution.result

    chunk = (jnp.arange(count), initial, conditions)
    if settings.chunk == count:
        states, interpolation, results = solve(spread(chunk))
    else:
        states, results = in_chunks(lambda c, w: solve(c, w)[::2], chunk, count, settings.chunk)
        states = jax.tree.map(lambda a: unchunk(a, count), states)
        interpolation = None
    states = jax.tree.map(lambda leaf: jnp.moveaxis(leaf, 1, 0), states)
    x, functional = states if settings.functional is not None else (states, None)
    y = jax.vmap(coordinates.leave)(saved, saved_knots, x)
    # The start is known: the coordinates of the reverse SDE forget it where all signal is gone.
    y = jnp.where((saved == times[0]).reshape((-1, *[1] * start.ndim)), start, y)
    if fixed:
        steps = jnp.diff(knots) * jnp.sign(knots[-1] - knots[0])
        y = error_if(y, ~(steps > 0), "`times` must strictly increase or strictly decrease")
    y = check_results(y, results)
    y = error_if(
        y,
        ~jnp.all(jnp.isfinite(y)),
        "a sample is not finite: the field must be finite wherever `solver` evaluates it "
        "(the default solvers never do so at infinite log-SNR)",
    )
    return Trajectory(
        saved, y, functional, (coordinates, interpolation) if settings.dense else None
    )


def _field(t: Any, x: Any, args: Any) -> Any:
    coordinates, *rest = args
    return coordinates.field(t, x, tuple(rest))


def _noise(t: Any, x: Any, args: Any) -> lineax.DiagonalLinearOperator:
    return lineax.DiagonalLinearOperator(jnp.asarray(args[0].noise(t), x.dtype))  # times identity


def brownian_path(
    settings: SolveSettings, knots: Array, key: Key, indices: Array, x: Array
) -> diffrax.AbstractBrownianPath:
    """The default path: a grid path for fixed steps, a Brownian tree for adaptive ones."""
    area = getattr(settings.solver, "minimal_levy_area", None)
    wants_area = area is not None and issubclass(diffrax.SpaceTimeLevyArea, area)
    levy_area = diffrax.SpaceTimeLevyArea if wants_area else diffrax.BrownianIncrement
    if settings.controller is None:
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
