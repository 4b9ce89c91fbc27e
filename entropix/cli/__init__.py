"""The command line, `entropix COMMAND`: a thin layer over `entropix.studies`.

A wrong request is reported in one line on stderr, with exit code 2, before any training starts. A
later failure (a training that diverges, a full disk, a folder that was removed) is reported in one
line with exit code 1. An error of the program itself keeps its traceback. Ctrl-C ends with exit
code 130, and prints the command that continues the run.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from typing import Any

from entropix import __version__
from entropix._core.extras import MissingPackageError
from entropix.cli.parsing import parse
from entropix.cli.subcommands import commands
from entropix.studies import AbstractStudy, FolderError


FAILURE, USAGE_ERROR, INTERRUPTED = 1, 2, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Args:
        arguments: the words after `entropix`; `sys.argv[1:]` if None.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words in (["--version"], ["-V"]):
        print(f"entropix {__version__}")
        return 0
    # Take memory as it is needed, and no more threads than this process may use.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("PJRT_NPROC", str(len(os.sched_getaffinity(0))))
    try:
        prepare = parse(words, commands(words))
        if isinstance(prepare, int):
            return prepare
        study: AbstractStudy = prepare()
    except (ValueError, MissingPackageError, FolderError) as error:
        return _fail(error, USAGE_ERROR)
    except KeyboardInterrupt:
        return _interrupted(None)
    try:
        with _termination_interrupts():
            study.run()
    except (FloatingPointError, FolderError) as error:
        return _fail(error, FAILURE)
    except KeyboardInterrupt:
        return _interrupted(study)
    return 0


def _fail(error: Exception, code: int) -> int:
    print(f"entropix: error: {' '.join(str(error).split())}", file=sys.stderr)
    return code


def _interrupted(study: AbstractStudy | None) -> int:
    text = "entropix: interrupted before training"
    if study is not None:
        again = shlex.join([*study.command, "--resume"])
        text = f"entropix: interrupted; `{again}` continues the run"
    print(text, file=sys.stderr)
    return INTERRUPTED


@contextlib.contextmanager
def _termination_interrupts() -> Iterator[None]:
    """Treat SIGTERM, which schedulers send before they kill, like Ctrl-C."""

    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    try:
        before = signal.signal(signal.SIGTERM, interrupt)
    except ValueError:  # not the main thread
        yield
        return
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
