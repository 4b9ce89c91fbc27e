"""Preparing a study of schedules: everything that can be wrong with a request is found here."""

import dataclasses
import os
from collections.abc import Callable, Sequence

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive_integer
from entropix.datasets import Dataset
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import FourierMLP
from entropix.processes import LinearSchedule
from entropix.studies.data import PreparedData, prepare_data
from entropix.studies.options import ConditionOptions
from entropix.studies.processes import make_process, process_parameters
from entropix.studies.run import Run, check_packages, prepare_run
from entropix.studies.schedule.candidates import Candidate, made_by_hand
from entropix.studies.schedule.options import OBJECTIVES, ScheduleOptions
from entropix.studies.schedule.sampling import equilibrium_std


@dataclasses.dataclass(frozen=True, eq=False)
class SchedulePlan:
    """A study of schedules that is ready to run.

    Attributes:
        options: as asked for.
        data: in the coordinates of the model.
        exact: whether the fields of the known distribution are used, or else those of networks.
        run: the training, and where results are written.
    """

    options: ScheduleOptions
    data: PreparedData
    exact: bool
    run: Run

    @property
    def command(self) -> tuple[str, ...]:
        """The words that would repeat it, if it came from a command line."""
        return self.run.command

    @property
    def objectives(self) -> tuple[str, ...]:
        """Each one once, in the order asked for."""
        return tuple(dict.fromkeys(self.options.search.objective))

    @property
    def given(self) -> str:
        """The schedule of the process to start from, by name."""
        name = self.options.process.process
        return "linear" if name in ("vp", "vpx") else name

    @property
    def num_samples(self) -> int:
        """Samples on either side of a W2."""
        wanted = self.options.comparison.samples
        if self.data.distribution is not None:
            return wanted
        return min(wanted, len(self.data.held_out), len(self.data.train))

    def made_by_hand(self) -> tuple[Candidate, ...]:
        """What the schedules that are found have to beat."""
        numbers = process_parameters(self.options.process)
        linear = LinearSchedule(numbers.get("beta_min", 0.1), numbers.get("beta_max", 16.0))
        return made_by_hand(linear, equilibrium_std(self.run.process))

    def make_model(self, process: AbstractGaussianProcess) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model."""
        scaling = GaussianScaling.from_data(self.data.train, process)
        widths = self.run.training.widths

        def make(key: Key) -> EntropyMatching:
            return EntropyMatching(
                FourierMLP(self.data.dim, widths=widths, key=key), process, scaling
            )

        return make


def prepare_schedule(
    source: str | os.PathLike[str] | Dataset,
    options: ScheduleOptions | None = None,
    *,
    command: Sequence[str] = (),
) -> SchedulePlan:
    """Check everything, read the data, and claim the output folder.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `ScheduleOptions`; None for the defaults.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    options = ScheduleOptions() if options is None else options
    check_packages(plots=options.output.plots)
    _check(options)
    process = make_process(options.process)
    if not process.is_static or not process.is_finite:
        raise ValueError(
            "`process` must have an equilibrium that stays where it is, vp, vpx, sl or cosine, "
            f"got {options.process.process!r}."
        )
    data = prepare_data(source, options.data, ConditionOptions())
    comparison = options.comparison
    if comparison.model == "exact" and data.distribution is None:
        raise ValueError(
            "`model` must be auto or trained for data whose density is not known, got 'exact'."
        )
    exact = data.distribution is not None and comparison.model != "trained" and not comparison.train
    run = prepare_run(
        options.process,
        options.training,
        options.output,
        name=f"schedule-{data.dataset.name}",
        num_samples=len(data.train),
        configuration={
            "study": "schedule",
            **dataclasses.asdict(options.data),
            **dataclasses.asdict(options.search),
            "exact": exact,
            "train": comparison.train,
            "sampler": comparison.sampler,
            "data_fingerprint": data.fingerprint,
        },
        command=command,
    )
    return SchedulePlan(options=options, data=data, exact=exact, run=run)


def _check(options: ScheduleOptions) -> None:
    search, comparison = options.search, options.comparison
    if not search.objective:
        raise ValueError("`objective` must name at least one objective, got none.")
    for objective in search.objective:
        choice(objective, "objective", OBJECTIVES)
    positive_integer(search.iterations, "iterations")
    positive_integer(search.knots, "knots", 4)
    positive_integer(search.target_steps, "target_steps", 2)
    choice(comparison.sampler, "sampler", ("ddim", "dpm"))
    choice(comparison.model, "model", ("auto", "exact", "trained"))
    if not comparison.steps_compared:
        raise ValueError("`steps_compared` must hold at least one number of steps, got none.")
    for count in comparison.steps_compared:
        positive_integer(count, "steps_compared", 2)
    positive_integer(comparison.samples, "samples", 2)
    positive_integer(comparison.evaluations, "evaluations", 2)
    if comparison.train and comparison.model == "exact":
        raise ValueError("`model` must be auto or trained together with `train`, got 'exact'.")
