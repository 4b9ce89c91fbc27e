"""The output folder: claimed before training, and never left with half a file in it."""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from entropix.studies.files import CONFIGURATION


_STAGING = ".staging-"


class OutputFolder:
    """Where a study writes.

    Args:
        path: the folder; it need not exist yet.

    The order of events: `check` (nothing is touched), `claim` (the folder is made), and at the end
    `staged`, which lets files appear under their names only when all of them are complete.
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
        if any(self.path.iterdir()):
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
            _check_same(configuration, file)
        missing = [p for p in (self.path, *self.path.parents) if not p.exists()]
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            for leftover in self.path.glob(f"{_STAGING}*"):
                shutil.rmtree(leftover, ignore_errors=True)
            if not found:
                with self.staged() as staging:
                    text = json.dumps(configuration, indent=2, sort_keys=True)
                    (staging / CONFIGURATION).write_text(text + "\n")
            else:
                tempfile.TemporaryFile(dir=self.path).close()
        except OSError as error:
            for folder in missing:
                with contextlib.suppress(OSError):
                    folder.rmdir()
            reason = error.strerror or type(error).__name__
            raise ValueError(
                f"`out` must be a folder that can be written to, got {str(self.path)!r}: {reason}."
            ) from error
        return found

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


def _check_same(configuration: dict[str, Any], file: Path) -> None:
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
