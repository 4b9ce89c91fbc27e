r"""From a source to what a study trains and measures on: read, dequantised, split, standardised.

Everything here happens before training, and everything that can be wrong with the data is said
here. Random choices (drawing a synthetic set, the noise of dequantisation, the split) follow
`data_seed` alone, so that all seeds of training see the same data.
"""

import dataclasses
import hashlib
import os

import jax
import numpy as np

from entropix._core.checks import choice
from entropix.datasets import Dataset, Standardisation
from entropix.distributions import Gaussian, GaussianMixture
from entropix.interfaces import AbstractDistribution
from entropix.studies.labels import Condition
from entropix.studies.options import ConditionOptions, DataOptions
from entropix.studies.parts import Parts, read_parts
from entropix.studies.projection import Projection


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedData:
    """Data in the coordinates of the model, and the way back.

    Attributes:
        dataset: as it was read, in the units of its source; or its principal components.
        train: shape (N, D), standardised.
        augmented: what networks are trained on: `train`, or where noise was added to it, several
            noise draws of every sample, shape (copies * N, D), `train` first.
        held_out: shape (M, D), standardised with the moments of `train`.
        standardisation: the affine map between the two.
        dequantised: whether uniform noise of one level was added.
        distribution: the exact distribution in the coordinates of the model, or None if unknown.
        fingerprint: a hash of `train` and `held_out` and of their conditions, by which a resumed
            run knows its data.
        condition: of the whole data set, or None.
        order: which samples of the data set are held out, shape (M,), and which are not.
        original: the data set as it was read.
        projection: from the original to its principal components, or None.
    """

    dataset: Dataset
    train: np.ndarray
    augmented: np.ndarray
    held_out: np.ndarray
    standardisation: Standardisation
    dequantised: bool
    distribution: AbstractDistribution | None
    fingerprint: str
    condition: Condition | None
    order: tuple[np.ndarray, np.ndarray]
    original: Dataset
    projection: Projection | None

    @property
    def dim(self) -> int:
        """D."""
        return self.train.shape[1]

    @property
    def log_det(self) -> float:
        """What is added to a log density in the model's coordinates to have it in the data's."""
        return float(self.standardisation.log_det)

    @property
    def condition_held_out(self) -> np.ndarray | None:
        """The conditions of `held_out`, shape (M, C)."""
        return None if self.condition is None else self.condition.values[self.order[0]]

    @property
    def condition_augmented(self) -> np.ndarray | None:
        """The conditions of `augmented`, shape (copies * N, C)."""
        if self.condition is None:
            return None
        return np.tile(self.condition.values[self.order[1]], (self.noise_draws, 1))

    @property
    def noise_draws(self) -> int:
        """How many noise draws of every sample the networks see."""
        return len(self.augmented) // len(self.train)


def prepare_data(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions = ConditionOptions(),
) -> PreparedData:
    """Read, dequantise, split and standardise.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `DataOptions`.
        condition: see `ConditionOptions`; of a data set, the labels are its own.

    Raises:
        ValueError: in one line, for anything wrong with the source, its data or an option.
    """
    parts = read_parts(source, options, condition, _key(options))
    (parts,) = _projected([parts], options.components)
    standardisation = _standardisation([parts], parts.train, options.standardise)
    return _in_coordinates(parts, standardisation)


def prepare_pair(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: DataOptions,
) -> tuple[PreparedData, PreparedData]:
    """Two data sets in the same coordinates.

    Their standardisation is that of both together, each with half of the weight.

    Args:
        first: what `entropix.datasets.load` takes, or a data set.
        second: the same; what is random about it is independent of the first.
        options: see `DataOptions`; they hold for both.

    Raises:
        ValueError: as `prepare_data`, or if the two do not have the same coordinates.
    """
    key = _key(options)
    pair = [
        read_parts(source, options, ConditionOptions(), jax.random.fold_in(key, i) if i else key)
        for i, source in enumerate((first, second))
    ]
    one, other = (parts.dataset for parts in pair)
    for name in ("shape", "columns", "levels"):
        here, there = getattr(one, name), getattr(other, name)
        if here != there:
            raise ValueError(
                f"the two data sets must have the same {name}, got {here} for {one.name!r} and "
                f"{there} for {other.name!r}."
            )
    pair = _projected(pair, options.components)
    standardisation = _standardisation(pair, _pooled(pair), options.standardise)
    return _in_coordinates(pair[0], standardisation), _in_coordinates(pair[1], standardisation)


def _pooled(sets: list[Parts]) -> np.ndarray:
    """What there is to train on, as many of each."""
    count = min(parts.count for parts in sets)
    return np.concatenate([parts.train[:count] for parts in sets])


def _projected(sets: list[Parts], components: int | None) -> list[Parts]:
    """The principal components of all sets together, if they are asked for."""
    if components is None:
        return sets
    projection = Projection.fit(_pooled(sets), components)
    return [parts.projected(projection) for parts in sets]


def _key(options: DataOptions) -> jax.Array:
    return jax.random.key(check_seed(options.data_seed, "data_seed"))


def _in_coordinates(parts: Parts, standardisation: Standardisation) -> PreparedData:
    augmented, held_out = (
        np.asarray(standardisation.forward(p)) for p in (parts.augmented, parts.held_out)
    )
    condition = parts.condition
    digest = hashlib.sha256()
    conditions = () if condition is None else tuple(condition.values[i] for i in parts.order)
    for part in (augmented, held_out, *conditions):
        digest.update(repr((part.shape, str(part.dtype))).encode() + part.tobytes())
    return PreparedData(
        dataset=parts.dataset,
        train=augmented[: parts.count],
        augmented=augmented,
        held_out=held_out,
        standardisation=standardisation,
        dequantised=parts.dequantised,
        distribution=_transformed(parts.dataset.distribution, standardisation),
        fingerprint=digest.hexdigest()[:16],
        condition=condition,
        order=parts.order,
        original=parts.original or parts.dataset,
        projection=parts.projection,
    )


def check_seed(seed: int, name: str) -> int:
    """A seed that makes a key of its own."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"`{name}` must be an integer from 0 to 2^32 - 1, got {seed}.")
    return seed


def _standardisation(pair: list[Parts], train: np.ndarray, mode: str) -> Standardisation:
    """The change of units asked for, by the moments of `train`."""
    datasets = [parts.dataset for parts in pair]
    choice(mode, "standardise", ("auto", "none", "feature", "global"))
    if mode == "auto":
        # Where the truth is known, its units are meant, and published values speak of them.
        mode = "feature" if all(d.kind == "table" for d in datasets) else "global"
        mode = "none" if all(d.distribution is not None for d in datasets) else mode
    if mode == "none":
        return Standardisation.identity(train.shape[1])
    if mode == "feature":
        return Standardisation.per_feature(train)
    return Standardisation.global_scale(train)


def _transformed(
    distribution: AbstractDistribution | None, standardisation: Standardisation
) -> AbstractDistribution | None:
    """The distribution of (x - mean) / std, for the families closed under it."""
    mean, std = standardisation.mean, standardisation.std
    if distribution is None or standardisation.name == "identity":
        return distribution
    if isinstance(distribution, GaussianMixture):
        return GaussianMixture(
            distribution.weights, (distribution.means - mean) / std, distribution.stds / std
        )
    if isinstance(distribution, Gaussian):
        return Gaussian(
            (distribution.mean - mean) / std,
            distribution.covariance / (std[:, None] * std[None, :]),
        )
    return None
