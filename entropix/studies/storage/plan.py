"""Preparing a study of storage: everything that can be wrong with a request is found here."""

import dataclasses
import os
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive_integer
from entropix.datasets import Dataset, dequantise
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import FourierMLP, UNet
from entropix.studies.axis import Cutoff, choose_cutoff, default_cutoff
from entropix.studies.data import PreparedData, prepare_data
from entropix.studies.grid import CellTraining, Grid, increasing, prepare_grid, seed_labels
from entropix.studies.processes import make_process, process_parameters
from entropix.studies.run import check_packages
from entropix.studies.storage.options import StorageEstimation, StorageOptions


_LEAST = 50
# Noise draws of every sample of the largest set, and the memory they may take.
_MOST_DRAWS, _MOST_NUMBERS = 32, 2**25
# Folded into the seed of the data: the noise of dequantisation that networks are trained on.
_NOISE = 0xD1CE


@dataclasses.dataclass(frozen=True)
class StorageCell:
    """A place in the grid.

    Attributes:
        size: N, the number of training samples.
        length: of training.
        unit: of the length, steps or epochs.
        steps: length of training in steps.
    """

    size: int
    length: int
    unit: str
    steps: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"N{self.size}-{self.length}-{self.unit}"


@dataclasses.dataclass(frozen=True, eq=False)
class StoragePlan:
    """A study of storage that is ready to run.

    Attributes:
        options: as asked for.
        data: in the coordinates of the model, the same for all N.
        process: the forward process.
        cutoff: of the entropies, the same for all N.
        fallback: the cut-off of all of them, should one be infinite without.
        sizes: increasing.
        lengths: of training, increasing.
        unit: of the lengths, steps or epochs.
        training: of the networks.
        grid: the cells, and where results are written.
    """

    options: StorageOptions
    data: PreparedData
    process: AbstractGaussianProcess
    cutoff: Cutoff
    fallback: Cutoff
    sizes: tuple[int, ...]
    lengths: tuple[int, ...]
    unit: str
    training: CellTraining
    grid: Grid

    @property
    def command(self) -> tuple[str, ...]:
        """The words that would repeat it, if it came from a command line."""
        return self.grid.command

    @property
    def cells(self) -> list[StorageCell]:
        """Size by size."""
        return _cells(self.sizes, self.lengths, self.unit, self.training.batch_size)

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one example, as the network sees it."""
        if self.options.training.network == "unet":
            return self.data.dataset.shape
        return (self.data.dim,)

    def training_rows(self, size: int) -> np.ndarray:
        """The first `size` training samples, repeated; with dequantisation, in fresh noise.

        The rows are as many for all sizes, as far as they divide one another: then one program
        trains them all, and the samples are seen equally often.

        Returns:
            Shape (copies * size, *shape).
        """
        data = self.data
        largest = self.sizes[-1]
        draws = max(1, min(_MOST_DRAWS, _MOST_NUMBERS // (largest * data.dim)))
        copies = -(-largest * (draws if data.dequantised else 1) // size)
        if not data.dequantised:
            rows = np.tile(data.train[:size], (copies, 1))
            return rows.reshape(-1, *self.shape)
        raw = data.original.points[data.order[1][:size]]
        key = jax.random.fold_in(jax.random.key(self.options.data.data_seed), _NOISE)
        rows = np.concatenate(
            [np.asarray(dequantise(raw, key=jax.random.fold_in(key, i))) for i in range(copies)]
        )
        if data.projection is not None:
            rows = data.projection.forward(rows)
        return np.asarray(data.standardisation.forward(rows)).reshape(-1, *self.shape)

    def make_model(self, rows: np.ndarray) -> Callable[[Key], EntropyMatching]:
        """The function from a key to a model that has not seen more of the data than `rows`."""
        scaling = GaussianScaling.from_data(rows, self.process)
        widths, kind = self.options.training.widths, self.options.training.network

        def make(key: Key) -> EntropyMatching:
            network: Any
            if kind == "unet":
                network = UNet(self.shape, key=key)
            else:
                network = FourierMLP(self.data.dim, widths=widths, key=key)
            return EntropyMatching(network, self.process, scaling)

        return make


def prepare_storage(
    source: str | os.PathLike[str] | Dataset = "digits",
    options: StorageOptions | None = None,
    *,
    command: Sequence[str] = (),
) -> StoragePlan:
    """Check everything, read the data, and claim the output folder or join those who work in it.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `StorageOptions`; None for the defaults.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    options = StorageOptions() if options is None else options
    check_packages(plots=options.output.plots)
    t = options.training
    _check_estimation(options.estimation)
    process = make_process(options.process)
    choice(t.network, "network", ("mlp", "unet"))
    for width in t.widths:
        positive_integer(width, "widths")
    unit = "epochs" if t.epochs else "steps"
    lengths = increasing(t.epochs or t.steps, unit)
    training = CellTraining(
        seed_labels(t.seeds),
        t.batch_size,
        t.num_draws,
        t.learning_rate,
        t.checkpoint_every,
        t.patience,
    )
    data = prepare_data(source, options.data)
    sizes = _sizes(t.sizes, len(data.train))
    if t.network == "unet" and (data.dataset.kind != "image" or data.projection is not None):
        raise ValueError(
            f"`network` must be mlp for data that are no images, got 'unet' for "
            f"{data.dataset.name!r}."
        )
    if t.batch_size > sizes[-1]:
        raise ValueError(
            f"`batch_size` must be at most the largest of `sizes`, {sizes[-1]}, got {t.batch_size}."
        )
    cutoff = choose_cutoff(options.estimation.cutoff, process, data)
    fallback = default_cutoff(data, "chosen, because an entropy does not converge without")
    grid = prepare_grid(
        options.output,
        {cell.name: cell.steps for cell in _cells(sizes, lengths, unit, t.batch_size)},
        name=f"storage-{data.dataset.name}",
        configuration={
            "study": "storage",
            **dataclasses.asdict(options.data),
            "data_fingerprint": data.fingerprint,
            "process": options.process.process,
            **process_parameters(options.process),
            "sizes": list(sizes),
            **dataclasses.asdict(training),
            unit: list(lengths),
            "network": t.network,
            "widths": list(t.widths),
            **dataclasses.asdict(options.estimation),
        },
        command=command,
    )
    return StoragePlan(
        options=options,
        data=data,
        process=process,
        cutoff=cutoff,
        fallback=fallback,
        sizes=sizes,
        lengths=lengths,
        unit=unit,
        training=training,
        grid=grid,
    )


def _sizes(asked: tuple[int, ...], available: int) -> tuple[int, ...]:
    """The numbers of training samples."""
    if asked:
        sizes = increasing(asked, "sizes", 2)
        if sizes[-1] > available:
            raise ValueError(
                f"`sizes` must be at most the number of training samples, {available}, "
                f"got {sizes[-1]}."
            )
        return sizes
    unit = 10 ** max(len(str(available)) - 2, 0)
    largest = available // unit * unit
    sizes = [largest]
    size = _LEAST
    while size < 0.7 * largest:
        sizes.append(size)
        size *= 2
    return tuple(sorted(sizes))


def _check_estimation(options: StorageEstimation) -> None:
    positive_integer(options.evaluations, "evaluations", 256)
    positive_integer(options.samples, "samples", 2)
    positive_integer(options.sampling_steps, "sampling_steps")


def _cells(
    sizes: tuple[int, ...], lengths: tuple[int, ...], unit: str, batch_size: int
) -> list[StorageCell]:
    def steps(size: int, length: int) -> int:
        return length if unit == "steps" else -(-length * size // batch_size)

    return [StorageCell(n, length, unit, steps(n, length)) for n in sizes for length in lengths]
