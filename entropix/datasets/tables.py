"""Tables: `.csv` and `.parquet`, one sample per row, every column a real number.

A `.csv` may be separated by commas, semicolons or tabs, whichever its first line shows. Its first
line is a header if some field in it is not a number, or if it counts the columns 0, 1, ... above a
line that does not consist of integers (as pandas writes a table whose columns have no names).
A first column without a name that counts the rows is the index that pandas writes, and is dropped.
"""

import csv
import itertools
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from entropix.datasets.files import Raw, needed, quoted, reading


def read_csv(path: Path, labels: str | None = None) -> Raw:
    """Read a `.csv` file, with a header or without.

    Args:
        path: the file.
        labels: the column that holds labels, numbers or text, and is no part of the array; without
            a header, its number, counted from 0.

    Raises:
        ValueError: if the file is empty or ragged, a column is not numeric (named), or there is
            none of the name `labels`.
    """
    pandas = needed("pandas", "reading .csv", "pandas", "data")
    expected = "a .csv table"
    with reading(path, expected):
        first, second, delimiter = _first_lines(path)
    if not first:
        raise ValueError(f"{quoted(path)} must be {expected}, got an empty file.")
    header = _is_header(first, second)
    with reading(path, expected), warnings.catch_warnings():
        # pandas only warns where it cuts off fields for which the header has no name.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        frame = pandas.read_csv(
            path,
            sep=delimiter,
            header=0 if header else None,
            index_col=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
        )
    if header and not first[0].strip() and frame.shape[1] > 1:
        index = frame.iloc[:, 0]
        if index.dtype.kind == "i" and bool((index == np.arange(len(index))).all()):
            frame = frame.iloc[:, 1:]
    return _numeric(frame, path, labels, named=header)


def read_parquet(path: Path, labels: str | None = None) -> Raw:
    """Read a `.parquet` file.

    Args:
        path: the file.
        labels: as for `read_csv`.

    Raises:
        ValueError: if the file is damaged or empty, a column is not numeric (named), or there is
            none of the name `labels`.
    """
    pandas = needed("pandas", "reading .parquet", "pandas", "data")
    needed("pyarrow", "reading .parquet", "pyarrow", "data")
    with reading(path, "a .parquet table"):
        frame = pandas.read_parquet(path)
    return _numeric(frame, path, labels, named=True)


def _first_lines(path: Path) -> tuple[list[str], list[str], str]:
    """The fields of the first two lines that are not blank, and what separates them."""
    with path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(itertools.islice((line for line in file if line.strip()), 2))
    if not lines:
        return [], [], ","
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), ",")
    first, second, *_ = [*csv.reader(lines, delimiter=delimiter), [], []]
    return first, second, delimiter


def _is_header(first: list[str], second: list[str]) -> bool:
    fields = [field.strip() for field in first]
    names = fields[1:] if not fields[0] else fields
    if any(field and not _is_number(field) for field in fields):
        return True
    counted = bool(names) and names == [str(i) for i in range(len(names))]
    return counted and not all(field.strip().lstrip("+-").isdigit() for field in second)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _numeric(frame: Any, path: Path, labels: str | None, *, named: bool) -> Raw:
    """The columns of a data frame as one array, that of the labels apart.

    Raises:
        ValueError: if the frame is empty, one of its columns is not numeric, or there is none of
            the name `labels`.
    """
    given = None
    if labels is not None:
        known = [str(name) for name in frame.columns]
        if known.count(labels) != 1:
            raise ValueError(
                f"`labels` must name one column of {quoted(path)}: "
                f"{', '.join(repr(name) for name in known)}; or a file that exists; got {labels!r}."
            )
        index = known.index(labels)
        given = _label_column(frame.iloc[:, index], path)
        frame = frame.drop(columns=frame.columns[index])
    if 0 in frame.shape:
        raise ValueError(
            f"{quoted(path)} must hold rows and columns of numbers, "
            f"got {frame.shape[0]} rows and {frame.shape[1]} columns."
        )
    names = tuple(str(name) for name in frame.columns)
    columns = []
    for index in range(frame.shape[1]):
        column = _numeric_column(frame.iloc[:, index])
        if isinstance(column, str):
            label = repr(names[index]) if named else str(index)
            raise ValueError(
                f"{quoted(path)} must have numeric columns, got column {label}: {column}."
            )
        columns.append(column)
    return Raw(np.stack(columns, axis=-1), given, names if named else None)


def _label_column(column: Any, path: Path) -> np.ndarray:
    """Numbers if all of them are, otherwise text.

    Raises:
        ValueError: if an entry is missing.
    """
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(
            f"{quoted(path)} must have a label for every sample, got {missing} missing in column "
            f"{str(column.name)!r}."
        )
    numbers = _numeric_column(column)
    return np.asarray(column.astype(str), dtype=str) if isinstance(numbers, str) else numbers


def _numeric_column(column: Any) -> np.ndarray | str:
    """The numbers of one column, or a few words on why it has none."""
    pandas = needed("pandas", "reading tables", "pandas", "data")
    types = pandas.api.types
    if types.is_bool_dtype(column) and not column.isna().any():
        return column.to_numpy(dtype=bool)
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        if isinstance(column.dtype, np.dtype):
            return column.to_numpy()
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not (types.is_object_dtype(column) or types.is_string_dtype(column)):
        return f"dtype {column.dtype}"
    # Text throughout, or integers too long for 64 bits: numbers if every field is one.
    try:
        numbers = pandas.to_numeric(column, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return f"dtype {column.dtype}"
    bad = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
    if len(bad):
        return f"{str(column.iloc[int(bad[0])])[:40]!r} in sample {int(bad[0])} (counted from 0)"
    return numbers
