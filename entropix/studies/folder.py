"""The output folder: claimed before training, and never left with half a file in it."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from entropix.studies.files import CONFIGURATION


_STAGING = ".staging-"
# Held while the folder is claimed, and while a summary is written, by one process of several.
_LOCK = ".lock"


class FolderError(RuntimeError):
    """An output folder that can no longer be written to: a full disk, a lost permission."""


class OutputFolder:
    """Where a study writes.

    Args:
        path: the folder; it need not exist yet.

    The order of events: `check` (nothing is touched), `claim` (the folder is made), and at the end
    `staged`, which lets files appear under their names only when all of them are complete. A folder
    that several processes work in at once is claimed by `share` instead, and written by `summary`.
    """

    def __init__(self, path: str | os.PathLike[str]):
        self.path = Path(os.path.expanduser(os.fspath(path)))

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder whose contents the run would destroy or not know; touches nothing.

        Raises:
            ValueError: if the path is no folder, or a folder with contents and neither `resume` nor
                `overwrite` was asked for, or both were.
        """
        if resume and overwrite:
            raise ValueError("`overwrite` must be left out together with `resume`, got both.")
        if not os.path.lexists(self.path):
            return
        if not self.path.is_dir():
            raise ValueError(f"`out` must be a folder, got the file {str(self.path)!r}.")
        if (resume or overwrite) and (self.path / CONFIGURATION).exists():
            return
        # What another process that is just about to claim it has put there says nothing yet.
        if any(not p.name.startswith((_STAGING, _LOCK)) for p in self.path.iterdir()):
            hint = "`--resume` takes up its run, `--overwrite` replaces it"
            if not (self.path / CONFIGURATION).exists():
                hint = "it holds no earlier run; choose another with `--out`"
            raise ValueError(
                f"`out` must be a new or empty folder, got {str(self.path)!r}: {hint}."
            )

    def claim(self, configuration: dict[str, Any], *, resume: bool) -> bool:
        """Make the folder, try that it can be written to, and write the configuration down.

        Args:
            configuration: what a resumed run must share with the one it takes up.
            resume: whether to take up a run, if there is one.

        Returns:
            Whether there is a run to take up.

        Raises:
            ValueError: if the folder cannot be made or written to (nothing is left behind then), or
                the run to take up was configured differently.
        """
        file = self.path / CONFIGURATION
        found = resume and file.exists()
        if found:
            check_same(configuration, file)
        with self._made():
            self._sweep()
            if not found:
                self._write(configuration)
            else:
                tempfile.TemporaryFile(dir=self.path).close()
        return found

    def share(
        self,
        configuration: dict[str, Any],
        *,
        resume: bool,
        overwrite: bool,
        clear: Callable[[], None],
    ) -> bool:
        """Claim the folder for a run that others may join.

        Whoever comes first writes the configuration down; who comes later with `resume` joins if
        theirs is the same, and is refused otherwise.

        Args:
            configuration: what all processes must share.
            resume: whether to join a run, if there is one.
            overwrite: whether to replace one.
            clear: removes what an earlier run left; called unless there is one to join.

        Returns:
            Whether there is a run to join.

        Raises:
            ValueError: as `check` and `claim`.
        """
        file = self.path / CONFIGURATION
        with self._made(), self.locked():
            self.check(resume=resume, overwrite=overwrite)  # again: nobody else can come now
            if resume and file.exists():
                check_same(configuration, file)
                return True
            clear()
            self._write(configuration)
        return False

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Alone among the processes that share the folder."""
        from filelock import FileLock

        try:
            lock = FileLock(self.path / _LOCK)
            lock.acquire()
        except NotImplementedError as error:
            raise FolderError(
                f"the output folder {str(self.path)!r} must be on a file system with locks (flock)."
            ) from error
        try:
            yield
        finally:
            lock.release()

    @contextlib.contextmanager
    def summary(self) -> Iterator[Path]:
        """As `staged`, one process after another.

        Raises:
            FolderError: if the files cannot be written; those that were there stay.
        """
        try:
            with self.locked():
                self._sweep()
                with self.staged() as staging:
                    yield staging
        except OSError as error:
            raise FolderError(
                f"the output folder {str(self.path)!r} must be one that can be written to: "
                f"{error.strerror or type(error).__name__}; what was there before is kept."
            ) from error

    def _sweep(self) -> None:
        """Remove what killed runs left aside."""
        for leftover in self.path.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)

    def _write(self, configuration: dict[str, Any]) -> None:
        with self.staged() as staging:
            text = json.dumps(configuration, indent=2, sort_keys=True)
            (staging / CONFIGURATION).write_text(text + "\n")

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Make the folder; if the block finds that it cannot be written to, nothing is left."""
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            yield
        except OSError as error:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            reason = error.strerror or type(error).__name__
            raise ValueError(
                f"`out` must be a folder that can be written to, got {str(self.path)!r}: {reason}."
            ) from error

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder whose files move into this one, each at once, if the block succeeds."""
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.path))
        try:
            yield staging
            for file in sorted(staging.iterdir()):
                os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def check_same(configuration: dict[str, Any], file: Path) -> None:
    """Refuse another configuration than that in a file, naming the first difference."""
    try:
        earlier = json.loads(file.read_text())
    except (OSError, ValueError) as error:
        raise ValueError(f"{str(file)!r} must be the configuration of a run: {error}.") from error
    # What json makes of tuples is what the file holds.
    now = json.loads(json.dumps(configuration))
    for name in sorted(now.keys() | earlier.keys()):
        if now.get(name) != earlier.get(name):
            raise ValueError(
                f"`{name}` must be {earlier.get(name)!r}, as in the run that `--resume` takes up, "
                f"got {now.get(name)!r}."
            )
