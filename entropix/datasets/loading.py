"""`load`: a data set from an embedded name or a path, by the reader for its extension."""

import dataclasses
import difflib
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix._core.extras import needed
from entropix._core.files import check_regular
from entropix.datasets.arrays import read_npy, read_npz
from entropix.datasets.cifar import is_cifar, read_cifar
from entropix.datasets.dataset import KINDS, Dataset
from entropix.datasets.embedded import available, embedded
from entropix.datasets.files import Raw, quoted
from entropix.datasets.huggingface import PREFIX, is_huggingface, read_huggingface
from entropix.datasets.idx import is_idx_folder, read_idx, read_idx_folder
from entropix.datasets.images import read_folder
from entropix.datasets.separated import suffix_of
from entropix.datasets.sequences import TOPICS, is_fasta, python_topics, read_fasta, read_text
from entropix.datasets.tables import (
    TABLES,
    Table,
    TableOptions,
    chosen_columns,
    read_label_table,
    read_table,
)


# train-images-idx3-ubyte, train-images.idx3-ubyte, x.idx, x.idx3, each with .gz or without.
_IDX_NAME = re.compile(r".+([-.]idx\d?|ubyte)(\.gz)?", flags=re.IGNORECASE)
_ALLOWED = (
    ".npy, .npz, .csv, .tsv, .txt, .dat, .data, .idx or *-ubyte (these also with .gz), .xlsx, .fa, "
    ".parquet, an archive of CIFAR-10 (.tar.gz), or a folder of PNG images, of IDX files, of "
    "CIFAR-10 or of a Hugging Face dataset"
)


def load(
    source: str | os.PathLike[str],
    *,
    num_samples: int | None = None,
    key: Key | None = None,
    array: str | None = None,
    kind: str | None = None,
    labels: str | os.PathLike[str] | None = None,
    split: str | None = None,
    levels: int | None = None,
    channels: str = "auto",
    keep_na: bool = False,
    columns: str | int | Sequence[str | int] | None = None,
    drop: str | int | Sequence[str | int] = (),
    drop_missing: bool = False,
    encode: str | int | Sequence[str | int] = (),
    drop_repeated: bool = False,
    delimiter: str | None = None,
    decimal: str | None = None,
    tokens: str | None = None,
    length: int | None = None,
    max_tokens: int | None = None,
) -> Dataset:
    """Load an embedded data set, a file, or a data set of many files.

    | source | what it holds |
    |---|---|
    | `"digits"`, `"mixture3"`, `"moons"`, ... | one of `available()` |
    | `.npy` | an array of shape (N,), (N, D), (N, H, W), (N, H, W, C) or (N, C, H, W) |
    | `.npz` | the same, under the name `array` |
    | `.csv`, `.tsv`, `.txt`, `.dat`, `.data` | a table of numbers, one sample per row |
    | the same with `.gz` | the same, gzipped |
    | `.xlsx`, `.parquet` | a table of numbers, one sample per row |
    | `.idx`, `*-ubyte`, with `.gz` or not | an IDX file, as MNIST has |
    | a folder | PNG images of one size, perhaps in one subfolder per label |
    | a folder of IDX files | MNIST, Fashion-MNIST: `train-images-idx3-ubyte`, `t10k-...`; splits |
    | `cifar-10-binary.tar.gz`, or the folder in it | CIFAR-10; splits |
    | a folder written by `save_to_disk` | a Hugging Face dataset, perhaps with splits |
    | `"hf:mnist"`, `"hf:user/name"` | one of the Hugging Face hub, with `:configuration` or not |
    | `.fa`, `.fasta`, `.fna`, `.ffn`, `.frn`, `.faa`, also `.gz` | nucleotides or amino acids |
    | any file of text, with `tokens="char"`; `"python-topics"` | the characters of the text |

    Args:
        source: a name or a path. A name has precedence over a file of the same name in the working
            directory; write `./digits`, or pass a `pathlib.Path`, for the file.
        num_samples: the number of samples to draw from a synthetic set; None for 8192. Other data
            are read completely.
        key: random key, required by synthetic sets and ignored by the others.
        array: the array of an `.npz` file, the column of a Hugging Face dataset, or the sheet of an
            `.xlsx` file, that holds the samples; None if there is only one, or for the first sheet.
        kind: `"table"`, `"image"` or `"points"`, overriding the inferred kind (see `Dataset`).
        labels: what holds one label for each sample: a file of any of the formats above; a column
            of a table or of a Hugging Face dataset, or an array of an `.npz` file, which is then
            not part of the samples; or `"labels"` for those that belong to the data, as digits,
            mixtures, MNIST and CIFAR-10 have. None: these too, if there are any.
        split: `"train"`, `"test"`, any other split that a Hugging Face dataset has, or `"all"` for
            all of them, one after the other. None: `"train"`, or the only one.
        levels: the number L of grey levels of images, see `Dataset.from_array`. None: that of
            integers; floating values are taken for continuous, and a note says where they seem to
            be levels.
        channels: of images with four axes, `"first"`, `"last"` or `"auto"`, see
            `Dataset.from_array`. Refused for data that are not images.
        keep_na: whether NA, None, null and the like are labels in a `.csv` file. An empty field is
            always a missing label.
        columns: names of the columns of a table that are read, in this order; their numbers,
            counted from 0, where they have no names. None: all but that of the labels. This and the
            next three hold for any data of two axes.
        drop: names of columns that are left out.
        drop_missing: whether rows with a missing value, in a column that is read, are left out; a
            note says how many.
        encode: names of columns, of text or not, that become the numbers 0, 1, ... of their values
            in alphabetical order, see `Dataset.categories`.
        drop_repeated: whether samples that are equal to an earlier one, with the same label if
            there are labels, are left out; a note says how many.
        delimiter: of fields in a text file, one character, `"tab"` or `"space"`. None: detected.
        decimal: the decimal mark of numbers that are text, `"."` or `","`. None: detected.
        tokens: reads sequences of tokens, see `Dataset`: `"char"`, the characters of a text in
            UTF-8, gzipped or not; `"int"`, the integers of any other source, an array of one axis
            being a long sequence (`Dataset.from_tokens`). None: FASTA files and `"python-topics"`
            are tokens, all others are not.
        length: of the windows into which texts and long sequences are cut; None for 64. They do
            not overlap.
        max_tokens: keeps the most frequent tokens, at most 65,536, and makes one token of all
            others. None: the characters of a text that make up less than one in 100,000 become one
            token, and more than 65,536 tokens are refused.

    Returns:
        The validated data set, in the units of its source: neither standardised nor dequantised.
        Its `notes`, which `print` shows, list what was assumed.

    Raises:
        ValueError: in one line, for an unknown name (with the nearest known one), a file that is
            missing, damaged or of an unknown format, labels or a split that do not exist, and data
            that `Dataset` refuses.

    Example:
        >>> import jax
        >>> import entropix as ex
        >>> ex.datasets.load("mixture3", num_samples=4096, key=jax.random.key(0))
        Dataset('mixture3': 4096 x 3 float32, points (3,), 5 labels, drawn from a GaussianMixture)
    """
    table = TableOptions(
        columns=None if columns is None else _names(columns),
        drop=_names(drop),
        drop_missing=drop_missing,
        encode=_names(encode),
        delimiter=delimiter,
        decimal=decimal,
        keep_na=keep_na,
    )
    for argument, path in (("source", source), ("labels", labels)):
        if not (isinstance(path, str | os.PathLike) or (path is None and argument == "labels")):
            raise ValueError(
                f"`{argument}` must be a name or a path, got {type(path).__name__}: "
                "`Dataset.from_array` takes arrays of samples and of labels."
            )
    given = None
    if labels is not None and os.path.isfile(labels):
        given, labels = _labels_of(Path(labels), table), None
    if kind is not None:
        choice(kind, "kind", KINDS)
    text = source if isinstance(source, str) else ""
    named = None if labels is None else os.fspath(labels)
    known = text in available()
    path = None if known or text.startswith(PREFIX) else _existing(source)
    if tokens is not None:
        choice(tokens, "tokens", ("char", "int"))
    if num_samples is not None and (not known or text in ("digits", TOPICS)):
        raise ValueError(
            f"`num_samples` must be None for data that are not synthetic, got {num_samples!r} "
            f"for {str(source)!r}."
        )
    if text == TOPICS or (path is not None and (is_fasta(path) or tokens == "char")):
        unused = {"array": array, "split": split, "kind": kind, "levels": levels}
        unused |= {"labels": named if given is None else "a file", "drop_repeated": drop_repeated}
        for option, value in unused.items():
            _check_absent(value or None, option, "for text", source)
        _check_channels(channels, None, source)
        _check_no_table(table, source)
        return _of_text(text if path is None else path, tokens, length, max_tokens)
    if tokens == "char":
        raise ValueError(f"`tokens` must be 'int' or None for data of numbers, got {tokens!r}.")
    if tokens is None:
        _check_absent(length, "length", "for data that are not tokens", source)
        _check_absent(max_tokens, "max_tokens", "for data that are not tokens", source)
    else:
        for option, value in {"kind": kind, "levels": levels}.items():
            _check_absent(value, option, "for tokens", source)
    if known:
        _check_absent(array, "array", "unless the source is an .npz file", source)
        _check_absent(split, "split", "for data without splits", source)
        _check_absent(levels, "levels", "for data whose levels are known", source)
        _check_absent(drop_repeated or None, "drop_repeated", "for embedded data", source)
        _check_channels(channels, None, source)
        _check_no_table(table, source)
        data = embedded(text, num_samples, key)
        _check_labels(named, data.labels, data.source)
        if given is not None:
            data = dataclasses.replace(data, labels=given)
        if tokens is not None:
            return Dataset.from_tokens(
                data.points.reshape(-1, *data.shape),
                name=data.name,
                labels=data.labels,
                source=data.source,
                length=length,
                max_tokens=max_tokens,
            )
        if kind in (None, data.kind):
            return data
        return dataclasses.replace(data, kind=kind, levels=None)
    if path is None:
        raw = read_huggingface(text, split, array, None if named == "labels" else named, table)
        name, where = re.split(r"[:/]", text)[-1], text
    else:
        check_regular(path, "`source`")
        raw = _read(path, array, named, split, table)
        name = path.resolve().name or "root" if path.is_dir() else _stem(path)
        where = str(path)
    if given is not None and raw.kept is not None:
        if len(given) != len(raw.kept):
            raise ValueError(f"`labels` must have shape ({len(raw.kept)},), got {given.shape}.")
        given = given[raw.kept]
    _check_channels(channels, raw.array if kind in (None, "image") else None, source)
    raw = raw if given is None else raw._replace(labels=given)
    if drop_repeated:
        raw = _distinct(raw, where)
    if tokens is not None:
        return Dataset.from_tokens(
            raw.array,
            name=name,
            labels=raw.labels,
            source=where,
            notes=raw.notes,
            categories=raw.categories,
            length=length,
            max_tokens=max_tokens,
        )
    return Dataset.from_array(
        raw.array,
        name=name,
        kind=kind,
        labels=raw.labels,
        columns=raw.columns,
        source=where,
        levels=levels,
        channels=raw.channels if channels == "auto" else channels,
        notes=raw.notes,
        categories=raw.categories,
    )


def _of_text(
    source: str | Path, tokens: str | None, length: int | None, max_tokens: int | None
) -> Dataset:
    """Windows of characters: of a file of text or FASTA, or those of `TOPICS`."""
    if tokens == "int":
        raise ValueError(f"`tokens` must be 'char' or None for {str(source)!r}, got 'int'.")
    if isinstance(source, str):
        name, found = source, python_topics(length, max_tokens)
    else:
        check_regular(source, "`source`")
        name = _stem(source)
        if is_fasta(source):
            _check_absent(max_tokens, "max_tokens", "for FASTA", source)
            found = read_fasta(source, length)
        else:
            found = read_text(source, length, max_tokens)
    return Dataset(
        found.tokens,
        name=name,
        kind="tokens",
        source=str(source),
        notes=found.notes,
        num_tokens=len(found.vocabulary),
        vocabulary=found.vocabulary,
        texts=found.texts,
    )


def _stem(path: Path) -> str:
    """The name of a file without its extension."""
    stem = path.name.removesuffix(".gz")
    return stem.rsplit(".", 1)[0] or stem


def _existing(source: str | os.PathLike[str]) -> Path:
    """The path of a file or folder that exists.

    Raises:
        ValueError: if it does not exist; with the known names if the source looks like a name.
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


def _read(
    path: Path,
    array: str | None = None,
    labels: str | None = None,
    split: str | None = None,
    options: TableOptions = TableOptions(),
) -> Raw:
    suffix = "" if path.is_dir() else suffix_of(path)
    if path.is_dir() and is_huggingface(path):
        named = None if labels == "labels" else labels
        raw = read_huggingface(path, split, array, named, options)
        _check_labels(labels if labels == "labels" else None, raw.labels, str(path))
        return raw
    if suffix not in (".npz", ".xlsx"):
        _check_absent(array, "array", "unless the source is an .npz or .xlsx file", path)
    if suffix in TABLES:
        _check_absent(split, "split", "for data without splits", path)
        try:
            return read_table(path, labels, options, array)
        except ValueError as error:
            if suffix != ".txt":
                raise
            text = "if it is a text, tokens='char' (--tokens char) reads its characters"
            raise ValueError(f"{str(error).rstrip('.')}; {text}.") from error
    if is_cifar(path):
        raw = read_cifar(path, split)
    elif path.is_dir() and is_idx_folder(path):
        raw = read_idx_folder(path, split)
    else:
        _check_absent(split, "split", "for data without splits", path)
        if suffix == ".npz":
            raw = read_npz(path, array, labels)
            labels = None
        elif path.is_dir():
            raw = read_folder(path)
        elif suffix == ".npy":
            raw = read_npy(path)
        elif _IDX_NAME.fullmatch(path.name):
            raw = read_idx(path)
        else:
            raise ValueError(
                f"{quoted(path)} must be one of {_ALLOWED}, got the extension {suffix!r}."
            )
    _check_labels(labels, raw.labels, str(path))
    if raw.array.ndim != 2 or not options.selects:
        _check_no_table(options, path)
        return raw
    pandas = needed("pandas", "choosing columns", "pandas", "data")
    table = Table(pandas.DataFrame(raw.array), quoted(path), named=False)
    part = chosen_columns(table, None, options)
    kept = slice(None) if part.kept is None else part.kept
    return part._replace(labels=None if raw.labels is None else raw.labels[kept])


def _labels_of(path: Path, options: TableOptions) -> np.ndarray:
    """The labels that a file holds: one axis, or a second of size one."""
    if suffix_of(path) in TABLES:
        return read_label_table(path, options)
    array = _read(path).array
    return array[:, 0] if array.ndim == 2 and array.shape[1] == 1 else array


def _distinct(raw: Raw, source: str) -> Raw:
    """The samples that differ from all earlier ones, or have another label."""
    labels = [None] * len(raw.array) if raw.labels is None else raw.labels.tolist()
    if len(labels) != len(raw.array):  # refused by `Dataset`
        return raw
    rows = raw.array + 0.0 if raw.array.dtype.kind == "f" else raw.array  # -0.0 becomes 0.0
    first: dict[Any, int] = {}
    for i, (row, label) in enumerate(zip(rows, labels, strict=True)):
        first.setdefault((row.tobytes(), label), i)
    kept = list(first.values())
    if (count := len(raw.array) - len(kept)) == 0:
        return raw
    note = f"{count} of {len(raw.array)} samples of {source!r} repeat earlier ones and are dropped"
    return raw._replace(
        array=raw.array[kept],
        labels=None if raw.labels is None else raw.labels[kept],
        notes=(*raw.notes, note),
    )


def _names(given: str | int | Sequence[str | int]) -> tuple[str, ...]:
    return (str(given),) if isinstance(given, str | int) else tuple(map(str, given))


def _check_no_table(options: TableOptions, source: Any) -> None:
    """Options of tables are refused for other data."""
    plain = TableOptions(keep_na=options.keep_na)
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        if value != getattr(plain, field.name):
            raise ValueError(
                f"`{field.name}` must be left out for data that are not a table, got {value!r} for "
                f"{str(source)!r}."
            )


def _check_channels(channels: str, images: np.ndarray | None, source: Any) -> None:
    """Only images have an axis of channels."""
    if channels != "auto" and (images is None or images.ndim < 3):
        raise ValueError(
            "`channels` must be 'auto' unless the data are images, "
            f"got {channels!r} for {str(source)!r}."
        )


def _check_absent(value: Any, name: str, when: str, source: Any) -> None:
    if value is not None:
        raise ValueError(f"`{name}` must be None {when}, got {value!r} for {str(source)!r}.")


def _check_labels(wanted: str | None, given: np.ndarray | None, source: str) -> None:
    """Data without named parts have their own labels, or none."""
    if wanted is None or (wanted == "labels" and given is not None):
        return
    allowed = "a file that exists" if given is None else "'labels' or a file that exists"
    raise ValueError(f"`labels` must be {allowed} for {source!r}, got {wanted!r}.")
