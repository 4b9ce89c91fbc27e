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
from entropix._core.interfaces import AbstractDistribution
from entropix.datasets import Dataset, Standardisation, dequantise, load
from entropix.distributions import Gaussian, GaussianMixture
from entropix.studies.labels import Condition, make_condition
from entropix.studies.options import ConditionOptions, DataOptions
from entropix.studies.projection import Projection


# A network that sees one noise draw of a small set learns that draw by heart; more of them cost
# nothing but memory, which is bounded.
_MOST_DRAWS, _MOST_NUMBERS = 32, 2**22


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
    draw_key, noise_key, split_key = jax.random.split(
        jax.random.key(check_seed(options.data_seed, "data_seed")), 3
    )
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
    original, projection = dataset, None
    if options.components is not None:
        projection = Projection.fit(augmented[: len(train)], options.components)
        whole = np.concatenate([augmented[: len(train)], held_out])
        dataset = projection.dataset(original, whole)
        augmented, held_out = projection.forward(augmented), projection.forward(held_out)
    standardisation = _standardisation(dataset, augmented[: len(train)], options.standardise)
    augmented, held_out = (np.asarray(standardisation.forward(p)) for p in (augmented, held_out))
    digest = hashlib.sha256()
    conditions = () if given is None else tuple(given.values[index] for index in order)
    for part in (augmented, held_out, *conditions):
        digest.update(repr((part.shape, str(part.dtype))).encode() + part.tobytes())
    return PreparedData(
        dataset=dataset,
        train=augmented[: len(train)],
        augmented=augmented,
        held_out=held_out,
        standardisation=standardisation,
        dequantised=dequantised,
        distribution=_transformed(dataset.distribution, standardisation),
        fingerprint=digest.hexdigest()[:16],
        condition=given,
        order=order,
        original=original,
        projection=projection,
    )


def check_seed(seed: int, name: str) -> int:
    """A seed that makes a key of its own."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"`{name}` must be an integer from 0 to 2^32 - 1, got {seed}.")
    return seed


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


def _standardisation(dataset: Dataset, train: np.ndarray, mode: str) -> Standardisation:
    choice(mode, "standardise", ("auto", "none", "feature", "global"))
    if mode == "auto":
        # Where the truth is known, its units are meant, and published values speak of them.
        mode = "feature" if dataset.kind == "table" else "global"
        mode = "none" if dataset.distribution is not None else mode
    if mode == "none":
        return Standardisation.identity(dataset.dim)
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
