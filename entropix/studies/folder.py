"""The output folder: claimed before training, and never left with an incomplete file.

One process at a time works in a folder, or several processes of one study that share it. Each of
them holds a lock of the operating system on a file of its own, which it loses when it ends, however
it ends; a new process tries the locks of all earlier ones. One more lock is held only while the
folder is claimed or files are moved into it.
"""

import contextlib
import errno
import json
import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any


CONFIGURATION, CHECKPOINT, RETRAINING = "configuration.json", "training.ckpt", "retraining.ckpt"
CELLS, RECORD, REPORT = "cells", "results.nc", "report.md"
FIGURES = (
    *("entropy", "samples", "information", "log_density", "loss", "divergence", "baselines"),
    *("schedules", "prices", "steps", "storage", "memorisation", "epochs", "matching"),
)
# What a killed run may leave half written, and all files that an earlier run may have written.
_INCOMPLETE = (f"{CHECKPOINT}.*.tmp", f"{RETRAINING}.*.tmp")
_OF_A_STUDY = (
    *(f"{CHECKPOINT}*", f"{RETRAINING}*", f"{CELLS}/*", RECORD, REPORT),
    *("model-[0-9]*.eqx", "schedule-*.eqx"),
    *(f"{name}.png" for name in FIGURES),
)
_STAGING = ".staging-"
_LOCK = ".lock"  # held while the folder is claimed and while files are moved into it
_AT_WORK = ".at-work-"  # held by each process as long as it works in the folder
_HIDDEN = (_STAGING, _LOCK, _AT_WORK)
# Seconds after which a lock that is still held belongs to a process at work.
_WAIT = 0.2


class FolderError(RuntimeError):
    """The output folder can no longer be written to: a full disk, a lost permission."""


class OutputFolder:
    """The folder in which a study writes.

    It is used in this order: `check` (nothing is touched), `claim` (the folder is made), `at_work`
    around all that takes time, and within it `staged`, by which files get their names only when all
    of them are complete.

    Args:
        path: the folder; it need not exist yet.
        shared: whether several processes may work in it together, with one configuration.

    Raises:
        ValueError: if the path is empty or holds a character that no path can.
    """

    def __init__(self, path: str | os.PathLike[str], *, shared: bool = False):
        text = os.fspath(path)
        try:
            valid = bool(text) and b"\0" not in os.fsencode(text)
        except UnicodeEncodeError:
            valid = False
        if not valid:
            raise ValueError(f"`out` must be the path of a folder, got {text!r}.")
        self.path = Path(os.path.expanduser(text))
        self.shared = shared
        self._claim: tuple[Path, Any] | None = None

    # ------------------------------------------------------------------ before the work

    def check(self, *, resume: bool, overwrite: bool) -> None:
        """Refuse a folder with contents that the run would destroy or does not know.

        Raises:
            ValueError: if the path is not a folder; if another process works in it; if it is not
                empty and neither `resume` nor `overwrite` is given; or if both are.
        """
        if resume and overwrite:
            raise ValueError("`overwrite` must not be given together with `resume`, got both.")
        with self._refused():
            try:
                os.lstat(self.path)
            except FileNotFoundError:
                return
        if os.path.exists(self.path) and not os.path.isdir(self.path):
            raise ValueError(f"`out` must be a folder, got the file {str(self.path)!r}.")
        with self._refused():
            names = os.listdir(self.path)
        if (overwrite or not self.shared) and self._others_at_work():
            raise self._in_use()
        known = CONFIGURATION in names
        if known and (resume or overwrite):
            return
        # Another process may be about to claim the folder: its hidden files do not count.
        if any(not name.startswith(_HIDDEN) for name in names):
            hint = "`--resume` continues its run, `--overwrite` replaces it"
            if not known:
                hint = "it holds no earlier run; choose another folder with `--out`"
            raise ValueError(
                f"`out` must be a new or empty folder, got {str(self.path)!r}: {hint}."
            )

    def claim(
        self, configuration: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> bool:
        """Make the folder, check that it can be written to, and write the configuration.

        The first process writes it; later ones with `resume` continue the run if theirs is the
        same. The claim lasts until the end of `at_work`.

        Args:
            configuration: shared by all runs in the folder.
            resume: whether to continue a run, or join it, if there is one.
            overwrite: whether to replace a run.

        Returns:
            Whether there is a run to continue.

        Raises:
            ValueError: as `check`; or if the folder cannot be made or written to (nothing is left
                behind then); or if the run to continue has another configuration.
        """
        file = self.path / CONFIGURATION
        if resume and os.path.lexists(file):
            _check_same(configuration, file)  # before anything is touched
        with self._made(), self._locked():
            self.check(resume=resume, overwrite=overwrite)  # again, now under the lock
            found = resume and os.path.lexists(file)
            if found:
                _check_same(configuration, file)
            self._sweep()
            for pattern in _INCOMPLETE if found else _OF_A_STUDY:
                for file in self.path.glob(pattern):
                    file.unlink()
            if found:
                tempfile.TemporaryFile(dir=self.path).close()
            else:
                with self._aside() as staging:
                    text = json.dumps(configuration, indent=2, sort_keys=True)
                    (staging / CONFIGURATION).write_text(text + "\n")
            self._take()
        return found

    def configuration(self) -> dict[str, Any] | None:
        """That of the run in the folder; None if there is none, or it cannot be read."""
        try:
            found = json.loads((self.path / CONFIGURATION).read_text())
        except (OSError, ValueError):
            return None
        return found if isinstance(found, dict) else None

    # ------------------------------------------------------------------ during the work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the claim during the block, and release it at the end.

        Raises:
            ValueError: if the claim was released before, and another process has the folder now.
        """
        if self._claim is None:
            with self.errors(), self._locked():
                if not self.shared and self._others_at_work():
                    raise self._in_use()
                self._take()
        try:
            yield
        finally:
            self._release()

    def verify(self) -> None:
        """Check that the folder is still the one that was claimed.

        Raises:
            FolderError: if it was removed or replaced.
        """
        if self._claim is None or not os.path.exists(self._claim[0]):
            raise FolderError(
                f"the output folder {str(self.path)!r} must stay where it is while a command works "
                "in it, but it was removed or replaced: start again with another `--out`."
            )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turn an `OSError` of the block into one line.

        Raises:
            FolderError: in its place.
        """
        try:
            yield
        except OSError as error:
            if self._claim is not None:
                self.verify()
            raise FolderError(
                f"the output folder {str(self.path)!r} must be writable: {_reason(error)}; what is "
                "finished is kept, and `--resume` continues from there."
            ) from error

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A temporary folder whose files move into this one once all of them are on disk.

        Raises:
            FolderError: if the files cannot be written; those that were there stay.
        """
        self.verify()
        with self.errors(), self._locked():
            self._sweep()
            with self._aside() as staging:
                yield staging
            self.verify()

    # ------------------------------------------------------------------ locks

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        """Alone among all processes, for a short time."""
        lock = acquire(self.path / _LOCK)
        try:
            yield
        finally:
            lock.release()

    def _take(self) -> None:
        file = self.path / f"{_AT_WORK}{uuid.uuid4().hex}"
        self._claim = file, acquire(file)

    def _release(self) -> None:
        if self._claim is not None:
            file, lock = self._claim
            self._claim = None
            lock.release()
            with contextlib.suppress(OSError):
                file.unlink()

    def _others_at_work(self) -> bool:
        """Whether another object or process holds a lock."""
        from filelock import Timeout

        mine = None if self._claim is None else self._claim[0]
        for file in self.path.glob(f"{_AT_WORK}*"):
            if file == mine:
                continue
            try:
                # Longer than any other process holds it only to try it.
                acquire(file, timeout=_WAIT, poll_interval=_WAIT / 10).release()
            except Timeout:
                return True
            except OSError:  # a file of another user, or removed in the meantime
                if file.exists():
                    return True
        return False

    def _in_use(self) -> ValueError:
        return ValueError(
            f"`out` must be a folder that no other process uses, got {str(self.path)!r}: choose "
            "another with `--out`, or wait until that process has ended."
        )

    # ------------------------------------------------------------------ files

    def _sweep(self) -> None:
        """Remove temporary files of killed processes; to be called under the lock.

        Temporary files are only written under the lock, so none belongs to a live process.
        """
        for leftover in self.path.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self._others_at_work():
            mine = None if self._claim is None else self._claim[0]
            for leftover in self.path.glob(f"{_AT_WORK}*"):
                if leftover != mine:
                    leftover.unlink(missing_ok=True)

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Turn an `OSError` before the work into one line."""
        try:
            yield
        except OSError as error:
            raise ValueError(
                f"`out` must be a folder that can be written to, got {str(self.path)!r}: "
                f"{_reason(error)}."
            ) from error

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Make the folder; if it cannot be written to, nothing of it is left."""
        missing = [p for p in (self.path, *self.path.parents) if not os.path.lexists(p)]
        with self._refused():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                yield
            except OSError:
                self._release()
                if self.path in missing:
                    with contextlib.suppress(OSError):
                        (self.path / _LOCK).unlink()
                for folder in missing:
                    with contextlib.suppress(OSError):
                        folder.rmdir()
                raise

    @contextlib.contextmanager
    def _aside(self) -> Iterator[Path]:
        """A temporary folder whose files move into this one if the block succeeds."""
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.path))
        try:
            yield staging
            files = sorted(staging.iterdir())
            for file in files:
                if (target := self.path / file.name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
                # Some file systems report a full disk only here.
                with open(file, "r+b") as opened:
                    os.fsync(opened.fileno())
            for file in files:
                os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def acquire(file: Path, **how: Any) -> Any:
    """The lock of the operating system on a file in a folder that exists.

    Args:
        file: is made if it does not exist.
        **how: how to wait for the lock, see `filelock`.

    Raises:
        filelock.Timeout: if another process holds it.
        OSError: if the folder is missing, or its file system has no locks.
    """
    from filelock import FileLock

    if not file.parent.is_dir():  # FileLock would make it
        raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(file.parent))
    lock = FileLock(file, thread_local=False)
    try:
        lock.acquire(**how)
    except NotImplementedError as error:
        raise OSError(errno.ENOLCK, "its file system has no locks (flock)") from error
    return lock


def _reason(error: BaseException) -> str:
    """The cause of an error, in the words of the operating system."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def _check_same(configuration: dict[str, Any], file: Path) -> None:
    """Refuse a configuration that differs from that of a file; the first difference is named."""
    earlier: Any = None
    try:
        if not file.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a file")
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = _reason(error)
    else:
        why = "" if isinstance(earlier, dict) else f"it holds {_short(earlier)}"
    if why:
        raise ValueError(
            f"{str(file)!r} must be the configuration of a run: {why}; replace the run with "
            "`--overwrite`, or choose another folder with `--out`."
        )
    # As in the file: JSON has lists, no tuples.
    now = json.loads(json.dumps(configuration))
    for name in sorted(now.keys() | earlier.keys()):
        if now.get(name) != earlier.get(name):
            raise ValueError(
                f"`{_short(name, quoted=False)}` must be {_short(earlier.get(name))}, as in the "
                f"run that `--resume` continues, got {_short(now.get(name))}."
            )


def _short(value: Any, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
