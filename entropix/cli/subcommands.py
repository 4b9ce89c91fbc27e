"""The subcommands: each turns its options into a job of `entropix.studies`."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Annotated, Any

from entropix._core.extras import needed
from entropix.datasets import available
from entropix.studies import (
    ConditionOptions,
    DataOptions,
    DivergenceOptions,
    EstimationOptions,
    InformationOptions,
    MeasureOptions,
    OutputOptions,
    ProcessOptions,
    TrainingOptions,
    prepare_information,
    prepare_measure,
    run_information,
    run_measure,
)
from entropix.studies.schedule import (
    ComparisonOptions,
    ScheduleOptions,
    SearchOptions,
    prepare_schedule,
    run_schedule,
)
from entropix.studies.storage import (
    StorageEstimation,
    StorageOptions,
    StorageTraining,
    prepare_storage,
    run_storage,
)
from entropix.studies.transport import (
    MixtureOptions,
    TransportEstimation,
    TransportOptions,
    TransportTraining,
    prepare_transport,
    run_transport,
)


_SOURCE_HELP = (
    "A file (.npy, .npz, .csv, .parquet, IDX), a folder of PNG images, MNIST or CIFAR-10 as they "
    "are distributed, a Hugging Face dataset (a folder of save_to_disk, or hf:user/name), or the "
    f"name of an embedded set: {', '.join(available())}."
)


@dataclasses.dataclass(frozen=True)
class Job:
    """A study that has been checked, and is ready to run.

    Attributes:
        run: all that is left to do.
        command: the words that would repeat it.
        resumable: whether the same words with `--resume` take it up when it was interrupted.
    """

    run: Callable[[], Any]
    command: tuple[str, ...]
    resumable: bool = True


def _job(
    prepare: Callable[..., Any], run: Callable[[Any], Any], words: list[str], *arguments: Any
) -> Job:
    """Check a request; what `prepare` returns knows its command, and `run` takes it."""
    plan = prepare(*arguments, command=["entropix", *words])
    return Job(functools.partial(run, plan), plan.command)


def commands(words: list[str]) -> dict[str, Callable[..., Any]]:
    """The subcommands, each a function that returns the function that makes its job.

    So no error of a study can be taken for one of parsing.

    Args:
        words: what was typed after `entropix`, for the job to know.

    Raises:
        ValueError: if tyro is not installed.
    """
    arg = needed("tyro.conf", "the command line", "tyro", "studies").arg

    def measure(
        source: Annotated[str, arg(metavar="[DATA]", help=_SOURCE_HELP)] = "digits",
        /,
        data: DataOptions = DataOptions(),
        process: ProcessOptions = ProcessOptions(),
        training: TrainingOptions = TrainingOptions(),
        estimation: EstimationOptions = EstimationOptions(),
        condition: ConditionOptions = ConditionOptions(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Train entropy-matching models on DATA and measure what they store.

        Reports the neural entropy S_NN with its standard error, the entropy curve, a bound on the
        negative log-likelihood, KL where the truth is known, W2 between data and samples, the speed
        limit, and what labels tell of the data: a table here, report.md, plots, and results.nc in
        the output folder.

        Args:
            source: What to measure.
            data: How the data are read, split and put into the model's coordinates.
            process: The forward process, in the model's coordinates.
            training: The network and its training. All seeds are trained as one program.
            estimation: What is spent on measuring. Every number has its standard error.
            condition: Labels whose information about the data is measured with all else.
            output: Where results go.
        """
        options = MeasureOptions(data, process, training, estimation, output, condition)
        return functools.partial(_job, prepare_measure, run_measure, words, source, options)

    def schedule(
        source: Annotated[str, arg(metavar="[DATA]", help=_SOURCE_HELP)] = "mixture2",
        /,
        data: DataOptions = DataOptions(),
        process: ProcessOptions = ProcessOptions(),
        search: SearchOptions = SearchOptions(),
        comparison: ComparisonOptions = ComparisonOptions(),
        training: TrainingOptions = TrainingOptions(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Optimise noise schedules for DATA, and compare them with those made by hand.

        Reports the kinetic action, the efficiency of the speed limit, the Monte Carlo error of
        S_NN, and W2 between data and samples of few steps, beside the linear, cosine, straight-line
        and rectified-flow schedules and the steps of EDM: tables here, report.md, plots, and
        results.nc in the output folder.

        Args:
            source: What to optimise for.
            data: How the data are read, split and put into the model's coordinates.
            process: The forward process to start from, in the model's coordinates.
            search: What the schedule is optimised for.
            comparison: How the schedules are compared.
            training: Networks and their training, where no exact model is used; and the seeds.
            output: Where results go.
        """
        options = ScheduleOptions(data, process, search, comparison, training, output)
        return functools.partial(_job, prepare_schedule, run_schedule, words, source, options)

    def information(
        first: Annotated[str, arg(metavar="A", help="The first set. " + _SOURCE_HELP)],
        second: Annotated[str, arg(metavar="B", help="The second set, of the same coordinates.")],
        /,
        data: DataOptions = DataOptions(),
        process: ProcessOptions = ProcessOptions(),
        training: TrainingOptions = TrainingOptions(),
        estimation: DivergenceOptions = DivergenceOptions(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Train one model of two data sets A and B and measure what separates them.

        Reports KL(A || B) and KL(B || A) with their standard errors, the truth where it is known,
        and W2 beside that of equal sets: a table here, report.md, plots, and results.nc in the
        output folder.

        Args:
            first: The first set.
            second: The second set.
            data: How the data are read, split and put into the model's coordinates.
            process: The forward process, in the model's coordinates.
            training: The network and its training. All seeds are trained as one program.
            estimation: What is spent on comparing. Every number has its standard error.
            output: Where results go.
        """
        options = InformationOptions(data, process, training, estimation, output)
        prepare = functools.partial(prepare_information, first)
        return functools.partial(_job, prepare, run_information, words, second, options)

    def transport(
        mixtures: MixtureOptions = MixtureOptions(),
        training: TransportTraining = TransportTraining(),
        estimation: TransportEstimation = TransportEstimation(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Measure what networks store of Gaussian mixtures, the longer they are trained.

        Reports S_NN beside the exact S_tot, and the path KL to the exact field, for several
        dimensions, processes, lengths of training and seeds: a table here, report.md, plots, and
        results.nc in the output folder. Every cell of that grid is a file of its own: processes
        started with the same words and --resume share the work, on one machine or on many.

        Args:
            mixtures: The data.
            training: The networks and their training. All seeds are trained as one program.
            estimation: What is spent on measuring. Every number has its standard error.
            output: Where results go.
        """
        options = TransportOptions(mixtures, training, estimation, output)
        return functools.partial(_job, prepare_transport, run_transport, words, options)

    def storage(
        source: Annotated[str, arg(metavar="[DATA]", help=_SOURCE_HELP)] = "digits",
        /,
        data: DataOptions = StorageOptions().data,
        process: ProcessOptions = ProcessOptions(),
        training: StorageTraining = StorageTraining(),
        estimation: StorageEstimation = StorageEstimation(),
        output: OutputOptions = OutputOptions(),
    ) -> Any:
        """Measure what networks store of DATA, the more samples they are trained on.

        Reports S_NN on held-out data for several numbers N of training samples and lengths of
        training, the slope of its logarithm in N, S_NN / S_tot where the truth is known, and how
        much of what the networks generate they have by heart: a table here, report.md, plots, and
        results.nc in the output folder. Every cell of that grid is a file of its own: processes
        started with the same words and --resume share the work, on one machine or on many.

        Args:
            source: What to store.
            data: How the data are read, split and put into the model's coordinates.
            process: The forward process, in the model's coordinates.
            training: The networks and their training. All seeds are trained as one program.
            estimation: What is spent on measuring. Every number has its standard error.
            output: Where results go.
        """
        options = StorageOptions(data, process, training, estimation, output)
        return functools.partial(_job, prepare_storage, run_storage, words, source, options)

    return {
        "measure": measure,
        "information": information,
        "schedule": schedule,
        "transport": transport,
        "storage": storage,
    }
