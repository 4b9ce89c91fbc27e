"""What the readers of files share: their result, their errors, and the choice of a split.

A reader takes a path and returns a `Raw`: what the file holds, not yet validated. Whatever a
third-party parser raises, on a damaged file above all, becomes one line of `ValueError`.
"""

import contextlib
import gzip
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np


GZIP_MAGIC = b"\x1f\x8b"
_UNPACKED = 2**20  # bytes that are unpacked at a time
TRAIN_TEST = ("train", "test")


class Raw(NamedTuple):
    """What a file holds: samples along the first axis, and perhaps labels and column names.

    `channels` is `"last"` where the format puts the channels of images there; `notes` lists the
    assumptions made; `kept` says which rows were kept, where some may have been dropped;
    `categories` holds the values of encoded columns, in the order of their numbers.
    """

    array: np.ndarray
    labels: np.ndarray | None = None
    columns: tuple[str, ...] | None = None
    channels: str = "auto"
    notes: tuple[str, ...] = ()
    kept: np.ndarray | None = None
    categories: Mapping[str, tuple[str, ...]] = {}


def quoted(path: Path | str) -> str:
    """A path as errors write it: in quotes, on one line."""
    return repr(str(path))


def unzipped(path: Path, check: Callable[[int], None]) -> bytes:
    """The content of a file, gzipped or not.

    Args:
        path: the file.
        check: is called with the number of bytes so far, and raises if it is too large: a small
            gzipped file may unpack to any size.
    """
    check(path.stat().st_size)
    with path.open("rb") as raw:
        zipped = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        if not zipped:
            return raw.read()
        parts, size, file = [], 0, gzip.GzipFile(fileobj=raw)
        while part := file.read(_UNPACKED):
            parts.append(part)
            check(size := size + len(part))
        return b"".join(parts)


@contextlib.contextmanager
def reading(source: Path | str, expected: str) -> Iterator[None]:
    """Turn whatever a third-party parser raises into a `ValueError` that names the source.

    Args:
        source: the file, or text that errors write as it is.
        expected: what it must be.
    """
    try:
        yield
    # Parsers do not document what they raise on damaged files: struct.error, zlib.error,
    # EOFError, SyntaxError, KeyError, MemoryError and NotImplementedError were all seen.
    except Exception as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        subject = quoted(source) if isinstance(source, Path) else source
        raise ValueError(
            f"{subject} must be {expected}, got one that cannot be read: {reason}."
        ) from error


def chosen(split: str | None, parts: Sequence[str], source: Path | str) -> tuple[str, ...]:
    """The splits to read, in their own order: all of them for `"all"`.

    None means `"train"`, or the only split there is.
    """
    if split is None:
        split = parts[0] if len(parts) == 1 else "train"
    if split in parts:
        return (split,)
    if split == "all":
        return tuple(parts)
    allowed = ", ".join(repr(part) for part in (*parts, "all"))
    raise ValueError(f"`split` must be one of {allowed} for {quoted(source)}, got {split!r}.")
