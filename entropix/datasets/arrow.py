"""From Arrow tables, which Hugging Face datasets and parquet files are made of, to arrays.

What one example is follows from the types of the columns:

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
from typing import Any

import numpy as np

from entropix._core.memory import check_fits
from entropix.datasets.files import needed
from entropix.datasets.images import decoded, pixels


@dataclasses.dataclass(frozen=True)
class Layout:
    """Which columns of a table make up an example and its label.

    Attributes:
        kind: `"image"`, `"array"` (lists) or `"table"` (numbers).
        columns: one, or for a table one per feature.
        label: the column of the labels, or None; or several columns of numbers.
        subject: the source, as errors write it.
    """

    kind: str
    columns: tuple[str, ...]
    label: str | tuple[str, ...] | None
    subject: str

    @classmethod
    def of(
        cls,
        schema: Any,
        columns: str | Sequence[str] | None,
        label: str | Sequence[str] | None,
        subject: str,
        classes: Sequence[str] = (),
    ) -> "Layout":
        """The layout of a table.

        Args:
            schema: of Arrow.
            columns: those that make up the example. None: the only one of images, otherwise the
                only one of lists, otherwise all of numbers.
            label: the column of the labels, or None; or several, of numbers.
            subject: the source, as errors write it.
            classes: columns that hold names of classes, which are no numbers though stored so.

        Raises:
            ValueError: if a column is not there, or it is not clear what makes up the example.
        """
        # What pandas keeps beside the columns to number the rows is no column of data.
        label = label if label is None or isinstance(label, str) else tuple(label)
        given = _names(label)
        asked = {*given, *(columns if isinstance(columns, list | tuple) else (columns,))}
        index = _index_columns(schema) - asked
        kinds = {field.name: _kind(field.type) for field in schema if field.name not in index}
        listed = ", ".join(repr(name) for name in kinds)
        if not set(given) <= set(kinds):
            raise ValueError(f"`label` must be a column of {subject}: {listed}; got {label!r}.")
        if not given and label is not None:
            raise ValueError("`label` must name at least one column, got none.")
        if columns is None:
            rest = {k: v for k, v in kinds.items() if k not in given and k not in classes}
            for kind in ("image", "array", "table"):
                names = tuple(name for name, found in rest.items() if found == kind)
                if names and (kind == "table" or len(names) == 1):
                    return cls(kind, names, label, subject)
                if names:
                    break
            raise ValueError(
                f"`columns` must say which columns of {subject} make up an example: {listed}; "
                f"got None."
            )
        names = (columns,) if isinstance(columns, str) else tuple(columns)
        unknown = [name for name in names if kinds.get(name, "other") == "other"]
        if unknown or not names:
            raise ValueError(
                f"`columns` must be columns of numbers, lists or images of {subject}: {listed}; "
                f"got {columns!r}."
            )
        found = {kinds[name] for name in names}
        if len(names) > 1 and found != {"table"}:
            raise ValueError(
                f"`columns` must be one column of {subject}, or several of numbers, "
                f"got {columns!r}."
            )
        return cls(found.pop(), names, label, subject)

    @property
    def needed(self) -> list[str]:
        """All columns to be read."""
        return list(dict.fromkeys((*self.columns, *_names(self.label))))

    def examples(self, table: Any) -> np.ndarray:
        """The examples of a table, shape (N, ...), as they are stored.

        Raises:
            ValueError: if they do not have one shape, or an image is damaged.
        """
        arrays = [_combined(table, name) for name in self.columns]
        if self.kind == "table":
            return np.stack([a.to_numpy(zero_copy_only=False) for a in arrays], axis=-1)
        if self.kind == "image":
            return self._images(arrays[0])
        return self._lists(arrays[0])

    def labels(self, table: Any) -> np.ndarray | None:
        """The labels of a table, numbers or text, shape (N,); of several columns, shape (N, C).

        Raises:
            ValueError: if one is missing, or they are neither numbers nor text.
        """
        columns = [self._labels(table, name) for name in _names(self.label)]
        if self.label is None or isinstance(self.label, str):
            return columns[0] if columns else None
        return np.stack(columns, axis=-1)

    def _labels(self, table: Any, name: str) -> np.ndarray:
        column = _combined(table, name)
        if column.null_count:
            raise ValueError(
                f"{self.subject} must have a label for every sample, "
                f"got {column.null_count} missing in column {name!r}."
            )
        array = column.to_numpy(zero_copy_only=False)
        if array.dtype.kind in "biuf":
            return array
        if all(isinstance(label, str) for label in array):
            return array.astype(str)
        raise ValueError(
            f"{self.subject} must have labels of numbers or text, "
            f"got {column.type} in column {name!r}."
        )

    def _images(self, column: Any) -> np.ndarray:
        pillow = needed("PIL.Image", "reading images", "pillow", "data")
        images = []
        for entry in column.to_pylist():
            content, path = (entry, None)
            if isinstance(entry, dict):
                content, path = entry.get("bytes"), entry.get("path")
            if content is None and not path:
                raise ValueError(f"{self._column} must hold an image for every sample, got none.")
            try:
                with pillow.open(io.BytesIO(content) if content is not None else path) as image:
                    loaded = decoded(image)
            except Exception as error:  # as in `files.reading`: any parser, any damage
                raise ValueError(
                    f"{self._column} must hold images, got one that cannot be read."
                ) from error
            images.append(pixels(loaded, f"an image of {self._column}"))
            if len(images) == 1:
                size = 5 * images[0].size * len(column)
                check_fits(size, self.subject, f"{len(column)} images")
        self._same({image.shape for image in images})
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
            self._same(sizes)
            shape.append(sizes.pop())
            column = column.flatten()
        return column.to_numpy(zero_copy_only=False).reshape(shape)

    def _same(self, shapes: set[Any]) -> None:
        if len(shapes) != 1:
            raise ValueError(
                f"{self._column} must hold examples of one size, got {sorted(shapes)[:3]}."
            )

    @property
    def _column(self) -> str:
        return f"column {self.columns[0]!r} of {self.subject}"


def _index_columns(schema: Any) -> set[str]:
    """The columns in which pandas keeps the index of a table."""
    found = {name for name in schema.names if re.fullmatch(r"__index_level_\d+__", name)}
    try:
        index = (schema.pandas_metadata or {}).get("index_columns", [])
    except (AttributeError, TypeError, ValueError):  # damaged
        return found
    return found | {name for name in index if isinstance(name, str)}


def _names(label: str | tuple[str, ...] | None) -> tuple[str, ...]:
    return () if label is None else (label,) if isinstance(label, str) else label


def _combined(table: Any, name: str) -> Any:
    """One column as one array: offsets of chunks are of no interest here."""
    import pyarrow

    column = table.column(name).combine_chunks()
    return pyarrow.concat_arrays(column.chunks) if hasattr(column, "chunks") else column


def _is_list(kind: Any) -> bool:
    from pyarrow import types

    return types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind)


def _kind(kind: Any) -> str:
    """What a type of Arrow is to us: `"image"`, `"array"`, `"table"` or `"other"`."""
    from pyarrow import types

    kind = getattr(kind, "storage_type", kind)
    if types.is_integer(kind) or types.is_floating(kind) or types.is_boolean(kind):
        return "table"
    if types.is_binary(kind) or types.is_large_binary(kind):
        return "image"
    if types.is_struct(kind):
        fields = {field.name for field in kind}
        return "image" if "bytes" in fields else "other"
    if _is_list(kind):
        while _is_list(kind):
            kind = kind.value_type
        return "array" if _kind(kind) == "table" else "other"
    return "other"
