"""Hugging Face `datasets`: by name (`hf:mnist`, `hf:user/name`), or saved by `save_to_disk`.

A name is looked up on the Hugging Face hub and kept in its cache; all else works without a network.
Datasets are Arrow tables, mapped into memory. What one example is follows from the types of the
columns:

| columns | example |
|---|---|
| one of images (bytes of PNG, JPEG, ...; grey or RGB, 8 bits) | (H, W) or (H, W, 3), uint8 |
| one of lists, or lists of lists, all of one size | the shape of the lists |
| several of numbers | (D,), in the order of the columns |
"""

import dataclasses
import io
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.extras import needed
from entropix._core.files import check_regular
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, chosen, quoted, reading
from entropix.datasets.images import pixels
from entropix.datasets.tables import Table, TableOptions, chosen_columns


PREFIX = "hf:"
_NAME = re.compile(r"hf:[\w.-]+(/[\w.-]+)?(:[\w.-]+)?")
_ROWS = 1024  # at a time: decoded images are many times larger than their bytes


def is_huggingface(path: Path) -> bool:
    """Whether a folder was written by `save_to_disk`."""
    return (path / "dataset_dict.json").is_file() or (path / "state.json").is_file()


def open_huggingface(source: Path | str, split: str | None) -> Any:
    """The `datasets.Dataset` of a folder or a name, its splits chosen, nothing decoded.

    Args:
        source: a folder, or `hf:name`, `hf:user/name`, with `:configuration` or without.
        split: a split, or `"all"`; None for `"train"`, or for the only one.
    """
    hf = needed("datasets", "reading a Hugging Face dataset", "datasets", "streams")
    if isinstance(source, Path):
        for file in source.rglob("*"):
            check_regular(file, quoted(file))
        with reading(source, "a Hugging Face dataset saved by save_to_disk"):
            found = hf.load_from_disk(str(source))
    else:
        if not _NAME.fullmatch(source):
            raise ValueError(
                f"`source` must be 'hf:name', 'hf:user/name' or either with ':configuration', "
                f"got {source!r}."
            )
        name, _, configuration = source.removeprefix(PREFIX).partition(":")
        with reading(quoted(source), "a dataset of the Hugging Face hub"):
            found = hf.load_dataset(name, configuration or None)
    if not isinstance(found, dict):
        if split is not None:
            raise ValueError(
                f"`split` must be None for a dataset without splits, got {split!r} "
                f"for {quoted(source)}."
            )
        return found
    parts = [found[name] for name in chosen(split, list(found), source)]
    with reading(quoted(source), "a dataset whose splits have the same columns"):
        return parts[0] if len(parts) == 1 else hf.concatenate_datasets(parts)


def read_huggingface(
    source: Path | str,
    split: str | None,
    columns: str | None,
    label: str | None,
    options: TableOptions = TableOptions(),
) -> Raw:
    """Read a whole dataset into memory.

    Args:
        source: as for `open_huggingface`.
        split: the same.
        columns: the column of the examples; None as for `Columns.of`.
        label: the column of the labels. None: the only one that holds names of classes, or
            otherwise one that is called `label`, if there is any.
        options: which columns and rows of a table are read.
    """
    dataset = open_huggingface(source, split)
    subject = quoted(source)
    if label is None:
        names = _classes(dataset) or [name for name in dataset.column_names if name == "label"]
        label = names[0] if len(names) == 1 else None
    if not len(dataset):
        raise ValueError(f"{subject} must hold samples, got none.")
    if options.selects:
        if options.columns is None:
            found = columns_of(dataset, columns, label, subject)
            names = found.examples if found.kind == "table" else dataset.column_names
            options = dataclasses.replace(options, columns=(*names, *options.encode))
        with reading(subject, "a Hugging Face dataset"):
            frame = dataset.with_format("arrow")[:].to_pandas()
        return chosen_columns(Table(frame, subject), label, options)
    used = columns_of(dataset, columns, label, subject)
    rows = dataset.with_format("arrow", columns=used.names)
    examples, labels = [], []
    for start in range(0, len(rows), _ROWS):
        part, classes = read_rows(rows, slice(start, start + _ROWS), used)
        examples.append(part)
        labels.append(classes)
        if start == 0:
            size = 5 * part.nbytes * len(rows) // len(part)
            check_fits(size, subject, f"{len(rows)} samples")
    shapes = {part.shape[1:] for part in examples}
    if len(shapes) > 1:
        raise ValueError(f"{subject} must hold examples of one size, got {sorted(shapes)[:3]}.")
    return Raw(
        np.concatenate(examples),
        None if label is None else np.concatenate(labels),
        columns=used.examples if used.kind == "table" else None,
        channels="last" if used.kind == "image" else "auto",
    )


def read_rows(
    rows: Any, which: slice | list[int], used: "Columns"
) -> tuple[np.ndarray, np.ndarray | None]:
    """Some rows of a dataset in the format `"arrow"`: examples, and labels or None."""
    with reading(used.subject, "a Hugging Face dataset"):
        table = rows[which]
        table.validate(full=True)  # mapped files are not checked when they are opened
    return used.decoded(table), used.decoded_labels(table)


def columns_of(
    dataset: Any,
    columns: str | Sequence[str] | None,
    label: str | Sequence[str] | None,
    subject: str,
) -> "Columns":
    """Which columns of a dataset are the examples; see `Columns.of`."""
    schema = dataset.with_format("arrow")[:0].schema
    return Columns.of(schema, columns, label, subject, _classes(dataset))


def _classes(dataset: Any) -> list[str]:
    """The columns whose integers are names of classes."""
    return [k for k, v in dataset.features.items() if type(v).__name__ == "ClassLabel"]


@dataclasses.dataclass(frozen=True)
class Columns:
    """Which columns of an Arrow table make up an example and its label.

    Attributes:
        kind: `"image"`, `"array"` (lists) or `"table"` (numbers).
        examples: one column, or for a table one per feature.
        labels: the columns of the labels.
        flat: whether labels have the shape (N,), as those of one column, rather than (N, C).
        subject: the source, as errors write it.
    """

    kind: str
    examples: tuple[str, ...]
    labels: tuple[str, ...]
    flat: bool
    subject: str

    @classmethod
    def of(
        cls,
        schema: Any,
        columns: str | Sequence[str] | None,
        label: str | Sequence[str] | None,
        subject: str,
        classes: Sequence[str] = (),
    ) -> "Columns":
        """The columns of a table.

        Args:
            schema: the Arrow schema.
            columns: those that make up the example. None: the only one of images, otherwise the
                only one of lists, otherwise all of numbers.
            label: the column of the labels, or None; or several, of numbers.
            subject: the source, as errors write it.
            classes: columns of integers that stand for the names of classes.
        """
        flat = label is None or isinstance(label, str)
        given = _names(label)
        names = _names(columns)
        # The column in which pandas keeps the index of a table is no data, unless asked for.
        hidden = _index_columns(schema) - {*given, *names}
        kinds = {field.name: _kind(field.type) for field in schema if field.name not in hidden}
        listed = ", ".join(repr(name) for name in kinds)
        if not set(given) <= set(kinds):
            raise ValueError(f"`label` must be a column of {subject}: {listed}; got {label!r}.")
        if not given and label is not None:
            raise ValueError("`label` must name at least one column, got none.")
        if columns is None:
            rest = {k: v for k, v in kinds.items() if k not in given and k not in classes}
            first = next((k for k in ("image", "array", "table") if k in rest.values()), "other")
            names = tuple(name for name, kind in rest.items() if kind == first)
            if first == "other" or (len(names) > 1 and first != "table"):
                raise ValueError(
                    f"`columns` must say which columns of {subject} make up an example: {listed}; "
                    f"got None."
                )
            return cls(first, names, given, flat, subject)
        found = {kinds.get(name, "other") for name in names}
        if not names or "other" in found:
            raise ValueError(
                f"`columns` must be columns of numbers, lists or images of {subject}: {listed}; "
                f"got {columns!r}."
            )
        if len(names) > 1 and found != {"table"}:
            raise ValueError(
                f"`columns` must be one column of {subject}, or several of numbers, "
                f"got {columns!r}."
            )
        return cls(found.pop(), names, given, flat, subject)

    @property
    def names(self) -> list[str]:
        """All columns to be read."""
        return list(dict.fromkeys((*self.examples, *self.labels)))

    def decoded(self, table: Any) -> np.ndarray:
        """The examples of a table, shape (N, ...), as they are stored."""
        arrays = [_combined(table, name) for name in self.examples]
        if self.kind == "table":
            return np.stack([a.to_numpy(zero_copy_only=False) for a in arrays], axis=-1)
        return self._images(arrays[0]) if self.kind == "image" else self._lists(arrays[0])

    def decoded_labels(self, table: Any) -> np.ndarray | None:
        """The labels of a table, numbers or text, shape (N,) or (N, C); None without columns."""
        found = []
        for name in self.labels:
            column = _combined(table, name)
            if column.null_count:
                raise ValueError(
                    f"{self.subject} must have a label for every sample, "
                    f"got {column.null_count} missing in column {name!r}."
                )
            array = column.to_numpy(zero_copy_only=False)
            if array.dtype.kind not in "biuf":
                if not all(isinstance(label, str) for label in array):
                    raise ValueError(
                        f"{self.subject} must have labels of numbers or text, "
                        f"got {column.type} in column {name!r}."
                    )
                array = array.astype(str)
            found.append(array)
        if not found:
            return None
        return found[0] if self.flat else np.stack(found, axis=-1)

    def _images(self, column: Any) -> np.ndarray:
        images = []
        for entry in column.to_pylist():
            stored = entry if isinstance(entry, dict) else {"bytes": entry}
            content = stored.get("bytes")
            file = stored.get("path") if content is None else io.BytesIO(content)
            if not file:
                raise ValueError(f"{self._column} must hold an image for every sample, got none.")
            images.append(pixels(file, f"an image of {self._column}"))
            if len(images) == 1:
                size = 5 * images[0].size * len(column)
                check_fits(size, self.subject, f"{len(column)} images")
        self._check_same({image.shape for image in images})
        return np.stack(images)

    def _lists(self, column: Any) -> np.ndarray:
        import pyarrow

        shape = [len(column)]
        column = getattr(column, "storage", column)  # of an extension type
        while _is_list(column.type):
            if column.null_count:
                raise ValueError(f"{self._column} must hold a list for every sample, got none.")
            if pyarrow.types.is_fixed_size_list(column.type):
                sizes = {column.type.list_size}
            else:
                sizes = set(np.unique(column.value_lengths().to_numpy()).tolist())
            self._check_same(sizes)
            shape.append(sizes.pop())
            column = column.flatten()
        return column.to_numpy(zero_copy_only=False).reshape(shape)

    def _check_same(self, shapes: set[Any]) -> None:
        if len(shapes) != 1:
            raise ValueError(
                f"{self._column} must hold examples of one size, got {sorted(shapes)[:3]}."
            )

    @property
    def _column(self) -> str:
        return f"column {self.examples[0]!r} of {self.subject}"


def _names(given: str | Sequence[str] | None) -> tuple[str, ...]:
    return () if given is None else (given,) if isinstance(given, str) else tuple(given)


def _index_columns(schema: Any) -> set[str]:
    """The columns in which pandas keeps the index of a table."""
    found = {name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    except (AttributeError, TypeError, ValueError):  # damaged
        return found
    return found | {name for name in index if isinstance(name, str)}


def _combined(table: Any, name: str) -> Any:
    """One column as one array."""
    import pyarrow

    column = table.column(name).combine_chunks()
    return pyarrow.concat_arrays(column.chunks) if hasattr(column, "chunks") else column


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _kind(kind: Any) -> str:
    """What a column of an Arrow type holds: `"image"`, `"array"`, `"table"` or `"other"`."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "table"
    if types.is_struct(kind):
        return "image" if "bytes" in {field.name for field in kind} else "other"
    if _is_list(kind):
        while _is_list(kind):
            kind = kind.value_type
        return "array" if _kind(kind) == "table" else "other"
    return "image" if types.is_binary(kind) or types.is_large_binary(kind) else "other"
