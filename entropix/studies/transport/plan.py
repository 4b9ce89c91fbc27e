"""Preparing a study of transport: everything that can be wrong with a request is found here."""

import dataclasses
import hashlib
from collections.abc import Sequence

import jax
import numpy as np

from entropix._core.checks import choice, positive_integer
from entropix.distributions import GaussianMixture
from entropix.interfaces import AbstractGaussianProcess
from entropix.studies.data import check_seed
from entropix.studies.grid import CellTraining, Grid, increasing, prepare_grid, seed_labels
from entropix.studies.options import ProcessOptions
from entropix.studies.processes import make_process
from entropix.studies.run import check_packages
from entropix.studies.transport.mixtures import choose_mixtures
from entropix.studies.transport.options import TransportOptions


_DIMENSIONS, _FULL_DIMENSIONS = (2, 3), (2, 3, 6, 9)
_EPOCHS, _FULL_EPOCHS = (1, 2, 4, 8), (5, 10, 20, 50, 100, 200)
_PROCESSES = ("vp", "vpx", "sl")


@dataclasses.dataclass(frozen=True)
class TransportCell:
    """A place in the grid.

    Attributes:
        dim: D.
        process: by name.
        epochs: length of training.
    """

    dim: int
    process: str
    epochs: int

    @property
    def name(self) -> str:
        """Of its file."""
        return f"D{self.dim}-{self.process}-{self.epochs}-epochs"


@dataclasses.dataclass(frozen=True, eq=False)
class TransportPlan:
    """A study of transport that is ready to run.

    Attributes:
        options: as asked for.
        mixtures: by dimension.
        sources: where each of them comes from.
        processes: by name.
        epochs: increasing.
        training: of the networks.
        grid: the cells, and where results are written.
    """

    options: TransportOptions
    mixtures: dict[int, GaussianMixture]
    sources: dict[int, str]
    processes: dict[str, AbstractGaussianProcess]
    epochs: tuple[int, ...]
    training: CellTraining
    grid: Grid

    @property
    def command(self) -> tuple[str, ...]:
        """The words that would repeat it, if it came from a command line."""
        return self.grid.command

    @property
    def cells(self) -> list[TransportCell]:
        """Dimension by dimension, process by process."""
        return _cells(self.mixtures, self.processes, self.epochs)

    def steps(self, epochs: int) -> int:
        """Steps of so many epochs."""
        return epochs * (self.options.mixtures.num_samples // self.training.batch_size)

    def samples(self, dim: int) -> tuple[np.ndarray, np.ndarray]:
        """Samples to train on, and others to measure on: the same for all processes and seeds."""
        key = jax.random.fold_in(jax.random.key(self.options.mixtures.data_seed), dim)
        mixture, count = self.mixtures[dim], self.options.mixtures.num_samples
        train, held_out = (mixture.sample(count, key=k) for k in jax.random.split(key))
        return np.asarray(train), np.asarray(held_out)


def prepare_transport(
    options: TransportOptions | None = None, *, command: Sequence[str] = ()
) -> TransportPlan:
    """Check everything, and claim the output folder or join those who work in it.

    Args:
        options: see `TransportOptions`; None for the defaults.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    options = TransportOptions() if options is None else options
    check_packages(plots=options.output.plots)
    asked, t = options.mixtures, options.training
    positive_integer(asked.num_samples, "num_samples", 2)
    check_seed(asked.data_seed, "data_seed")
    check_seed(asked.mixture_seed, "mixture_seed")
    positive_integer(options.estimation.evaluations, "evaluations", 256)
    dimensions = increasing(asked.dimensions, "dimensions") if asked.dimensions else ()
    mixtures, sources = choose_mixtures(
        dimensions,
        asked.mixtures,
        asked.mixture_seed,
        _FULL_DIMENSIONS if t.full else _DIMENSIONS,
    )
    epochs = increasing(t.epochs or (_FULL_EPOCHS if t.full else _EPOCHS), "epochs")
    if not t.processes:
        raise ValueError("`processes` must name at least one process, got none.")
    processes: dict[str, AbstractGaussianProcess] = {}
    for name in t.processes:
        choice(name, "processes", _PROCESSES)
        processes[name] = make_process(ProcessOptions(process=name))
    for width in t.widths:
        positive_integer(width, "widths")
    training = CellTraining(
        seed_labels(t.seeds), t.batch_size, t.num_draws, t.learning_rate, t.checkpoint_every
    )
    if t.batch_size > asked.num_samples:
        raise ValueError(
            f"`batch_size` must be at most `num_samples`, {asked.num_samples}, got {t.batch_size}."
        )
    per_epoch = asked.num_samples // t.batch_size
    grid = prepare_grid(
        options.output,
        {cell.name: cell.epochs * per_epoch for cell in _cells(mixtures, processes, epochs)},
        name="transport",
        configuration={
            "study": "transport",
            "dimensions": list(mixtures),
            "mixtures": {str(dim): fingerprint(mixture) for dim, mixture in mixtures.items()},
            "num_samples": asked.num_samples,
            "data_seed": asked.data_seed,
            "processes": list(processes),
            "epochs": list(epochs),
            **dataclasses.asdict(training),
            "widths": list(t.widths),
            "evaluations": options.estimation.evaluations,
        },
        command=command,
    )
    return TransportPlan(options, mixtures, sources, processes, epochs, training, grid)


def fingerprint(mixture: GaussianMixture) -> str:
    """A hash of the parameters of a mixture."""
    digest = hashlib.sha256()
    for part in (mixture.weights, mixture.means, mixture.stds):
        digest.update(np.asarray(part, np.float32).tobytes())
    return digest.hexdigest()[:16]


def _cells(
    mixtures: dict[int, GaussianMixture],
    processes: dict[str, AbstractGaussianProcess],
    epochs: tuple[int, ...],
) -> list[TransportCell]:
    return [TransportCell(d, p, e) for d in mixtures for p in processes for e in epochs]
