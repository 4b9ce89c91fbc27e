r"""Sampling from a model: the reverse SDE or the probability-flow ODE, by Diffrax.

With $t = t_1 - s$ (Song et al., 2011.13456, equations 6 and 13; Neural Entropy, 2409.03817,
section 2)

$$dX = [-b + \sigma^2\,\nabla\log p_s]\,dt + \sigma\,dB, \qquad \frac{dy}{ds} = v(y, s),$$

both solved in the coordinates of `Bridge`, where they lose their singular ends and their stiff
linear part. The default solvers evaluate the model at the start and inside of a step but never at
the end of the last, where the log-SNR is infinite: no cut-off is needed.

The samplers of `entropix.dynamics.samplers` take the same arguments in place of a Diffrax solver.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, as_float
from entropix._core.checks import checked, choice, conditions, is_concrete, positive_integer
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.interfaces import AbstractModel
from entropix.dynamics.bridge import Bridge, reference_variance
from entropix.dynamics.brownian import AdditiveNoise, GridBrownianPath
from entropix.dynamics.samplers import AbstractSampler, run_sampler


def sample(
    model: AbstractModel,
    *,
    key: Key,
    num_samples: int,
    method: str = "sde",
    num_steps: int = 128,
    times: Any = None,
    solver: diffrax.AbstractSolver | AbstractSampler | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    prior: Any = None,
    condition: Any = None,
    variance: Any = None,
    chunk_size: int | None = None,
    max_steps: int = 4096,
) -> Float[Array, "num_samples ..."]:
    r"""Draw samples from a model.

    The result is the same for the same key, whatever `chunk_size`. It is differentiable in the
    model, the prior, the times and the variance. For data $N(m, cI)$ with $c$ = `variance`
    sampling is exact in any number of steps; otherwise the error in distribution falls with the
    square of the step. The default solvers, `diffrax.SRA1` for the SDE (Roessler, 2010) and
    `diffrax.Midpoint` for the flow, evaluate the model twice a step.

    Nothing is cut off: processes that end in pure noise ($\mu(t_1) = 0$) are followed from there,
    and every process to exactly `t0`.

    Args:
        model: any model.
        key: PRNG key.
        num_samples: how many.
        method: "sde" for the reverse SDE, "ode" for the probability flow (noise only at the start).
        num_steps: number of steps between `t1` and `t0`; ignored if `times` is given.
        times: decreasing times of the process to step through, from where the prior is drawn to
            where the samples are returned; None for `num_steps` steps from `t1` to `t0`, which
            shrink towards the data.
        solver: a Diffrax solver. The noise of the SDE is additive, so Ito and Stratonovich solvers
            agree; `diffrax.Euler()` evaluates the model once a step and is of order one. Solvers
            that evaluate the end of a step (`diffrax.Heun`, `diffrax.Tsit5`) need a model that is
            finite at infinite log-SNR. Or a sampler, `DDIM`, `DPMSolver`, `EDMHeun` or
            `PredictorCorrector`, which takes fixed steps, is itself stochastic or not, and allows
            no `method`, `stepsize_controller` or `adjoint`.
        stepsize_controller: a Diffrax controller for adaptive steps, such as
            `diffrax.PIDController`, in the time $t = a - 1$ of `Bridge`; None for the fixed steps.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        prior: what to start from, with `sample(n, key=key)`; None for `model.prior`.
        condition: arrays with a leading axis of `num_samples`, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data, see
            `reference_variance`.
        chunk_size: solve for so many samples at a time, which bounds memory; None for all at once.
        max_steps: bound on the number of adaptive steps.

    Returns:
        Samples, shape (num_samples, *shape).

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a sample is not finite,
            an error is raised as the compiled program runs.
    """
    num_samples = positive_integer(num_samples, "num_samples")
    positive_integer(num_steps, "num_steps")
    positive_integer(max_steps, "max_steps")
    flow = choice(method, "method", ("sde", "ode")) == "ode"
    if not isinstance(model, AbstractModel):
        raise ValueError(f"`model` must be a model, got {type(model).__name__}.")
    chunk = num_samples if chunk_size is None else positive_integer(chunk_size, "chunk_size")
    condition = conditions(condition, num_samples)
    if prior is not None and not hasattr(prior, "sample"):
        raise ValueError(f"`prior` must have `sample(n, key=key)`, got {type(prior).__name__}.")
    if times is not None:
        times = _checked_times(times, model.process)
    if isinstance(solver, AbstractSampler):
        if flow or stepsize_controller is not None or adjoint is not None:
            raise ValueError(
                "`method`, `stepsize_controller` and `adjoint` must be left out where `solver` is "
                f"a sampler, which decides on them itself, got {type(solver).__name__}."
            )
        bridge = Bridge(model.process, reference_variance(model, variance), False)
        prior = model.prior if prior is None else prior
        chunk = min(chunk, num_samples)
        return run_sampler(
            solver, model, bridge, key, prior, condition, times, num_samples, chunk, num_steps
        )
    if solver is None:
        solver = diffrax.Midpoint() if flow else diffrax.SRA1()
    if adjoint is None:
        adjoint = diffrax.RecursiveCheckpointAdjoint()
    bridge = Bridge(model.process, reference_variance(model, variance), flow)
    return _sample(
        model,
        bridge,
        key,
        model.prior if prior is None else prior,
        condition,
        times,
        solver,
        stepsize_controller,
        adjoint,
        num_samples,
        min(chunk, num_samples),
        num_steps,
        max_steps,
    )


def _checked_times(times: Any, process: Any) -> Array:
    times = as_float(times)
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`times` must have shape (n,) with n >= 2, got {times.shape}.")
    if not is_concrete((times, process.t0, process.t1)):
        return times
    low, high = float(process.t0), float(process.t1)
    return checked(
        times,
        "times",
        lambda v: (v[1:] < v[:-1]).all() & (v[0] <= high) & (v[-1] >= low),
        f"decreasing and within [{low:g}, {high:g}]",
    )


@eqx.filter_jit
def _sample(
    model: AbstractModel,
    bridge: Bridge,
    key: Key,
    prior: Any,
    condition: Any,
    times: Array | None,
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController | None,
    adjoint: diffrax.AbstractAdjoint,
    num_samples: int,
    chunk: int,
    num_steps: int,
    max_steps: int,
) -> Array:
    process = bridge.process
    prior_key, path_key = jax.random.split(key)
    knots = bridge.knots(num_steps) if times is None else bridge.knots_at(times)
    begin, end = (process.t1, process.t0) if times is None else (times[0], times[-1])
    start = bridge.enter(begin, knots[0], prior.sample(num_samples, key=prior_key))

    def solve(args: Any, _: Array | None = None) -> Array:
        indices, x, condition = args
        terms = diffrax.ODETerm(_field)
        if not bridge.flow:
            path = _brownian_path(solver, controller, knots, path_key, indices, x)
            terms = diffrax.MultiTerm(terms, AdditiveNoise(path))
        solution = diffrax.diffeqsolve(
            terms,
            solver,
            knots[0],
            knots[-1],
            None if controller is None else knots[1] - knots[0],
            x,
            (bridge, model, condition),
            stepsize_controller=diffrax.StepTo(knots) if controller is None else controller,
            adjoint=adjoint,
            max_steps=knots.shape[0] - 1 if controller is None else max_steps,
        )
        ys: Any = solution.ys
        return ys[-1]  # a solve that failed has raised (`throw=True`)

    args = (jnp.arange(num_samples), start, condition)
    if chunk == num_samples:
        x = solve(args)
    else:
        x = unchunk(in_chunks(solve, args, num_samples, chunk), num_samples)
    y = bridge.leave(end, knots[-1], x)
    return eqx.error_if(
        y,
        ~jnp.all(jnp.isfinite(y)),
        "a sample is not finite: the model's score must be finite wherever `solver` evaluates it "
        "(the default solvers never do so at infinite log-SNR)",
    )


def _field(t: Any, x: Any, args: Any) -> Array:
    bridge, model, condition = args
    return bridge.field(model, t, x, condition)


def _brownian_path(
    solver: diffrax.AbstractSolver,
    controller: diffrax.AbstractStepSizeController | None,
    knots: Array,
    key: Key,
    indices: Array,
    x: Array,
) -> diffrax.AbstractBrownianPath:
    area = getattr(solver, "minimal_levy_area", None)
    wants_area = area is not None and issubclass(diffrax.SpaceTimeLevyArea, area)
    levy_area = diffrax.SpaceTimeLevyArea if wants_area else diffrax.BrownianIncrement
    if controller is None:
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
