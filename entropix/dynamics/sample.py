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
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import choice, conditions, positive_integer, prng_key
from entropix._core.precision import full_precision
from entropix.dynamics.bridge import Bridge, reference_variance
from entropix.dynamics.plan import Plan, check_times, flow_solver, make_plan
from entropix.dynamics.reverse import Backward, check_model, default_grid, solve_model
from entropix.dynamics.samplers import AbstractSampler, run_sampler
from entropix.dynamics.solve import run
from entropix.dynamics.straight import Straight, straight_times
from entropix.interfaces import AbstractModel
from entropix.models import FlowMatching


@full_precision
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

    With fixed steps the result is the same for the same key, whatever `chunk_size`. It is
    differentiable in the model, the prior, the times and the variance. For data $N(m, cI)$ with $c$
    = `variance` sampling is exact in any number of steps; otherwise the error in distribution falls
    with the square of the step. The default solvers, `diffrax.SRA1` for the SDE (Roessler, 2010)
    and the midpoint method of `solve_flow` for the flow, evaluate the model twice a step.

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
            shrink towards the data (equal ones for `FlowMatching`, which allows "ode" only).
        solver: a Diffrax solver. The noise of the SDE is additive, so Ito and Stratonovich solvers
            agree; `diffrax.Euler()` evaluates the model once a step and is of order one. Solvers
            that evaluate the end of a step (`diffrax.Heun`, `diffrax.Tsit5`) need a model that is
            finite at infinite log-SNR. Or a sampler, `DDIM`, `DPMSolver`, `EDMHeun` or
            `PredictorCorrector`, which takes fixed steps, is itself stochastic or not, and allows
            no `method`, `stepsize_controller` or `adjoint`.
        stepsize_controller: a Diffrax controller for adaptive steps, such as
            `diffrax.PIDController`, in the time $t = a - 1$ of `Bridge`; None for the fixed steps.
            The flow then needs a `solver` with an error estimate.
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
    prng_key(key)
    positive_integer(num_steps, "num_steps")
    flow = choice(method, "method", ("sde", "ode")) == "ode"
    check_model(model)
    condition = conditions(condition, num_samples)
    if prior is not None and not hasattr(prior, "sample"):
        raise ValueError(f"`prior` must have `sample(n, key=key)`, got {type(prior).__name__}.")
    straight = isinstance(model, FlowMatching)
    if straight and (not flow or isinstance(solver, AbstractSampler)):
        raise ValueError(
            "`method` must be 'ode', and `solver` none of the samplers for scores, for "
            "FlowMatching: a velocity field alone has no reverse SDE."
        )
    if times is not None:
        times = check_times(times, model.process, falling=True)
    if isinstance(solver, AbstractSampler):
        if flow or stepsize_controller is not None or adjoint is not None:
            raise ValueError(
                "`method`, `stepsize_controller` and `adjoint` must be left out where `solver` is "
                f"a sampler, which decides on them itself, got {type(solver).__name__}."
            )
        bridge = Bridge(model.process, reference_variance(model, variance), False)
        prior = model.prior if prior is None else prior
        chunk = num_samples if chunk_size is None else positive_integer(chunk_size, "chunk_size")
        chunk = min(chunk, num_samples)
        return run_sampler(
            solver, model, bridge, key, prior, condition, times, num_samples, chunk, num_steps
        )
    if flow:
        solver = flow_solver(solver, stepsize_controller, straight=straight)
    elif solver is None:
        solver = diffrax.SRA1()
    plan = make_plan(
        solver,  # pyright: ignore[reportArgumentType]
        stepsize_controller,
        adjoint,
        num_samples,
        chunk_size=chunk_size,
        max_steps=max_steps,
    )
    prior = model.prior if prior is None else prior
    if straight:
        times = straight_times(model.process, times, num_steps, plan.save, onward=False)
        start = prior.sample(num_samples, key=jax.random.split(key)[0])
        return solve_model(
            model, Straight(onward=False), condition, times, None, start, None, plan
        ).final
    bridge = Bridge(model.process, reference_variance(model, variance), flow)
    return _sample(model, bridge, key, prior, condition, times, num_samples, num_steps, plan)


@eqx.filter_jit
def _sample(
    model: AbstractModel,
    bridge: Bridge,
    key: Key,
    prior: Any,
    condition: Any,
    times: Array | None,
    num_samples: int,
    num_steps: int,
    plan: Plan,
) -> Array:
    prior_key, path_key = jax.random.split(key)
    knots = None
    if times is None:
        times, knots = default_grid(bridge, num_steps, False)
    start = prior.sample(num_samples, key=prior_key)
    coordinates = Backward(bridge)
    return run(coordinates, model, condition, times, start, path_key, plan, knots).final
