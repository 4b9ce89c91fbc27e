r"""Text of separated values: encoding, delimiter, decimal mark and header, as the text shows them.

| | recognised by |
|---|---|
| encoding | UTF-8, or UTF-16 with a byte order mark; anything else is taken for Latin-1, with a note |
| comments | lines before the table that start with #, the last of which may hold the names of the columns |
| delimiter | that of a first line `sep=;`, as Excel reads it; otherwise, of tab, semicolon, `\|`, comma, and white space: the one in the first line that divides most lines into as many fields |
| decimal mark | the comma, if more fields are numbers only with it than only with the point |
| header | a first line in which some field is text where the second has a number, or all fields are text; or one of text and integers none of which recurs in its column; or the numbers of the columns, 0, 1, ..., above a line that is not of integers; or at least three equidistant years above lines that are not, with a note |
| names of rows | a header with one field fewer than the other lines, which start with text or with 0, 1, ... or 1, 2, ..., as R writes it: the first column has no name |
| counts | a first line `N,D,class,class,...` above N lines of D + 1 fields, as the tables of scikit-learn have: the last column is the class |

The table itself is read by pandas. Quoted fields may hold delimiters and line ends.
"""  # noqa: E501

import csv
import dataclasses
import functools
import io
import itertools
import re
import warnings
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

from entropix._core.extras import needed
from entropix._core.memory import check_fits
from entropix.datasets.files import quoted, reading, unzipped


if TYPE_CHECKING:
    import pandas

SUFFIXES = (".csv", ".tsv", ".txt", ".dat", ".data")
_DELIMITERS = ("\t", ";", "|", ",")
_SPACE = r"\s+"
_NAMED = {"tab": "\t", "\\t": "\t", "space": _SPACE, "comma": ",", "semicolon": ";"}
LINES = 64  # that are looked at
_YEARS = range(1500, 2200)
# Marks of missing values in UCI's, weather and other tables, besides those of pandas.
MISSING = ("?", "-", ".")
_NO_NAME = (*MISSING, "NA", "N/A", "n/a", "#N/A", "<NA>", "NULL", "null", "None")


@dataclasses.dataclass(frozen=True)
class Separated:
    """A table of text.

    Attributes:
        frame: as pandas reads it.
        named: whether the columns have names.
        decimal: the decimal mark.
        classes: the names of the classes in the last column, of a header of counts.
        notes: what was assumed.
    """

    frame: "pandas.DataFrame"
    named: bool
    decimal: str
    classes: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def suffix_of(path: Path) -> str:
    """The extension in lower case; of a gzipped table of text, that of the table."""
    inner = Path(path.name.lower().removesuffix(".gz")).suffix
    return inner if inner in SUFFIXES else path.suffix.lower()


def read_separated(
    path: Path, delimiter: str | None, decimal: str | None, text: bool = False
) -> Separated:
    """Read a file.

    Args:
        path: the file.
        delimiter: one character, or `"tab"`, `"space"` (any white space); None: detected.
        decimal: `"."` or `","`; None: detected.
        text: whether all fields are read as text, in which NA and similar words are not missing
            values.
    """
    pandas = needed("pandas", f"reading {suffix_of(path)}", "pandas", "data")
    subject, expected = quoted(path), f"a {suffix_of(path)} table"
    if delimiter is not None:
        delimiter = _NAMED.get(delimiter, delimiter)
        if delimiter != _SPACE and (len(delimiter) != 1 or delimiter in '"\r\n'):
            raise ValueError(
                f"`delimiter` must be one character, 'tab' or 'space', got {delimiter!r}."
            )
    check_decimal(decimal)
    check = functools.partial(_check_size, subject)
    check(path.stat().st_size)
    with reading(path, expected):
        content, notes = _decoded(unzipped(path, check), subject)
    comments, content = _comments(content)
    if separated := re.match(r"sep=([^\r\n])\r?\n", content):
        delimiter = separated[1] if delimiter is None else delimiter
        content = content[separated.end() :]
    lines = list(itertools.islice(filter(str.strip, io.StringIO(content, newline=None)), LINES))
    if not lines:
        raise ValueError(f"{subject} must be {expected}, got an empty file.")
    counts = _counts(content)
    body = lines[1:] if counts else lines
    with reading(path, expected), warnings.catch_warnings():
        delimiter = _delimiter(body) if delimiter is None else delimiter
        rows = _rows(body, delimiter)
        header = not counts and is_header(rows)
        names = _rows(comments[-1:], delimiter)
        if names and not (header or counts) and len(names[0]) == len(rows[0]):
            header = is_header([*names, *rows])
            content = f"{comments.pop()}\n{content}" if header else content
        if comments:
            notes += (f"{subject} starts with a comment, left out: {comments[0][:40]!r}",)
        if header and _names_rows(rows):
            content = f'""{" " if delimiter == _SPACE else delimiter}{content.lstrip()}'
        notes += header_notes(rows, subject) if header else ()
        if decimal is None:
            decimal, note = decimal_mark(rows[header:], subject)
            notes += note
        # pandas only warns where it cuts off fields for which the header has no name.
        warnings.simplefilter("error", pandas.errors.ParserWarning)
        missing = {"keep_default_na": False, "na_values": [""], "dtype": str} if text else {}
        frame = pandas.read_csv(
            io.StringIO(content),
            sep=delimiter,
            decimal=decimal,
            header=0 if header else None,
            skiprows=_first_line(content) if counts else 0,
            index_col=False,
            skipinitialspace=True,
            low_memory=False,
            **({"na_values": list(MISSING)} | missing),
        )
    if header:
        frame.columns = [" ".join(str(name).split()) for name in frame.columns]
    elif frame.shape[1] > 1 and frame.iloc[:, -1].isna().all():
        frame = frame.iloc[:, :-1]
        notes += (f"the last column of {subject} has no entries, and is dropped",)
    if not counts:
        return Separated(frame, header, decimal, (), notes)
    notes += (
        f"the first line of {subject} counts {counts[0]} samples of {counts[1]} columns and is "
        "not data; the last column is the class of each sample",
    )
    return Separated(frame, False, decimal, tuple(counts[2:]), notes)


def _check_size(subject: str, size: int) -> None:
    check_fits(3 * size, subject, "a table")


def check_decimal(decimal: str | None) -> None:
    """Refuse an unknown decimal mark, with a `ValueError`."""
    if decimal not in (None, ".", ","):
        raise ValueError(f"`decimal` must be '.' or ',', got {decimal!r}.")


def _comments(content: str) -> tuple[list[str], str]:
    """The lines before the table that start with #, without it; and the rest."""
    file, comments = io.StringIO(content, newline=""), []
    for line in file:
        text = line.strip()
        if text and not text.startswith("#"):
            return comments, line + file.read()
        comments += [text.lstrip("# \t")] if text else []
    return [], content


def _decoded(content: bytes, subject: str) -> tuple[str, tuple[str, ...]]:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return content.decode("utf-16"), ()
    if b"\x00" in content:
        raise ValueError("it holds bytes of value zero, as no text in UTF-8 does")
    try:
        return content.decode("utf-8-sig"), ()
    except UnicodeDecodeError as error:
        byte = content[error.start]
        return content.decode("latin-1"), (
            f"{subject} is not UTF-8 (byte {byte:#x}) and is read as Latin-1",
        )


def _first_line(content: str) -> int:
    """The number of lines up to the first that is not blank, and with it."""
    return next(i for i, line in enumerate(io.StringIO(content), 1) if line.strip())


def _counts(content: str) -> list[str]:
    """N, D and the names of classes, if the first line counts what follows; otherwise nothing."""
    filled = (line for line in io.StringIO(content) if line.strip())
    first = [field.strip() for field in next(filled).split(",")]
    if len(first) < 3 or not (first[0].isdecimal() and first[1].isdecimal()):
        return []
    if any(_is_number(field) for field in first[2:]):
        return []
    following = next(filled, "")
    if following.count(",") != int(first[1]) or 1 + sum(1 for _ in filled) != int(first[0]):
        return []
    return first


def _rows(lines: list[str], delimiter: str) -> list[list[str]]:
    """Fields without the blanks around them; the last row may be cut."""
    if delimiter == _SPACE:
        lines, delimiter = [" ".join(line.split()) for line in lines], " "
    rows = csv.reader(lines, delimiter=delimiter, skipinitialspace=True)
    return [[field.strip() for field in row] for row in rows]


def _delimiter(lines: list[str]) -> str:
    best, agreeing = "", 0
    for mark in _DELIMITERS:
        counts = [len(row) for row in _rows(lines, mark)]
        usual, same = Counter(counts).most_common(1)[0]
        if min(usual, counts[0]) > 1 and same > agreeing:
            best, agreeing = mark, same
    if agreeing:
        return best
    rows = _rows(lines, _SPACE)
    # Otherwise a single column, in which a comma is a decimal mark.
    widths = {len(row) for row in rows[1:]} or {len(rows[0])}
    even = len(rows[0]) > 1 and widths in ({len(rows[0])}, {len(rows[0]) + 1})
    return _SPACE if even else "\t"


_EXPONENT = r"([eE][+-]?\d+)?"


def number_pattern(decimal: str) -> re.Pattern[str]:
    """Numbers with this decimal mark, perhaps with groups of three digits divided by the other."""
    mark, group = re.escape(decimal), re.escape("," if decimal == "." else ".")
    whole = rf"(\d{{1,3}}({group}\d{{3}})+|\d+)"
    return re.compile(rf"[+-]?({whole}({mark}\d*)?|{mark}\d+){_EXPONENT}")


def decimal_mark(rows: list[list[str]], subject: str) -> tuple[str, tuple[str, ...]]:
    """The decimal mark, and a note where the numbers allow both."""
    point, comma = number_pattern("."), number_pattern(",")
    either, counts = [], [0, 0]
    for field in itertools.chain.from_iterable(rows):
        if "," not in field and "." not in field:
            continue
        as_point, as_comma = bool(point.fullmatch(field)), bool(comma.fullmatch(field))
        if as_point and as_comma:
            either.append(field)
        counts[0] += as_point and not as_comma
        counts[1] += as_comma and not as_point
    if counts[0] != counts[1] or not either:
        return ("," if counts[1] > counts[0] else "."), ()
    mark = "," if sum("," in field for field in either) > len(either) / 2 else "."
    other = "." if mark == "," else ","
    if mark == ".":  # 1.234 as everywhere else
        return mark, ()
    return mark, (
        f"{subject} has numbers such as {either[0]!r}, read with a decimal comma: "
        f"decimal={other!r} (--decimal {other}) reads the comma as a thousands separator",
    )


def is_header(rows: list[list[str]]) -> bool:
    """Whether the first of some rows holds names; the table of the module states the rules."""
    first, second = rows[0], rows[1] if len(rows) > 1 else []
    texts = [bool(field) and not (field in _NO_NAME or _is_number(field)) for field in first]
    filled = [bool(field) for field in first]
    names = first[1:] if not first[0] else first
    if not any(texts):
        counted = names == [str(i) for i in range(len(names))]
        whole = all(field.lstrip("+-").isdigit() for field in second)
        if _years(names) and not any(map(_years, rows[1:])):
            return True
        if first[0]:
            return counted and not whole
        distinct = all(map(str.isdigit, names)) and len(set(names)) == len(names)
        return bool(names) and (counted or (distinct and not whole))
    over = zip(texts, second, strict=False)
    if texts == filled or any(text and _is_number(below) for text, below in over):
        return True
    # Text above text and numbers above numbers: no header if a value recurs below, or a number
    # is no name such as a year.
    numbers = [field for field, text in zip(first, texts, strict=True) if field and not text]
    if not all(field.isdigit() for field in numbers) or len(set(numbers)) < len(numbers):
        return False
    below = [row for row in rows[1:] if len(row) == len(first)]
    return not any(text and first[i] == row[i] for row in below for i, text in enumerate(texts))


def header_notes(rows: list[list[str]], subject: str) -> tuple[str, ...]:
    """A note on a header of years, which might be data."""
    names = rows[0] if rows[0][0] else rows[0][1:]
    if not _years(names):
        return ()
    return (
        f"the first line of {subject}, {names[0]}, {names[1]}, ..., is taken for the names of the "
        "columns",
    )


def _years(fields: list[str]) -> bool:
    """Whether these are at least three equidistant years."""
    if len(fields) < 3 or not all(len(f) == 4 and f.isdecimal() for f in fields):
        return False
    years = list(map(int, fields))
    steps = {b - a for a, b in itertools.pairwise(years)}
    return len(steps) == 1 and steps != {0} and years[0] in _YEARS and years[-1] in _YEARS


def _names_rows(rows: list[list[str]]) -> bool:
    """Whether the first row has no name for a column that names or counts the others."""
    full = [row for row in rows[1:] if len(row) == len(rows[0]) + 1]
    if not full or 2 * len(full) < len(rows) or not any(row[-1] for row in full):
        return False
    first = [row[0] for row in full]
    counted = [[str(i + start) for i in range(len(first))] for start in (0, 1)]
    return first in counted or not any(map(_is_number, first))


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return any(number_pattern(mark).fullmatch(text) for mark in ".,")
    return True
