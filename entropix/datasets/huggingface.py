"""Hugging Face `datasets`: by name (`hf:mnist`, `hf:user/name`), or saved by `save_to_disk`.

Datasets on disk are memory-mapped, so `stream` reads from them what it needs. A name is looked up
on the Hugging Face hub and kept in its cache; all else here works without a network.
"""

import re
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.files import check_regular
from entropix._core.memory import check_fits
from entropix.datasets.arrow import Layout
from entropix.datasets.files import Raw, needed, quoted, reading
from entropix.datasets.splits import chosen


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

    Raises:
        ValueError: if there is no such dataset or split, or it cannot be read.
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
        with reading(Path(source), "a dataset of the Hugging Face hub"):
            found = hf.load_dataset(name, configuration or None)
    if not isinstance(found, dict):
        if split is not None:
            raise ValueError(
                f"`split` must be None for a dataset without splits, got {split!r} "
                f"for {quoted(Path(source))}."
            )
        return found
    parts = [found[name] for name in chosen(split, list(found), source)]
    with reading(Path(source), "a dataset whose splits have the same columns"):
        return parts[0] if len(parts) == 1 else hf.concatenate_datasets(parts)


def layout(dataset: Any, columns: Any, label: Any, subject: str) -> Layout:
    """Which columns are the examples; see `Layout.of`."""
    return Layout.of(
        dataset.with_format("arrow")[:0].schema, columns, label, subject, _classes(dataset)
    )


def read_huggingface(
    source: Path | str, split: str | None, columns: str | None, label: str | None
) -> Raw:
    """Read a whole dataset into memory.

    Args:
        source: as for `open_huggingface`.
        split: the same.
        columns: the column of the examples; None as for `Layout.of`.
        label: the column of the labels. None: the only one that holds names of classes, or
            otherwise one that is called `label`, if there is any.

    Raises:
        ValueError: as `open_huggingface` and `Layout`, or if the dataset is empty.
    """
    dataset = open_huggingface(source, split)
    subject = quoted(Path(source))
    if label is None:
        names = _classes(dataset) or [name for name in dataset.column_names if name == "label"]
        label = names[0] if len(names) == 1 else None
    if not len(dataset):
        raise ValueError(f"{subject} must hold samples, got none.")
    chosen_columns = layout(dataset, columns, label, subject)
    rows = dataset.with_format("arrow", columns=chosen_columns.needed)
    examples, labels = [], []
    for start in range(0, len(rows), _ROWS):
        with reading(Path(source), "a Hugging Face dataset"):
            table = rows[start : start + _ROWS]
            table.validate(full=True)
        examples.append(chosen_columns.examples(table))
        if start == 0:
            size = 5 * examples[0].nbytes * len(rows) // len(examples[0])
            check_fits(size, subject, f"{len(rows)} samples")
        labels.append(chosen_columns.labels(table))
    shapes = {part.shape[1:] for part in examples}
    if len(shapes) > 1:
        raise ValueError(f"{subject} must hold examples of one size, got {sorted(shapes)[:3]}.")
    named = chosen_columns.columns if chosen_columns.kind == "table" else None
    return Raw(
        np.concatenate(examples),
        None if label is None else np.concatenate(labels),
        columns=named,
        channels="last" if chosen_columns.kind == "image" else "auto",
    )


def _classes(dataset: Any) -> list[str]:
    """The columns whose integers are names of classes."""
    return [k for k, v in dataset.features.items() if type(v).__name__ == "ClassLabel"]
