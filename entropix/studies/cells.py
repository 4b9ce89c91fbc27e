"""The cells of a study, which any number of processes compute together in one folder.

Each cell is one file in the folder `cells`, written completely or not at all; nothing else is
shared. A process takes the next cell that is neither finished nor locked, and at the end waits for
the locked ones. The lock is one of the operating system, which a process loses when it dies. A cell
depends on the configuration alone, so it does not matter which process computes it, or whether two
do.

Cells may be measurements along one training run: each continues from the checkpoint of the one
before. Then the run has the lock, and its cells are computed in the order of their steps.
"""

import contextlib
import dataclasses
import hashlib
import json
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix.persistence import read_archive, write_archive
from entropix.studies.folder import CELLS, acquire
from entropix.studies.progress import CellsBar, message


Arrays = dict[str, np.ndarray]
_KIND = "entropix cell"
# Seconds between two checks of cells that other processes are computing.
_WAIT = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell to be computed by this process.

    Attributes:
        name: of the cell.
        checkpoint: the file for checkpoints of its training.
        advance: called with the number of training steps done.
        show: whether the computation shows progress bars of its own.
    """

    name: str
    checkpoint: Path
    advance: Callable[[int], None]
    show: bool = False


class Cells:
    """The cells of a study, by name.

    Args:
        folder: the output folder of the study.
        sizes: the training steps of each cell, by name.
        configuration: shared by all processes; a cell with another one counts as damaged.
        runs: the training run of each cell, by name of the cell; None: each has its own.
    """

    def __init__(
        self,
        folder: Path,
        sizes: dict[str, int],
        configuration: dict[str, Any],
        runs: dict[str, str] | None = None,
    ):
        self.path = folder / CELLS
        self.sizes = sizes
        self.runs = runs or {name: name for name in sizes}
        # By name: the cell that has to be finished before, and the steps that are left to do then.
        self._before: dict[str, str | None] = {}
        self._costs: dict[str, int] = {}
        last: dict[str, str] = {}
        for name in sorted(sizes, key=lambda name: sizes[name]):
            before = last.get(self.runs[name])
            self._before[name] = before
            self._costs[name] = sizes[name] - (0 if before is None else sizes[before])
            last[self.runs[name]] = name
        self._last = last
        text = json.dumps(configuration, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._known: dict[str, Arrays] = {}

    def finished(self) -> dict[str, Arrays]:
        """The results of all finished cells, in the order of the grid."""
        found = {name: self._read(name) for name in self.sizes}
        return {name: arrays for name, arrays in found.items() if arrays is not None}

    def compute(self, work: Callable[[Task], Arrays], *, progress: bool) -> None:
        """Compute every cell that is missing; return when all are finished, by any process.

        The most expensive cells come first, so that processes that share a folder end together.

        Args:
            work: from a task to its result, which may depend on the name of the cell only.
            progress: whether to show a bar.

        Raises:
            OSError: if the folder cannot be written to; finished cells are kept.
        """

        def order(name: str) -> tuple[int, int]:
            return -self.sizes[self._last[self.runs[name]]], self.sizes[name]

        waiting = sorted(self.sizes, key=order)
        with CellsBar(self._costs, progress) as bar:
            self.path.mkdir(exist_ok=True)
            while waiting:
                left = [name for name in waiting if not self._done(name, work, bar)]
                if left == waiting:
                    time.sleep(_WAIT)
                waiting = left

    def _done(self, name: str, work: Callable[[Task], Arrays], bar: CellsBar) -> bool:
        """Whether a cell is finished, after computing it unless another process does."""
        if self._read(name) is None:
            before = self._before[name]
            with self._locked(self.runs[name]) as mine:
                if not mine or (before is not None and self._read(before) is None):
                    return False
                # Another process may have finished it between the read and the lock.
                if self._read(name, warn=True) is None:
                    self._compute(name, work, bar)
        bar.finish(name)
        return True

    def _compute(self, name: str, work: Callable[[Task], Arrays], bar: CellsBar) -> None:
        run, size = self.runs[name], self.sizes[name]
        checkpoint = self.path / f"{run}.ckpt"
        for start in {name, run}:
            for leftover in self.path.glob(f"{start}.c*.tmp"):  # of a process that was killed
                leftover.unlink(missing_ok=True)
        if checkpoint.exists():
            try:
                header, _ = read_archive(checkpoint, "entropix checkpoint")
                # After the loss of a cell from the middle of a run.
                fault = f"ahead of {name}" if header["step"] > size else None
            except ValueError:
                fault = "damaged"
            if fault:
                message(f"{checkpoint} is {fault}: training starts again")
                checkpoint.unlink()
        bar.start(name)
        done = size - self._costs[name]
        arrays = work(Task(name, checkpoint, lambda n: bar.advance(name, max(n - done, 0))))
        arrays = {key: np.asarray(value) for key, value in arrays.items()}
        header = {"cell": name, "configuration": self._digest}
        write_archive(self._file(name), _KIND, header, arrays)
        self._known[name] = arrays
        if name == self._last[run]:
            checkpoint.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.cell"

    def _read(self, name: str, *, warn: bool = False) -> Arrays | None:
        """A result, or None if it is missing or damaged."""
        if name in self._known:
            return self._known[name]
        try:
            header, arrays = read_archive(self._file(name), _KIND)
        except FileNotFoundError:
            return None
        except ValueError:
            header, arrays = {}, {}
        if header.get("cell") != name or header.get("configuration") != self._digest:
            if warn:
                message(
                    f"{self._file(name)} is damaged or of another run: it is computed again, "
                    "the other cells are kept"
                )
            return None
        self._known[name] = arrays
        return arrays

    @contextlib.contextmanager
    def _locked(self, run: str) -> Iterator[bool]:
        """Whether this process holds the lock of the run for the length of the block."""
        from filelock import Timeout

        try:
            lock = acquire(self.path / f"{run}.lock", blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()


def stacked(names: Sequence[str], found: dict[str, Arrays]) -> Arrays:
    """The results of cells along a first axis; missing ones are NaN.

    Args:
        names: of the cells.
        found: the results, at least one; all hold arrays of the same names and shapes.
    """
    example = next(iter(found.values()))
    blank = {key: np.full_like(value, np.nan, dtype=float) for key, value in example.items()}
    return {
        key: np.stack([found.get(name, blank)[key] for name in names]).astype(float)
        for key in example
    }
