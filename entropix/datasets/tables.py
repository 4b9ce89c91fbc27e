"""Tables: `.csv` and `.parquet`, one sample per row, every column a real number.

A `.csv` file may be separated by commas, semicolons or tabs, as its first line shows. That line is
a header if some field in it is not a number, or if it counts the columns 0, 1, ... above a line
that does not consist of integers (as pandas writes a table whose columns have no names).

Columns without a name (as pandas, R and spreadsheets write the names or numbers of rows):

| values | |
|---|---|
| integers that all differ, or text that all differs | taken for an index, and dropped |
| nothing | dropped |
| anything else | kept |

A note reports each case.
"""

import csv
import functools
import itertools
import re
import warnings
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.arrays import rounded
from entropix._core.extras import needed
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, quoted, reading


_NAMELESS = re.compile(r"\s*|Unnamed: \d+(\.\d+)?(_level_\d+)?")  # as pandas calls them
_COUNTED = 8  # rows below which 0, 1, 2, ... may well be data


def read_table(path: Path, labels: str | None = None, keep_na: bool = False) -> Raw:
    """Read a `.csv` file, with a header or without, or a `.parquet` file.

    Args:
        path: the file.
        labels: the column of the labels, numbers or text, which is not part of the array; without a
            header, its number, counted from 0.
        keep_na: whether NA, None, null and the like are labels rather than missing ones, in `.csv`.
    """
    frame, named = _frame(path, labels, keep_na)
    frame, notes = _without_index(frame, path, labels) if named else (frame, [])
    given = None
    if labels is not None:
        index = _place(frame, labels, path)
        given = _label_column(frame.iloc[:, index], path)
        frame = frame.iloc[:, [i for i in range(frame.shape[1]) if i != index]]
    if 0 in frame.shape:
        raise ValueError(
            f"{quoted(path)} must hold rows and columns of numbers, "
            f"got {frame.shape[0]} rows and {frame.shape[1]} columns."
        )
    names = tuple(str(name) for name in frame.columns)
    columns = []
    for index in range(frame.shape[1]):
        label = f"column {names[index]!r}" if named else f"column {index}"
        column = _numeric_column(frame.iloc[:, index], f"{label} of {quoted(path)}")
        if isinstance(column, str):
            raise ValueError(f"{quoted(path)} must have numeric columns, got {label}: {column}.")
        first = not named and index == 0
        if frame.shape[1] > 1 and _numbers_rows(column, any_numbers=first):
            notes.append(
                f"{label} of {quoted(path)} seems to number the rows and is kept as data: leave it "
                f"out of the file if it is an index"
            )
        columns.append(column)
    dtype = np.result_type(*columns)
    if dtype.kind == "f":  # as for int64 beside uint64 too
        subjects = [f"column {name!r} of {quoted(path)}" for name in names]
        columns = [rounded(c, dtype, s) for c, s in zip(columns, subjects, strict=True)]
    array = np.stack(columns, axis=-1)
    return Raw(array, given, names if named else None, notes=tuple(notes))


def read_label_table(path: Path, keep_na: bool = False) -> np.ndarray:
    """The labels that a `.csv` or `.parquet` file holds in its only column, besides an index."""
    frame, named = _frame(path, None, keep_na)
    frame = _without_index(frame, path, None)[0] if named else frame
    if frame.shape[1] != 1:
        raise ValueError(
            f"{quoted(path)} must hold one column of labels, got {frame.shape[1]} columns."
        )
    return _label_column(frame.iloc[:, 0], path)


def unpacked(group: Any) -> int:
    """Bytes that a row group takes in memory, by its metadata.

    Runs of equal values take next to nothing in the file, whatever their number.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    return sum(max(column.total_uncompressed_size, 8 * column.num_values) for column in columns)


def _frame(path: Path, labels: str | None, keep_na: bool) -> tuple[Any, bool]:
    """The table, and whether its columns have names.

    With `keep_na`, the column of the labels is text as it is; all columns, if none is named.
    """
    if path.suffix.lower() == ".parquet":
        pandas = needed("pandas", "reading .parquet", "pandas", "data")
        needed("pyarrow", "reading .parquet", "pyarrow", "data")
        parquet = needed("pyarrow.parquet", "reading .parquet", "pyarrow", "data")
        with reading(path, "a .parquet table"), parquet.ParquetFile(path) as file:
            groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
            size = sum(unpacked(group) for group in groups)
        check_fits(size, quoted(path), "a table")
        with reading(path, "a .parquet table"):
            return pandas.read_parquet(path), True
    pandas = needed("pandas", "reading .csv", "pandas", "data")
    expected = "a .csv table"
    check_fits(path.stat().st_size, quoted(path), "a table")
    with reading(path, expected), path.open(encoding="utf-8-sig", newline="") as file:
        lines = list(itertools.islice((line for line in file if line.strip()), 2))
    if not lines:
        raise ValueError(f"{quoted(path)} must be {expected}, got an empty file.")
    delimiter = next((mark for mark in ",;\t" if mark in lines[0]), ",")
    with reading(path, expected), warnings.catch_warnings():
        first, second, *_ = [*csv.reader(lines, delimiter=delimiter), [], []]
        header = _is_header(first, second)
        # pandas only warns where it cuts off fields for which the header has no name.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        read = functools.partial(
            pandas.read_csv,
            path,
            sep=delimiter,
            header=0 if header else None,
            index_col=False,
            encoding="utf-8-sig",
            skipinitialspace=True,
            low_memory=False,
        )
        frame = read()
        if keep_na:
            text = read(dtype=str, keep_default_na=False, na_values=[""])
            if labels is None:
                return text, header
            where = _place(frame, labels, path)
            frame.isetitem(where, text.iloc[:, where])
    return frame, header


def _is_header(first: list[str], second: list[str]) -> bool:
    fields = [field.strip() for field in first]
    names = fields[1:] if not fields[0] else fields
    if any(field and not _is_number(field) for field in fields):
        return True
    counted = bool(names) and names == [str(i) for i in range(len(names))]
    return counted and (
        not fields[0] or not all(field.strip().lstrip("+-").isdigit() for field in second)
    )


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _place(frame: Any, labels: str, path: Path) -> int:
    """Which column holds the labels."""
    known = [str(name) for name in frame.columns]
    if known.count(labels) != 1:
        raise ValueError(
            f"`labels` must name one column of {quoted(path)}: "
            f"{', '.join(repr(name) for name in known)}; or a file that exists; got {labels!r}."
        )
    return known.index(labels)


def _without_index(frame: Any, path: Path, labels: str | None) -> tuple[Any, list[str]]:
    """The table without the columns that number or name its rows, and notes."""
    kept, notes = [], []
    for index, name in enumerate(map(str, frame.columns)):
        if not _NAMELESS.fullmatch(name) or name == labels or frame.shape[1] == 1:
            kept.append(index)
            continue
        column = frame.iloc[:, index]
        place = f"column {index} (counted from 0) of {quoted(path)} has no name"
        kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else ""
        whole = kind in "iu" or (kind == "f" and bool((column == column.round()).all()))
        if column.isna().all():
            notes.append(f"{place} and no entries, and is dropped")
        elif column.is_unique and (kind not in tuple("bf") or whole):
            notes.append(
                f"{place} and no value twice: taken for an index, and dropped; give it a name in "
                f"the first line of the file to keep it"
            )
        else:
            kept.append(index)
            notes.append(f"{place}, and is kept as data: leave it out of the file if it is none")
    return frame.iloc[:, kept], notes


def _numbers_rows(column: np.ndarray, *, any_numbers: bool) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ...; or `any_numbers` that grow."""
    if len(column) < _COUNTED or column.dtype.kind not in "iu":
        return False
    steps = np.diff(column.astype(np.float64))
    return bool((steps > 0).all() if any_numbers else (steps == 1).all() and column[0] in (0, 1))


def _label_column(column: Any, path: Path) -> np.ndarray:
    """Numbers if all of them are, otherwise text."""
    missing = int(column.isna().sum())
    if missing:
        hint = ""
        if path.suffix.lower() == ".csv":
            hint = ": keep_na=True (--keep-na) takes NA, None and the like for labels"
        raise ValueError(
            f"{quoted(path)} must have a label for every sample, got {missing} missing in column "
            f"{str(column.name)!r}{hint}."
        )
    try:
        numbers = _numeric_column(column, "labels")
    except ValueError:  # integers that floating numbers do not tell apart
        numbers = ""
    return np.asarray(column.astype(str), dtype=str) if isinstance(numbers, str) else numbers


def _numeric_column(column: Any, subject: str) -> np.ndarray | str:
    """The numbers of one column, or a few words on why it has none."""
    pandas = needed("pandas", "reading tables", "pandas", "data")
    types = pandas.api.types
    if types.is_bool_dtype(column) and not column.isna().any():
        return column.to_numpy(dtype=bool)
    if types.is_integer_dtype(column) and not column.isna().any():
        return column.to_numpy(np.uint64 if types.is_unsigned_integer_dtype(column) else np.int64)
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
    except OverflowError:
        numbers = np.full(len(column), np.inf)
    bad = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
    if len(bad):
        return f"{str(column.iloc[int(bad[0])])[:40]!r} in sample {int(bad[0])} (counted from 0)"
    if np.isinf(numbers).any() or (np.abs(numbers) >= 2**53).any():
        whole = re.compile(r"\s*[+-]?\d{1,4000}\s*")
        exact = [int(v) if whole.fullmatch(str(v)) else np.nan for v in column]
        return rounded(numbers, np.float64, subject, np.array(exact, dtype=object))
    return numbers
