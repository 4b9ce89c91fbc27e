"""Tables: one sample per row, every column that is used a real number.

Formats are `.csv`, `.tsv`, `.txt`, `.dat`, `.data` (see `separated`), each with `.gz` or without,
`.xlsx` and `.parquet`. The options of `TableOptions` choose columns and rows; they hold for any
data of two axes.

Columns without a name (as pandas, R and spreadsheets write the names or numbers of rows):

| values | |
|---|---|
| integers that all differ, or text that all differs | dropped as an index |
| nothing | dropped |
| anything else | kept |

A note reports each case.
"""

import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from entropix._core.arrays import rounded
from entropix._core.extras import needed
from entropix._core.formatting import listed
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, quoted, reading
from entropix.datasets.separated import (
    LINES,
    MISSING,
    SUFFIXES,
    check_decimal,
    decimal_mark,
    header_notes,
    is_header,
    number_pattern,
    read_separated,
    suffix_of,
)


if TYPE_CHECKING:
    import pandas

TABLES = (*SUFFIXES, ".xlsx", ".parquet")
_NAMELESS = re.compile(r"\s*|Unnamed: \d+(\.\d+)?(_level_\d+)?")  # as pandas calls them
_COUNTED = 8  # rows below which 0, 1, 2, ... may well be data
_SHOWN, _MANY = 4, 12


@dataclasses.dataclass(frozen=True)
class TableOptions:
    """Which columns and rows of a table are read; see `load`."""

    columns: tuple[str, ...] | None = None
    drop: tuple[str, ...] = ()
    drop_missing: bool = False
    encode: tuple[str, ...] = ()
    delimiter: str | None = None
    decimal: str | None = None
    keep_na: bool = False

    @property
    def selects(self) -> bool:
        """Whether columns or rows are chosen."""
        return bool(self.columns is not None or self.drop or self.drop_missing or self.encode)


@dataclasses.dataclass(frozen=True)
class Table:
    """What a file holds, before columns are chosen.

    Attributes:
        frame: as pandas reads it.
        subject: the source, as errors name it.
        named: whether the columns have names; otherwise they are called by their numbers.
        decimal: the decimal mark of numbers that are still text.
        classes: names of the classes 0, 1, ... in the last column, if it is known to hold classes.
        notes: what was assumed.
    """

    frame: "pandas.DataFrame"
    subject: str
    named: bool = True
    decimal: str = "."
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def column(self, name: str) -> str:
        """A column as errors name it."""
        return f"column {name!r}" if self.named else f"column {name}"


def read_table(path: Path, labels: str | None, options: TableOptions, sheet: str | None) -> Raw:
    """Read a file of a table.

    Args:
        path: the file.
        labels: the column of the labels, numbers or text, which is not part of the array; without a
            header, its number, counted from 0.
        options: see `TableOptions`.
        sheet: of an `.xlsx` file; None for the first.
    """
    table = _table(path, options, sheet)
    if options.keep_na and labels is not None and suffix_of(path) in SUFFIXES:
        text = read_separated(path, options.delimiter, options.decimal, text=True).frame
        names = [str(name) for name in table.frame.columns]
        where = _places(table, names, [labels], "labels")[0]
        table.frame.isetitem(where, text.iloc[:, where])
    return chosen_columns(table, labels, options)


def read_label_table(path: Path, options: TableOptions) -> np.ndarray:
    """The labels that the file of a table holds in its only column, besides an index."""
    if options.keep_na and suffix_of(path) in SUFFIXES:
        read = read_separated(path, options.delimiter, options.decimal, text=True)
        table = Table(read.frame, quoted(path), read.named)
    else:
        table = _table(path, options, None)
    frame = _without_index(table, ())[0] if table.named else table.frame
    if frame.shape[1] != 1:
        raise ValueError(
            f"{quoted(path)} must hold one column of labels, got {frame.shape[1]} columns."
        )
    return _label_column(frame.iloc[:, 0], table)


def chosen_columns(table: Table, labels: str | None, options: TableOptions) -> Raw:
    """The samples and labels of a table."""
    asked = (*(options.columns or ()), *options.encode, *([labels] if labels else []))
    frame, notes = _without_index(table, asked) if table.named else (table.frame, [])
    notes = [*table.notes, *notes]
    names = [str(name) for name in frame.columns]
    label = None
    if table.classes and labels in (None, "labels"):
        label = len(names) - 1
    elif labels is not None:
        label = _places(table, names, [labels], "labels")[0]
    used = [i for i in range(len(names)) if i != label]
    if options.columns is not None:
        used = _places(table, names, options.columns, "columns")
        if label in used:
            raise ValueError(f"`columns` must not hold that of the labels, got {labels!r}.")
    dropped = _places(table, names, options.drop, "drop")
    used = [i for i in used if i not in dropped]
    encoded = _places(table, names, options.encode, "encode")
    if not set(encoded) <= set(used):
        raise ValueError(
            f"`encode` must name columns that are used as data, got {list(options.encode)}."
        )
    kept = None
    if options.drop_missing:
        kept, note = _complete(table, frame.iloc[:, [*used, *([] if label is None else [label])]])
        frame = frame.iloc[np.flatnonzero(kept)]
        notes += [note] if note else []
    given = None if label is None else _label_column(frame.iloc[:, label], table)
    if given is not None and table.classes and labels in (None, "labels"):
        given = _named(given, table)
    if not used or not len(frame):
        raise ValueError(
            f"{table.subject} must hold rows and columns of numbers, "
            f"got {len(frame)} rows and {len(used)} columns."
        )
    arrays, wrong, categories = [], [], {}
    for index in used:
        name, column = names[index], frame.iloc[:, index]
        subject = f"{table.column(name)} of {table.subject}"
        if index in encoded:
            codes, categories[name] = _encoded(column, subject)
            arrays.append(codes)
            listed = ", ".join(f"{k} {value}" for k, value in enumerate(categories[name][:_MANY]))
            more = ", ..." if len(categories[name]) > _MANY else ""
            notes.append(f"{subject} is numbered: {listed}{more}")
            continue
        array = _numeric_column(column, subject, table.decimal)
        if isinstance(array, str):
            wrong.append((name, array))
            continue
        first = not table.named and index == 0
        if len(used) > 1 and _numbers_rows(array, any_numbers=first):
            notes.append(
                f"{subject} seems to number the rows and is kept as data: {_option('drop', name)} "
                "leaves it out"
            )
        arrays.append(array)
    if wrong:
        raise ValueError(_no_numbers(table, wrong))
    subjects = [f"{table.column(names[i])} of {table.subject}" for i in used]
    dtype = np.result_type(*arrays)
    # As floating numbers (as for int64 beside uint64 too), unless all are integers these hold.
    whole = dtype.kind != "f"
    if not whole or any((np.abs(a.astype(float)) >= 2**53).any() for a in arrays):
        for i, (array, subject) in enumerate(zip(arrays, subjects, strict=True)):
            try:
                arrays[i] = rounded(array, np.float64 if whole else dtype, subject)
            except ValueError as error:
                hint = f"{_option('drop', names[used[i]])} leaves the column out"
                raise ValueError(f"{str(error).rstrip('.')}; {hint}.") from error
    return Raw(
        np.stack(arrays, axis=-1),
        given,
        tuple(names[i] for i in used) if table.named else None,
        notes=tuple(notes),
        kept=kept,
        categories=categories,
    )


def unpacked(group: Any) -> int:
    """Bytes that a row group takes in memory, by its metadata.

    Runs of equal values take next to nothing in the file, whatever their number.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    return sum(max(column.total_uncompressed_size, 8 * column.num_values) for column in columns)


# ------------------------------------------------------------------ files


def _table(path: Path, options: TableOptions, sheet: str | None) -> Table:
    suffix, subject = suffix_of(path), quoted(path)
    if suffix in SUFFIXES:
        read = read_separated(path, options.delimiter, options.decimal)
        return Table(read.frame, subject, read.named, read.decimal, read.classes, read.notes)
    if options.delimiter is not None:
        raise ValueError(f"`delimiter` must be None for {subject}, got {options.delimiter!r}.")
    check_decimal(options.decimal)
    if suffix == ".xlsx":
        return _with_decimal(_spreadsheet(path, sheet), options.decimal)
    pandas = needed("pandas", "reading .parquet", "pandas", "data")
    needed("pyarrow", "reading .parquet", "pyarrow", "data")
    parquet = needed("pyarrow.parquet", "reading .parquet", "pyarrow", "data")
    with reading(path, "a .parquet table"), parquet.ParquetFile(path) as file:
        groups = [file.metadata.row_group(i) for i in range(file.metadata.num_row_groups)]
        size = sum(unpacked(group) for group in groups)
    check_fits(size, subject, "a table")
    with reading(path, "a .parquet table"):
        table = Table(pandas.read_parquet(path), subject)
    return _with_decimal(table, options.decimal)


def _with_decimal(table: Table, decimal: str | None) -> Table:
    """The decimal mark of numbers stored as text: as given, or by the rule of text files."""
    if decimal is None:
        cells = (c for c in table.frame.head(LINES).to_numpy(object).flat if isinstance(c, str))
        decimal, notes = decimal_mark([[cell.strip() for cell in cells]], table.subject)
        table = dataclasses.replace(table, notes=(*table.notes, *notes))
    return dataclasses.replace(table, decimal=decimal)


def _spreadsheet(path: Path, sheet: str | None) -> Table:
    pandas = needed("pandas", "reading .xlsx", "pandas", "data")
    needed("openpyxl", "reading .xlsx", "openpyxl", "data")
    check_fits(20 * path.stat().st_size, quoted(path), "a table")
    with reading(path, "an .xlsx table"):
        frames = pandas.read_excel(
            path, sheet_name=None, header=None, engine="openpyxl", na_values=list(MISSING)
        )
    sheets = list(map(str, frames))
    if sheet is not None and sheet not in sheets:
        listed = ", ".join(map(repr, sheets))
        raise ValueError(f"`array` must be a sheet of {quoted(path)}: {listed}; got {sheet!r}.")
    frame = frames[sheets[0] if sheet is None else sheet]
    notes = ()
    if sheet is None and len(sheets) > 1:
        notes = (f"{quoted(path)} has {len(sheets)} sheets, of which the first is read",)
    frame = frame.dropna(how="all")
    rows = [["" if pandas.isna(v) else _cell(v) for v in row] for row in frame.head(LINES).values]
    named = bool(rows) and is_header(rows)
    if named:
        notes += header_notes(rows, quoted(path))
        frame, frame.columns = frame.iloc[1:].infer_objects(), rows[0]
    return Table(frame, quoted(path), named, notes=notes)


def _cell(value: Any) -> str:
    """A cell as text; integers that pandas holds as floating numbers, as integers."""
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _without_index(table: Table, asked: Sequence[str]) -> tuple["pandas.DataFrame", list[str]]:
    """The table without the columns that number or name its rows, and notes."""
    kept, notes, frame = [], [], table.frame
    for index, name in enumerate(map(str, frame.columns)):
        if not _NAMELESS.fullmatch(name) or name in asked or frame.shape[1] == 1:
            kept.append(index)
            continue
        column = frame.iloc[:, index]
        place = f"column {index} (counted from 0) of {table.subject} has no name"
        kind = column.dtype.kind if isinstance(column.dtype, np.dtype) else ""
        whole = kind in "iu" or (kind == "f" and bool((column == column.round()).all()))
        if column.isna().all():
            notes.append(f"{place} and no entries, and is dropped")
        elif column.is_unique and (kind not in tuple("bf") or whole):
            notes.append(
                f"{place} and no value twice, and is dropped as an index; "
                f"{_option('columns', name)} keeps it"
            )
        else:
            kept.append(index)
            notes.append(f"{place}, and is kept as data: {_option('drop', name)} leaves it out")
    return frame.iloc[:, kept], notes


# ------------------------------------------------------------------ columns and rows


def _option(name: str, *values: str) -> str:
    """An option as it is written in Python and on the command line."""
    words = " ".join(v if re.fullmatch(r"[\w.-]+", v) else repr(v) for v in values)
    return f"{name}={list(values)} (--{name.replace('_', '-')} {words})"


def _places(table: Table, names: list[str], wanted: Sequence[str], argument: str) -> list[int]:
    """Where columns are."""
    alternative = "; or a file that exists" if argument == "labels" else ""
    for name in wanted:
        if names.count(name) != 1:
            listed = ", ".join(map(repr, names))
            raise ValueError(
                f"`{argument}` must name {'one column' if argument == 'labels' else 'columns'} of "
                f"{table.subject}: {listed}{alternative}; got {name!r}."
            )
    return [names.index(name) for name in dict.fromkeys(wanted)]


def _complete(table: Table, frame: "pandas.DataFrame") -> tuple[np.ndarray, str]:
    """Which rows have no missing value, and a note."""
    missing = frame.isna()
    empty = [str(name) for name in frame.columns[missing.all()]] if len(frame) else []
    if empty:
        raise ValueError(
            f"`drop_missing` must leave rows, got columns of {table.subject} without any value: "
            f"{_option('drop', *empty)} leaves them out."
        )
    kept = ~missing.any(axis=1).to_numpy()
    count = int((~kept).sum())
    if not count:
        return kept, ""
    if count == len(kept):
        worst = [str(name) for name in missing.sum().sort_values(ascending=False).index[:_SHOWN]]
        raise ValueError(
            f"`drop_missing` must leave rows, got a missing value in each of the {count} rows of "
            f"{table.subject}: {_option('drop', *worst)} leaves out columns that miss many."
        )
    return (
        kept,
        f"{count} of {len(kept)} rows of {table.subject} have missing values and are dropped",
    )


def _named(codes: np.ndarray, table: Table) -> np.ndarray:
    """The names of the classes 0, 1, ... ."""
    if codes.dtype.kind in "iu" and codes.min() >= 0 and codes.max() < len(table.classes):
        return np.asarray(table.classes)[codes]
    return codes


def _encoded(column: "pandas.Series", subject: str) -> tuple[np.ndarray, tuple[str, ...]]:
    """The numbers 0, 1, ... of the values in alphabetical order, and these values."""
    if column.isna().any():
        raise ValueError(
            f"{subject} must have a value in every row to be encoded, got "
            f"{int(column.isna().sum())} missing: drop_missing=True (--drop-missing) leaves out "
            "these rows."
        )
    numeric = _numeric_column(column, subject, ".")
    values = _text(column) if isinstance(numeric, str) else numeric
    categories, codes = np.unique(values, return_inverse=True)
    return codes.astype(np.int64), tuple(map(str, categories))


def _no_numbers(table: Table, wrong: list[tuple[str, str]]) -> str:
    reasons = listed([f"{table.column(name)}: {why}" for name, why in wrong], _SHOWN, "; ")
    names = [name for name, _ in wrong]
    first = names[0] if re.fullmatch(r"[\w.-]+", names[0]) else repr(names[0])
    return (
        f"{table.subject} must have numeric columns, got {reasons}: {_option('drop', *names)} "
        f"leaves {'it' if len(names) == 1 else 'them'} out; a column of text can be the label, "
        f"labels={names[0]!r} (measure --condition {first}), or be numbered, "
        f"{_option('encode', names[0])}."
    )


def _numbers_rows(column: np.ndarray, *, any_numbers: bool) -> bool:
    """Whether a column is 0, 1, 2, ... or 1, 2, 3, ...; or `any_numbers` that grow."""
    if len(column) < _COUNTED or column.dtype.kind not in "iu":
        return False
    steps = np.diff(column.astype(np.float64))
    return bool((steps > 0).all() if any_numbers else (steps == 1).all() and column[0] in (0, 1))


def _label_column(column: "pandas.Series", table: Table) -> np.ndarray:
    """Numbers if all of them are, otherwise text."""
    missing = int(column.isna().sum())
    if missing:
        raise ValueError(
            f"{table.subject} must have a label for every sample, got {missing} missing in column "
            f"{str(column.name)!r}: keep_na=True (--keep-na) makes labels of NA, None and "
            "similar words in text files, drop_missing=True (--drop-missing) leaves out these rows."
        )
    try:
        numbers = _numeric_column(column, "labels", table.decimal)
    except ValueError:  # integers that floating numbers do not tell apart
        numbers = ""
    return _text(column) if isinstance(numbers, str) else numbers


def _text(column: "pandas.Series") -> np.ndarray:
    """The words of a column, without the blanks around them."""
    return np.asarray(column.astype(str).str.strip(), dtype=str)


def _numeric_column(column: "pandas.Series", subject: str, decimal: str) -> np.ndarray | str:
    """The numbers of one column, or a few words on why it has none."""
    pandas = needed("pandas", "reading tables", "pandas", "data")
    types = pandas.api.types
    if types.is_bool_dtype(column) and not column.isna().any():
        return column.to_numpy(dtype=bool)
    if types.is_integer_dtype(column) and not column.isna().any():
        return column.to_numpy(np.uint64 if types.is_unsigned_integer_dtype(column) else np.int64)
    if types.is_numeric_dtype(column) and not types.is_complex_dtype(column):
        if isinstance(column.dtype, np.dtype) and column.dtype.kind != "b":
            return column.to_numpy()
        return column.to_numpy(dtype=np.float64, na_value=np.nan)
    if not (types.is_object_dtype(column) or types.is_string_dtype(column)):
        return f"dtype {column.dtype}"
    # Text throughout, or integers too long for 64 bits: numbers if every field is one.
    plain = _without_groups(column, decimal)
    try:
        numbers = pandas.to_numeric(plain, errors="coerce").to_numpy(np.float64, na_value=np.nan)
    except (TypeError, ValueError):
        return f"dtype {column.dtype}"
    except OverflowError:
        numbers = np.full(len(column), np.inf)
    bad = np.flatnonzero(np.isnan(numbers) & column.notna().to_numpy())
    if len(bad):
        return f"{str(column.iloc[int(bad[0])])[:40]!r} in sample {int(bad[0])} (counted from 0)"
    if np.isinf(numbers).any() or (np.abs(numbers) >= 2**53).any():
        whole = re.compile(r"\s*[+-]?\d{1,4000}\s*")
        exact = [int(v) if whole.fullmatch(str(v)) else np.nan for v in plain]
        return rounded(numbers, np.float64, subject, np.array(exact, dtype=object))
    return numbers


def _without_groups(column: "pandas.Series", decimal: str) -> "pandas.Series":
    """Text of numbers with a decimal point and without marks between groups of three digits."""
    pattern, group = number_pattern(decimal), "," if decimal == "." else "."

    def plain(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        if not pattern.fullmatch(value.strip()):
            return "" if decimal == "," and "." in value else value  # 1.5 is no number here
        return value.replace(group, "").replace(decimal, ".")

    return column.map(plain, na_action="ignore")
