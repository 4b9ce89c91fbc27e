"""Data sets that need no file: real digits, the paper's mixtures, two-dimensional toys."""

import functools
from collections.abc import Callable

import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.datasets import toys
from entropix.datasets.dataset import Dataset
from entropix.datasets.files import needed
from entropix.datasets.mixtures import paper_mixture
from entropix.distributions import GaussianMixture
from entropix.interfaces import AbstractDistribution


_DISTRIBUTIONS: dict[str, Callable[[], AbstractDistribution]] = {
    "mixture2": functools.partial(paper_mixture, 2),
    "mixture3": functools.partial(paper_mixture, 3),
    "gaussian": toys.gaussian,
    "eight-gaussians": toys.eight_gaussians,
    "moons": toys.moons,
    "circles": toys.circles,
    "spiral": toys.spiral,
}
# Mixtures whose components mean something: their samples are labelled by them.
_OF_COMPONENTS = ("mixture2", "mixture3", "eight-gaussians")
_SAMPLERS = {"checkerboard": toys.checkerboard, "pinwheel": toys.pinwheel}
DEFAULT_NUM_SAMPLES = 8192


def available() -> tuple[str, ...]:
    """Names of the embedded data sets, for `load`."""
    return ("digits", *_DISTRIBUTIONS, *_SAMPLERS)


def embedded(name: str, num_samples: int | None, key: Key | None) -> Dataset:
    """The embedded data set of this name, one of `available()`."""
    if name == "digits":
        return _digits()
    if key is None:
        raise ValueError(f"`key` must be a random key to draw {name!r}, got None.")
    n = DEFAULT_NUM_SAMPLES if num_samples is None else num_samples
    positive_integer(n, "num_samples", minimum=2)
    distribution, labels = None, None
    if name in _DISTRIBUTIONS:
        distribution = _DISTRIBUTIONS[name]()
        points = distribution.sample(n, key=key)
        if name in _OF_COMPONENTS and isinstance(distribution, GaussianMixture):
            labels = np.asarray(distribution.sample_labelled(n, key=key)[1])
    else:
        points = _SAMPLERS[name](n, key=key)
    return Dataset(
        points=np.asarray(points),
        name=name,
        kind="points",
        labels=labels,
        distribution=distribution,
        source=f"{name} (synthetic)",
    )


def _digits() -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels and 17 grey levels."""
    sklearn = needed("sklearn.datasets", "the data set 'digits'", "scikit-learn", "studies")
    bunch = sklearn.load_digits()
    return Dataset(
        points=bunch.data.astype(np.float32),  # integers from 0 to 16
        name="digits",
        shape=(8, 8),
        kind="image",
        levels=17,
        labels=bunch.target,
        source="digits (scikit-learn)",
    )
