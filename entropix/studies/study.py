"""The engine of all studies: from a request to a record, a report and figures in a folder.

A study consists of options, cells, a measurement, a schema and a report. Its cells are training
runs of known length. Where several processes may share the work, each cell is a file of the output
folder (see `entropix.studies.cells`); a study of a single set of networks is one cell, whose
networks are saved instead.
"""

import abc
import dataclasses
import functools
import importlib.util
import os
import re
import shlex
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Protocol, TypeVar

import diffrax
import equinox
import jax
import numpy as np
import optax

from entropix._core.ahead import compiled_ahead
from entropix._core.arrays import Key
from entropix._core.extras import MissingPackageError, install
from entropix._core.progress import progress_bar
from entropix.interfaces import AbstractGaussianProcess, AbstractKernel, AbstractModel
from entropix.persistence import package_version, read_archive, save
from entropix.studies.cells import Cells, Task
from entropix.studies.cutoff import Cutoff, with_cutoff
from entropix.studies.folder import CHECKPOINT, RECORD, REPORT, OutputFolder
from entropix.studies.options import OutputOptions, TrainingOptions
from entropix.studies.record import Schema, assemble, write_record
from entropix.studies.report import Report
from entropix.studies.training import Training, num_steps, training, weighting
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray

Found = dict[str, Any]
# From the index of a seed to its model.
Member = Callable[[int], AbstractModel]
S = TypeVar("S", bound="Staged")
# Folded into the key of a seed: what follows training draws other numbers than training.
_ESTIMATES = 0xE571


def nothing() -> None:
    """Nothing happens."""


class Staged(Protocol):
    """What `for_each_seed` measures in stages: a dataclass; see there."""

    __dataclass_fields__: ClassVar[dict[str, Any]]

    @property
    def advance(self) -> Callable[[], None]: ...

    @property
    def parts(self) -> dict[str, int]: ...


@dataclasses.dataclass(frozen=True, eq=False)
class Workspace:
    """The claimed output folder of a study.

    Attributes:
        output: see `OutputOptions`.
        folder: where results are written.
        command: the command line that repeats the study, if it came from one.
        configuration: shared by all runs in the folder.
    """

    output: OutputOptions
    folder: OutputFolder
    command: tuple[str, ...]
    configuration: dict[str, Any]

    @classmethod
    def claim(
        cls,
        output: OutputOptions,
        *,
        name: str,
        configuration: dict[str, Any],
        command: Sequence[str],
        shared: bool = False,
    ) -> "Workspace":
        """Claim the output folder; the last check of a request, which leaves nothing if it fails.

        Args:
            output: see `OutputOptions`.
            name: of the study; the default folder is named after it.
            configuration: shared by all runs in the folder.
            command: the command line, if the request came from one.
            shared: whether several processes may work in the folder.

        Raises:
            ValueError: in one line, for whatever is wrong.
        """
        folder = cls.located(output, name, shared=shared)
        # The digits of a result depend on these versions.
        versions = {"entropix": package_version()}
        versions |= {m.__name__: m.__version__ for m in (jax, equinox, diffrax, optax)}
        configuration = {**configuration, "versions": versions}
        checkpoint = folder.path / CHECKPOINT
        if not shared and output.resume and os.path.exists(checkpoint):
            read_archive(checkpoint, "entropix checkpoint")
        folder.claim(configuration, resume=output.resume, overwrite=output.overwrite)
        words = tuple(word for word in command if word not in ("--resume", "--overwrite"))
        return cls(output, folder, words, configuration)

    @classmethod
    def located(cls, output: OutputOptions, name: str, *, shared: bool = False) -> OutputFolder:
        """The output folder, after all checks that do not touch it; arguments as `claim`.

        Raises:
            ValueError: in one line, for whatever is wrong.
        """
        wanted = ["tqdm", "xarray", "h5netcdf", "filelock"] + ["matplotlib"] * output.plots
        missing = [name for name in wanted if importlib.util.find_spec(name) is None]
        if missing:
            raise MissingPackageError(f"studies need {', '.join(missing)}: {install('studies')}.")
        default = re.sub(r"[^\w.-]+", "-", name).strip("-.") or "data"
        path = f"entropix-{default}" if output.out is None else output.out
        folder = OutputFolder(path, shared=shared)
        folder.check(resume=output.resume, overwrite=output.overwrite)
        return folder

    def say(self, text: str) -> None:
        """Print, unless the user wants quiet."""
        if not self.output.quiet:
            print(text)

    def announce(self, attributes: dict[str, Any]) -> None:
        """Print the texts among the attributes of a record."""
        for name, text in attributes.items():
            if name.endswith("_text"):
                self.say(f"  {name.removesuffix('_text'):<12} {text}")

    def attributes(self, cells: int, finished: int) -> dict[str, Any]:
        """What a record says of the run."""
        return {
            "command": shlex.join(self.command),
            "units": "nats",
            "cells": cells,
            "cells_finished": finished,
            "configuration": self.configuration,
            "versions": self.configuration["versions"],
            "python": sys.version.split()[0],
            "device": jax.devices()[0].device_kind,
        }


@dataclasses.dataclass(frozen=True, eq=False)
class Outcome:
    """What was measured in a cell.

    Attributes:
        values: arrays by names of the schema.
        attributes: those of the record that are known only after the measurement.
        modules: models and processes to save, by file name.
    """

    values: Found
    attributes: dict[str, Any] = dataclasses.field(default_factory=dict)
    modules: dict[str, Any] = dataclasses.field(default_factory=dict)


# A caption, and a function that draws the figure into a file.
Figures = dict[str, tuple[str, Callable[["xarray.Dataset", Path], None]]]


class AbstractStudy(abc.ABC):
    """An experiment whose request was checked; `run` does the rest.

    Attributes:
        workspace: the claimed output folder.
    """

    workspace: Workspace

    @property
    @abc.abstractmethod
    def cells(self) -> dict[str, int]:
        """The training steps of each cell, by name."""

    @property
    def runs(self) -> dict[str, str] | None:
        """The training run of each cell, by name of the cell; None: each has its own."""
        return None

    @abc.abstractmethod
    def attributes(self) -> dict[str, Any]:
        """The attributes of the record: what is done, in words (`..._text`) and in numbers."""

    @abc.abstractmethod
    def measure(self, task: Task) -> Outcome:
        """Train the networks of a cell and measure them."""

    @abc.abstractmethod
    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        """The record of the cells that are finished, at least one.

        Args:
            found: what was measured, by the name of the cell.
            attributes: of the record.
        """

    @abc.abstractmethod
    def report(self, record: "xarray.Dataset") -> Report:
        """The record in words."""

    @abc.abstractmethod
    def figures(self) -> Figures:
        """The figures, by file name: caption and function."""

    @property
    def command(self) -> tuple[str, ...]:
        """The command line that repeats the study, if it came from one."""
        return self.workspace.command

    def run(self) -> "xarray.Dataset":
        """Compute all cells, then write and return the record.

        In a shared folder, cells are also computed by other processes. An interrupted run sums up
        the cells that are finished.

        Raises:
            FolderError: if the folder cannot be written to, or was removed.
            FloatingPointError: if a training diverges.
        """
        space = self.workspace
        folder, show = space.folder, not space.output.quiet
        with folder.at_work(), folder.errors():
            folder.verify()
            space.announce(self.attributes())
            if not folder.shared:
                (name,) = self.cells
                checkpoint = folder.path / CHECKPOINT
                outcome = self.measure(Task(name, checkpoint, lambda _: folder.verify(), show))
                return self._write({name: outcome})

            def values(task: Task) -> Found:
                folder.verify()
                found = self.measure(task).values
                folder.verify()
                return found

            cells = Cells(folder.path, self.cells, space.configuration, self.runs)
            try:
                cells.compute(values, progress=show)
            except (KeyboardInterrupt, FloatingPointError):
                if found := cells.finished():
                    self._write({name: Outcome(values) for name, values in found.items()})
                raise
            return self._write({name: Outcome(v) for name, v in cells.finished().items()})

    def _write(self, outcomes: dict[str, Outcome]) -> "xarray.Dataset":
        """Write the record, the report, the figures and the models: all of them or none."""
        space = self.workspace
        announced = self.attributes()
        attributes = announced | space.attributes(len(self.cells), len(outcomes))
        for outcome in outcomes.values():
            attributes |= outcome.attributes
        record = self.record({name: o.values for name, o in outcomes.items()}, attributes)
        changed = {n: record.attrs[n] for n in announced if announced[n] != record.attrs.get(n)}
        space.announce(changed)
        report = self.report(record)
        figures = self.figures() if space.output.plots else {}
        with space.folder.staged() as staging:
            for outcome in outcomes.values():
                for name, module in outcome.modules.items():
                    save(staging / name, module)
            write_record(record, staging / RECORD)
            for name, (_, draw) in figures.items():
                draw(record, staging / name)
            captions = {name: caption for name, (caption, _) in figures.items()}
            (staging / REPORT).write_text(report.markdown(captions), encoding="utf-8")
        space.say(f"\n{report.text()}\n\n  written to {space.folder.path}{os.sep}")
        return record


# ------------------------------------------------------------------ a single set of networks


class AbstractTrainedStudy(AbstractStudy):
    """A study of networks that are trained together and then measured, each in the same way.

    Attributes:
        schema: of the record.
        axes: the dimensions of what is measured, and their meaning.
        process: the forward process.
        settings: of the training, with the batch size filled in.
    """

    schema: ClassVar[Schema]
    axes: ClassVar[dict[str, str]]
    process: AbstractKernel
    settings: TrainingOptions

    @abc.abstractmethod
    def make_model(self) -> Callable[[Key], AbstractModel]:
        """The function from a key to an untrained model."""

    @abc.abstractmethod
    def examples(self) -> dict[str, Any]:
        """Training and held-out data, as arguments of `Training.fit`."""

    @abc.abstractmethod
    def evaluate(self, member: Member, *, show: bool) -> tuple[Found, dict[str, Any]]:
        """All results, with the labels of `axes`, and attributes that are known only then.

        It is called with untrained models as well, see `compiled_ahead`.
        """

    @property
    @abc.abstractmethod
    def deadline(self) -> float | None:
        """The value of `time.perf_counter` at which training stops; None: it is not limited."""

    @property
    def training(self) -> Training:
        """Of the networks."""
        return training(self.settings)

    @property
    def cells(self) -> dict[str, int]:
        """All networks are trained together."""
        return {"training": num_steps(self.settings)}

    def measure(self, task: Task) -> Outcome:
        make = self.make_model()

        def untrained(index: int) -> AbstractModel:
            return make(jax.random.key(self.training.seeds[index]))

        with compiled_ahead(functools.partial(self.evaluate, untrained, show=False)):
            fits = self.training.fit(
                task,
                make,
                steps=num_steps(self.settings),
                process=self.process,
                deadline=self.deadline,
                **self.examples(),
            )
            found, attributes = self.evaluate(fits.member, show=task.show)
        history = fits.history
        values = found | {
            "loss": np.asarray(history.loss),
            "loss_held_out": np.asarray(history.holdout_loss),
            "best_step": np.asarray(history.best_step),
            "step": np.asarray(history.step),
            "check": np.asarray(history.holdout_step),
        }
        return Outcome(values, attributes, models(self.training, fits))

    def assembled(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        """The record of what `measure` returns."""
        (values,) = (dict(values) for values in found.values())
        axes = self.axes | {"step": "training step", "check": "training step"}
        coordinates: dict[str, tuple[Any, str]] = {
            "seed": (list(self.training.seeds), "seed of training")
        }
        coordinates |= {name: (values.pop(name), meaning) for name, meaning in axes.items()}
        schema = dict(self.schema)
        if weighting(self.process) != "likelihood":  # the loss is not in nats then
            for name in ("loss", "loss_held_out"):
                schema[name] = (schema[name][0], "1", schema[name][2])
        return assemble(schema, values, coordinates, attributes)


class AbstractDiffusionStudy(AbstractTrainedStudy):
    """The same of a diffusion, whose integrals over noise levels may need a cut-off.

    Attributes:
        process: the forward process.
        cutoff: of the integrals over noise levels.
    """

    axes: ClassVar[dict[str, str]] = {"time": "time s, from data to noise"}
    process: AbstractGaussianProcess  # pyright: ignore[reportIncompatibleVariableOverride]
    cutoff: Cutoff

    @abc.abstractmethod
    def fallback(self) -> Cutoff:
        """The cut-off if an integral is infinite without one."""

    @abc.abstractmethod
    def estimate(
        self, member: Member, times: np.ndarray, cutoff: float | None, show: bool
    ) -> Found:
        """All results, with curves at the given times."""

    @abc.abstractmethod
    def times(self, cutoff: Cutoff) -> np.ndarray:
        """The times at which curves are reported."""

    def record(self, found: dict[str, Found], attributes: dict[str, Any]) -> "xarray.Dataset":
        return self.assembled(found, attributes)

    def evaluate(self, member: Member, *, show: bool) -> tuple[Found, dict[str, Any]]:
        def estimate(cutoff: Cutoff) -> tuple[Found, np.ndarray]:
            times = self.times(cutoff)
            return self.estimate(member, times, cutoff.value, show), times

        (found, times), cutoff = with_cutoff(estimate, self.cutoff, self.fallback)
        found |= {
            "log_snr": np.asarray(equinox.filter_jit(self.process.log_snr)(times)),
            "time": times,
        }
        return found, cutoff.attributes()


def models(training: Training, fits: EnsembleFit) -> dict[str, Any]:
    """The trained models, by file name."""
    return {f"model-{seed}.eqx": fits.member(i) for i, seed in enumerate(training.seeds)}


def for_each_seed(
    training: Training,
    stages: dict[str, Callable[[S, Key, Found], Found]],
    subject: Callable[[int], S],
    *,
    show: bool,
) -> Found:
    """The results of all stages for every seed, stacked.

    Args:
        training: whose seeds.
        stages: in their order, by name: from the subject, a key of their own and what earlier
            stages found, to arrays by names of the schema.
        subject: from the index of a seed to what is measured, a dataclass with the attributes
            `parts`, of how many each stage consists if it is more than one, and `advance`, which it
            calls after each.
        show: whether to show a bar for each stage.
    """
    per_seed = []
    keys = training.keys(_ESTIMATES)
    for i, (seed, key) in enumerate(zip(training.seeds, keys, strict=True)):
        what, found = subject(i), {}
        where = f" of seed {seed}" if len(keys) > 1 else ""
        for j, (name, stage) in enumerate(stages.items()):
            count = what.parts.get(name, 1)
            with progress_bar(count, f"measuring {name}{where}", "part", show=show) as bar:
                advance = functools.partial(bar.update, 1)
                part = dataclasses.replace(what, advance=advance)
                found |= on_host(stage(part, jax.random.fold_in(key, j), found))
                if count == 1:
                    advance()
        per_seed.append(found)
    return {name: np.stack([found[name] for found in per_seed]) for name in per_seed[0]}


def on_host(found: Found) -> Found:
    """Results as arrays of NumPy."""
    return {name: np.asarray(value) for name, value in found.items()}
