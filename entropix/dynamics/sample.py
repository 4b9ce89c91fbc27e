r"""Sampling from a model: the reverse SDE or the probability-flow ODE, by Diffrax.

With $t = t_1 - s$ (Song et al., 2011.13456, equations 6 and 13; Neural Entropy, 2409.03817,
section 2)

$$dX = [-b + \sigma^2\,\nabla\log p_s]\,dt + \sigma\,dB, \qquad \frac{dy}{ds} = v(y, s),$$

both solved in `ReverseCoordinates`, where they lose their singular ends and their stiff linear
part. The default solvers evaluate the model at the start and inside of a step but never at
the end of the last, where the log-SNR is infinite: no cut-off is needed.

The samplers of `entropix.dynamics.samplers` take the same arguments in place of a Diffrax solver.
"""

import math
from typing import Any, Literal, overload

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import choice, conditions, positive_integer, prng_key
from entropix._core.chunks import in_cache
from entropix._core.compiled import compiled
from entropix._core.precision import full_precision
from entropix.dynamics.augmented import WithDivergence
from entropix.dynamics.coordinates import AbstractCoordinates, ReverseCoordinates
from entropix.dynamics.divergence import Divergence
from entropix.dynamics.multimodal import JointDDIM, MultimodalDenoiser
from entropix.dynamics.reverse import flow_coordinates
from entropix.dynamics.samplers import Denoiser, run_sampler
from entropix.dynamics.settings import SolveSettings, check_times, flow_solver
from entropix.dynamics.solve import run
from entropix.dynamics.tokens import FirstHitting, TauLeaping, TokenField
from entropix.interfaces import (
    AbstractModel,
    AbstractSampler,
    AbstractTokenProcess,
    SampleEstimates,
)
from entropix.models import FlowMatching, checked_model, reference_variance
from entropix.processes import Multimodal


# Evaluations and products with the Jacobian held in memory at once where densities are wanted.
_CHUNK = 4096


@overload
def sample(
    model: AbstractModel,
    *,
    key: Key,
    num_samples: int,
    method: str = ...,
    num_steps: int = ...,
    times: DataLike | None = ...,
    solver: diffrax.AbstractSolver | AbstractSampler | None = ...,
    stepsize_controller: diffrax.AbstractStepSizeController | None = ...,
    adjoint: diffrax.AbstractAdjoint | None = ...,
    prior: PyTree = ...,
    condition: PyTree = ...,
    variance: DataLike | None = ...,
    chunk_size: int | None = ...,
    max_steps: int = ...,
    log_prob: Literal[False] = False,
) -> Float[Array, "num_samples ..."]: ...


@overload
def sample(
    model: AbstractModel,
    *,
    key: Key,
    num_samples: int,
    method: str = ...,
    num_steps: int = ...,
    times: DataLike | None = ...,
    solver: diffrax.AbstractSolver | AbstractSampler | None = ...,
    stepsize_controller: diffrax.AbstractStepSizeController | None = ...,
    adjoint: diffrax.AbstractAdjoint | None = ...,
    prior: PyTree = ...,
    condition: PyTree = ...,
    variance: DataLike | None = ...,
    chunk_size: int | None = ...,
    max_steps: int = ...,
    log_prob: Literal[True] | Divergence,
) -> tuple[Float[Array, "num_samples ..."], SampleEstimates]: ...


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
    log_prob: bool | Divergence = False,
) -> Float[Array, "num_samples ..."] | tuple[Float[Array, "num_samples ..."], SampleEstimates]:
    r"""Draw samples from a model, for the probability flow with their log densities.

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
            no `method`, `stepsize_controller` or `adjoint`. For a model of tokens `TauLeaping`, the
            default, or `FirstHitting`; for a model of rows of tokens and numbers `JointDDIM`.
        stepsize_controller: a Diffrax controller for adaptive steps, such as
            `diffrax.PIDController`, in the time $t = a - 1$ of `ReverseCoordinates`; None for the
            fixed steps. The flow then needs a `solver` with an error estimate.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        prior: what to start from, with `sample(n, key=key)`; None for `model.prior`.
        condition: arrays with a leading axis of `num_samples`, one condition for each sample.
        variance: the reference variance $c$; None for what the model knows of its data, see
            `reference_variance`.
        chunk_size: solve for so many samples at a time, which bounds memory; None for all at once,
            or for as many sequences of tokens as a CPU solves fastest.
        max_steps: bound on the number of adaptive steps.
        log_prob: True to return the log density of each sample under the flow as well, from the
            same solve ("ode" only). The divergence is exact, at the cost of D products with the
            Jacobian per evaluation, or less where the network offers its divergence;
            `entropix.dynamics.Divergence("hutchinson")` estimates it by
            random probes. At most 4096 evaluations and products are then held in memory at once,
            unless `chunk_size` is given.

    Returns:
        Samples, shape (num_samples, *shape); with `log_prob` the pair of them and of their log
        densities in nats, as of `entropix.log_prob(model, samples, method=ProbabilityFlow())`:
        `.value` and `.stderr` (of random probes), shape (num_samples,). Both have the
        discretisation error of this solve, which is not a part of `.stderr`. Where the model has no
        density, as for memorised points, the values grow with the number of steps without limit,
        which `entropix.log_prob` detects.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a sample is not finite,
            an error is raised as the compiled program runs.

    Example:
        >>> import entropix as ex, jax
        >>> data = ex.Gaussian([1.0, 0.0], [[0.5, 0.0], [0.0, 0.1]])
        >>> model = ex.ExactModel(data, ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)))
        >>> ex.sample(model, key=jax.random.key(0), num_samples=5, num_steps=8).shape
        (5, 2)

        The log densities of the samples, from one solve:

        >>> options = {"key": jax.random.key(0), "num_samples": 5, "method": "ode"}
        >>> x, density = ex.sample(model, num_steps=32, log_prob=True, **options)
        >>> bool(abs(density.value - data.log_prob(x)).max() < 0.01)
        True
    """
    num_samples = positive_integer(num_samples, "num_samples")
    prng_key(key)
    positive_integer(num_steps, "num_steps")
    flow = choice(method, "method", ("sde", "ode")) == "ode"
    process: Any = getattr(model, "process", None)
    tokens = isinstance(process, AbstractTokenProcess)
    mixed = isinstance(process, Multimodal)
    if not tokens and not mixed:
        checked_model(model, gaussian=True)
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

    def by_steps(sampler: Any, denoiser: Any, times: Any, num_steps: int) -> Any:
        chunk = positive_integer(num_samples if chunk_size is None else chunk_size, "chunk_size")
        args = (sampler, denoiser, key, prior, condition, times)
        return run_sampler(*args, num_samples, chunk, num_steps)

    if tokens or mixed:
        chosen = (flow, stepsize_controller, adjoint, log_prob is not False)
        allowed: Any = (TauLeaping, FirstHitting) if tokens else JointDDIM
        names = "TauLeaping() or FirstHitting()" if tokens else "JointDDIM()"
        if any(chosen) or not (solver is None or isinstance(solver, allowed)):
            raise ValueError(
                f"`solver` must be {names} for a model of {type(process).__name__}, got "
                f"{type(solver).__name__}; and `method`, `stepsize_controller`, `adjoint` and "
                "`log_prob` must be left out."
            )
    if mixed:
        coordinates = ReverseCoordinates(
            process.numbers, reference_variance(model, variance), flow=False
        )
        joint = MultimodalDenoiser(model=model, coordinates=coordinates)
        return by_steps(JointDDIM() if solver is None else solver, joint, times, num_steps)
    if tokens:
        if variance is not None:
            raise ValueError("`variance` must be None for a model of tokens, which have none.")
        if isinstance(solver, FirstHitting):
            if not process.has_mask:
                raise ValueError("`solver` must be TauLeaping() where no token is masked.")
            times, num_steps = None, math.prod(model.shape or ())
        sampler = TauLeaping() if solver is None else solver
        if chunk_size is None:
            chunk_size = in_cache(num_samples, math.prod(model.shape or ()))
        return by_steps(sampler, TokenField(model=model), times, num_steps)
    divergence = _divergence(log_prob, flow, prior)
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
            denoiser = Denoiser(model=model, coordinates=coordinates)
            return by_steps(solver, denoiser, times, num_steps)
    if divergence is not None and chunk_size is None:
        dim = math.prod(jax.eval_shape(lambda k: prior.sample(1, key=k), key).shape)
        chunk_size = max(1, _CHUNK // divergence.num_held(model, dim))
    settings = SolveSettings(
        diffrax.SRA1() if solver is None else solver,
        stepsize_controller,
        adjoint,
        num_samples,
        chunk_size=chunk_size,
        max_steps=max_steps,
    )
    args = (model, coordinates, key, prior, condition, times, num_samples, num_steps, settings)
    if divergence is None:
        return _sample(*args)
    return _sample_with_density(divergence, *args)


def _divergence(log_prob: bool | Divergence, flow: bool, prior: PyTree) -> Divergence | None:
    """How to compute log densities, or None where they are not wanted."""
    if not isinstance(log_prob, (bool, Divergence)):
        raise ValueError(
            "`log_prob` must be True, False or an `entropix.dynamics.Divergence`, got "
            f"{log_prob!r}."
        )
    if log_prob is False:
        return None
    if not flow:
        raise ValueError(
            "`log_prob` must be False unless `method` is 'ode': the density of the reverse SDE "
            "does not follow from its paths, see `entropix.density.Jarzynski`."
        )
    if not hasattr(prior, "log_prob"):
        raise ValueError(
            f"`prior` must have `log_prob(y)` for log densities, got {type(prior).__name__}."
        )
    return Divergence() if log_prob is True else log_prob


@compiled
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


@compiled
def _sample_with_density(
    divergence: Divergence,
    model: AbstractModel,
    coordinates: AbstractCoordinates,
    key: Key,
    prior: PyTree,
    condition: PyTree,
    times: Array | None,
    num_samples: int,
    num_steps: int,
    settings: SolveSettings,
) -> tuple[Array, SampleEstimates]:
    prior_key, path_key = jax.random.split(key)
    if times is None:
        times, knots = coordinates.steps(num_steps)
    else:
        knots = jax.vmap(coordinates.solver_time)(times)
    start = prior.sample(num_samples, key=prior_key)
    augmented = WithDivergence(coordinates, divergence, path_key, jnp.zeros_like(start[0]))
    size = start[0].size
    divergence.check(num_samples, size)
    args = (condition, jnp.arange(num_samples))
    rows = augmented.join(start)
    rows = run(augmented, model, args, times, rows, None, settings, knots).final
    samples, integrals = augmented.split(rows)
    gains, stderr = divergence.estimate(integrals, size)
    first, last = (augmented.volume(times[i], knots[i]) for i in (0, -1))
    value = jax.vmap(prior.log_prob)(start) + size * (first - last) - gains
    return samples, SampleEstimates(value, stderr, 0)
