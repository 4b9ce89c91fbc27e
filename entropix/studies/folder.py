"""The output folder: claimed before training, and never left with half a file in it.

One process works in a folder at a time, or several of one study that share it. Each of them holds a
lock of the system on a file of its own, which it loses when it ends, however it ends; whoever comes
tries the locks of those that came before. A further lock is held only while the folder is claimed
or files are moved into it, by one process at a time.
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

from entropix.studies.files import CONFIGURATION, OF_A_STUDY, PARTS_OF_A_STUDY


_STAGING = ".staging-"
# Held while the folder is claimed and while files are moved into it.
_LOCK = ".lock"
# Held by each process for as long as it works in the folder.
_AT_WORK = ".at-work-"
_OURS = (_STAGING, _LOCK, _AT_WORK)
# Seconds after which a lock that is still held belongs to a process at work.
_PATIENCE = 0.2


class FolderError(RuntimeError):
    """An output folder that can no longer be written to: a full disk, a lost permission."""


class OutputFolder:
    """Where a study writes.

    Args:
        path: the folder; it need not exist yet.
        shared: whether several processes may work in it together, on one configuration.

    The order of events: `check` (nothing is touched), `claim` (the folder is made), `at_work`
    around all that takes time, and in it `staged`, which lets files appear under their names only
    when all of them are complete.

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
        """Refuse a folder whose contents the run would destroy or not know; touches nothing.

        Raises:
            ValueError: if the path is no folder, or a folder in which another process works, or one
                with contents and neither `resume` nor `overwrite` was asked for, or both were.
        """
        if resume and overwrite:
            raise ValueError("`overwrite` must be left out together with `resume`, got both.")
        if not os.path.lexists(self.path):
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
        # What another process that is just about to claim it has put there says nothing yet.
        if any(not name.startswith(_OURS) for name in names):
            hint = "`--resume` takes up its run, `--overwrite` replaces it"
            if not known:
                hint = "it holds no earlier run; choose another with `--out`"
            raise ValueError(
                f"`out` must be a new or empty folder, got {str(self.path)!r}: {hint}."
            )

    def claim(
        self, configuration: dict[str, Any], *, resume: bool = False, overwrite: bool = False
    ) -> bool:
        """Make the folder, try that it can be written to, and write the configuration down.

        Whoever comes first writes it; who comes later with `resume` takes up the run if theirs is
        the same. The claim lasts until the end of `at_work`.

        Args:
            configuration: what all runs in the folder must share.
            resume: whether to take up a run, or join it, if there is one.
            overwrite: whether to replace one.

        Returns:
            Whether there is a run to take up.

        Raises:
            ValueError: as `check`; or if the folder cannot be made or written to (nothing is left
                behind then), or the run to take up was configured differently.
        """
        file = self.path / CONFIGURATION
        if resume and os.path.lexists(file):
            check_same(configuration, file)  # before anything is touched
        with self._made(), self._locked():
            self.check(resume=resume, overwrite=overwrite)  # again: nobody else can come now
            found = resume and os.path.lexists(file)
            if found:
                check_same(configuration, file)
            self._sweep()
            self._remove(PARTS_OF_A_STUDY if found else OF_A_STUDY)
            if found:
                tempfile.TemporaryFile(dir=self.path).close()
            else:
                with self._aside() as staging:
                    text = json.dumps(configuration, indent=2, sort_keys=True)
                    (staging / CONFIGURATION).write_text(text + "\n")
            self._take()
        return found

    # ------------------------------------------------------------------ during the work

    @contextlib.contextmanager
    def at_work(self) -> Iterator[None]:
        """Keep the claim for the length of the block, and give it up at its end.

        Raises:
            ValueError: if the claim was given up before, and another process has come since.
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
        """See that the folder is still the one that was claimed.

        Raises:
            FolderError: if it was removed, or another has taken its place.
        """
        if self._claim is None or not os.path.exists(self._claim[0]):
            raise FolderError(
                f"the output folder {str(self.path)!r} must stay where it is while a command works "
                "in it, got one that was removed or replaced: start again with another `--out`."
            )

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Say in one line that the folder cannot be written to.

        Raises:
            FolderError: in place of an `OSError` of the block.
        """
        try:
            yield
        except (OSError, NotImplementedError) as error:
            if self._claim is not None:
                self.verify()
            raise FolderError(
                f"the output folder {str(self.path)!r} must be one that can be written to: "
                f"{reason(error)}; what was there before is kept, and `--resume` goes on from it."
            ) from error

    @contextlib.contextmanager
    def staged(self) -> Iterator[Path]:
        """A folder whose files move into this one, once all of them are on the disk.

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
        lock = self._file_lock(_LOCK)
        lock.acquire()
        try:
            yield
        finally:
            lock.release()

    def _file_lock(self, name: str) -> Any:
        from filelock import FileLock

        if not os.path.isdir(self.path):  # FileLock would make it
            raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), str(self.path))
        return FileLock(self.path / name, thread_local=False)

    def _take(self) -> None:
        name = f"{_AT_WORK}{uuid.uuid4().hex}"
        lock = self._file_lock(name)
        lock.acquire()
        self._claim = self.path / name, lock

    def _release(self) -> None:
        if self._claim is not None:
            file, lock = self._claim
            self._claim = None
            lock.release()
            with contextlib.suppress(OSError):
                file.unlink()

    def _others_at_work(self) -> bool:
        """Whether a lock is held that is not of this object."""
        from filelock import Timeout

        mine = None if self._claim is None else self._claim[0]
        for file in self.path.glob(f"{_AT_WORK}*"):
            if file == mine:
                continue
            lock = self._file_lock(file.name)
            try:
                # Longer than another newcomer may hold the lock of a process that died.
                lock.acquire(timeout=_PATIENCE, poll_interval=_PATIENCE / 10)
            except Timeout:
                return True
            except OSError:  # of another user, or removed by now
                if file.exists():
                    return True
                continue
            lock.release()
        return False

    def _in_use(self) -> ValueError:
        return ValueError(
            f"`out` must be a folder that no other process works in, got {str(self.path)!r}: "
            "choose another with `--out`, or wait until that process has ended."
        )

    # ------------------------------------------------------------------ files

    def _sweep(self) -> None:
        """Remove what killed processes left aside; to be called under the lock.

        Files are put aside under the lock alone, so that none of them belongs to a live process.
        """
        for leftover in self.path.glob(f"{_STAGING}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        if not self._others_at_work():
            mine = None if self._claim is None else self._claim[0]
            for leftover in self.path.glob(f"{_AT_WORK}*"):
                if leftover != mine:
                    leftover.unlink(missing_ok=True)

    def _remove(self, patterns: tuple[str, ...]) -> None:
        """Remove what an earlier run left, so that nothing of it is taken for part of the new."""
        for pattern in patterns:
            for file in self.path.glob(pattern):
                file.unlink()

    @contextlib.contextmanager
    def _refused(self) -> Iterator[None]:
        """Say in one line that the folder cannot be used, before anything has begun."""
        try:
            yield
        except (OSError, NotImplementedError) as error:
            raise ValueError(
                f"`out` must be a folder that can be written to, got {str(self.path)!r}: "
                f"{reason(error)}."
            ) from error

    @contextlib.contextmanager
    def _made(self) -> Iterator[None]:
        """Make the folder; if the block finds that it cannot be written to, nothing is left."""
        missing = [p for p in (self.path, *self.path.parents) if not os.path.lexists(p)]
        with self._refused():
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                yield
            except (OSError, NotImplementedError):
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
        """A folder whose files move into this one, each at once, if the block succeeds."""
        staging = Path(tempfile.mkdtemp(prefix=_STAGING, dir=self.path))
        try:
            yield staging
            files = sorted(staging.iterdir())
            for file in files:
                if (target := self.path / file.name).is_dir():
                    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(target))
                # Some file systems notice only now that the disk is full.
                with open(file, "r+b") as opened:
                    os.fsync(opened.fileno())
            for file in files:
                os.replace(file, self.path / file.name)
        finally:
            shutil.rmtree(staging, ignore_errors=True)


def reason(error: BaseException) -> str:
    """What went wrong, in the words of the system."""
    if isinstance(error, NotImplementedError):
        return "its file system has no locks (flock)"
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def check_same(configuration: dict[str, Any], file: Path) -> None:
    """Refuse another configuration than that in a file, naming the first difference.

    Raises:
        ValueError: if they differ, or the file holds no configuration.
    """
    earlier: Any = None
    try:
        if not file.is_file():  # a pipe would be waited for
            raise OSError(errno.EINVAL, "not a file")
        earlier = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        why = reason(error)
    else:
        why = "" if isinstance(earlier, dict) else f"it holds {_short(earlier)}"
    if why:
        raise ValueError(
            f"{str(file)!r} must be the configuration of a run: {why}; `--overwrite` replaces the "
            "run, or choose another folder with `--out`."
        )
    # What json makes of tuples is what the file holds.
    now = json.loads(json.dumps(configuration))
    for name in sorted(now.keys() | earlier.keys()):
        if now.get(name) != earlier.get(name):
            raise ValueError(
                f"`{_short(name, quoted=False)}` must be {_short(earlier.get(name))}, as in the "
                f"run that `--resume` takes up, got {_short(now.get(name))}."
            )


def _short(value: Any, quoted: bool = True) -> str:
    text = repr(value) if quoted else str(value)
    return text if len(text) <= 200 else f"{text[:200]}..."
