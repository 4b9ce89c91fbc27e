r"""The data of a study: read, dequantised, split, projected, standardised.

All of this happens before training, and everything that can be wrong with the data is reported
here. Random choices (drawing a synthetic set, noise of dequantisation, split) follow `data_seed`
alone, so that all seeds of training see the same data.
"""

import dataclasses
import functools
import hashlib
import os

import jax
import numpy as np

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import choice
from entropix.datasets import (
    Dataset,
    Description,
    NormalScores,
    Projection,
    Standardisation,
    describe,
    load,
)
from entropix.distributions import Gaussian, GaussianMixture, dequantise
from entropix.interfaces import AbstractDistribution
from entropix.studies.labels import Condition, common_condition, make_condition
from entropix.studies.options import ConditionOptions, DataOptions, PairOptions
from entropix.studies.training import check_seed


# A network that sees a single noise draw of a small set memorises that draw. More draws cost only
# memory, which is bounded.
_MAX_DRAWS, _MAX_NUMBERS = 32, 2**22
_DESCRIBED = 2**24  # numbers of the data that are examined
# Options of reading a source, which say nothing of a data set that has been read.
_OF_READING = (
    *("num_samples", "array", "columns", "drop", "drop_missing", "drop_repeated", "delimiter"),
    *("decimal", "split", "kind", "levels", "channels", "tokens", "length", "max_tokens"),
)


@dataclasses.dataclass(frozen=True, eq=False)
class PreparedData:
    """Data in the coordinates of the model, and the map back.

    Attributes:
        dataset: as it was read, in the units of its source; or its principal components.
        original: as it was read.
        augmented: what networks are trained on, shape (copies * N, D): where noise is added,
            several noise draws of every sample, all samples once before any of them again.
        num_train: N, the number of training samples.
        held_out: shape (M, D), standardised with the moments of `train`.
        dequantised: whether uniform noise, one grey level wide, was added.
        condition: of the whole data set, or None.
        order: indices of the held-out samples in the data set, shape (M,), and of the others, (N,).
        distribution: the exact distribution in the coordinates of the model, or None if unknown.
        standardisation: the map from `dataset` to the coordinates of the model.
        projection: from `original` to principal components, or None.
        noise: the columns to which uniform noise was added, and its width in each.
        description: of the data with this noise; None if they are known to have a density.
    """

    dataset: Dataset
    original: Dataset
    augmented: np.ndarray
    num_train: int
    held_out: np.ndarray
    dequantised: bool
    condition: Condition | None
    order: tuple[np.ndarray, np.ndarray]
    distribution: AbstractDistribution | None
    standardisation: Standardisation | NormalScores
    projection: Projection | None = None
    noise: tuple[tuple[str, float], ...] = ()
    description: Description | None = None

    @property
    def train(self) -> np.ndarray:
        """The training samples, in their first noise draw, shape (N, D)."""
        return self.augmented[: self.num_train]

    @property
    def dim(self) -> int:
        """D."""
        return self.augmented.shape[1]

    @property
    def example_shape(self) -> tuple[int, ...]:
        """Of one example for a network: that of an image, unless it is projected, or (D,)."""
        if self.dataset.kind == "image" and self.projection is None and self.dataset.shape:
            return tuple(self.dataset.shape)
        return (self.dim,)

    @property
    def has_pictures(self) -> bool:
        """Whether samples can be shown as images: flat rows of pixels cannot."""
        return self.dataset.kind == "image" and len(self.dataset.shape) > 1

    def log_jacobian(self, points: DataLike) -> jax.Array:
        """Added to a log density in the coordinates of the model, it gives that of the data.

        Args:
            points: in the coordinates of the model, shape (n, D).
        """
        return self.standardisation.log_jacobian(self.standardisation.inverse(as_float(points)))

    @property
    def noise_draws(self) -> int:
        """Number of noise draws of every sample."""
        return len(self.augmented) // self.num_train

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

    @functools.cached_property
    def fingerprint(self) -> str:
        """A hash of samples and conditions, by which a resumed run recognises its data."""
        condition = self.condition
        conditions = () if condition is None else tuple(condition.values[i] for i in self.order)
        return fingerprint(self.augmented, self.held_out, *conditions)

    def projected(self, projection: Projection) -> "PreparedData":
        """The same in principal components."""
        whole = np.concatenate([self.train, self.held_out])
        dataset = Dataset(
            projection.forward(whole),
            name=self.dataset.name,
            kind="points",
            columns=tuple(f"PC{i + 1}" for i in range(len(projection.axes))),
            source=self.dataset.source,
        )
        return dataclasses.replace(
            self,
            dataset=dataset,
            augmented=projection.forward(self.augmented),
            held_out=projection.forward(self.held_out),
            distribution=None,
            projection=projection,
        )

    def described(self) -> "PreparedData":
        """The same, with a description of obstacles to a density."""
        if self.distribution is not None or self.dequantised:
            return self
        dataset = self.dataset
        whole = np.concatenate([self.train, self.held_out])[: _DESCRIBED // self.dim]
        found = describe(Dataset(whole, name=dataset.name, kind="points", columns=dataset.columns))
        if dataset.kind == "image":  # levels have notes of their own
            none = np.zeros(self.dim, bool)
            found = dataclasses.replace(found, discrete=none, tail_index=np.full(self.dim, np.inf))
        notes = (*self.original.notes, *found.sentences)
        original = dataclasses.replace(self.original, notes=notes)
        return dataclasses.replace(self, original=original, description=found)

    def standardised(self, standardisation: Standardisation | NormalScores) -> "PreparedData":
        """The same in standardised coordinates."""
        augmented, held_out = (
            np.asarray(standardisation.forward(p)) for p in (self.augmented, self.held_out)
        )
        return dataclasses.replace(
            self,
            augmented=augmented,
            held_out=held_out,
            distribution=_transformed(self.distribution, standardisation),
            standardisation=standardisation,
        )


def fingerprint(*arrays: np.ndarray) -> str:
    """A hash of arrays."""
    digest = hashlib.sha256()
    for part in arrays:
        digest.update(repr((part.shape, str(part.dtype))).encode() + part.tobytes())
    return digest.hexdigest()[:16]


def prepare_data(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions = ConditionOptions(),
    order: tuple[np.ndarray, np.ndarray] | None = None,
) -> PreparedData:
    """Read, dequantise, split and standardise.

    Args:
        source: a data set, or what `entropix.datasets.load` takes.
        options: see `DataOptions`.
        condition: see `ConditionOptions`; a data set has labels of its own.
        order: indices of the held-out samples and of the others; None: drawn by `data_seed`.

    Raises:
        ValueError: in one line, for anything wrong with the source, its data or an option.
    """
    return _in_coordinates([_read(source, options, condition, _key(options), order)], options)[0]


def prepare_pair(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions = ConditionOptions(),
) -> tuple[PreparedData, PreparedData]:
    """Two data sets in the same coordinates, in which both have the same weight.

    Args:
        first: a data set, or what `entropix.datasets.load` takes.
        second: the same; its random choices are independent of those of the first.
        options: see `DataOptions`; they hold for both.
        condition: see `ConditionOptions`; both have the same labels.

    Raises:
        ValueError: as `prepare_data`, or if the two do not have the same coordinates or labels.
    """
    if condition.condition is not None and os.path.isfile(condition.condition):
        raise ValueError(
            "`condition` must be 'labels' or the name of a column that both data sets have, got "
            f"the file {condition.condition!r}."
        )
    for source in (first, second):
        check_options_of_reading(source, options, condition.condition)
    key = _key(options)
    pair = [
        _read(source, options, condition, jax.random.fold_in(key, i) if i else key)
        for i, source in enumerate((first, second))
    ]
    one, other = (data.dataset for data in pair)
    for name in ("shape", "columns", "levels", "categories"):
        here, there = getattr(one, name), getattr(other, name)
        if here != there:
            raise ValueError(
                f"the two data sets must have the same {name}, got {here} for {one.name!r} and "
                f"{there} for {other.name!r}."
            )
    if pair[0].noise != pair[1].noise:
        raise ValueError(
            "`dequantise_columns` must name columns with the same levels in both data sets, got "
            f"{dict(pair[0].noise)} for {one.name!r} and {dict(pair[1].noise)} for {other.name!r}."
        )
    if one.labels is not None and other.labels is not None and condition.condition is not None:
        both, names = (one.labels, other.labels), (one.name, other.name)
        conditions = common_condition(both, condition, names)
        pair = [
            dataclasses.replace(data, condition=own)
            for data, own in zip(pair, conditions, strict=True)
        ]
    here, there = _in_coordinates(pair, options)
    return here, there


def pooled(sets: list[PreparedData]) -> np.ndarray:
    """Training samples of all sets, the same number of each."""
    count = min(data.num_train for data in sets)
    return np.concatenate([data.train[:count] for data in sets])


def _key(options: DataOptions) -> Key:
    return jax.random.key(check_seed(options.data_seed, "data_seed"))


def _read(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions,
    key: Key,
    order: tuple[np.ndarray, np.ndarray] | None = None,
) -> PreparedData:
    """Read, label, split and dequantise, in the units of the data."""
    draw_key, noise_key, split_key = jax.random.split(key, 3)
    dataset = of_numbers(_loaded(source, options, condition, draw_key))
    labels = make_condition(dataset.labels, condition, options.data_seed)
    dequantised = options.dequantise and dataset.levels is not None
    if order is None:
        order = _split(len(dataset.points), options.held_out, split_key)
    steps = _steps(dataset, options)

    def noisy(points: np.ndarray, key: Key) -> np.ndarray:
        if dequantised:
            return np.asarray(dequantise(points, key=key))
        low = dataset.points.min(axis=0)[steps > 0]
        levels = np.round((points[:, steps > 0] - low) / steps[steps > 0])
        points = points.copy()
        points[:, steps > 0] = low + steps[steps > 0] * np.asarray(dequantise(levels, key=key))
        return points

    held_out, train = (dataset.points[index] for index in order)
    augmented = train
    if dequantised or steps.any():
        held_key, train_key = jax.random.split(noise_key)
        held_out = noisy(held_out, held_key)
        draws = max(1, min(_MAX_DRAWS, _MAX_NUMBERS // train.size))
        augmented = np.concatenate(
            [noisy(train, jax.random.fold_in(train_key, i)) for i in range(draws)]
        )
    return PreparedData(
        dataset=dataset,
        original=dataset,
        augmented=augmented,
        num_train=len(train),
        held_out=held_out,
        dequantised=dequantised,
        condition=labels,
        order=order,
        distribution=dataset.distribution,
        standardisation=Standardisation.identity(train.shape[1]),
        noise=tuple((_names(dataset)[i], float(steps[i])) for i in np.flatnonzero(steps)),
    )


def of_numbers(dataset: Dataset) -> Dataset:
    """The data set; a `ValueError` if it holds tokens."""
    if dataset.kind == "tokens":
        raise ValueError(
            f"`source` must hold numbers, got tokens for {dataset.name!r}: `entropix measure` "
            "and `entropix storage` take them, and in Python kl_divergence, mutual_information and "
            "optimise_schedule take models of them."
        )
    return dataset


def read(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions = ConditionOptions(),
) -> Dataset:
    """The data set that `prepare_data` prepares; arguments as there.

    Raises:
        ValueError: as `prepare_data`, or for a data set together with options of reading one.
    """
    check_options_of_reading(source, options, condition.condition)
    draw_key, _, _ = jax.random.split(_key(options), 3)
    return _loaded(source, options, condition, draw_key)


def check_options_of_reading(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions | PairOptions,
    condition: str | None,
) -> None:
    """A data set has been read: options of reading would have no effect, and are refused."""
    if not isinstance(source, Dataset):
        return
    usual = type(options)()
    for name in _OF_READING:
        if getattr(options, name, None) != getattr(usual, name, None):
            raise ValueError(
                f"`{name}` must be left out for a data set, which has been read, got "
                f"{getattr(options, name)!r}: `entropix.datasets.load` takes it."
            )
    if condition not in (None, "labels"):
        raise ValueError(
            "`condition` must be 'labels' for a data set, which has labels of its own, got "
            f"{condition!r}: `entropix.datasets.load(..., labels=)` reads others."
        )


def _loaded(
    source: str | os.PathLike[str] | Dataset,
    options: DataOptions,
    condition: ConditionOptions,
    key: Key,
) -> Dataset:
    if isinstance(source, Dataset):
        return source
    return load(
        source,
        num_samples=options.num_samples,
        key=key,
        array=options.array,
        kind=None if options.kind == "auto" else options.kind,
        labels=condition.condition,
        split=options.split,
        levels=options.levels,
        channels=options.channels,
        keep_na=condition.keep_na,
        columns=options.columns or None,
        drop=options.drop,
        drop_missing=options.drop_missing,
        drop_repeated=options.drop_repeated,
        encode=options.encode,
        delimiter=options.delimiter,
        decimal=options.decimal,
        tokens=None if options.tokens == "auto" else options.tokens,
        length=options.length,
        max_tokens=options.max_tokens,
    )


def _names(dataset: Dataset) -> tuple[str, ...]:
    """The columns as options call them."""
    return dataset.columns or tuple(map(str, range(dataset.dim)))


def _steps(dataset: Dataset, options: DataOptions) -> np.ndarray:
    """The width of the noise of each column, shape (D,); 0 where none is added."""
    names, wanted = _names(dataset), options.dequantise_columns
    if not wanted and not options.encode:
        return np.zeros(dataset.dim)
    found = describe(dataset).steps
    if wanted == ("all",) and "all" not in names:
        return found
    for name in wanted:
        if name not in names or found[names.index(name)] == 0:
            usable = ", ".join(repr(k) for k, step in zip(names, found, strict=True) if step > 0)
            raise ValueError(
                "`dequantise_columns` must be 'all' or name columns with values on equidistant "
                f"levels, here {usable or 'none'}; got {name!r}."
            )
    return np.where([name in (*wanted, *options.encode) for name in names], found, 0.0)


def num_held_out(count: int, fraction: float) -> int:
    """The number of held-out samples, or a `ValueError` if too few would be left."""
    if not 0 < fraction < 1:
        raise ValueError(f"`held_out` must be a fraction between 0 and 1, got {fraction}.")
    kept = max(round(fraction * count), 2)
    if count - kept < 2:
        raise ValueError(
            f"`held_out` must leave at least two samples on each side, got {fraction} of {count}."
        )
    return kept


def _split(count: int, fraction: float, key: Key) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the held-out samples, and of the others."""
    kept = num_held_out(count, fraction)
    order = np.asarray(jax.random.permutation(key, count))
    return order[:kept], order[kept:]


def _in_coordinates(sets: list[PreparedData], options: DataOptions) -> list[PreparedData]:
    """The sets in coordinates chosen from the training samples of all of them."""
    if options.components is not None:
        projection = Projection.fit(pooled(sets), options.components)
        sets = [data.projected(projection) for data in sets]
    sets = [data.described() for data in sets]
    standardisation = _standardisation(sets, options.standardise)
    return [data.standardised(standardisation) for data in sets]


def _standardisation(sets: list[PreparedData], mode: str) -> Standardisation | NormalScores:
    choice(mode, "standardise", ("auto", "none", "feature", "global", "range", "ranks"))
    if mode == "auto":
        # Where the true density is known, published values are in its units.
        mode = "feature" if all(data.dataset.kind == "table" for data in sets) else "global"
        mode = "none" if all(data.distribution is not None for data in sets) else mode
    train = pooled(sets)
    if mode == "none":
        return Standardisation.identity(train.shape[1])
    if mode == "feature":
        return Standardisation.per_feature(train)
    if mode == "ranks":
        return NormalScores.fit(train)
    if mode == "range":
        levels = sets[0].dataset.levels
        if levels is None:
            raise ValueError("`standardise` must be another than 'range' for data without levels.")
        zero = np.zeros(train.shape[1], train.dtype)
        return Standardisation(zero, zero + (levels - 1), "range")
    return Standardisation.global_scale(train)


def _transformed(
    distribution: AbstractDistribution | None, standardisation: Standardisation | NormalScores
) -> AbstractDistribution | None:
    """The distribution of (x - mean) / std, for the families closed under it."""
    if distribution is None or standardisation.name == "identity":
        return distribution
    if isinstance(standardisation, NormalScores):
        return None
    mean, std = standardisation.mean, standardisation.std
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


# ------------------------------------------------------------------ in words


def data_attributes(data: PreparedData) -> dict[str, object]:
    """What a record says of its data."""
    return {
        "name": data.dataset.name,
        "data_text": data_text(data),
        "source": data.dataset.source,
        "shape": list(data.dataset.shape or ()),
        "num_train": data.num_train,
        "num_held_out": len(data.held_out),
        "standardisation": data.standardisation.name,
        "standardisation_log_det": float(np.mean(data.log_jacobian(data.held_out))),
        "coordinates_text": coordinates_text(data),
        "dequantised": data.dequantised,
        "components": 0 if data.projection is None else data.dim,
        "explained_variance": 1.0 if data.projection is None else data.projection.explained,
        "precision": str(data.train.dtype),
    }


def data_text(data: PreparedData) -> str:
    """The data in words."""
    dataset = data.original
    shape = " x ".join(str(size) for size in dataset.shape or ())
    what = {"image": "images of", "table": "rows of", "points": "points of dimension"}[dataset.kind]
    text = f"{dataset.name}, {dataset.num_samples} {what} {shape}"
    if dataset.kind == "table":
        text += " columns"
    if dataset.levels is not None:
        noise = ", with uniform noise of one level" if data.dequantised else ", without added noise"
        text += f", {dataset.levels} integer levels{noise}"
    if data.noise:
        columns = ", ".join(f"{name} ({width:.3g})" for name, width in data.noise)
        text += f", with uniform noise of one level in {columns}"
    if data.distribution is not None:
        text += ", drawn from a known density"
    if data.projection is not None:
        share = 100 * data.projection.explained
        text += f"; their first {data.dim} principal components, {share:.3g}% of the variance"
    return "; note: ".join([text, *dataset.notes])


def coordinates_text(data: PreparedData) -> str:
    """The coordinates of the model in words."""
    map_ = data.standardisation
    if isinstance(map_, NormalScores):
        return "normal scores of each feature, by a smooth map of its ranks"
    mean, std = np.asarray(map_.mean), np.asarray(map_.std)
    texts = {
        "identity": "those of the data",
        "per-feature": "each feature with mean 0 and standard deviation 1",
        "global": f"mean 0, all divided by {float(std[0]):.6g} (mean variance 1)",
        "range": f"those of the data less {float(mean[0]):.6g}, divided by {float(std[0]):.6g}",
    }
    return texts[map_.name]
