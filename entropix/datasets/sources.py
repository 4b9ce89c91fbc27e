"""What a stream reads from: parquet, ArrayRecord, Hugging Face, NumPy, or memory.

A source reads the samples that are asked for and, of memory-mapped files, nothing else. It returns
them as they are stored; `streams` converts them to floating numbers.
"""

import dataclasses
import glob
import math
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jax.typing import DTypeLike

from entropix._core.arrays import check_unmasked
from entropix._core.extras import needed
from entropix._core.files import check_npy, check_regular
from entropix._core.memory import check_fits, readable
from entropix.datasets.dataset import Dataset
from entropix.datasets.files import quoted, reading
from entropix.datasets.huggingface import (
    PREFIX,
    Columns,
    columns_of,
    is_huggingface,
    open_huggingface,
    read_rows,
)
from entropix.datasets.tables import unpacked


_RECORDS = (".array_record", ".arrayrecord")
_ALLOWED = (
    "a Dataset, an array, or a path to .npy, .parquet or .array_record files, a folder of the last "
    "two, or a Hugging Face dataset"
)


@dataclasses.dataclass(frozen=True)
class Source:
    """Samples by their numbers.

    Attributes:
        read: from numbers, shape (n,), to the samples, shape (n, *shape), and labels of shape (n,),
            or (n, C) for C columns of them, or None. Several threads may read at the same time. A
            damaged file raises a `ValueError` of one line.
        num_samples: N.
        shape: of one example.
        dtype: in which the numbers are stored.
        subject: the source, as errors write it.
    """

    read: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray | None]]
    num_samples: int
    shape: tuple[int, ...]
    dtype: np.dtype
    subject: str


def open_source(
    source: Dataset | np.ndarray | str | os.PathLike[str],
    columns: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    split: str | None,
    shape: tuple[int, ...] | None,
    dtype: DTypeLike | None,
) -> Source:
    """The source by its kind; the arguments are those of `stream`."""
    if isinstance(source, Dataset):
        _refuse(source.name, columns=columns, split=split, dtype=dtype)
        return _of_dataset(source, label)
    if isinstance(source, np.ndarray):
        _refuse("an array", columns=columns, label=label, split=split, dtype=dtype)
        check_unmasked(source, "`source`")
        return _of_array(source, None, "`source`")
    text = os.path.expanduser(os.fspath(source))
    if isinstance(source, str) and text.startswith(PREFIX):
        _refuse(text, dtype=dtype)
        dataset = open_huggingface(text, split)
        return _of_rows(dataset, columns_of(dataset, columns, label, quoted(text)))
    path = Path(text)
    if not os.path.exists(text):
        raise ValueError(f"`source` must be {_ALLOWED} that exists, got {text!r}.")
    check_regular(path, quoted(path))
    if path.is_dir() and is_huggingface(path):
        _refuse(text, dtype=dtype)
        dataset = open_huggingface(path, split)
        return _of_rows(dataset, columns_of(dataset, columns, label, quoted(path)))
    files = sorted(path.iterdir()) if path.is_dir() else [path]
    for file in files:
        check_regular(file, quoted(file))
    if found := [file for file in files if file.suffix.lower() == ".parquet"]:
        _refuse(text, split=split, dtype=dtype)
        return _of_parquet(found, columns, label)
    if found := [file for file in files if file.suffix.lower() in _RECORDS]:
        _refuse(text, columns=columns, label=label, split=split)
        return _of_records(found, shape, dtype)
    if path.suffix.lower() == ".npy" and path.is_file():
        _refuse(text, columns=columns, label=label, split=split, dtype=dtype)
        with reading(path, "a NumPy .npy file of numbers"), path.open("rb") as file:
            check_npy(file, path.stat().st_size)
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return _of_array(mapped, None, quoted(path))
    raise ValueError(
        f"`source` must be {_ALLOWED}, got {quoted(path)}; what fits into memory can be read by "
        f"`load`."
    )


def _refuse(source: str, **options: Any) -> None:
    for name, value in options.items():
        if value is not None:
            raise ValueError(f"`{name}` must be None for {source!r}, got {value!r}.")


def _of_array(points: np.ndarray, labels: np.ndarray | None, subject: str) -> Source:
    """Samples of an array, which may be a mapped file."""
    if points.ndim < 2:
        raise ValueError(
            f"{subject} must have at least two axes, samples first, got shape {points.shape}."
        )

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return points[indices], None if labels is None else labels[indices]

    return Source(read, len(points), points.shape[1:], points.dtype, subject)


def _of_dataset(dataset: Dataset, label: str | Sequence[str] | None) -> Source:
    """Samples of a `Dataset`, with its labels for `"labels"`, as a column for `["labels"]`."""
    subject = repr(dataset.source or dataset.name)
    names = [label] if isinstance(label, str) else list(label or ())
    labels = dataset.labels
    if label is not None and (names != ["labels"] or labels is None):
        allowed = "None" if labels is None else "None or 'labels'"
        raise ValueError(f"`label` must be {allowed} for {subject}, got {label!r}.")
    if label is None:
        labels = None
    elif labels is not None and not isinstance(label, str):
        labels = labels[:, None]
    return _of_array(dataset.points.reshape(-1, *dataset.shape), labels, subject)


def _of_rows(dataset: Any, used: Columns) -> Source:
    """A Hugging Face dataset on disk, of which rows are decoded as they are asked for."""
    if not len(dataset):
        raise ValueError(f"{used.subject} must hold samples, got none.")
    rows = dataset.with_format("arrow", columns=used.names)

    def read(indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        return read_rows(rows, indices.tolist(), used)

    first, _ = read(np.array([0]))
    return Source(read, len(dataset), first.shape[1:], first.dtype, used.subject)


def _of_parquet(
    paths: list[Path], columns: str | Sequence[str] | None, label: str | Sequence[str] | None
) -> Source:
    """Parquet files, one after the other, by way of the Arrow copy that `datasets` keeps of them.

    A row group is the smallest part of a parquet file that can be read, and a shuffled batch lies
    in as many of them as it has samples; rows of an Arrow file are read one by one.
    """
    parquet = needed("pyarrow.parquet", "reading .parquet", "pyarrow", "data")
    hf = needed("datasets", "streaming .parquet", "datasets", "streams")
    whole = paths[0] if len(paths) == 1 else paths[0].parent
    schema, total, count = None, 0, 0
    for path in paths:
        with reading(path, "a .parquet table"), parquet.ParquetFile(path) as file:
            metadata, here = file.metadata, file.schema_arrow
            sizes = [unpacked(metadata.row_group(i)) for i in range(metadata.num_row_groups)]
        if schema is not None and not here.equals(schema, check_metadata=False):
            raise ValueError(
                f"{quoted(path)} must have the columns and types of {quoted(paths[0])}."
            )
        schema = here if schema is None else schema
        check_fits(max(sizes, default=0), quoted(path), "a row group")
        total, count = total + sum(sizes), count + metadata.num_rows
    if not count:
        raise ValueError(f"{quoted(whole)} must hold samples, got none.")
    used = Columns.of(schema, columns, label, quoted(whole))
    cache = Path(hf.config.HF_DATASETS_CACHE)
    there = shutil.disk_usage(next(p for p in (cache, *cache.parents) if p.exists())).free
    if total > there:
        raise ValueError(
            f"{quoted(whole)} must fit unpacked onto the disk of {quoted(cache)}, where "
            f"{readable(there)} are free, got {readable(total)}: HF_DATASETS_CACHE names another."
        )
    with reading(whole, "a .parquet table"):
        names = [glob.escape(str(path.absolute())) for path in paths]
        dataset = hf.Dataset.from_parquet(names, columns=used.names, batch_size=1024)
    return _of_rows(dataset, used)


def _of_records(paths: list[Path], shape: Any, dtype: DTypeLike | None) -> Source:
    """Files of ArrayRecord, each record the bytes of one example of this shape and dtype."""
    grain = needed("grain", "reading ArrayRecord files", "grain", "streams")
    if shape is None or dtype is None:
        raise ValueError(
            f"`shape` and `dtype` must be those of one record of an ArrayRecord file, "
            f"got {shape} and {dtype}."
        )
    subject, shape, kind = quoted(paths[0]), tuple(shape), np.dtype(dtype)
    with reading(subject, "an ArrayRecord file"):
        records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
        count = len(records)
    size = math.prod(shape) * kind.itemsize

    def read(indices: np.ndarray) -> tuple[np.ndarray, None]:
        with reading(subject, "an ArrayRecord file"):
            found = records.__getitems__(indices.tolist())
        for index, record in zip(indices, found, strict=True):
            if len(record) != size:
                raise ValueError(
                    f"{subject} must hold records of {size} bytes for the shape {shape} and dtype "
                    f"{kind}, got {len(record)} in record {index}."
                )
        return np.frombuffer(b"".join(found), kind).reshape(len(found), *shape), None

    return Source(read, count, shape, kind, subject)
