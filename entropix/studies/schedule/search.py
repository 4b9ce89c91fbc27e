"""The best schedule for an objective, by the name of the objective."""

import dataclasses
from collections.abc import Callable

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractSpeed
from entropix.models import ExactModel
from entropix.optimise import (
    EntropicTime,
    EstimatorVariance,
    FewStepError,
    FewStepSampler,
    KineticAction,
    SamplerError,
    ScoreOptimalLength,
    constant_speed,
    optimise_schedule,
)
from entropix.processes import MonotoneSchedule, TimeChanged, VariancePreserving
from entropix.studies.options import SearchOptions


# Draws of the noise over which the sampler's error is averaged.
_DRAWS = 512
# The smallest noise that objectives consider, in standard deviations of the data.
_RESOLUTION = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class BestSchedule:
    """The result of a search.

    Attributes:
        process: with the best schedule.
        history: the objective at each step of the optimiser, shape (iterations,); constant if the
            optimum is known in closed form.
        cutoff: see `Candidate`.
    """

    process: AbstractGaussianProcess
    history: np.ndarray
    cutoff: float | None = None


def search(
    objective: str,
    model: AbstractModel,
    process: AbstractGaussianProcess,
    data: np.ndarray,
    options: SearchOptions,
    *,
    sampler: str,
    key: Key,
) -> BestSchedule:
    """The best schedule for an objective.

    Args:
        objective: its name.
        model: under a process with the equilibrium of `process`.
        process: to start from; only its schedule is changed.
        data: samples, shape (N, D).
        options: see `SearchOptions`.
        sampler: the few-step sampler, for the objective of that name.
        key: PRNG key.
    """
    source = model.distribution if isinstance(model, ExactModel) else model
    goal_key, key = jax.random.split(key)
    cutoff = _RESOLUTION * float(np.sqrt(np.mean(np.var(data, axis=0))))
    if objective == "sampler":
        few = FewStepSampler(model, sampler)
        error = FewStepError(few, options.target_steps, _DRAWS, key=goal_key)
        return _descend(learnable(process, options.knots, reach=True), error, options, key)
    if objective == "girsanov":
        bound = SamplerError(source, options.target_steps - 1, cutoff, data, key=goal_key)
        found = _descend(learnable(process, options.knots, reach=False), bound, options, key)
        return dataclasses.replace(found, cutoff=cutoff)
    if objective == "variance":
        variance = EstimatorVariance(source, data, cutoff=cutoff, key=goal_key)
        return _descend(learnable(process, options.knots, reach=False), variance, options, key)
    speed: AbstractSpeed
    if objective == "action":
        speed = KineticAction(source, data, key=goal_key)
    elif objective == "length":
        speed = ScoreOptimalLength(source, data, key=goal_key)
    else:
        speed = EntropicTime(source, data, key=goal_key, cutoff=cutoff)
    best = constant_speed(process, speed, num_knots=2 * options.knots)
    assert isinstance(best, AbstractGaussianProcess)  # as `process` is
    value = float(speed(best))
    return BestSchedule(best, np.full(options.iterations, value))


def learnable(
    process: AbstractGaussianProcess, knots: int, *, reach: bool
) -> AbstractGaussianProcess:
    """The process with a trainable schedule, or with a trainable change of time.

    Args:
        process: to start from.
        knots: number of parameters of the schedule.
        reach: whether the noise at the noise end may change, where it is finite.
    """
    if isinstance(process, VariancePreserving):
        base = process.schedule
        total = 12.0 if base.diverges else None
        schedule = MonotoneSchedule.from_schedule(base, knots, total=total, learn_total=reach)
        return VariancePreserving(schedule, process.kappa)
    return TimeChanged(process)  # pyright: ignore[reportReturnType]


def _descend(
    start: AbstractGaussianProcess, goal: Callable, options: SearchOptions, key: Key
) -> BestSchedule:
    best = optimise_schedule(start, goal, key=key, steps=options.iterations)
    assert isinstance(best.process, AbstractGaussianProcess)
    return BestSchedule(best.process, np.asarray(best.history))
