"""Preparing a measurement: everything that can be wrong with a request is found here.

`prepare_measure` reads and checks all it is given, and raises `ValueError` in one line before any
training starts and without leaving anything behind. What it returns can only fail by a mistake of
the program, a machine that gives out, or numbers that diverge.
"""

import dataclasses
import importlib.util
import os
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import diffrax
import equinox
import jax
import numpy as np
import optax

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix._core.interfaces import AbstractGaussianProcess
from entropix.datasets import Dataset
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import ConditionDropout, FourierMLP
from entropix.studies.axis import Cutoff, choose_cutoff, report_times
from entropix.studies.data import PreparedData, check_seed, prepare_data
from entropix.studies.files import CHECKPOINT, OF_A_RUN, PARTS_OF_A_RUN
from entropix.studies.folder import OutputFolder
from entropix.studies.options import EstimationOptions, MeasureOptions, TrainingOptions
from entropix.studies.processes import make_process, process_parameters
from entropix.training.archive import package_version, read_archive


_DEFAULT_BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class MeasurePlan:
    """A measurement that is ready to run.

    Attributes:
        options: as asked for, what was left out filled in.
        data: in the coordinates of the model.
        process: the forward process.
        cutoff: of the entropies.
        times: where curves are reported.
        folder: claimed, and empty but for an earlier run of the same configuration.
        command: the words that would repeat it, if it came from a command line.
        configuration: what a resumed run must share.
    """

    options: MeasureOptions
    data: PreparedData
    process: AbstractGaussianProcess
    cutoff: Cutoff
    times: np.ndarray
    folder: OutputFolder
    command: tuple[str, ...]
    configuration: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """The labels of the networks."""
        first = self.options.training.seed
        return list(range(first, first + self.options.training.seeds))

    @property
    def weighting(self) -> str:
        """Of the loss: maximum likelihood, unless its entropy is infinite."""
        return "likelihood" if self.process.is_finite else "uniform"

    def make_model(self) -> Callable[[Key], EntropyMatching]:
        """The function from a key to an untrained model."""
        scaling = GaussianScaling.from_data(self.data.train, self.process)
        widths = self.options.training.widths

        def make(key: Key) -> EntropyMatching:
            network = self._network(widths, key)
            return EntropyMatching(network, self.process, scaling)

        return make

    def _network(self, widths: tuple[int, ...], key: Key) -> Any:
        """For the data alone, or for data with a condition and without."""
        condition = self.data.condition
        if condition is None:
            return FourierMLP(self.data.dim, widths=widths, key=key)
        size = condition.dim + 1  # and a one, where there is a condition
        network = FourierMLP(self.data.dim, widths=widths, condition_dim=size, key=key)
        rate = self.options.condition.condition_dropout
        return ConditionDropout(network, condition.dim, rate)


def prepare_measure(
    source: str | os.PathLike[str] | Dataset,
    options: MeasureOptions = MeasureOptions(),
    *,
    command: Sequence[str] = (),
) -> MeasurePlan:
    """Check everything, read the data, and claim the output folder.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `MeasureOptions`.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    _check_packages(plots=options.output.plots)
    _check_estimation(options.estimation)
    process = make_process(options.process)
    data = prepare_data(source, options.data, options.condition)
    training = _checked_training(options.training, len(data.train))
    options = dataclasses.replace(options, training=training)
    cutoff = choose_cutoff(options.estimation.cutoff, process, data)
    name = re.sub(r"[^\w.-]+", "-", data.dataset.name).strip("-.") or "data"
    output = options.output
    folder = OutputFolder(f"entropix-{name}" if output.out is None else output.out)
    folder.check(resume=output.resume, overwrite=output.overwrite)
    configuration = {
        **dataclasses.asdict(options.data),
        **({} if data.condition is None else dataclasses.asdict(options.condition)),
        "process": options.process.process,
        **process_parameters(options.process),
        **dataclasses.asdict(training),
        "data_fingerprint": data.fingerprint,
        "versions": versions(),
    }
    checkpoint = folder.path / CHECKPOINT
    if output.resume and checkpoint.exists():
        read_archive(checkpoint, "entropix checkpoint")
    found = folder.claim(configuration, resume=output.resume)
    _clear(folder.path, PARTS_OF_A_RUN if found else OF_A_RUN)
    return MeasurePlan(
        options=options,
        data=data,
        process=process,
        cutoff=cutoff,
        times=report_times(process, data, cutoff),
        folder=folder,
        command=tuple(word for word in command if word not in ("--resume", "--overwrite")),
        configuration=configuration,
    )


def versions() -> dict[str, str]:
    """Versions on which the digits of a result depend."""
    others = {module.__name__: module.__version__ for module in (jax, equinox, diffrax, optax)}
    return {"entropix": package_version(), **others}


def _check_packages(*, plots: bool) -> None:
    wanted = ["tqdm", "xarray", "h5netcdf"] + (["matplotlib"] if plots else [])
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"this study needs {', '.join(missing)}: pip install 'entropix[studies]'.")


def _check_estimation(options: EstimationOptions) -> None:
    positive_integer(options.evaluations, "evaluations", 256)
    positive_integer(options.density_evaluations, "density_evaluations", 16)
    if options.density_evaluations % 2:
        raise ValueError(f"`density_evaluations` must be even, got {options.density_evaluations}.")
    positive_integer(options.samples, "samples", 2)
    positive_integer(options.sampling_steps, "sampling_steps")


def _checked_training(options: TrainingOptions, num_samples: int) -> TrainingOptions:
    """The options, the batch size filled in."""
    for name in ("seeds", "steps", "num_draws", "checkpoint_every"):
        positive_integer(getattr(options, name), name)
    positive(options.learning_rate, "learning_rate")
    for seed in (options.seed, options.seed + options.seeds - 1):
        check_seed(seed, "seed")
    if not options.widths:
        raise ValueError("`widths` must hold at least one hidden size, got none.")
    for width in options.widths:
        positive_integer(width, "widths")
    if options.batch_size is None:
        return dataclasses.replace(options, batch_size=min(_DEFAULT_BATCH, num_samples))
    positive_integer(options.batch_size, "batch_size")
    if options.batch_size > num_samples:
        raise ValueError(
            f"`batch_size` must be at most the number of training samples, {num_samples}, "
            f"got {options.batch_size}."
        )
    return options


def _clear(folder: Path, patterns: tuple[str, ...]) -> None:
    """Remove what an earlier run left, so that nothing of it is taken for part of the new one."""
    for pattern in patterns:
        for file in folder.glob(pattern):
            file.unlink()
