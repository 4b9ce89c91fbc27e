"""Data that need not fit into memory, as training asks for them.

A stream is a function of the step: batch k is the same whenever it is asked for, in whatever
process. A run that stopped after step k therefore goes on with `batches(k)` and reads nothing that
lies before, and the processes of a run divide each batch among them without communication.

`entropix.datasets.stream` makes streams of files. Another source of data becomes one by these
three methods.
"""

import abc
from collections.abc import Iterator

import numpy as np
from jaxtyping import PyTree


class AbstractStream(abc.ABC):
    """Batches of samples by the index of the step: batch k is the same whenever it is asked for.

    Attributes:
        shape: of one example.
        dtype: floating.
        num_samples: in the whole data set.
        batch_size: of a whole (global) batch.
    """

    shape: tuple[int, ...]
    dtype: np.dtype
    num_samples: int
    batch_size: int

    @abc.abstractmethod
    def batches(self, start: int) -> Iterator[tuple[np.ndarray, PyTree]]:
        """This process's part of the batches from step `start` on, without end.

        Args:
            start: the first step, from 0. What lies before is not read.

        Returns:
            Arrays of shape (batch_size / num_processes, *shape) and conditions, prefetched; the
            conditions have a leading axis of the same size, or are None. The parts of all
            processes, in their order, make up the batch.
        """

    @abc.abstractmethod
    def head(self, count: int) -> tuple[np.ndarray, PyTree]:
        """The first `count` samples, the same in every process.

        For scalings, moments and checks. Samples and conditions are as those of `batches`.
        """

    @abc.abstractmethod
    def fingerprint(self) -> dict:
        """What two streams must share for a run to go on with the other; JSON types."""
