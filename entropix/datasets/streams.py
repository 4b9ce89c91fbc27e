r"""`stream`: batches of data that need not fit into memory, shuffled again in every epoch.

With N samples and batches of B there are $S = \lfloor N/B \rfloor$ steps to an epoch, and step k
takes

$$x_{\pi_e(rB)}, \dots, x_{\pi_e(rB + B - 1)}, \qquad e = \lfloor k/S \rfloor, \quad r = k - eS ,$$

where $\pi_e$ is a permutation of all N samples that depends on the seed and the epoch e alone. The
N - SB samples left over differ from epoch to epoch. Of P processes the p-th reads the p-th part of
every batch. As $\pi_e$ is evaluated sample by sample (a keyed bijection of grain), step k costs the
same whether it comes first or last.

References:
    Grain, *Feeding JAX models*, https://google-grain.readthedocs.io.
"""

import hashlib
import os
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike

from entropix._core.arrays import check_real, rounded
from entropix._core.checks import positive_integer
from entropix._core.extras import needed
from entropix.datasets.dataset import Dataset
from entropix.datasets.sources import Source, open_source
from entropix.interfaces import AbstractStream


def stream(
    source: Dataset | np.ndarray | str | os.PathLike[str],
    *,
    batch_size: int,
    seed: int = 0,
    shuffle: bool = True,
    columns: str | Sequence[str] | None = None,
    label: str | Sequence[str] | None = None,
    split: str | None = None,
    shape: tuple[int, ...] | None = None,
    dtype: DTypeLike | None = None,
    dequantise: bool = False,
    num_processes: int | None = None,
    process_index: int | None = None,
    num_threads: int = 4,
    prefetch: int = 8,
) -> AbstractStream:
    """A stream over data on disk: deterministic, divided among processes, resumable at any step.

    | source | read by |
    |---|---|
    | `.parquet`, or a folder of such files | rows of the copy in the cache of `datasets` |
    | `.array_record`, or a folder of such files | records, each the raw bytes of one example |
    | a folder of `save_to_disk`, or `"hf:user/name"` | rows of a Hugging Face dataset |
    | `.npy` | rows of the mapped file |
    | a `Dataset` or an array | memory |

    Examples are floating: float64 if they are stored in float64 or in integers of 32 bits or more,
    otherwise float32. Their values stay what they are, pixels 0 to 255. Conditions are the labels,
    which must be numbers: of one column as they are stored, shape (B,); of a list of columns
    floating as the examples are, shape (B, C), which is what the networks of this library take.

    Args:
        source: see the table.
        batch_size: samples in a batch, over all processes.
        seed: of the order and the noise, from 0 to 2^32 - 1.
        shuffle: whether every epoch has a new order, rather than that of the source.
        columns: the columns of parquet files and Hugging Face datasets that make up one example:
            one of images or of lists of equal sizes, or several of numbers. None: the only one of
            images, or else the only one of lists, or else all of numbers but `label`.
        label: the column of the conditions, or a list of columns; of a `Dataset`, `"labels"` or
            `["labels"]`. None: no conditions.
        split: of Hugging Face datasets, see `load`.
        shape: of one example; required for ArrayRecord.
        dtype: of a record; required for ArrayRecord.
        dequantise: add uniform noise on [0, 1) to integers, which depends on the seed, the epoch
            and the sample alone; see `entropix.datasets.dequantise`.
        num_processes: how many processes share each batch; None: `jax.process_count()` at the time
            of the first batch.
        process_index: the index of this process; None: `jax.process_index()`.
        num_threads: threads that read batches ahead; 0 reads each when it is needed.
        prefetch: batches kept ready.

    Returns:
        A stream whose batch k is the same whenever it is asked for, in any number of processes.

    Raises:
        ValueError: in one line, for a source that is missing, damaged or of an unknown format, or
            options that do not fit it; from the stream, for a damaged part or a number that is not
            finite.
    """
    needed("grain", "a stream", "grain", "streams")
    opened = open_source(source, columns, label, split, shape, dtype)
    return _Stream(
        opened,
        opened.shape if shape is None else tuple(shape),
        batch_size,
        seed,
        shuffle,
        dequantise,
        (num_processes, process_index),
        (num_threads, prefetch),
    )


class _Stream(AbstractStream):
    """A source in the order of the module's equation."""

    def __init__(
        self,
        source: Source,
        shape: tuple[int, ...],
        batch_size: int,
        seed: int,
        shuffle: bool,
        dequantise: bool,
        processes: tuple[int | None, int | None],
        read_options: tuple[int, int],
    ):
        self._source, self.num_samples = source, source.num_samples
        self.batch_size = positive_integer(batch_size, "batch_size")
        self._seed, self._shuffle, self._dequantise = seed, shuffle, dequantise
        self._processes, self._read_options = processes, read_options
        if batch_size > self.num_samples:
            raise ValueError(
                f"`batch_size` must be at most the number of samples of {source.subject}, "
                f"{self.num_samples}, got {batch_size}."
            )
        if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**32:
            raise ValueError(f"`seed` must be an integer from 0 to 2^32 - 1, got {seed!r}.")
        if np.prod(shape, dtype=int) != np.prod(source.shape, dtype=int):
            raise ValueError(
                f"`shape` must have the size of one example of {source.subject}, of shape "
                f"{source.shape}, got {shape}."
            )
        check_real(source.dtype, source.subject)
        if dequantise and source.dtype.kind == "f":
            raise ValueError(
                f"`dequantise` must be False for {source.subject}, whose numbers are {source.dtype}"
                f", got True: continuous data need no dequantisation."
            )
        for value, name in zip(read_options, ("num_threads", "prefetch"), strict=True):
            positive_integer(value, name, minimum=0)
        if processes[0] is not None:
            self._part()
        wide = source.dtype.itemsize >= (8 if source.dtype.kind == "f" else 4)
        self.shape, self.dtype = shape, np.dtype(np.float64 if wide else np.float32)
        self._probe: str | None = None

    def batches(self, start: int) -> Iterator[tuple[np.ndarray, Any]]:
        start = positive_integer(start, "start", minimum=0)
        return self._iterate(start, *self._part())

    def head(self, count: int) -> tuple[np.ndarray, Any]:
        count = positive_integer(count, "count")
        return self._read(np.arange(min(count, self.num_samples)), 0)

    def fingerprint(self) -> dict:
        if self._probe is None:
            few = min(8, self.num_samples)
            ends = np.concatenate([np.arange(few), self.num_samples - few + np.arange(few)])
            points, labels = self._source.read(ends)
            digest = hashlib.sha256(np.ascontiguousarray(points).astype("<f8").tobytes())
            digest.update(b"" if labels is None else repr(labels.tolist()).encode())
            self._probe = digest.hexdigest()[:16]
        return {
            "samples": self._probe,
            "num_samples": self.num_samples,
            "shape": list(self.shape),
            "dtype": self.dtype.name,
            "batch_size": self.batch_size,
            "seed": self._seed,
            "shuffle": self._shuffle,
            "dequantise": self._dequantise,
        }

    def _part(self) -> tuple[int, int]:
        """The number of processes, and the index of this one."""
        count, index = self._processes
        # Not before it is needed: asking initialises the devices, which jax.distributed precedes.
        count = jax.process_count() if count is None else positive_integer(count, "num_processes")
        index = jax.process_index() if index is None else index
        if not 0 <= positive_integer(index, "process_index", minimum=0) < count:
            raise ValueError(
                f"`process_index` must be below the number of processes, {count}, got {index}."
            )
        if self.batch_size % count:
            raise ValueError(
                f"`batch_size` must be a multiple of the number of processes, {count}, "
                f"got {self.batch_size}."
            )
        return count, index

    def _iterate(self, start: int, count: int, index: int) -> Iterator[tuple[np.ndarray, Any]]:
        import grain

        steps = self.num_samples // self.batch_size

        def read(offset: int, indices: np.ndarray) -> tuple[np.ndarray, Any]:
            return self._read(indices, 1 + (start + offset) // steps)

        order = grain.MapDataset.range(self.num_samples).seed(self._seed)
        order = order.shuffle() if self._shuffle else order
        # Parts of batches, all processes' in turn: this one's are every count-th.
        parts = order[: steps * self.batch_size].batch(
            self.batch_size // count, batch_fn=np.asarray
        )
        mine = parts[index::count].repeat()[start:].map_with_index(read)
        threads, prefetch = self._read_options
        options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
        batches = iter(mine.to_iter_dataset(options))
        try:
            yield from batches
        except ValueError as error:  # without the note on frames that grain adds to its one line
            raise ValueError(*error.args) from error.__cause__
        finally:
            batches.close()  # its threads

    def _read(self, indices: np.ndarray, epoch: int) -> tuple[np.ndarray, Any]:
        """Samples as floating numbers, and conditions. Epochs count from 1; 0 is that of `head`."""
        stored, labels = self._source.read(indices)
        if stored.shape != (len(indices), *self._source.shape):
            raise ValueError(
                f"{self._source.subject} must hold examples of one shape, {self._source.shape}, "
                f"got {stored.shape[1:]} among samples {', '.join(map(str, indices[:3]))}, ..."
            )
        points = rounded(stored, self.dtype, self._source.subject).reshape(-1, *self.shape)
        finite = np.isfinite(points)
        if not finite.all():
            bad = int(indices[np.argwhere(~finite)[0][0]])
            raise ValueError(
                f"{self._source.subject} must hold finite numbers, got others in sample {bad} "
                f"(counted from 0)."
            )
        if labels is not None and labels.dtype.kind not in "biuf":
            raise ValueError(
                f"{self._source.subject} must have labels of numbers to be streamed, "
                f"got dtype {labels.dtype}."
            )
        if labels is not None and labels.ndim > 1:
            labels = labels.astype(self.dtype)
        if self._dequantise:
            seeds = [[self._seed, epoch, int(index)] for index in indices]
            noise = np.stack(
                [
                    np.random.default_rng(seed).random(self.shape, dtype=self.dtype.type)
                    for seed in seeds
                ]
            )
            # 255 + 0.99999994 rounds to 256 in float32, which is the next level.
            points = np.minimum(points + noise, np.nextafter(points + 1, points))
        return points, labels
