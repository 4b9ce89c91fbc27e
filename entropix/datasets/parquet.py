"""Parquet files as the source of a stream: row groups, of which a few are kept in memory.

A row group is the smallest part of a parquet file that can be read. A batch of shuffled samples
lies in as many groups as it has samples, so that the time of a batch is that of decoding them all,
unless they fit into the cache: write files to be streamed with small row groups, a few hundred
rows each, or convert them to ArrayRecord or a Hugging Face dataset.
"""

import collections
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.memory import check_fits
from entropix.datasets.arrow import Layout
from entropix.datasets.files import needed, quoted, reading
from entropix.datasets.sources import AbstractSource


def unpacked(group: Any) -> int:
    """Bytes that a row group takes in memory, as its metadata has them.

    Runs of equal values take next to nothing in the file, whatever their number.
    """
    columns = [group.column(i) for i in range(group.num_columns)]
    return sum(max(column.total_uncompressed_size, 8 * column.num_values) for column in columns)


class ParquetSource(AbstractSource):
    """Parquet files, one after the other.

    Args:
        paths: the files, all with the same columns.
        columns: those of the example; see `Layout.of`.
        label: the column or columns of the labels, or None.
        cache_bytes: how much memory the decoded row groups may take; one is always kept.
    """

    def __init__(
        self,
        paths: list[Path],
        columns: str | Sequence[str] | None,
        label: str | Sequence[str] | None,
        cache_bytes: int,
    ):
        self._parquet = needed("pyarrow.parquet", "reading .parquet", "pyarrow", "data")
        self._files: list[tuple[Path, Any]] = []
        self._groups: list[tuple[int, int]] = []  # of each group: its file, its number in it
        sizes = []
        schema: Any = None
        for number, path in enumerate(paths):
            with reading(path, "a .parquet table"), self._parquet.ParquetFile(path) as file:
                metadata, here = file.metadata, file.schema_arrow
            if schema is not None and not here.equals(schema, check_metadata=False):
                raise ValueError(
                    f"{quoted(path)} must have the columns and types of {quoted(paths[0])}."
                )
            schema = here
            self._files.append((path, metadata))
            for group in range(metadata.num_row_groups):
                check_fits(unpacked(metadata.row_group(group)), quoted(path), "a row group")
                self._groups.append((number, group))
                sizes.append(metadata.row_group(group).num_rows)
        self.subject = quoted(paths[0] if len(paths) == 1 else paths[0].parent)
        self._ends = np.cumsum(sizes, dtype=np.int64)
        self.num_samples = int(self._ends[-1]) if sizes else 0
        if not self.num_samples:
            raise ValueError(f"{self.subject} must hold samples, got none.")
        self._layout = Layout.of(schema, columns, label, self.subject)
        self._cache: collections.OrderedDict[int, Any] = collections.OrderedDict()
        self._cache_bytes, self._lock = cache_bytes, threading.Lock()
        first, _ = self.read(np.array([0]))
        self.shape, self.dtype = first.shape[1:], first.dtype

    def read(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        import pyarrow

        groups = np.searchsorted(self._ends, indices, side="right")
        order = np.argsort(groups, kind="stable")  # every group is visited once
        tables = []
        for group in np.unique(groups):
            inside = indices[order][groups[order] == group]
            start = 0 if group == 0 else self._ends[group - 1]
            tables.append(self._group(int(group)).take(pyarrow.array(inside - start)))
        with reading(self._files[0][0], "parquet files of the same columns"):
            table = pyarrow.concat_tables(tables).take(pyarrow.array(np.argsort(order)))
        return self._layout.examples(table), self._layout.labels(table)

    def _group(self, number: int) -> Any:
        """A row group, from the cache or from its file; the least recently used one gives way."""
        with self._lock:  # a thread that waits here finds what another has read
            if number in self._cache:
                self._cache.move_to_end(number)
                return self._cache[number]
            file, group = self._groups[number]
            path, metadata = self._files[file]
            with (
                reading(path, "a .parquet table"),
                self._parquet.ParquetFile(path, metadata=metadata) as opened,
            ):
                table = opened.read_row_group(group, columns=self._layout.needed)
            self._cache[number] = table
            while len(self._cache) > 1 and self._size() > self._cache_bytes:
                self._cache.popitem(last=False)
            return table

    def _size(self) -> int:
        return sum(table.nbytes for table in self._cache.values())
