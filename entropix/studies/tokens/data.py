"""Sequences of tokens: split, and cut from the training texts at several offsets.

Independent sequences are held out at random. Of windows of texts four blocks of neighbours are held
out, one in each quarter of the data, so that no text is on both sides, apart from what repeats.
Training windows are cut again at other offsets, within the parts of a text that are left.
"""

import dataclasses
import functools

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.datasets import Dataset
from entropix.studies.data import fingerprint, num_held_out
from entropix.studies.labels import Condition
from entropix.studies.options import DataOptions
from entropix.studies.training import check_seed


_BLOCKS = 4
# Offsets at which windows are cut, at most, and numbers in all of them.
_MAX_OFFSETS, _MAX_NUMBERS = 32, 2**22
# Held-out windows that are looked for in the training texts, at most.
_COMPARED = 500


@dataclasses.dataclass(frozen=True, eq=False)
class TokenData:
    """Sequences for training and for measuring, in random order.

    Attributes:
        dataset: all sequences.
        order: the numbers of the held-out samples, and of the others.
        condition: of all samples, or None.
    """

    dataset: Dataset
    order: tuple[np.ndarray, np.ndarray]
    condition: Condition | None = None

    @property
    def num_tokens(self) -> int:
        """K."""
        assert self.dataset.num_tokens is not None
        return self.dataset.num_tokens

    @property
    def shape(self) -> tuple[int, ...]:
        """Of one sequence, as a model takes it: of one axis, or of two for images."""
        return self.dataset.shape if len(self.dataset.shape) == 2 else (self.dataset.dim,)

    @property
    def dim(self) -> int:
        """D, the length of a sequence."""
        return self.dataset.dim

    @property
    def num_train(self) -> int:
        """N, the number of training samples."""
        return len(self.order[1])

    @functools.cached_property
    def held_out(self) -> np.ndarray:
        """Shape (M, *shape)."""
        return self._shaped(self.dataset.points[self.order[0]])

    @functools.cached_property
    def train(self) -> np.ndarray:
        """Shape (N, *shape)."""
        return self._shaped(self.dataset.points[self.order[1]])

    @functools.cached_property
    def augmented(self) -> np.ndarray:
        """What networks are trained on: `train`, and for texts windows at other offsets.

        Windows with labels are not cut again: the labels of other windows are not known.
        """
        parts, size = [self.train], self.dataset.dim
        if self.dataset.texts is not None and self.condition is None:
            count = max(1, min(_MAX_OFFSETS, size, _MAX_NUMBERS // self.train.size))
            for offset in np.arange(1, count) * size // count:
                for text in self.training_texts:
                    usable = text[offset : offset + (len(text) - offset) // size * size]
                    parts.append(self._shaped(usable))
        return parts[0] if len(parts) == 1 else np.concatenate(parts)

    @property
    def condition_held_out(self) -> np.ndarray | None:
        """The conditions of `held_out`, shape (M, C)."""
        return None if self.condition is None else self.condition.values[self.order[0]]

    @property
    def condition_augmented(self) -> np.ndarray | None:
        """The conditions of `augmented`, shape (N, C)."""
        return None if self.condition is None else self.condition.values[self.order[1]]

    @functools.cached_property
    def training_texts(self) -> list[np.ndarray]:
        """The integers of the training samples, each as long as it continues."""
        return self._texts(self.order[1])

    @functools.cached_property
    def held_out_texts(self) -> list[np.ndarray]:
        """The integers of the held-out samples, each as long as it continues."""
        return self._texts(self.order[0])

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash by which a resumed run recognises its data."""
        condition = self.condition
        conditions = () if condition is None else tuple(condition.values[i] for i in self.order)
        return fingerprint(self.augmented, self.held_out, *conditions)

    @functools.cached_property
    def leaked(self) -> tuple[int, int]:
        """How many held-out windows are in the training texts, at any offset, and of how many."""
        if self.dataset.texts is None:
            return 0, 0
        texts = [_characters(text) for text in self.training_texts]
        windows = [_characters(w) for w in self.dataset.points[self.order[0][:_COMPARED]]]
        return sum(any(w in text for text in texts) for w in windows), len(windows)

    def _shaped(self, points: np.ndarray) -> np.ndarray:
        return points.reshape(-1, *self.shape)

    def _texts(self, order: np.ndarray) -> list[np.ndarray]:
        points, texts, order = self.dataset.points, self.dataset.texts, np.sort(order)
        if texts is None:
            return list(points[order])
        ends = np.flatnonzero((np.diff(order) != 1) | (np.diff(texts[order]) != 0)) + 1
        return [points[part].reshape(-1) for part in np.split(order, ends)]


def _characters(tokens: np.ndarray) -> str:
    """One character for each token, to search for windows."""
    if tokens.dtype == np.uint8:
        return tokens.tobytes().decode("latin-1")
    return tokens.astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")


def split_tokens(
    dataset: Dataset, options: DataOptions, condition: Condition | None = None
) -> TokenData:
    """Hold out a part of the sequences, with their conditions.

    Raises:
        ValueError: if `held_out` leaves too few samples on one side.
    """
    count = dataset.num_samples
    kept = num_held_out(count, options.held_out)
    key = jax.random.key(check_seed(options.data_seed, "data_seed"))
    block_key, order_key = jax.random.split(key)
    order = np.asarray(jax.random.permutation(order_key, count))
    chosen = order[:kept] if dataset.texts is None else _blocks(count, kept, block_key)
    held_out = np.isin(order, chosen)
    return TokenData(dataset, (order[held_out], order[~held_out]), condition)


def _blocks(count: int, kept: int, key: Key) -> np.ndarray:
    """The numbers of the samples in one block of each quarter, `kept` in all."""
    quarters = np.array_split(np.arange(count), min(_BLOCKS, kept))
    places = np.asarray(jax.random.uniform(key, (len(quarters),)))
    sizes = map(len, np.array_split(np.arange(kept), len(quarters)))
    blocks = []
    for quarter, place, size in zip(quarters, places, sizes, strict=True):
        start = int(place * (len(quarter) - size + 1))
        blocks.append(quarter[start : start + size])
    return np.concatenate(blocks)
