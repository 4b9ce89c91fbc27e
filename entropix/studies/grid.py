"""What studies over a grid of cells share: the folder, the seeds, and the training of one cell."""

import dataclasses
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching
from entropix.persistence import Checkpoint
from entropix.studies.cells import Arrays, Cells, Task
from entropix.studies.folder import OutputFolder
from entropix.studies.options import OutputOptions
from entropix.studies.run import versions
from entropix.training import Denoising, EnsembleFit, Holdout, fit_ensemble


R = TypeVar("R")
# Those of the paper (2409.03817); further ones follow the last.
_SEEDS = (1, 7, 17, 23)
# Folded into the key of a seed: what follows training draws other numbers than training does.
_ESTIMATES = 0xCE11
# Steps over which a training loss is averaged.
_LOSSES = 100


@dataclasses.dataclass(frozen=True, eq=False)
class CellTraining:
    """How the networks of every cell are trained, all seeds as one program.

    Attributes:
        seeds: labels of the networks.
        batch_size: samples per step.
        num_draws: noise draws per sample.
        learning_rate: peak of the cosine, which ends at zero with the last step of the cell.
        checkpoint_every: steps between checkpoints.
        patience: steps without a new least held-out loss after which a network stops; None: all
            networks take all steps.
    """

    seeds: tuple[int, ...]
    batch_size: int
    num_draws: int
    learning_rate: float
    checkpoint_every: int
    patience: int | None = None

    def __post_init__(self):
        for name in ("batch_size", "num_draws", "checkpoint_every"):
            positive_integer(getattr(self, name), name)
        positive(self.learning_rate, "learning_rate")
        if self.patience is not None:
            positive_integer(self.patience, "patience")

    def train(
        self,
        task: Task,
        make_model: Callable[[Key], EntropyMatching],
        data: np.ndarray,
        steps: int,
        process: AbstractGaussianProcess,
        holdout: np.ndarray | None = None,
    ) -> tuple[EnsembleFit, np.ndarray]:
        """Networks for all seeds, from the checkpoint of the cell on if there is one.

        Args:
            task: the cell.
            make_model: from a key to an untrained model.
            data: shape (N, *shape).
            steps: in all.
            process: that of the models.
            holdout: held-out samples, for `patience`.

        Returns:
            The networks, and their training loss over the last steps, shape (seeds,).
        """
        fits = fit_ensemble(
            make_model,
            data,
            keys=[jax.random.key(seed) for seed in self.seeds],
            steps=steps,
            batch_size=self.batch_size,
            loss=Denoising(
                self.num_draws, weighting="likelihood" if process.is_finite else "uniform"
            ),
            learning_rate=self.learning_rate,
            checkpoint=Checkpoint(task.checkpoint, every=self.checkpoint_every, resume=True),
            callback=lambda step, _: task.advance(step),
            holdout=None
            if self.patience is None or holdout is None
            else Holdout(holdout, patience=self.patience),
        )
        return fits, np.asarray(fits.history.loss)[:, -_LOSSES:].mean(axis=1)

    def keys(self) -> Key:
        """A key for what is estimated of each network, shape (seeds,)."""
        keys = [jax.random.fold_in(jax.random.key(seed), _ESTIMATES) for seed in self.seeds]
        return jax.numpy.stack(keys)


@dataclasses.dataclass(frozen=True, eq=False)
class Grid:
    """A study over cells that is ready to run, or to be joined.

    Attributes:
        output: where results go.
        folder: shared with all processes of the same configuration.
        cells: by name.
        command: the words that would repeat it, if it came from a command line.
        configuration: what all processes share.
    """

    output: OutputOptions
    folder: OutputFolder
    cells: Cells
    command: tuple[str, ...]
    configuration: dict[str, Any]

    @property
    def say(self) -> Callable[[str], None]:
        """Print, or do not."""
        return (lambda _: None) if self.output.quiet else print

    def run(self, work: Callable[[Task], Arrays], summarise: Callable[[dict[str, Arrays]], R]) -> R:
        """Compute all cells, and sum them up; those that are finished, should it be interrupted.

        Args:
            work: see `Cells.compute`.
            summarise: writes what cells come to, by name; there may be some missing.

        Raises:
            FolderError: if the folder cannot be written to, or was removed.
        """

        def checked(task: Task) -> Arrays:
            self.folder.verify()
            found = work(task)
            self.folder.verify()
            return found

        with self.folder.at_work():
            self.folder.verify()
            try:
                self.cells.compute(checked, progress=not self.output.quiet)
            except (KeyboardInterrupt, FloatingPointError):
                if found := self.cells.finished():
                    summarise(found)
                raise
            return summarise(self.cells.finished())

    def attributes(self, finished: int) -> dict[str, Any]:
        """What a record says of the run."""
        return {
            "command": shlex.join(self.command),
            "units": "nats",
            "cells": len(self.cells.sizes),
            "cells_finished": finished,
            "configuration": self.configuration,
            "versions": self.configuration["versions"],
            "python": sys.version.split()[0],
            "device": jax.devices()[0].device_kind,
        }


def prepare_grid(
    output: OutputOptions,
    sizes: dict[str, int],
    *,
    name: str,
    configuration: dict[str, Any],
    command: Sequence[str],
) -> Grid:
    """Claim the output folder, or join those who work in it.

    Args:
        output: see `OutputOptions`.
        sizes: the steps of training of every cell, by name.
        name: of what is studied; the folder is called after it unless it is given.
        configuration: what all processes must share.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    default = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
    folder = OutputFolder(f"entropix-{default}" if output.out is None else output.out, shared=True)
    folder.check(resume=output.resume, overwrite=output.overwrite)
    configuration = {**configuration, "versions": versions()}
    folder.claim(configuration, resume=output.resume, overwrite=output.overwrite)
    return Grid(
        output=output,
        folder=folder,
        cells=Cells(folder.path, sizes, configuration),
        command=tuple(word for word in command if word not in ("--resume", "--overwrite")),
        configuration=configuration,
    )


def seed_labels(count: int) -> tuple[int, ...]:
    """The paper's seeds, and as many more as are asked for."""
    positive_integer(count, "seeds")
    further = range(_SEEDS[-1] + 1, _SEEDS[-1] + 1 + count)
    return (*_SEEDS, *further)[:count]


def increasing(values: Sequence[int], name: str, minimum: int = 1) -> tuple[int, ...]:
    """Each value once, in order; an axis of a grid."""
    if not values:
        raise ValueError(f"`{name}` must hold at least one number, got none.")
    return tuple(sorted({positive_integer(value, name, minimum) for value in values}))
