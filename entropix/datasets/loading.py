"""`load`: a data set from an embedded name or a path, by the reader for its extension."""

import dataclasses
import difflib
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix.datasets.arrays import read_npy, read_npz
from entropix.datasets.dataset import KINDS, Dataset
from entropix.datasets.embedded import available, embedded
from entropix.datasets.files import Raw, quoted
from entropix.datasets.idx import read_idx
from entropix.datasets.images import read_folder
from entropix.datasets.tables import read_csv, read_parquet


_TABLES: dict[str, Callable[[Path, str | None], Raw]] = {
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
    labels: str | os.PathLike[str] | None = None,
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
        labels: what holds one label for each sample: a file of any of the formats above; a column
            of a table or an array of an `.npz` file, which is then no part of the samples; or
            `"labels"` for those the data carry, as digits and mixtures do. None: these too, if
            there are any.

    Returns:
        The validated data set, in the units of its source: neither standardised nor dequantised.

    Raises:
        ValueError: in one line, for an unknown name (with the nearest known one), a file that is
            missing, damaged or of an unknown format, for labels that are not there, and for data
            that `Dataset` refuses.
    """
    if labels is not None and os.path.isfile(labels):
        data = load(source, num_samples=num_samples, key=key, array=array, kind=kind)
        return dataclasses.replace(data, labels=_labels_of(Path(labels)))
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
        _check_labels(labels, data.labels, data.source)
        if kind in (None, data.kind):
            return data
        return dataclasses.replace(data, kind=kind, levels=None)
    raw = _read(path, array, labels)
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


def _read(path: Path, array: str | None, labels: str | os.PathLike[str] | None = None) -> Raw:
    suffix = path.suffix.lower()
    if not path.is_dir():
        named = None if labels is None else os.fspath(labels)
        if suffix == ".npz":
            return read_npz(path, array, named)
        if suffix in _TABLES:
            return _TABLES[suffix](path, named)
    raw = _read_whole(path)
    _check_labels(labels, raw.labels, str(path))
    return raw


def _check_labels(wanted: str | os.PathLike[str] | None, given: Any, source: str) -> None:
    """Data without named parts have their own labels, or none."""
    if wanted is None or (wanted == "labels" and given is not None):
        return
    allowed = "a file that exists" if given is None else "'labels' or a file that exists"
    raise ValueError(f"`labels` must be {allowed} for {source!r}, got {os.fspath(wanted)!r}.")


def _labels_of(path: Path) -> np.ndarray:
    """The labels that a file holds: one axis, or a second of size one."""
    array = _read(path, None).array
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _read_whole(path: Path) -> Raw:
    """What has no named parts."""
    if path.is_dir():
        return read_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return read_npy(path)
    if _IDX_NAME.fullmatch(path.name):
        return read_idx(path)
    raise ValueError(f"{quoted(path)} must be one of {_ALLOWED}, got the extension {suffix!r}.")


def _name(path: Path) -> str:
    """The name of the file without its extension; of a folder, its own name."""
    if path.is_dir():
        return path.resolve().name or "root"
    stem = path.name.removesuffix(".gz")
    return stem.rsplit(".", 1)[0] or stem
