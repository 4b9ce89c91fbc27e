r"""Sampling from a model: the reverse SDE or the probability-flow ODE, by Diffrax.

With $t = t_1 - s$ (Song et al., 2011.13456, equations 6 and 13; Neural Entropy, 2409.03817,
section 2)

$$dX = [-b + \sigma^2\,\nabla\log p_s]\,dt + \sigma\,dB, \qquad \frac{dy}{ds} = v(y, s),$$

both solved in `ReverseCoordinates`, where they lose their singular ends and their stiff linear
part. The default solvers evaluate the model at the start and inside of a step but never at
the end of the last, where the log-SNR is infinite: no cut-off is needed.

The samplers of `entropix.dynamics.samplers` take the same arguments in place of a Diffrax solver.
"""

import diffrax
import equinox as eqx
import jax
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import choice, conditions, positive_integer, prng_key
from entropix._core.precision import full_precision
from entropix.dynamics.coordinates import AbstractCoordinates, ReverseCoordinates
from entropix.dynamics.reverse import check_model, flow_coordinates
from entropix.dynamics.samplers import run_sampler
from entropix.dynamics.settings import SolveSettings, check_times, flow_solver
from entropix.dynamics.solve import run
from entropix.interfaces import AbstractModel, AbstractSampler
from entropix.models import FlowMatching, reference_variance


@full_precision
def sample(
    model: AbstractModel,
    *,
    key: Key,
    num_samples: int,
    method: str = "sde",
    num_steps: int = 128,
    times: DataLike | None = None,
    solver: diffrax.AbstractSolver | AbstractSampler | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    prior: PyTree = None,
    condition: PyTree = None,
    variance: DataLike | None = None,
    chunk_size: int | None = None,
    max_steps: int = 4096,
) -> Float[Array, "num_samples ..."]:
    r"""Draw samples from a model.

    With fixed steps the result is the same for the same key, whatever `chunk_size`. It is
    differentiable in the model, the prior, the times and the variance. For data $N(m, cI)$ with $c$
    = `variance` sampling is exact in any number of steps; otherwise the error in distribution falls
    with the square of the step. The default solvers, `diffrax.SRA1` for the SDE (Rössler, 2010)
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
        solver: a Diffrax solver. The noise of the SDE is additive, so Itô and Stratonovich solvers
            agree; `diffrax.Euler()` evaluates the model once a step and is of order one. Solvers
            that evaluate the end of a step (`diffrax.Heun`, `diffrax.Tsit5`) need a model that is
            finite at infinite log-SNR. Or a sampler, `DDIM`, `DPMSolver`, `EDMHeun` or
            `PredictorCorrector`, which takes fixed steps, is itself stochastic or not, and allows
            no `method`, `stepsize_controller` or `adjoint`.
        stepsize_controller: a Diffrax controller for adaptive steps, such as
            `diffrax.PIDController`, in the time $t = a - 1$ of `ReverseCoordinates`; None for the
            fixed steps. The flow then needs a `solver` with an error estimate.
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

    Example:
        >>> import entropix as ex, jax
        >>> data = ex.Gaussian([1.0, 0.0], [[0.5, 0.0], [0.0, 0.1]])
        >>> model = ex.ExactModel(data, ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)))
        >>> ex.sample(model, key=jax.random.key(0), num_samples=5, num_steps=8).shape
        (5, 2)
    """
    num_samples = positive_integer(num_samples, "num_samples")
    prng_key(key)
    positive_integer(num_steps, "num_steps")
    flow = choice(method, "method", ("sde", "ode")) == "ode"
    check_model(model)
    condition = conditions(condition, num_samples)
    if prior is not None and not hasattr(prior, "sample"):
        raise ValueError(f"`prior` must have `sample(n, key=key)`, got {type(prior).__name__}.")
    has_score = not isinstance(model, FlowMatching)
    if not has_score and (not flow or isinstance(solver, AbstractSampler)):
        raise ValueError(
            "`method` must be 'ode', and `solver` none of the samplers for scores, for "
            "FlowMatching: a velocity field alone has no reverse SDE."
        )
    if times is not None:
        times = check_times(times, model.process, falling=True)
    prior = model.prior if prior is None else prior
    if isinstance(solver, AbstractSampler) and (flow or stepsize_controller or adjoint):
        raise ValueError(
            "`method`, `stepsize_controller` and `adjoint` must be left out where `solver` is a "
            f"sampler, which decides on them itself, got {type(solver).__name__}."
        )
    if flow:
        coordinates = flow_coordinates(model, variance, reverse=True)
        solver = flow_solver(solver, stepsize_controller, has_score=has_score)
    else:
        variance = reference_variance(model, variance)
        coordinates = ReverseCoordinates(model.process, variance, flow=False)
        if isinstance(solver, AbstractSampler):
            chunk = positive_integer(
                num_samples if chunk_size is None else chunk_size, "chunk_size"
            )
            args = (solver, model, coordinates, key, prior, condition, times)
            return run_sampler(*args, num_samples, chunk, num_steps)
    settings = SolveSettings(
        diffrax.SRA1() if solver is None else solver,
        stepsize_controller,
        adjoint,
        num_samples,
        chunk_size=chunk_size,
        max_steps=max_steps,
    )
    return _sample(
        model, coordinates, key, prior, condition, times, num_samples, num_steps, settings
    )


@eqx.filter_jit
def _sample(
    model: AbstractModel,
    coordinates: AbstractCoordinates,
    key: Key,
    prior: PyTree,
    condition: PyTree,
    times: Array | None,
    num_samples: int,
    num_steps: int,
    settings: SolveSettings,
) -> Array:
    prior_key, path_key = jax.random.split(key)
    knots = None
    if times is None:
        times, knots = coordinates.steps(num_steps)
    start = prior.sample(num_samples, key=prior_key)
    return run(coordinates, model, condition, times, start, path_key, settings, knots).final
