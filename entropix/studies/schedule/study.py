"""`schedule`: train if necessary, optimise schedules, compare them."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive_integer
from entropix._core.progress import progress_bar
from entropix.datasets import Dataset
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching, ExactModel
from entropix.optimise import equilibrium_std
from entropix.processes import LinearSchedule
from entropix.studies.cells import Task
from entropix.studies.data import PreparedData, data_attributes, prepare_data, read
from entropix.studies.folder import RETRAINING
from entropix.studies.options import OBJECTIVES, ScheduleOptions
from entropix.studies.record import Schema, assemble
from entropix.studies.report import Report
from entropix.studies.schedule.candidates import Candidate, hand_designed
from entropix.studies.schedule.figures import plot_costs, plot_schedules, plot_steps
from entropix.studies.schedule.measurement import compare_training, measure_seed
from entropix.studies.schedule.report import schedule_report
from entropix.studies.study import (
    AbstractStudy,
    Figures,
    Found,
    Outcome,
    Workspace,
    models,
)
from entropix.studies.theorems import SLACK
from entropix.studies.training import (
    Training,
    checked_training,
    make_models,
    make_process,
    num_steps,
    process_name,
    process_parameters,
    process_text,
    training,
    training_text,
)
from entropix.training import UniformTimes


if TYPE_CHECKING:
    import xarray

# Folded into the key of a seed: what follows training draws other numbers than training.
_STUDY = 0x5C4E
_EACH, _STEPS, _TRAINING = ("schedule", "seed"), ("schedule", "steps", "seed"), ("training", "seed")
_SAMPLERS = {"ddim": "DDIM, first order", "dpm": "DPM-Solver++, second order"}

SCHEMA: Schema = {
    "log_snr": (("schedule", "time", "seed"), "1", "log-SNR at each time"),
    "hand_designed": (("schedule",), "1", "1 for schedules that do not depend on the data"),
    "objective": (("found", "iteration", "seed"), "1", "the objective during the optimisation"),
    "action": (_EACH, "model units squared", "kinetic action of the path, at least length^2"),
    "length": (_EACH, "model units", "length of the path, at least W2 from data to noise"),
    "total_entropy": (_EACH, "nats", "entropy S_NN of the model; S_tot if it is exact"),
    "efficiency": (_EACH, "1", "W2^2 / (S_NN x noise budget), at most 1"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "entropy_error": (_EACH, "nats", "Monte Carlo error of S_NN, times uniform in the schedule"),
    "path_kl_error": (_EACH, "nats", "the same for the path KL to the moment-matched Gaussian"),
    "wasserstein2": (_STEPS, "model units", "W2 between data and samples of this number of steps"),
    "wasserstein2_own": (_STEPS, "model units", "W2 between two sets of such samples"),
    "wasserstein2_null": (("seed",), "model units", "W2 between two sets of data of that size"),
    "wasserstein2_limit": (("seed",), "model units", "W2 between data and samples of many steps"),
    "sampler_error": (_STEPS, "model units", "root mean square distance to many steps"),
    "retrained_neural_entropy": (_TRAINING, "nats", "S_NN on held-out data"),
    "retrained_path_kl": (_TRAINING, "nats", "path KL to the exact field"),
    "retrained_negative_log_likelihood": (_TRAINING, "nats", "bound on -E log p, held-out data"),
    "retrained_wasserstein2": (_TRAINING, "model units", "W2 at the target number of steps"),
}


def schedule(
    source: str | os.PathLike[str] | Dataset, options: ScheduleOptions = ScheduleOptions()
) -> "xarray.Dataset":
    """Optimise noise schedules for data, and compare them with common schedules.

    Args:
        source: a data set, or what `entropix.datasets.load` takes.
        options: see `ScheduleOptions`.

    Returns:
        The record, which is also written to the output folder, with report, figures, schedules and
        networks. Its variables are listed in `entropix.studies.schedule.study.SCHEMA`.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the output folder cannot be written to any more; `resume` continues the run.
    """
    return prepare_schedule(source, options).run()


def prepare_schedule(
    source: str | os.PathLike[str] | Dataset,
    options: ScheduleOptions = ScheduleOptions(),
    *,
    command: Sequence[str] = (),
) -> "ScheduleStudy":
    """Check the request and claim the output folder: the study of `schedule`, ready to run.

    Args and errors are those of `schedule`; `command` is the command line, if the request came
    from one. Nothing is left behind if the request is refused.
    """
    comparison = options.comparison
    _check(options)
    process = make_process(options.process)
    if not process.is_static or not process.is_finite:
        raise ValueError(
            "`process` must have an equilibrium that stays where it is, vp, vpx, sl or cosine, "
            f"got {process_name(options.process)!r}."
        )
    data = prepare_data(read(source, options.data), options.data)
    if comparison.model == "exact" and data.distribution is None:
        raise ValueError(
            "`model` must be auto or trained for data whose density is not known, got 'exact'."
        )
    exact = data.distribution is not None and comparison.model != "trained" and not comparison.train
    settings = checked_training(options.training, data, process)
    options = dataclasses.replace(options, training=settings)
    workspace = Workspace.claim(
        options.output,
        name=f"schedule-{data.dataset.name}",
        configuration={
            "study": "schedule",
            "process": process_name(options.process),
            **process_parameters(options.process),
            **dataclasses.asdict(settings),
            **dataclasses.asdict(options.data),
            **dataclasses.asdict(options.search),
            "exact": exact,
            "train": comparison.train,
            "sampler": comparison.sampler,
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return ScheduleStudy(workspace, options, data, process, exact)


def _check(options: ScheduleOptions) -> None:
    search, comparison = options.search, options.comparison
    if not search.objective:
        raise ValueError("`objective` must name at least one objective, got none.")
    for objective in search.objective:
        choice(objective, "objective", OBJECTIVES)
    positive_integer(search.iterations, "iterations")
    positive_integer(search.knots, "knots", 4)
    positive_integer(search.target_steps, "target_steps", 2)
    choice(comparison.sampler, "sampler", tuple(_SAMPLERS))
    choice(comparison.model, "model", ("auto", "exact", "trained"))
    if not comparison.steps_compared:
        raise ValueError("`steps_compared` must hold at least one number of steps, got none.")
    for count in comparison.steps_compared:
        positive_integer(count, "steps_compared", 2)
    positive_integer(comparison.samples, "samples", 2)
    positive_integer(comparison.evaluations, "evaluations", 2)
    if comparison.train and comparison.model == "exact":
        raise ValueError("`model` must be auto or trained together with `train`, got 'exact'.")


@dataclasses.dataclass(frozen=True, eq=False)
class ScheduleStudy(AbstractStudy):
    """A study of schedules that is ready to run.

    Attributes:
        workspace: the claimed output folder.
        options: as requested, with the batch size filled in.
        data: in the coordinates of the model.
        process: the forward process to start from.
        exact: whether the exact model of a known density is used, or else trained networks.
    """

    workspace: Workspace
    options: ScheduleOptions
    data: PreparedData
    process: AbstractGaussianProcess
    exact: bool

    @property
    def training(self) -> Training:
        """Of the networks."""
        return training(self.options.training)

    @property
    def cells(self) -> dict[str, int]:
        """All networks are trained together, if any are."""
        return {"training": 0 if self.exact else num_steps(self.options.training)}

    @property
    def objectives(self) -> tuple[str, ...]:
        """The distinct objectives, in the order requested."""
        return tuple(dict.fromkeys(self.options.search.objective))

    @property
    def num_samples(self) -> int:
        """The number of samples on each side of a W2."""
        wanted = self.options.comparison.samples
        if self.data.distribution is not None:
            return wanted
        return min(wanted, len(self.data.held_out), self.data.num_train)

    def hand_designed(self) -> tuple[Candidate, ...]:
        """The schedules with which the optimised ones are compared."""
        numbers = process_parameters(self.options.process)
        linear = LinearSchedule(numbers.get("beta_min", 0.1), numbers.get("beta_max", 16.0))
        return hand_designed(linear, equilibrium_std(self.process))

    def make_model(self, process: AbstractGaussianProcess) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model."""
        data = self.data
        return make_models(self.options.training, data.train, process, data.example_shape)

    def attributes(self) -> dict[str, Any]:
        options = self.options
        model = "the exact model of the known density"
        if not self.exact:
            model = training_text(options.training, self.process)
            model += ", times uniform in the schedule" if options.comparison.train else ""
        return {
            "title": f"entropix schedule: {self.data.dataset.name}",
            **data_attributes(self.data),
            "process": process_name(options.process),
            "process_text": process_text(options.process),
            "model": "exact" if self.exact else "trained",
            "model_text": model,
            "search_text": f"{', '.join(self.objectives)}; at most {options.search.iterations} "
            f"steps of the optimiser, {options.search.knots} knots, "
            f"{options.search.target_steps} sampling steps",
            "sampler": options.comparison.sampler,
            "sampler_text": f"{_SAMPLERS[options.comparison.sampler]}, one evaluation per step",
            "num_samples": self.num_samples,
            "target_steps": options.search.target_steps,
            "evaluations": options.comparison.evaluations,
        }

    def measure(self, task: Task) -> Outcome:
        fits = None if self.exact else self._fit(task, self.process)
        per_seed, schedules, modules = [], [], {}
        count = len(self.objectives)
        rounds = len(self.training.seeds) * (2 * count + len(self.hand_designed()))
        keys = self.training.keys(_STUDY)
        with progress_bar(rounds, "measuring", "estimate", show=task.show) as bar:
            for i, (seed, key) in enumerate(zip(self.training.seeds, keys, strict=True)):
                if fits is None:
                    assert self.data.distribution is not None
                    model = ExactModel(self.data.distribution, self.process)
                else:
                    model = fits.member(i)
                found, candidates = measure_seed(self, model, key, bar)
                per_seed.append(found)
                schedules.append(candidates)
                for c in candidates[:count]:
                    modules[f"schedule-{c.name}-{seed}.eqx"] = c.process
        values = {name: np.stack([found[name] for found in per_seed], -1) for name in per_seed[0]}
        values["hand_designed"] = np.array([int(c.hand_designed) for c in schedules[0]])
        if self.options.comparison.train:
            assert fits is not None
            # With the schedule of the first seed, for all seeds.
            checkpoint = self.workspace.folder.path / RETRAINING
            again = dataclasses.replace(task, checkpoint=checkpoint)
            after = self._fit(again, schedules[0][0].process)
            values |= compare_training(self, fits, after)
            fits = after
        if fits is not None:
            modules |= models(self.training, fits)
        names = {
            "titles": [c.title for c in schedules[0]],
            "schedules": [c.name for c in schedules[0]],
        }
        return Outcome(values, names, modules)

    def _fit(self, task: Task, process: AbstractGaussianProcess) -> Any:
        return self.training.fit(
            task,
            self.make_model(process),
            data=self.data.augmented,
            steps=num_steps(self.options.training),
            process=process,
            holdout=self.data.held_out,
            # Only with times uniform in the schedule does the schedule matter in training.
            times=UniformTimes() if self.options.comparison.train else None,
        )

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        (values,) = found.values()
        names = attributes.pop("schedules")
        given = process_name(self.options.process)
        given = "linear" if given in ("vp", "vpx") else given
        coordinates = {
            "schedule": (names, "schedule"),
            "found": (list(self.objectives), "objective"),
            "steps": (list(self.options.comparison.steps_compared), "steps of the sampler"),
            "seed": (list(self.training.seeds), "seed of networks, optimisation and samples"),
            "iteration": (np.arange(self.options.search.iterations), "step of the optimiser"),
            "time": (np.linspace(0, 1, values["log_snr"].shape[1]), "fraction of time, from data"),
        }
        if self.options.comparison.train:
            coordinates["training"] = ([given, self.objectives[0]], "schedule of training")
        return assemble(SCHEMA, values, coordinates, attributes)

    def figures(self) -> Figures:
        return {
            "schedules.png": (
                "Log-SNR over the time of each schedule, first seed",
                plot_schedules,
            ),
            "prices.png": (
                "Kinetic action, and Monte Carlo errors with times uniform in the schedule",
                plot_costs,
            ),
            "steps.png": (
                "W2 to data, and distance to many steps, against the number of steps",
                plot_steps,
            ),
        }

    def report(self, record: "xarray.Dataset") -> Report:
        return schedule_report(record)
