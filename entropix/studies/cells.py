"""A study in cells, which any number of processes compute together in one folder.

Each cell is one file of the folder `cells`, written whole or not at all, and nothing else is
shared: a process takes the next cell that is neither finished nor claimed, and comes back to the
claimed ones at the end. The claim is a lock of the system, which a process loses when it dies.
Cells depend on the configuration alone, so that it does not matter which process computes which,
or whether two do.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix.persistence import read_archive, write_archive
from entropix.studies.files import CELLS
from entropix.studies.folder import FolderError, reason


Arrays = dict[str, np.ndarray]
_KIND = "entropix cell"
# Seconds between two looks at cells that other processes are working on.
_PATIENCE = 1.0


@dataclasses.dataclass(frozen=True)
class Task:
    """A cell that this process has claimed.

    Attributes:
        name: of the cell.
        checkpoint: where its training may be saved; removed once the cell is finished.
        advance: to be told how many of its steps have been taken.
    """

    name: str
    checkpoint: Path
    advance: Callable[[int], None]


class Cells:
    """The cells of a study, by name.

    Args:
        folder: the output folder of the study.
        sizes: what each cell costs, in any unit, by name.
        configuration: what all processes share; a cell of another one counts as damaged.
    """

    def __init__(self, folder: Path, sizes: dict[str, int], configuration: dict[str, Any]):
        self.path = folder / CELLS
        self.sizes = sizes
        text = json.dumps(configuration, sort_keys=True)
        self._digest = hashlib.sha256(text.encode()).hexdigest()[:16]
        self._known: dict[str, Arrays] = {}

    def finished(self) -> dict[str, Arrays]:
        """The results there are, in the order of the grid."""
        found = {name: self._read(name) for name in self.sizes}
        return {name: arrays for name, arrays in found.items() if arrays is not None}

    def compute(self, work: Callable[[Task], Arrays], *, progress: bool) -> None:
        """Compute every cell that is not there yet; returns when all are, whoever made them.

        The most expensive ones come first, so that processes that share a folder end together.

        Args:
            work: from a task to its result, which must depend on nothing but its name.
            progress: whether to show a bar.

        Raises:
            FolderError: if the folder cannot be written to; what was finished before is kept.
        """
        waiting = sorted(self.sizes, key=lambda name: -self.sizes[name])
        with self._named_errors(), _Bar(self.sizes, progress) as bar:
            self.path.mkdir(exist_ok=True)
            while waiting:
                left = [name for name in waiting if not self._done(name, work, bar)]
                if left == waiting:
                    time.sleep(_PATIENCE)
                waiting = left

    def _done(self, name: str, work: Callable[[Task], Arrays], bar: "_Bar") -> bool:
        """Whether a cell is finished, after an attempt to compute it if nobody else does."""
        if self._read(name) is None:
            with self._claimed(name) as mine:
                if not mine:
                    return False
                # It may have been finished, and its claim given up, since it was looked for.
                if self._read(name, complain=bar.say) is None:
                    self._compute(name, work, bar)
        bar.finish(name)
        return True

    def _compute(self, name: str, work: Callable[[Task], Arrays], bar: "_Bar") -> None:
        checkpoint = self.path / f"{name}.ckpt"
        for leftover in self.path.glob(f"{name}.c*.tmp"):  # of a process that was killed
            leftover.unlink(missing_ok=True)
        if checkpoint.exists():
            try:
                read_archive(checkpoint, "entropix checkpoint")
            except ValueError:
                bar.say(f"{checkpoint} is damaged: training begins again")
                checkpoint.unlink()
        bar.start(name)
        arrays = work(Task(name, checkpoint, lambda steps: bar.advance(name, steps)))
        arrays = {key: np.asarray(value) for key, value in arrays.items()}
        header = {"cell": name, "configuration": self._digest}
        write_archive(self._file(name), _KIND, header, arrays)
        self._known[name] = arrays
        checkpoint.unlink(missing_ok=True)

    def _file(self, name: str) -> Path:
        return self.path / f"{name}.cell"

    def _read(self, name: str, complain: Callable[[str], None] | None = None) -> Arrays | None:
        """A result, or None if it is not there or no good."""
        if name in self._known:
            return self._known[name]
        try:
            header, arrays = read_archive(self._file(name), _KIND)
        except FileNotFoundError:
            return None
        except ValueError:
            header, arrays = {}, {}
        if header.get("cell") != name or header.get("configuration") != self._digest:
            if complain is not None:
                complain(
                    f"{self._file(name)} is damaged or of another run: it is computed again, "
                    "the other cells are kept"
                )
            return None
        self._known[name] = arrays
        return arrays

    @contextlib.contextmanager
    def _claimed(self, name: str) -> Iterator[bool]:
        """Whether the cell belongs to this process for the length of the block."""
        from filelock import FileLock, Timeout

        if not self.path.is_dir():  # FileLock would make it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        lock = FileLock(self.path / f"{name}.lock")
        try:
            lock.acquire(blocking=False)
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    @contextlib.contextmanager
    def _named_errors(self) -> Iterator[None]:
        try:
            yield
        except (OSError, NotImplementedError) as error:
            kept = sum(self._file(name).is_file() for name in self.sizes)
            raise FolderError(
                f"the output folder {str(self.path.parent)!r} must be one that can be written to: "
                f"{reason(error)}; {kept} of {len(self.sizes)} cells are kept, and `--resume` "
                "computes the others."
            ) from error


class _Bar:
    """Progress in the units of the cells' sizes, which tell how much time is left."""

    def __init__(self, sizes: dict[str, int], show: bool):
        from tqdm import tqdm

        self._sizes, self._ended, self._taken = sizes, 0, dict.fromkeys(sizes, 0)
        self._tqdm = tqdm
        self._bar = tqdm(
            total=sum(sizes.values()), desc=self._title(), unit="step", disable=not show
        )

    def __enter__(self) -> "_Bar":
        return self

    def __exit__(self, *_: Any) -> None:
        self._bar.close()

    def _title(self) -> str:
        return f"{self._ended} of {len(self._sizes)} cells"

    def say(self, text: str) -> None:
        """One line on stderr."""
        self._tqdm.write(f"entropix: {text}", file=sys.stderr)

    def start(self, name: str) -> None:
        self._bar.set_postfix_str(name)

    def advance(self, name: str, steps: int) -> None:
        """So many steps of a cell have been taken in all."""
        ahead = min(steps, self._sizes[name]) - self._taken[name]
        self._taken[name] += ahead
        self._bar.update(ahead)

    def finish(self, name: str) -> None:
        """A cell is finished."""
        if self._taken[name] == 0 and not self._bar.disable:
            # Earlier, or by another process: it tells nothing of the pace of this one.
            self._bar.initial += self._sizes[name]
            self._bar.n += self._sizes[name]
        else:
            self.advance(name, self._sizes[name])
        self._ended += 1
        self._bar.set_description(self._title())


def stacked(names: Sequence[str], found: dict[str, Arrays]) -> Arrays:
    """The results of cells along a first axis; those that are missing are NaN.

    Args:
        names: of the cells.
        found: the results there are, at least one; all hold arrays of the same names and shapes.
    """
    example = next(iter(found.values()))
    blank = {key: np.full_like(value, np.nan, dtype=float) for key, value in example.items()}
    return {
        key: np.stack([found.get(name, blank)[key] for name in names]).astype(float)
        for key in example
    }
