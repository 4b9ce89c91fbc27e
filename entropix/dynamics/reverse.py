r"""Reverse dynamics and the probability flow of a model, as trajectories.

With $t = t_1 - s$ (Song et al., 2011.13456; Neural Entropy, 2409.03817)

$$dX = [-b + \sigma^2\,\nabla\log p_s]\,dt + \sigma\,dB, \qquad \frac{dy}{ds} = v(y, s),$$

both solved in the coordinates of `Bridge`, where they lose their singular ends and their stiff
linear part. The default solvers never evaluate the model at the data end, where the log-SNR is
infinite: no cut-off is needed.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import Key, as_float
from entropix._core.checks import (
    choice,
    conditions,
    example_shape,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.precision import full_precision
from entropix.dynamics.bridge import Bridge, reference_variance
from entropix.dynamics.plan import Plan, check_times, flow_solver, make_plan, with_saved
from entropix.dynamics.solve import run
from entropix.dynamics.straight import Straight, straight_times
from entropix.dynamics.trajectory import AbstractCoordinates, Trajectory
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import FlowMatching


class Backward(AbstractCoordinates):
    """The coordinates of a `Bridge`, from noise to data."""

    bridge: Bridge

    def solver_time(self, s: Array) -> Array:
        return self.bridge.knots_at(s[None])[0]

    def process_time(self, t: Array) -> Array:
        return self.bridge.time_at(t)

    def enter(self, s: Array, t: Array, y: Array) -> Array:
        return self.bridge.enter(s, t, y)

    def leave(self, s: Array, t: Array, x: Array) -> Array:
        return self.bridge.leave(s, t, x)

    def field(self, t: Any, x: Array, args: Any) -> Array:
        model, condition = args
        return self.bridge.field(model, t, x, condition)

    def noise(self, t: Array) -> Array | None:
        return None if self.bridge.flow else jnp.ones_like(t)


class Onward(AbstractCoordinates):
    """The coordinates of the flow's `Bridge` with its time reversed, from data to noise."""

    backward: Backward

    def solver_time(self, s: Array) -> Array:
        return -self.backward.solver_time(s)

    def process_time(self, t: Array) -> Array:
        return self.backward.process_time(-t)

    def enter(self, s: Array, t: Array, y: Array) -> Array:
        return self.backward.enter(s, -t, y)

    def leave(self, s: Array, t: Array, x: Array) -> Array:
        return self.backward.leave(s, -t, x)

    def field(self, t: Any, x: Array, args: Any) -> Array:
        return -self.backward.field(-t, x, args)

    def noise(self, t: Array) -> None:
        return None


@full_precision
def solve_reverse(
    model: AbstractModel,
    y: Any,
    *,
    key: Key,
    times: Any = None,
    num_steps: int = 128,
    save: Any = None,
    functional: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    path: diffrax.AbstractBrownianPath | None = None,
    condition: Any = None,
    variance: Any = None,
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
        num_steps: see `times`.
        save: None for the final states, "steps" for the states at all `times`, the first included,
            or an array of decreasing times, which become steps.
        functional: None, or a function `increment(s0, s1, y0, y1)` of one sample and a step from
            `s0` down to `s1`, to a pytree of scalars that are added up.
        solver: a Diffrax solver; None for `diffrax.SRA1()` (order 1.5, additive noise).
        stepsize_controller: a Diffrax controller for adaptive steps, in the solver time of
            `Bridge`; None for the fixed ones.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        path: a Brownian path of shape (n, *shape) over the solver times of `Bridge`, to follow
            instead of one made from `key`.
        condition: None, or arrays with a leading axis of n, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data.
        chunk_size: solve for so many samples at a time, which bounds memory; None for all at once.
        dense: keep what `Trajectory.evaluate` needs to interpolate. Where all signal is gone it
            returns zero, not the start.
        max_steps: bound on the number of adaptive steps.

    Returns:
        A `Trajectory`, from noise to data.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a state is not finite,
            an error is raised as the compiled program runs.
    """
    y, condition = _check(model, y, "y", condition, num_steps)
    prng_key(key)
    if functional is not None and _from_noise(model.process, times):
        raise ValueError(
            "`functional` needs `times` that start before t1, where the states of this process are "
            "pure noise and the reverse SDE forgets them at once."
        )
    plan = make_plan(
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
    bridge = Bridge(model.process, reference_variance(model, variance), False)
    times, knots = grid(bridge, times, num_steps, plan.save)
    return solve_model(model, Backward(bridge), condition, times, knots, y, key, plan)


@full_precision
def solve_flow(
    model: AbstractModel,
    x: Any,
    *,
    direction: str = "forward",
    times: Any = None,
    num_steps: int = 128,
    save: Any = None,
    functional: Any = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    condition: Any = None,
    variance: Any = None,
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
        num_steps: see `times`.
        save: None for the final states, "steps" for the states at all `times`, the first included,
            or an array of times in the direction of the flow, which become steps.
        functional: None, or a function `increment(s0, s1, y0, y1)` of one sample, to a pytree of
            scalars that are added up over the steps.
        solver: a Diffrax solver; None for a midpoint method of order two that looks inside of its
            steps only (`diffrax.Midpoint` for `FlowMatching`, exact for straight paths in any
            number of steps). Solvers that evaluate the ends of the axis (`diffrax.Tsit5`) need a
            model that is finite there.
        stepsize_controller: a Diffrax controller for adaptive steps, in the solver time of
            `Bridge`; needs a `solver`.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        condition: None, or arrays with a leading axis of n, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data.
        chunk_size: solve for so many samples at a time, which bounds memory; None for all at once.
        dense: keep what `Trajectory.evaluate` needs to interpolate.
        max_steps: bound on the number of adaptive steps.

    Returns:
        A `Trajectory`, in the direction of the flow.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a state is not finite,
            an error is raised as the compiled program runs.
    """
    forward = choice(direction, "direction", ("forward", "reverse")) == "forward"
    x, condition = _check(model, x, "x", condition, num_steps)
    plan = make_plan(
        flow_solver(solver, stepsize_controller, straight=isinstance(model, FlowMatching)),
        stepsize_controller,
        adjoint,
        x.shape[0],
        functional=functional,
        save=save,
        chunk_size=chunk_size,
        dense=dense,
        max_steps=max_steps,
    )
    if isinstance(model, FlowMatching):
        times = straight_times(model.process, times, num_steps, plan.save, onward=forward)
        return solve_model(model, Straight(onward=forward), condition, times, None, x, None, plan)
    bridge = Bridge(model.process, reference_variance(model, variance), True)
    coordinates: AbstractCoordinates = Backward(bridge)
    times, knots = grid(bridge, times, num_steps, plan.save, forward=forward)
    if forward:
        coordinates = Onward(Backward(bridge))
    return solve_model(model, coordinates, condition, times, knots, x, None, plan)


def _from_noise(process: AbstractGaussianProcess, times: Any) -> bool:
    """Whether the solve starts in pure noise, where it is known."""
    if times is None or not process.ends_in_noise:
        return process.ends_in_noise
    first = as_float(times, "times").reshape(-1)[:1]
    return is_concrete((first, process.t1)) and bool(jnp.any(first >= process.t1))


def check_model(model: Any) -> None:
    """Refuse what cannot be run backwards: the noise end of other processes is not known."""
    if not isinstance(model, AbstractModel):
        raise ValueError(f"`model` must be a model, got {type(model).__name__}.")
    if not isinstance(model.process, AbstractGaussianProcess):
        raise ValueError(
            f"`model` must be one of a Gaussian process, got {type(model.process).__name__}."
        )


def _check(model: Any, states: Any, name: str, condition: Any, num_steps: int) -> tuple[Array, Any]:
    check_model(model)
    positive_integer(num_steps, "num_steps")
    states = samples(states, name, minimum=1)
    example_shape(model, states, name)
    return states, conditions(condition, states.shape[0])


def grid(
    bridge: Bridge, times: Any, num_steps: int, save: Array | str, *, forward: bool = False
) -> tuple[Array, Array | None]:
    """Times of the process, and the solver's where they are known better than from those."""
    if times is not None:
        times = check_times(times, bridge.process, falling=not forward)
    elif isinstance(save, str):
        return default_grid(bridge, num_steps, forward)
    else:
        times, _ = default_grid(bridge, num_steps, forward)
    return with_saved(times, save), None


@eqx.filter_jit
def default_grid(bridge: Bridge, num_steps: int, forward: bool) -> tuple[Array, Array]:
    """The steps of `Bridge`, in times of the process and of the solver."""
    times, knots = bridge.times(num_steps), bridge.knots(num_steps)
    return (times[::-1], -knots[::-1]) if forward else (times, knots)


@eqx.filter_jit
def solve_model(
    model: AbstractModel,
    coordinates: AbstractCoordinates,
    condition: Any,
    times: Array,
    knots: Array | None,
    start: Array,
    key: Key | None,
    plan: Plan,
) -> Trajectory:
    """`run`, compiled once for a structure of model and plan."""
    return run(coordinates, model, condition, times, start, key, plan, knots)
