"""What every study that trains shares: its networks, its folder, and what a resumed run must share.

`prepare_run` checks all of it and claims the folder; it comes last among the checks of a study, so
that nothing is left behind by a request that is refused.
"""

import dataclasses
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from typing import Any

import diffrax
import equinox
import jax
import numpy as np
import optax

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix.interfaces import AbstractGaussianProcess, AbstractTimes
from entropix.models import EntropyMatching
from entropix.persistence import Checkpoint, package_version, read_archive
from entropix.studies.data import check_seed
from entropix.studies.files import CHECKPOINT
from entropix.studies.folder import OutputFolder
from entropix.studies.options import OutputOptions, ProcessOptions, TrainingOptions
from entropix.studies.processes import make_process, process_parameters
from entropix.training import Denoising, EnsembleFit, Holdout, fit_ensemble


_DEFAULT_BATCH = 128


@dataclasses.dataclass(frozen=True, eq=False)
class Run:
    """A training run that is ready to begin, or to be taken up.

    Attributes:
        process: the forward process.
        process_options: what it was made from.
        training: as asked for, what was left out filled in.
        output: where results go.
        folder: claimed, and empty but for an earlier run of the same configuration.
        command: the words that would repeat it, if it came from a command line.
        configuration: what a resumed run must share.
    """

    process: AbstractGaussianProcess
    process_options: ProcessOptions
    training: TrainingOptions
    output: OutputOptions
    folder: OutputFolder
    command: tuple[str, ...]
    configuration: dict[str, Any]

    @property
    def seeds(self) -> list[int]:
        """The labels of the networks."""
        return list(range(self.training.seed, self.training.seed + self.training.seeds))

    @property
    def weighting(self) -> str:
        """Of the loss: maximum likelihood, unless its entropy is infinite."""
        return "likelihood" if self.process.is_finite else "uniform"

    @property
    def say(self) -> Callable[[str], None]:
        """Print, or do not."""
        return _silent if self.output.quiet else print

    def train(
        self,
        make_model: Callable[[Key], EntropyMatching],
        data: np.ndarray,
        holdout: np.ndarray,
        condition: np.ndarray | None = None,
        holdout_condition: np.ndarray | None = None,
        *,
        times: AbstractTimes | None = None,
        checkpoint: str = CHECKPOINT,
    ) -> EnsembleFit:
        """All networks, as one program; from the checkpoint on if there is one.

        Raises:
            FolderError: if a checkpoint cannot be written; the last one stays.
        """
        self.folder.verify()
        with self.folder.errors():
            return fit_ensemble(
                make_model,
                data,
                keys=[jax.random.key(seed) for seed in self.seeds],
                steps=self.training.steps,
                batch_size=self.training.batch_size or _DEFAULT_BATCH,
                loss=Denoising(self.training.num_draws, weighting=self.weighting, times=times),
                learning_rate=self.training.learning_rate,
                condition=condition,
                holdout=Holdout(holdout, holdout_condition),
                checkpoint=Checkpoint(
                    self.folder.path / checkpoint,
                    every=self.training.checkpoint_every,
                    resume=True,
                ),
                progress=not self.output.quiet,
                callback=lambda *_: self.folder.verify(),
            )

    def bar(self, total: int) -> Any:
        """A bar of progress for what follows training."""
        from tqdm import tqdm

        return tqdm(total=total, desc="measuring", unit="estimate", disable=self.output.quiet)

    def attributes(self) -> dict[str, Any]:
        """What a record says of the run."""
        return {
            "command": shlex.join(self.command),
            "units": "nats",
            "process": self.process_options.process,
            "process_text": self._process_text(),
            "training_text": self._training_text(),
            "configuration": self.configuration,
            "versions": self.configuration["versions"],
            "python": sys.version.split()[0],
            "device": jax.devices()[0].device_kind,
        }

    def _process_text(self) -> str:
        numbers = process_parameters(self.process_options)
        text = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
        name = type(self.process).__name__
        return f"{name} ({text})" if text else name

    def _training_text(self) -> str:
        t = self.training
        which = f"seed {t.seed}" if t.seeds == 1 else f"seeds {t.seed} to {t.seed + t.seeds - 1}"
        widths = ", ".join(str(width) for width in t.widths)
        return (
            f"entropy matching, {which}, hidden layers {widths}, {t.steps} steps of {t.batch_size} "
            f"samples with {t.num_draws} noise draws, learning rate {t.learning_rate:g}, "
            f"{self.weighting} weighting"
        )


def _silent(*_: Any) -> None:
    pass


def prepare_run(
    process: ProcessOptions,
    training: TrainingOptions,
    output: OutputOptions,
    *,
    name: str,
    num_samples: int,
    configuration: dict[str, Any],
    command: Sequence[str],
) -> Run:
    """Check how to train, and claim the output folder.

    Args:
        process: see `ProcessOptions`.
        training: see `TrainingOptions`.
        output: see `OutputOptions`.
        name: of what is studied; the folder is called after it unless it is given.
        num_samples: how many samples there are to train on.
        configuration: what else a resumed run must share.
        command: the words that asked for it, if it came from a command line.

    Raises:
        ValueError: in one line, whatever is wrong; nothing is left behind.
    """
    training = checked_training(training, num_samples)
    default = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
    folder = OutputFolder(f"entropix-{default}" if output.out is None else output.out)
    folder.check(resume=output.resume, overwrite=output.overwrite)
    configuration = {
        "process": process.process,
        **process_parameters(process),
        **dataclasses.asdict(training),
        **configuration,
        "versions": versions(),
    }
    checkpoint = folder.path / CHECKPOINT
    if output.resume and os.path.exists(checkpoint):
        read_archive(checkpoint, "entropix checkpoint")
    folder.claim(configuration, resume=output.resume, overwrite=output.overwrite)
    return Run(
        process=make_process(process),
        process_options=process,
        training=training,
        output=output,
        folder=folder,
        command=tuple(word for word in command if word not in ("--resume", "--overwrite")),
        configuration=configuration,
    )


def versions() -> dict[str, str]:
    """Versions on which the digits of a result depend."""
    others = {module.__name__: module.__version__ for module in (jax, equinox, diffrax, optax)}
    return {"entropix": package_version(), **others}


def check_packages(*, plots: bool) -> None:
    """Refuse to begin where a package will be missing at the end.

    Args:
        plots: whether figures will be drawn.

    Raises:
        ValueError: naming what is missing.
    """
    wanted = ["tqdm", "xarray", "h5netcdf", "filelock"] + (["matplotlib"] if plots else [])
    missing = [name for name in wanted if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(
            f"this study needs {', '.join(missing)}: python -m pip install 'entropix[studies]'."
        )


def checked_training(options: TrainingOptions, num_samples: int) -> TrainingOptions:
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
