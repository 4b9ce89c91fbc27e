"""What every reader of files shares: its result, and its errors.

A reader takes a path and returns a `Raw`: what the file holds, not yet validated. All that can go
wrong inside a third-party parser, on a damaged file above all, leaves as one line of `ValueError`.
"""

import contextlib
import importlib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import numpy as np


class Raw(NamedTuple):
    """What a file holds: samples along the first axis, perhaps labels and names of columns.

    `channels` is where images have theirs, `"last"` where the format says so; `notes` is what was
    assumed.
    """

    array: np.ndarray
    labels: np.ndarray | None = None
    columns: tuple[str, ...] | None = None
    channels: str = "auto"
    notes: tuple[str, ...] = ()


def quoted(path: Path) -> str:
    """A path as errors write it: in quotes, on one line."""
    return repr(str(path))


@contextlib.contextmanager
def reading(path: Path, expected: str) -> Iterator[None]:
    """Turn whatever a third-party parser raises into a `ValueError` that names the file."""
    try:
        yield
    # Parsers document no list of what they raise on damaged files: struct.error, zlib.error,
    # EOFError, SyntaxError, KeyError, MemoryError and NotImplementedError were all seen.
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{quoted(path)} must be {expected}, got one that cannot be read: {reason}."
        ) from error


def needed(module: str, reason: str, package: str, extra: str) -> ModuleType:
    """Import an optional dependency, late.

    Raises:
        ValueError: if it is not installed, with the command that installs it.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ValueError(
            f"{reason} needs {package}: python -m pip install 'entropix[{extra}]'."
        ) from error
