r"""Reverse dynamics and the probability flow of a model, as trajectories.

With $t = t_1 - s$ (Song et al., 2011.13456; Neural Entropy, 2409.03817)

$$dX = [-b + \sigma^2\,\nabla\log p_s]\,dt + \sigma\,dB, \qquad \frac{dy}{ds} = v(y, s),$$

both solved in `ReverseCoordinates`, where they lose their singular ends and their stiff
linear part. The default solvers never evaluate the model at the data end, where the log-SNR is
infinite: no cut-off is needed.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import (
    choice,
    conditions,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.compiled import compiled
from entropix._core.precision import full_precision
from entropix.dynamics.coordinates import (
    AbstractCoordinates,
    OwnCoordinates,
    ReverseCoordinates,
    TimeReversed,
)
from entropix.dynamics.settings import SolveSettings, flow_solver, solve_grid
from entropix.dynamics.solve import Trajectory, run
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import FlowMatching, checked_model, reference_variance
from entropix.processes import check_example_shape


@full_precision
def solve_reverse(
    model: AbstractModel,
    y: DataLike,
    *,
    key: Key,
    times: DataLike | None = None,
    num_steps: int = 128,
    save: DataLike | str | None = None,
    functional: Callable | None = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    path: diffrax.AbstractBrownianPath | None = None,
    condition: PyTree = None,
    variance: DataLike | None = None,
    chunk_size: int | None = None,
    dense: bool = False,
    max_steps: int = 4096,
) -> Trajectory:
    r"""Solve a model's reverse SDE from states at the noise end.

    `sample` is this, from the model's prior. For data $N(m, cI)$ with $c$ = `variance` the states
    are exact in any number of steps; otherwise their error in distribution falls with the square of
    the step.

    Args:
        model: any model of a Gaussian process.
        y: states at the first of `times`, shape (n, *shape).
        key: PRNG key.
        times: decreasing times of the process to step through; None for `num_steps` steps from `t1`
            to `t0`, which shrink towards the data.
        functional: None, or a function `increment(s0, s1, y0, y1)` of one sample and a step from
            `s0` down to `s1`, to a pytree of scalars that are added up.
        solver: a Diffrax solver; None for `diffrax.SRA1()` (order 1.5, additive noise).
        path: a Brownian path of shape (n, *shape) over the solver times of `ReverseCoordinates`, as
            is the time of `stepsize_controller`.
        condition: None, or arrays with a leading axis of n, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data.
        num_steps: see `times`.
        save: as in `solve_forward`, as are the following; times are decreasing.
        stepsize_controller: None for fixed steps.
        adjoint: how to differentiate.
        chunk_size: samples solved at a time.
        dense: allow `Trajectory.evaluate`, which returns zero where all signal is gone.
        max_steps: bound on the number of adaptive steps.

    Returns:
        A `Trajectory`, from noise to data.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a state is not finite,
            an error is raised as the compiled program runs.

    Example:
        >>> import entropix as ex, jax
        >>> data = ex.Gaussian([1.0, 0.0], [[0.5, 0.0], [0.0, 0.1]])
        >>> model = ex.ExactModel(data, ex.RectifiedFlow())
        >>> noise = model.prior.sample(3, key=jax.random.key(0))
        >>> path = ex.solve_reverse(model, noise, key=jax.random.key(1), num_steps=4)
        >>> path.final.shape
        (3, 2)
    """
    y, condition = _check(model, y, "y", condition, num_steps)
    prng_key(key)
    if functional is not None and _from_noise(model.process, times):
        raise ValueError(
            "`functional` needs `times` that start before t1, where the states of this process are "
            "pure noise and the reverse SDE forgets them at once."
        )
    settings = SolveSettings(
        diffrax.SRA1() if solver is None else solver,
        stepsize_controller,
        adjoint,
        y.shape[0],
        path=path,
        functional=functional,
        save=save,
        chunk_size=chunk_size,
        dense=dense,
        max_steps=max_steps,
    )
    coordinates = ReverseCoordinates(model.process, reference_variance(model, variance), flow=False)
    times, knots = solve_grid(
        coordinates, model.process, times, num_steps, settings.save, falling=True
    )
    return _solve(model, coordinates, condition, times, knots, y, key, settings)


@full_precision
def solve_flow(
    model: AbstractModel,
    x: DataLike,
    *,
    direction: str = "forward",
    times: DataLike | None = None,
    num_steps: int = 128,
    save: DataLike | str | None = None,
    functional: Callable | None = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    condition: PyTree = None,
    variance: DataLike | None = None,
    chunk_size: int | None = None,
    dense: bool = False,
    max_steps: int = 4096,
) -> Trajectory:
    r"""Solve a model's probability flow $dy/ds = v(y, s)$, from data to noise or back.

    Of an exact model, the states have the density of the forward process at every time.

    Args:
        model: any model of a Gaussian process.
        x: states at the first time, shape (n, *shape): data, or noise for "reverse".
        direction: "forward" from data to noise, "reverse" from noise to data.
        times: times of the process to step through, in the direction of the flow; None for
            `num_steps` steps over the whole axis, which shrink towards the data (equal ones for
            `FlowMatching`, solved in the process's own time and state).
        solver: a Diffrax solver; None for a midpoint method of order two, evaluated inside of its
            steps only (`diffrax.Midpoint` for `FlowMatching`, exact for straight paths in any
            number of steps). Solvers that evaluate the ends of the axis (`diffrax.Tsit5`) need a
            model that is finite there.
        stepsize_controller: a Diffrax controller for adaptive steps, in the solver time of
            `ReverseCoordinates`; needs a `solver`.
        condition: None, or arrays with a leading axis of n, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data.
        num_steps: see `times`.
        save: as in `solve_forward`, as are the following, in the direction of the flow.
        functional: to be added up over the steps.
        adjoint: how to differentiate.
        chunk_size: samples solved at a time.
        dense: allow `Trajectory.evaluate`.
        max_steps: bound on the number of adaptive steps.

    Returns:
        A `Trajectory`, in the direction of the flow.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a state is not finite,
            an error is raised as the compiled program runs.

    Example:
        >>> import entropix as ex, jax
        >>> data = ex.Gaussian([1.0, 0.0], [[0.5, 0.0], [0.0, 0.1]])
        >>> model = ex.ExactModel(data, ex.RectifiedFlow())
        >>> x = data.sample(3, key=jax.random.key(0))
        >>> there = ex.solve_flow(model, x, num_steps=4).final
        >>> ex.solve_flow(model, there, direction="reverse", num_steps=4).final.shape
        (3, 2)
    """
    forward = choice(direction, "direction", ("forward", "reverse")) == "forward"
    x, condition = _check(model, x, "x", condition, num_steps)
    settings = SolveSettings(
        flow_solver(solver, stepsize_controller, has_score=not isinstance(model, FlowMatching)),
        stepsize_controller,
        adjoint,
        x.shape[0],
        functional=functional,
        save=save,
        chunk_size=chunk_size,
        dense=dense,
        max_steps=max_steps,
    )
    coordinates = flow_coordinates(model, variance, reverse=not forward)
    times, knots = solve_grid(
        coordinates, model.process, times, num_steps, settings.save, falling=not forward
    )
    return _solve(model, coordinates, condition, times, knots, x, None, settings)


def flow_coordinates(model: AbstractModel, variance: Any, *, reverse: bool) -> AbstractCoordinates:
    """Those in which a model's flow is solved, in either direction."""
    if isinstance(model, FlowMatching):
        ahead = OwnCoordinates(model.process, flow=True)
        return TimeReversed(ahead) if reverse else ahead
    back = ReverseCoordinates(model.process, reference_variance(model, variance), flow=True)
    return back if reverse else TimeReversed(back)


def _from_noise(process: AbstractGaussianProcess, times: Any) -> bool:
    """Whether the solve starts in pure noise, where it is known."""
    if times is None or not process.ends_in_noise:
        return process.ends_in_noise
    first = as_float(times, "times").reshape(-1)[:1]
    return is_concrete((first, process.t1)) and bool(jnp.any(first >= process.t1))


def _check(model: Any, states: Any, name: str, condition: Any, num_steps: int) -> tuple[Array, Any]:
    checked_model(model, gaussian=True)  # the noise end of other processes is not known
    positive_integer(num_steps, "num_steps")
    states = samples(states, name, minimum=1)
    check_example_shape(model, states, name)
    return states, conditions(condition, states.shape[0])


@compiled
def _solve(
    model: AbstractModel,
    coordinates: AbstractCoordinates,
    condition: PyTree,
    times: Array,
    knots: Array | None,
    start: Array,
    key: Key | None,
    settings: SolveSettings,
) -> Trajectory:
    return run(coordinates, model, condition, times, start, key, settings, knots)
