"""From the name of an objective to the schedule that is best for it."""

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
    KineticAction,
    SamplerError,
    ScoreOptimalLength,
    constant_speed,
    optimise_schedule,
)
from entropix.processes import MonotoneSchedule, TimeChanged, VariancePreserving
from entropix.studies.schedule.options import SearchOptions
from entropix.studies.schedule.sampling import FewStepError, FewStepSampler


# Draws of the noise, or data points, over which an objective is averaged.
_DRAWS = 512
# Noise at which a density is no longer resolved, in units of the data's spread.
_RESOLUTION = 0.1


@dataclasses.dataclass(frozen=True, eq=False)
class Found:
    """A schedule that was searched for.

    Attributes:
        process: with it.
        history: the objective at each step of the descent, shape (iterations,); all the same where
            the optimum is in closed form.
        text: how it went, in words.
        cutoff: the noise down to which steps are uniform, before a last one to the data; None for
            steps that are uniform all the way.
    """

    process: AbstractGaussianProcess
    history: np.ndarray
    text: str
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
) -> Found:
    """The best schedule for an objective.

    Args:
        objective: its name.
        model: the fields, under a process with the equilibrium of `process`.
        process: what to start from; only its clock is changed.
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
    value = float(speed(best))
    return Found(best, np.full(options.iterations, value), "in closed form, at constant speed")


def learnable(
    process: AbstractGaussianProcess, knots: int, *, reach: bool
) -> AbstractGaussianProcess:
    """The process with a schedule, or else a clock, that can be trained.

    Args:
        process: what to start from.
        knots: parameters of the schedule.
        reach: whether the noise at the end may change, where it is finite.
    """
    if isinstance(process, VariancePreserving):
        base = process.schedule
        total = 12.0 if base.diverges else None
        schedule = MonotoneSchedule.from_schedule(base, knots, total=total, learn_total=reach)
        return VariancePreserving(schedule, process.kappa)
    return TimeChanged(process)  # pyright: ignore[reportReturnType]


def _descend(
    start: AbstractGaussianProcess, goal: Callable, options: SearchOptions, key: Key
) -> Found:
    best = optimise_schedule(start, goal, key=key, steps=options.iterations)
    assert isinstance(best.process, AbstractGaussianProcess)
    return Found(best.process, np.asarray(best.history), str(best))
