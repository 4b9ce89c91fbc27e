"""Sources of a stream: samples by their numbers, from memory, Arrow files or ArrayRecord files.

A source reads the samples that are asked for and, of memory-mapped files, nothing else. It gives
them as they are stored; `streams` makes floating numbers of them.
"""

import abc
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.files import check_npy
from entropix.datasets.dataset import Dataset
from entropix.datasets.files import needed, quoted, reading
from entropix.datasets.huggingface import layout, open_huggingface


class AbstractSource(abc.ABC):
    """Samples by their numbers.

    Attributes:
        num_samples: N.
        shape: of one example.
        dtype: in which the numbers are stored.
        subject: the source, as errors write it.
    """

    num_samples: int
    shape: tuple[int, ...]
    dtype: np.dtype
    subject: str

    @abc.abstractmethod
    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """The samples of these numbers, shape (len(indices), *shape), and labels or None.

        Labels have the shape (len(indices),), or (len(indices), C) if they are C columns.

        Several threads may read at the same time.

        Raises:
            ValueError: in one line, if a file is damaged.
        """


class ArraySource(AbstractSource):
    """Samples of an array, which may be a mapped file.

    Args:
        points: shape (N, ...).
        labels: shape (N,) or (N, C), or None.
        subject: as errors write it.
    """

    def __init__(self, points: np.ndarray, labels: np.ndarray | None, subject: str):
        if points.ndim < 2:
            raise ValueError(
                f"{subject} must have at least two axes, samples first, got shape {points.shape}."
            )
        self.points, self._labels = points, labels
        self.num_samples, *shape = points.shape
        self.shape, self.dtype, self.subject = tuple(shape), points.dtype, subject

    @classmethod
    def of_dataset(cls, dataset: Dataset, label: Any) -> "ArraySource":
        """The samples of a `Dataset`, with its own labels if `label` is `"labels"`.

        With `["labels"]`, they are a column of shape (N, 1).
        """
        subject = repr(dataset.source or dataset.name)
        column = not isinstance(label, str)
        names = [] if label is None else list(label) if column else [label]
        if label is not None and (names != ["labels"] or dataset.labels is None):
            allowed = "None" if dataset.labels is None else "None or 'labels'"
            raise ValueError(f"`label` must be {allowed} for {subject}, got {label!r}.")
        points = dataset.points.reshape(-1, *dataset.shape)
        labels = dataset.labels if names else None
        return cls(points, labels[:, None] if labels is not None and column else labels, subject)

    @classmethod
    def of_npy(cls, path: Path) -> "ArraySource":
        """The array of a `.npy` file, mapped into memory."""
        with reading(path, "a NumPy .npy file of numbers"), path.open("rb") as file:
            check_npy(file, path.stat().st_size)
            mapped = np.load(path, mmap_mode="r", allow_pickle=False)
        return cls(mapped, None, quoted(path))

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        labels = None if self._labels is None else self._labels[indices]
        return self.points[indices], labels


class HuggingFaceSource(AbstractSource):
    """A Hugging Face dataset on disk, of which rows are decoded as they are asked for.

    Args:
        source: a folder of `save_to_disk`, or `hf:user/name`, which is downloaded once.
        split: see `open_huggingface`.
        columns: those of the example; see `Layout.of`.
        label: the column or columns of the labels, or None.
    """

    def __init__(
        self,
        source: Path | str,
        split: str | None,
        columns: str | Sequence[str] | None,
        label: str | Sequence[str] | None,
    ):
        dataset = open_huggingface(source, split)
        self.path, self.subject = Path(source), quoted(Path(source))
        self._layout = layout(dataset, columns, label, self.subject)
        self._rows = dataset.with_format("arrow", columns=self._layout.needed)
        self.num_samples = len(dataset)
        if not self.num_samples:
            raise ValueError(f"{self.subject} must hold samples, got none.")
        first, _ = self.read(np.array([0]))
        self.shape, self.dtype = first.shape[1:], first.dtype

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with reading(self.path, "a Hugging Face dataset"):
            table = self._rows[indices.tolist()]
            table.validate(full=True)  # of mapped files, no one has
        return self._layout.examples(table), self._layout.labels(table)


class ArrayRecordSource(AbstractSource):
    """Files of ArrayRecord, each record the bytes of one example.

    Args:
        paths: the files, one after the other.
        shape: of one example.
        dtype: of its numbers, in the byte order of the files.
    """

    def __init__(self, paths: list[Path], shape: Any, dtype: Any):
        grain = needed("grain", "reading ArrayRecord files", "grain", "streams")
        if shape is None or dtype is None:
            raise ValueError(
                f"`shape` and `dtype` must be those of one record of an ArrayRecord file, "
                f"got {shape} and {dtype}."
            )
        self.path, self.subject = paths[0], quoted(paths[0])
        self.shape, self.dtype = tuple(shape), np.dtype(dtype)
        with reading(self.path, "an ArrayRecord file"):
            self._records = grain.sources.ArrayRecordDataSource([str(path) for path in paths])
            self.num_samples = len(self._records)

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        with reading(self.path, "an ArrayRecord file"):
            records = self._records.__getitems__(indices.tolist())
        size = math.prod(self.shape) * self.dtype.itemsize
        for index, record in zip(indices, records, strict=True):
            if len(record) != size:
                raise ValueError(
                    f"{self.subject} must hold records of {size} bytes for the shape "
                    f"{self.shape} and dtype {self.dtype}, got {len(record)} in record {index}."
                )
        array = np.frombuffer(b"".join(records), self.dtype)
        return array.reshape(len(records), *self.shape), None
