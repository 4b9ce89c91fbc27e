r"""How long a measurement takes, and how much of it a time budget allows.

A few steps of the compiled training and a few evaluations of the model are timed. With t the time
of a step, u that of an evaluation of the model and c the time of compiling a step,

$$T = t\,n + (u N_{eval} + k\,c + \text{const}),$$

for n steps and the $N_{eval}$ evaluations of the estimates. A budget leaves $T$ less what has
passed; at most a third of it is spent on evaluations, whose number is reduced for this if need be,
and the rest on steps.
"""

import dataclasses
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np

from entropix._core.arrays import Key, as_float
from entropix._core.checks import positive
from entropix.interfaces import AbstractKernel, AbstractModel
from entropix.studies.cells import Task
from entropix.studies.data import PreparedData
from entropix.studies.folder import OutputFolder
from entropix.studies.options import EstimationOptions, MeasureOptions, TrainingOptions
from entropix.studies.training import Training, num_steps, training


# Programs of the estimates, in compilations of a training step; seconds for what takes as long for
# every network; the share that labels add. From the processor time of runs with two hidden layers
# (about 30 s besides evaluations, 8 to 10 s for the step) and, for the shares, a U-Net and labels.
_PROGRAMS, _REST, _OF_LABELS = 1.2, 20.0, 0.5
# The share of a budget for evaluations, and the part of it that is kept in reserve.
_OF_EVALUATIONS, _RESERVE = 1 / 3, 0.05
# Of the effort, what a budget changes: the least value, and a power of the share that it follows.
_PLANNED = {
    "evaluations": (4096, 1.0),
    "samples": (64, 0.5),
    "density_evaluations": (32, 0.5),
    "sampling_steps": (50, 0.5),
}
# Steps that are timed first, and at most in intervals between evaluations of the held-out loss; the
# least time that they must take, in seconds. Shares that are tried.
_FIRST_TIMED, _MOST_TIMED, _LEAST_TIMED = 8, 4, 1.0
_SHARES = np.geomspace(1.0, 1e-3, 60)
# Steps between evaluations of the held-out loss where a budget decides the number of steps.
_CHECK_EVERY, _CHECK_EVERY_COSTLY = 100, 25
# Passes through the data, and steps, at most or at least.
_MOST_PASSES, _FEWEST_STEPS, _LEAST_STEPS = 2000, 1500, 20
# Seconds before the request was checked.
_IMPORTS = 4.0


@dataclasses.dataclass(frozen=True)
class Pace:
    """Times in seconds.

    Attributes:
        compilation: of the training step.
        step: of a training step, with its share of the evaluations of the held-out loss.
        evaluation: of the model, for one sample.
    """

    compilation: float
    step: float
    evaluation: float


def measured_pace(
    training: Training,
    make_model: Callable[[Key], AbstractModel],
    examples: dict[str, Any],
    process: AbstractKernel,
) -> Pace:
    """The pace of this machine, from a few steps of the program that training will use.

    Args:
        training: of the networks.
        make_model: from a key to an untrained model.
        examples: arguments of `Training.fit`.
        process: of the models.
    """
    every = training.check_every or 100

    def timed(count: int) -> float:
        start = time.perf_counter()
        with tempfile.TemporaryDirectory() as folder:
            task = Task("timing", Path(folder) / "timing.ckpt", lambda _: None)
            one.fit(task, make_model, steps=count, process=process, **examples)
        return time.perf_counter() - start

    # In an ensemble a step is one of every network.
    one = dataclasses.replace(training, seeds=training.seeds[:1])
    few = min(2, every)
    first = timed(few)
    again = min(timed(few), timed(few))
    # An evaluation of the held-out loss, in steps: about a third of one for each batch.
    check = len(training.checked(examples["holdout"])) / (3 * training.batch_size)
    count, most = min(_FIRST_TIMED, _MOST_TIMED * every), _MOST_TIMED * every
    # A run begins with the data and ends with a checkpoint: steps that take no longer than this
    # beginning and end cannot be timed.
    while (more := timed(few + count) - again) < max(_LEAST_TIMED, again / 2) and count < most:
        count = min(most, 2 * count)
    checks = -(-(few + count) // every) - 1
    step = max(more, 0.01 * again) / (count + checks * check)
    step *= 1 + check / every
    return Pace(max(first - again, 0.0), step, _time_of_evaluation(make_model, examples))


def _time_of_evaluation(
    make_model: Callable[[Key], AbstractModel], examples: dict[str, Any]
) -> float:
    model = make_model(jax.random.key(0))
    batch = as_float(np.resize(examples["data"][:256], (256, *examples["data"].shape[1:])))
    condition = examples["condition"]
    if condition is not None:
        condition = np.resize(condition[:256], (256, *condition.shape[1:]))

    @eqx.filter_jit
    def evaluate(model: AbstractModel, batch: Any, condition: Any) -> jax.Array:
        def one(y: Any, c: Any) -> jax.Array:
            return model.entropy_field(model.process.t1 / 2, y, c)

        return jax.vmap(one)(batch, condition)

    jax.block_until_ready(evaluate(model, batch, condition))
    start, count = time.perf_counter(), 0
    while count < 1 or (time.perf_counter() - start < 0.5 and count < 100):
        jax.block_until_ready(evaluate(model, batch, condition))
        count += 1
    return (time.perf_counter() - start) / (count * len(batch))


@dataclasses.dataclass(frozen=True)
class Work:
    """What a measurement trains and measures.

    Attributes:
        num_train: the number of training samples.
        evaluations: of all estimates of one network, for an effort.
        labels: whether the mutual information of labels is measured too.
    """

    num_train: int
    evaluations: Callable[[EstimationOptions], int]
    labels: bool

    @classmethod
    def of(cls, data: PreparedData) -> "Work":
        """The work of `measure` on numbers."""
        rated, labels = min(len(data.held_out), data.num_train), data.condition is not None

        def evaluations(effort: EstimationOptions) -> int:
            curves = (2.5 + 0.75 + 6 * labels) * effort.evaluations
            samples = effort.samples * effort.sampling_steps
            densities = 3 * min(rated, effort.samples) * effort.density_evaluations
            speed = 64 * path_samples(effort) + min(16_384, effort.evaluations)
            return int(curves + samples + densities + speed)

        return cls(data.num_train, evaluations, labels)


def path_samples(effort: EstimationOptions) -> int:
    """The samples of the speed limit: 4096, fewer for fewer samples than by default."""
    return min(4096, 5 * effort.samples)


def reduced(effort: EstimationOptions, share: float) -> EstimationOptions:
    """An effort that costs about this share; what differs from its default is not changed."""
    default, changed = EstimationOptions(), {}
    for name, (least, power) in _PLANNED.items():
        value = getattr(effort, name)
        if value == getattr(default, name):
            changed[name] = min(value, max(least, int(share**power * value) // 2 * 2))
    return dataclasses.replace(effort, **changed)


@dataclasses.dataclass(frozen=True)
class Plan:
    """How the time of a measurement is spent.

    Attributes:
        settings: of the training.
        effort: of the estimates.
        expected: seconds of training and of measuring; None if they are not known.
        deadline: see `Training.fit`; None without a budget.
    """

    settings: TrainingOptions
    effort: EstimationOptions
    expected: tuple[float, float] | None = None
    deadline: float | None = None

    def configuration(self, minutes: float | None) -> dict[str, Any]:
        """What a resumed run needs to know of it."""
        if minutes is None:
            return {}
        effort = {name: getattr(self.effort, name) for name in _PLANNED}
        return {"minutes": minutes, **effort}

    def attributes(self) -> dict[str, Any]:
        """What a record says of it."""
        if self.expected is None:
            return {}
        train, measure = self.expected
        text = (
            f"{_text(train + measure)}: {_text(train)} of training, {_text(measure)} of measuring"
        )
        return {"expected_text": f"about {text}", "expected_seconds": train + measure}


def resumed_plan(
    settings: TrainingOptions, effort: EstimationOptions, stored: dict[str, Any]
) -> Plan:
    """What the run in a folder has planned.

    Args:
        settings: as requested.
        effort: as requested.
        stored: its configuration; empty for a run without a budget.
    """
    trained = ("steps", "patience", "check_every")
    if not {*trained, *_PLANNED} <= stored.keys():
        return Plan(settings, effort)
    changed = {name: stored[name] for name in trained}
    planned = {name: stored[name] for name in _PLANNED}
    return Plan(dataclasses.replace(settings, **changed), dataclasses.replace(effort, **planned))


def time_plan(
    options: MeasureOptions,
    settings: TrainingOptions,
    models: Callable[[], Callable[[Key], AbstractModel]],
    examples: Callable[[], dict[str, Any]],
    process: AbstractKernel,
    work: Work,
    folder: OutputFolder,
    started: float,
) -> Plan:
    """What a budget allows, and how long it will take; of a run to resume, what was planned.

    Args:
        options: as requested.
        settings: of the training, as `checked_training` returns them.
        models: makes the function from a key to an untrained model.
        examples: makes arguments of `Training.fit`.
        process: of the models.
        work: what is trained and measured.
        folder: that may hold a run to resume.
        started: the value of `time.perf_counter` when the request was read.
    """
    minutes, effort = options.budget.minutes, options.estimation
    if minutes is not None:
        positive(minutes, "minutes")
        for group, name in ((options.training, "steps"), (effort, "relative_error")):
            if getattr(group, name) is not None:
                raise ValueError(
                    f"`{name}` must be omitted together with `minutes`, got {getattr(group, name)}."
                )
    if options.output.resume and (stored := folder.configuration()) is not None:
        return resumed_plan(settings, effort, stored if minutes is not None else {})
    if minutes is None and options.output.quiet:
        return Plan(settings, effort)
    if minutes is not None and options.training.check_every is None:
        every = _CHECK_EVERY if settings.network == "mlp" else _CHECK_EVERY_COSTLY
        settings = dataclasses.replace(settings, check_every=every)
    pace = measured_pace(training(settings), models(), examples(), process)
    patience = options.training.patience
    return planned(pace, settings, effort, minutes, work, patience=patience, since=started)


def planned(
    pace: Pace,
    settings: TrainingOptions,
    effort: EstimationOptions,
    minutes: float | None,
    work: Work,
    *,
    patience: int | None,
    since: float,
) -> Plan:
    """The training steps and the effort of the estimates that a budget allows, and their time.

    Args:
        pace: of this machine.
        settings: of the training, as `checked_training` returns them.
        effort: of the estimates, as requested.
        minutes: the budget, or None.
        work: what is trained and measured.
        patience: as requested; None: a quarter of the steps.
        since: the value of `time.perf_counter` when the request was read.
    """

    def measuring(effort: EstimationOptions) -> float:
        return settings.seeds * pace.evaluation * work.evaluations(effort)

    rest, deadline = (1 + _OF_LABELS * work.labels) * (_PROGRAMS * pace.compilation + _REST), None
    if minutes is not None:
        now = time.perf_counter()
        left = (1 - _RESERVE) * 60 * minutes - (now - since) - _IMPORTS - rest
        efforts = (reduced(effort, float(share)) for share in _SHARES)
        affordable = (e for e in efforts if measuring(e) <= _OF_EVALUATIONS * left)
        effort = next(affordable, reduced(effort, 0.0))
        seconds = left - measuring(effort)
        most = max(_FEWEST_STEPS, _MOST_PASSES * work.num_train // (settings.batch_size or 1))
        steps = max(_LEAST_STEPS, min(most, int(seconds / (settings.seeds * pace.step))))
        settings = dataclasses.replace(
            settings, steps=steps, patience=steps // 4 if patience is None else patience
        )
        deadline = now + max(seconds, 0.0) + _RESERVE * 60 * minutes
    expected = settings.seeds * pace.step * num_steps(settings), measuring(effort) + rest
    return Plan(settings, effort, expected, deadline)


def _text(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    if seconds < 5400:
        return f"{seconds / 60:.1f} min"
    return f"{seconds / 3600:.1f} h"
