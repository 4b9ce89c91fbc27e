"""The source of a stream, by its kind: parquet, ArrayRecord, Hugging Face, NumPy or memory."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.arrays import check_unmasked
from entropix._core.checks import positive_integer
from entropix._core.files import check_regular
from entropix.datasets.dataset import Dataset
from entropix.datasets.files import quoted
from entropix.datasets.huggingface import PREFIX, is_huggingface
from entropix.datasets.parquet import ParquetSource
from entropix.datasets.sources import (
    AbstractSource,
    ArrayRecordSource,
    ArraySource,
    HuggingFaceSource,
)


_RECORDS = (".array_record", ".arrayrecord")
_ALLOWED = (
    "a Dataset, an array, or a path to .npy, .parquet or .array_record files, a folder of the last "
    "two, or a Hugging Face dataset"
)


def open_source(
    source: Any,
    columns: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    split: str | None,
    shape: tuple[int, ...] | None,
    dtype: Any,
    cache_bytes: int,
) -> AbstractSource:
    """The source by its kind.

    Raises:
        ValueError: if it is of none, or an option does not apply to it.
    """
    if isinstance(source, Dataset):
        _refuse(source.name, columns=columns, split=split, dtype=dtype)
        return ArraySource.of_dataset(source, label)
    if isinstance(source, np.ndarray):
        _refuse("an array", columns=columns, label=label, split=split, dtype=dtype)
        check_unmasked(source, "`source`")
        return ArraySource(source, None, "`source`")
    text = os.path.expanduser(os.fspath(source))
    if isinstance(source, str) and text.startswith(PREFIX):
        _refuse(text, dtype=dtype)
        return HuggingFaceSource(text, split, columns, label)
    path = Path(text)
    if not os.path.exists(text):
        raise ValueError(f"`source` must be {_ALLOWED} that exists, got {text!r}.")
    check_regular(path, quoted(path))
    if path.is_dir() and is_huggingface(path):
        _refuse(text, dtype=dtype)
        return HuggingFaceSource(path, split, columns, label)
    files = [path]
    if path.is_dir():
        files = sorted(path.iterdir())
        for file in files:
            check_regular(file, quoted(file))
    if found := [file for file in files if file.suffix.lower() == ".parquet"]:
        _refuse(text, split=split, dtype=dtype)
        return ParquetSource(found, columns, label, positive_integer(cache_bytes, "cache_bytes"))
    if found := [file for file in files if file.suffix.lower() in _RECORDS]:
        _refuse(text, columns=columns, label=label, split=split)
        return ArrayRecordSource(found, shape, dtype)
    if path.suffix.lower() == ".npy" and path.is_file():
        _refuse(text, columns=columns, label=label, split=split, dtype=dtype)
        return ArraySource.of_npy(path)
    raise ValueError(
        f"`source` must be {_ALLOWED}, got {quoted(path)}; what fits into memory can be read by "
        f"`load`."
    )


def _refuse(source: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`{name}` must be None for {source!r}, got {value!r}.")
