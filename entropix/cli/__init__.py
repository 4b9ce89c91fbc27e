"""The command line, `entropix COMMAND`: a thin face over `entropix.studies`.

What is wrong with a request is said in one line on stderr, with exit code 2, before any training
starts: so is a folder in which another command works. What goes wrong later, a training that
diverges, a disk that is full or a folder that was removed, is said in one line with exit code 1. A
mistake of the program itself is not dressed up as one of the user: it surfaces with its traceback.
Ctrl-C ends with exit code 130 and the command that takes the run up again.
"""

import contextlib
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from typing import Any

from entropix import __version__
from entropix.cli.parsing import parse
from entropix.cli.subcommands import Job, commands
from entropix.studies import FolderError


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
    _be_modest()
    try:
        make = parse(words, commands(words))
        job: Job | None = None if isinstance(make, int) else make()
    except (ValueError, FolderError) as error:
        return _fail(str(error))
    except KeyboardInterrupt:
        return _interrupted(None)
    if job is None:
        return 0
    try:
        with _termination_interrupts():
            job.run()
    except (FloatingPointError, FolderError) as error:
        return _fail(str(error), FAILURE)
    except KeyboardInterrupt:
        return _interrupted(job)
    return 0


def _be_modest() -> None:
    """Take memory as it is needed, and no more threads than this process may use."""
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if hasattr(os, "sched_getaffinity"):
        os.environ.setdefault("PJRT_NPROC", str(len(os.sched_getaffinity(0))))


def _fail(message: str, code: int = USAGE_ERROR) -> int:
    print(f"entropix: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _interrupted(job: Job | None) -> int:
    text = "entropix: interrupted"
    if job is None:
        text += " before training"
    elif job.resumable:
        again = shlex.join([*job.command, "--resume"])
        text += f"; `{again}` takes the run up again"
    print(text, file=sys.stderr)
    return INTERRUPTED


@contextlib.contextmanager
def _termination_interrupts() -> Any:
    """SIGTERM, which schedulers send before they kill, means what Ctrl-C means."""

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
