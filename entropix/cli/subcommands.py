"""The commands: each turns its options into a study of `entropix.studies`, ready to run."""

import functools
from collections.abc import Callable
from typing import Annotated, Any

from entropix._core.extras import needed
from entropix.cli.cache import use_cache
from entropix.datasets import available
from entropix.studies import (
    AbstractStudy,
    InformationOptions,
    MeasureOptions,
    MutualInformationOptions,
    prepare_information,
    prepare_measure,
    prepare_mutual_information,
)
from entropix.studies.schedule import ScheduleOptions, prepare_schedule
from entropix.studies.storage import StorageOptions, prepare_storage
from entropix.studies.transport import TransportOptions, prepare_transport


_DATA = (
    "A file (.npy, .npz, .csv, .tsv, .xlsx, .parquet, IDX), a folder of PNG images, MNIST, "
    "CIFAR-10 (binary form), a Hugging Face data set (a folder written by save_to_disk, or "
    f"hf:user/name), or the name of an embedded data set: {', '.join(available())}."
)
_TOKENS = " Sequences of tokens: FASTA, a text with --tokens char, integers with --tokens int."

Prepared = Callable[[], AbstractStudy]


def commands(words: list[str]) -> dict[str, Callable[..., Any]]:
    """The commands: functions that return the function that checks the request.

    The check is not done while options are parsed, so that its errors are not reported as errors
    of parsing.

    Args:
        words: the words after `entropix`, which become part of the study.

    Raises:
        ImportError: if tyro is not installed.
    """
    arg = needed("tyro.conf", "the command line", "tyro", "studies").arg
    data, group = arg(metavar="[DATA]", help=_DATA), arg(name="")
    measured = arg(metavar="[DATA]", help=_DATA + _TOKENS)

    def prepared(prepare: Callable[..., AbstractStudy], *arguments: Any) -> Prepared:
        whole = functools.partial(prepare, *arguments, command=["entropix", *words])

        def run() -> AbstractStudy:
            use_cache(arguments[-1].output.cache)
            return whole()

        return run

    def measure(
        source: Annotated[str, measured] = "digits",
        /,
        options: Annotated[MeasureOptions, group] = MeasureOptions(),
    ) -> Prepared:
        """Train entropy-matching models on DATA and measure what they store.

        With --model nothing is trained, and what that model stores about DATA is measured. Results:
        the neural entropy S_NN with its standard error, the entropy curve, a bound on the
        negative log-likelihood, KL if the density of the data is known, W2 between data and
        samples, the speed limit, and the mutual information of labels and data. They are printed as
        a table, and written to the output folder: report.md, figures, and results.nc.
        """
        return prepared(prepare_measure, source, options)

    def information(
        first: Annotated[str, arg(metavar="A", help="The first data set. " + _DATA)],
        second: Annotated[str, arg(metavar="B", help="The second, in the same coordinates.")],
        /,
        options: Annotated[InformationOptions, group] = InformationOptions(),
    ) -> Prepared:
        """Train one model of two data sets A and B and measure how much they differ.

        Results: KL(A || B) and KL(B || A) with their standard errors, the exact values if both
        densities are known, and W2 compared with that of equal sets. They are printed as a table,
        and written to the output folder: report.md, figures, and results.nc. Rows are not paired:
        for the information that one variable has about another, see mutual-information.
        """
        return prepared(prepare_information, first, second, options)

    def mutual_information(
        first: Annotated[str, arg(metavar="X", help="The variable X, or a table. " + _DATA)],
        second: Annotated[
            str | None,
            arg(metavar="[Y]", help="The variable Y, paired with X row by row."),
        ] = None,
        /,
        options: Annotated[MutualInformationOptions, group] = MutualInformationOptions(),
    ) -> Prepared:
        """Estimate the mutual information of paired samples X and Y.

        X and Y are two files with equally many rows, two groups of columns of one table (--x, --y),
        or a data set and its labels. Networks are trained by cross-fitting. Results: I(X; Y) with
        its errors, the value for Gaussians, and the pointwise information of each sample. They are
        printed as a table, and written to the output folder: report.md, a figure, and results.nc.
        """
        return prepared(prepare_mutual_information, first, second, options)

    def schedule(
        source: Annotated[str, data] = "mixture2",
        /,
        options: Annotated[ScheduleOptions, group] = ScheduleOptions(),
    ) -> Prepared:
        """Optimise noise schedules for DATA and compare them with hand-designed ones.

        Results: the kinetic action, the efficiency of the speed limit, the Monte Carlo error of
        S_NN, and W2 between data and samples of few steps, for the optimised schedules and for the
        linear, cosine, straight-line, rectified-flow and EDM schedules. They are printed as tables,
        and written to the output folder: report.md, figures, and results.nc.
        """
        return prepared(prepare_schedule, source, options)

    def transport(options: Annotated[TransportOptions, group] = TransportOptions()) -> Prepared:
        """Measure what networks store of Gaussian mixtures as a function of training time.

        Results: S_NN, the exact S_tot and the path KL to the exact field, for several dimensions,
        processes, lengths of training and seeds. They are printed as a table, and written to the
        output folder: report.md, figures, and results.nc. Each cell of this grid is a separate
        file: processes started with the same command and --resume share the work, on one machine or
        several.
        """
        return prepared(prepare_transport, options)

    def storage(
        source: Annotated[str, measured] = "digits",
        /,
        options: Annotated[StorageOptions, group] = StorageOptions(),
    ) -> Prepared:
        """Measure what networks store of DATA as a function of the number of training samples.

        Results: S_NN on held-out data for several numbers N of training samples and lengths of
        training, its slope in log N, S_NN / S_tot if the density of the data is known, and how many
        of the generated samples are memorised. They are printed as a table, and written to the
        output folder: report.md, figures, and results.nc. Each cell of this grid is a separate
        file: processes started with the same command and --resume share the work, on one machine or
        several.
        """
        return prepared(prepare_storage, source, options)

    return {
        "measure": measure,
        "divergence": information,
        "information": information,  # its former name
        "mutual-information": mutual_information,
        "schedule": schedule,
        "transport": transport,
        "storage": storage,
    }
