"""`load`: a data set from an embedded name or a path, by the reader for its extension."""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix.datasets.arrays import read_npy, read_npz
from entropix.datasets.dataset import KINDS, Dataset
from entropix.datasets.embedded import available, embedded
from entropix.datasets.files import Raw, quoted
from entropix.datasets.idx import read_idx
from entropix.datasets.images import read_folder
from entropix.datasets.tables import read_csv, read_parquet


_READERS: dict[str, Callable[[Path], Raw]] = {
    ".npy": read_npy,
    ".csv": read_csv,
    ".parquet": read_parquet,
}
# train-images-idx3-ubyte, train-images.idx3-ubyte, x.idx, x.idx3, each with .gz or without.
_IDX_NAME = re.compile(r".+([-.]idx\d?|ubyte)(\.gz)?", flags=re.IGNORECASE)
_ALLOWED = ".npy, .npz, .csv, .parquet, .idx or *-ubyte (also with .gz), or a folder of PNG images"


def load(
    source: str | os.PathLike[str],
    *,
    num_samples: int | None = None,
    key: Key | None = None,
    array: str | None = None,
    kind: str | None = None,
) -> Dataset:
    """Load an embedded data set or a file.

    | source | what it holds |
    |---|---|
    | `"digits"`, `"mixture3"`, `"moons"`, ... | one of `available()` |
    | `.npy` | an array of shape (N,), (N, D), (N, H, W) or (N, H, W, C) |
    | `.npz` | the same, under the name `array` |
    | `.csv`, `.parquet` | a table of numbers, one sample per row |
    | `.idx`, `*-ubyte`, with `.gz` or not | an IDX file, as MNIST has |
    | a folder | PNG images of one size, perhaps in one subfolder per label |

    Args:
        source: a name or a path. A name wins over a file of the same name in the working
            directory; write `./digits`, or pass a `pathlib.Path`, to mean the file.
        num_samples: synthetic sets: how many samples to draw; 8192 by default. Other data come
            whole.
        key: synthetic sets: the random key, required. Ignored by the others.
        array: the array of an `.npz` file; may be left out if there is only one.
        kind: `"table"`, `"image"` or `"points"`, overriding the inferred kind (see `Dataset`).

    Returns:
        The validated data set, in the units of its source: neither standardised nor dequantised.

    Raises:
        ValueError: in one line, for an unknown name (with the nearest known one), a file that is
            missing, damaged or of an unknown format, and for data that `Dataset` refuses.
    """
    if kind is not None:
        choice(kind, "kind", KINDS)
    name = source if isinstance(source, str) and source in available() else None
    path = _existing(source) if name is None else None
    if num_samples is not None and name in (None, "digits"):
        raise ValueError(
            f"`num_samples` must be None for data that are not synthetic, got {num_samples!r} "
            f"for {str(source)!r}."
        )
    if array is not None and (path is None or path.suffix.lower() != ".npz"):
        raise ValueError(
            f"`array` must be None unless the source is an .npz file, got {array!r} "
            f"for {str(source)!r}."
        )
    if path is None:
        data = embedded(str(source), num_samples, key)
        if kind in (None, data.kind):
            return data
        return dataclasses.replace(data, kind=kind, levels=None)
    raw = _read(path, array)
    return Dataset.from_array(
        raw.array,
        name=_name(path),
        kind=kind,
        labels=raw.labels,
        columns=raw.columns,
        source=str(path),
    )


def _existing(source: str | os.PathLike[str]) -> Path:
    """The path of a file or folder that exists.

    Raises:
        ValueError: if it does not exist; a source that looks like a name is met with known names.
    """
    text = os.path.expanduser(os.fspath(source))
    if text and os.path.exists(text):  # unlike Path.exists, False for any text that is no path
        return Path(text)
    if not isinstance(source, str) or re.search(r"[./\\]", source):
        raise ValueError(f"`source` must be a file or folder that exists, got {text!r}.")
    close = difflib.get_close_matches(source.lower(), available(), n=1)
    hint = f" (did you mean {close[0]!r}?)" if close else ""
    raise ValueError(
        f"`source` must be a path that exists or one of {', '.join(available())}, "
        f"got {source!r}{hint}."
    )


def _read(path: Path, array: str | None) -> Raw:
    if path.is_dir():
        return read_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return read_npz(path, array)
    if suffix in _READERS:
        return _READERS[suffix](path)
    if _IDX_NAME.fullmatch(path.name):
        return read_idx(path)
    raise ValueError(f"{quoted(path)} must be one of {_ALLOWED}, got the extension {suffix!r}.")


def _name(path: Path) -> str:
    """The name of the file without its extension; of a folder, its own name."""
    if path.is_dir():
        return path.resolve().name or "root"
    stem = path.name.removesuffix(".gz")
    return stem.rsplit(".", 1)[0] or stem
