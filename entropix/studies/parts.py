"""From a source to samples that are read, labelled, split and dequantised, in their own units."""

import dataclasses
import os

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.datasets import Dataset, dequantise, load
from entropix.studies.labels import Condition, make_condition
from entropix.studies.options import ConditionOptions, DataOptions
from entropix.studies.projection import Projection


# A network that sees one noise draw of a small set learns that draw by heart; more of them cost
# nothing but memory, which is bounded.
_MOST_DRAWS, _MOST_NUMBERS = 32, 2**22


@dataclasses.dataclass(frozen=True, eq=False)
class Parts:
    """A data set in its own units, ready to be trained and measured on.

    Attributes:
        dataset: as it was read.
        augmented: what networks are trained on: where noise is added, several noise draws of every
            sample, shape (copies * N, D).
        count: N, the number of samples to train on: those of the first draw.
        held_out: shape (M, D).
        dequantised: whether uniform noise of one level was added.
        condition: of the whole data set, or None.
        order: which samples of the data set are held out, shape (M,), and which are not, (N,).
        original: the data set as it was read, where `dataset` is its principal components.
        projection: onto them, or None.
    """

    dataset: Dataset
    augmented: np.ndarray
    count: int
    held_out: np.ndarray
    dequantised: bool
    condition: Condition | None
    order: tuple[np.ndarray, np.ndarray]
    original: Dataset | None = None
    projection: Projection | None = None

    def projected(self, projection: Projection) -> "Parts":
        """The same in principal components."""
        whole = np.concatenate([self.train, self.held_out])
        return dataclasses.replace(
            self,
            dataset=projection.dataset(self.dataset, whole),
            augmented=projection.forward(self.augmented),
            held_out=projection.forward(self.held_out),
            original=self.dataset,
            projection=projection,
        )

    @property
    def train(self) -> np.ndarray:
        """The first noise draw of every sample to train on, shape (N, D)."""
        return self.augmented[: self.count]


def read_parts(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions,
    key: Key,
) -> Parts:
    """Read, label, split and dequantise; see `prepare_data`."""
    draw_key, noise_key, split_key = jax.random.split(key, 3)
    if isinstance(source, Dataset):
        dataset = source
    else:
        dataset = load(
            source,
            num_samples=options.num_samples,
            key=draw_key,
            array=options.array,
            kind=None if options.kind == "auto" else options.kind,
            labels=condition.condition,
            split=options.split,
            levels=options.levels,
            channels=options.channels,
            keep_na=condition.keep_na,
        )
    given = make_condition(dataset.labels, condition, options.data_seed)
    dequantised = options.dequantise and dataset.levels is not None
    order = _split(len(dataset.points), options.held_out, split_key)
    held_out, train = (dataset.points[index] for index in order)
    augmented = train
    if dequantised:
        held_key, train_key = jax.random.split(noise_key)
        held_out = np.asarray(dequantise(held_out, key=held_key))
        augmented = np.concatenate(
            [
                np.asarray(dequantise(train, key=jax.random.fold_in(train_key, i)))
                for i in range(max(1, min(_MOST_DRAWS, _MOST_NUMBERS // train.size)))
            ]
        )
    return Parts(dataset, augmented, len(train), held_out, dequantised, given, order)


def _split(count: int, fraction: float, key: jax.Array) -> tuple[np.ndarray, np.ndarray]:
    """Which samples are held out, and which are not."""
    if not 0 < fraction < 1:
        raise ValueError(f"`held_out` must be a fraction between 0 and 1, got {fraction}.")
    kept = max(round(fraction * count), 2)
    if count - kept < 2:
        raise ValueError(
            f"`held_out` must leave at least two samples on either side, got {fraction} of {count}."
        )
    order = np.asarray(jax.random.permutation(key, count))
    return order[:kept], order[kept:]
