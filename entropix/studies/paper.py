r"""The settings of the Neural Entropy experiments, `--paper`, and those to compare with, `--best`.

| | mixtures | one channel (MNIST) | several channels (CIFAR-10) |
|---|---|---|---|
| network | `PaperMLP` | `PaperConvNet` | `UNet`, three times 256 channels, labels |
| Adam, constant rate | 1e-4 | 1e-4 | 2e-4 |
| batch, noise draws | 32, 10 | 32, 1 | 32, 1 |

The weighting is uniform, and all lengths of training are measured along one run. `--best` takes the
same data, batches and numbers of gradient steps with the network, the weighting and the learning
rate of this library.

A network without output scaling has a field that does not vanish at the noise end. Under the
straight-line process $\int\sigma^2 ds$ diverges there, and its entropies are infinite: they are
measured up to s = 0.99, the last but one of 100 uniform times.

References:
    Premkumar, *Neural Entropy*, arXiv 2409.03817.
"""

import dataclasses
import math
import os
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix.datasets import Dataset, load
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching
from entropix.networks import PaperConvNet, PaperMLP, UNet
from entropix.processes import LinearSchedule, StraightLine, VariancePreserving
from entropix.studies.cutoff import Cutoff
from entropix.studies.options import DataOptions


EPOCHS = (5, 10, 20, 30, 40, 80, 120, 160, 200)
DIMENSIONS = (3, 6)
# Samples of a mixture on which the networks are measured.
HELD_OUT = 10_000
BATCH_SIZE, NUM_DRAWS, LEARNING_RATE = 32, 10, 1e-4
# Of images: numbers of training images, lengths of training (the paper has 5 to 600), the learning
# rate for colours, and the number of test images.
SIZES, IMAGE_EPOCHS = (100, 1000, 10_000, 30_000), (5, 10, 20, 40, 80, 160, 320, 600)
COLOUR_RATE, TEST = 2e-4, 1000
# Its times are uniform from here to 1; the first is dropped for one channel.
_FIRST, _TIMES = 1e-5, 500
# The last time of measurement under the straight-line process.
_LAST = 0.99


def preset(options: Any, fixed: tuple[str, ...], by_best: tuple[str, ...] = ()) -> str | None:
    """Which of `paper` and `best` is asked for, if one is.

    Args:
        options: with the fields `paper` and `best`, and defaults for all others.
        fixed: names of the options that `paper` sets.
        by_best: names of those that `best` sets.

    Raises:
        ValueError: if both are asked for, or an option that the preset sets is given.
    """
    if not (options.paper or options.best):
        return None
    if options.paper and options.best:
        raise ValueError("`best` must be left out with `paper`, got both.")
    chosen = "paper" if options.paper else "best"
    check_unset(options, type(options)(), fixed if options.paper else by_best, chosen)
    return chosen


def check_unset(options: Any, usual: Any, names: tuple[str, ...], preset: str) -> None:
    """Refuse options that a preset sets, with a `ValueError`, unless they have their defaults."""
    for name in names:
        if getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"`{name}` must be left out with `{preset}`, which sets it, got "
                f"{getattr(options, name)!r}."
            )


def paper_images(
    source: str | os.PathLike[str], options: DataOptions, sizes: tuple[int, ...]
) -> tuple[Dataset, tuple[np.ndarray, np.ndarray], tuple[int, ...]]:
    """Images to train on, the first N per class, followed by those of the test.

    Args:
        source: what `entropix.datasets.load` takes, with the splits train and test.
        options: whose settings of images are passed on.
        sizes: numbers N of training images; empty for those of the paper.

    Returns:
        The data; indices of the test images and of the training images, among which the classes
        take turns, so that each N has as many images of every class; and the sizes.

    Raises:
        ValueError: for data without splits, without labels or without integer levels, and as
            `load`.
    """
    train, test = (
        load(
            source,
            split=split,
            labels="labels",
            levels=options.levels,
            channels=options.channels,
        )
        for split in ("train", "test")
    )
    if train.levels is None or len(train.shape) not in (2, 3):
        raise ValueError(
            f"`source` must hold images with integer levels for `paper` and `best`, got {train!r}."
        )
    assert train.labels is not None
    assert test.labels is not None
    available = len(train.points)
    if not sizes:
        unit = 10 ** max(len(str(available)) - 2, 0)
        sizes = tuple(sorted({*(n for n in SIZES if n < available), available // unit * unit}))
    classes = np.unique(train.labels, return_inverse=True)[1]
    turn = np.zeros(available, int)
    for label in range(classes.max() + 1):
        turn[classes == label] = np.arange((classes == label).sum())
    chosen = np.lexsort((classes, turn))[: max(sizes)]
    points = np.concatenate([train.points[chosen], test.points[:TEST]])
    labels = np.concatenate([train.labels[chosen], test.labels[:TEST]])
    order = np.arange(len(chosen), len(points)), np.arange(len(chosen))
    return dataclasses.replace(train, points=points, labels=labels), order, sizes


def is_colour(shape: tuple[int, ...]) -> bool:
    """Whether images have several channels: their settings are those of CIFAR-10."""
    return len(shape) == 3 and shape[2] > 1


def image_cutoff(process: AbstractGaussianProcess, shape: tuple[int, ...]) -> Cutoff:
    """The noise at the first of the 500 times at which the paper measured images."""
    first = _FIRST if is_colour(shape) else _FIRST + (1 - _FIRST) / (_TIMES - 1)
    which = "first" if is_colour(shape) else "second"
    return Cutoff(float(process.std(first)), f"the {which} of 500 uniform times, as in the paper")


def image_network(
    shape: tuple[int, ...], process: AbstractGaussianProcess, condition_dim: int | None, key: Key
) -> PaperConvNet | UNet:
    """The untrained network for images."""
    if not is_colour(shape):
        return PaperConvNet(shape, process, key=key, condition_dim=condition_dim)
    return UNet(
        shape,
        key=key,
        widths=(256, 256, 256),
        blocks=2,
        attention=(1, 2),
        heads=1,
        dropout=0.2,
        condition_dim=condition_dim,
        num_features=256,
    )


def paper_mlp(dim: int, process: AbstractGaussianProcess) -> Callable[[Key], EntropyMatching]:
    """The function from a key to an untrained model of D-dimensional vectors."""

    def make(key: Key) -> EntropyMatching:
        return EntropyMatching(PaperMLP(dim, process, key=key), process)

    return make


def measured(model: Any) -> Any:
    """A model, or an ensemble, as it is measured: under SL its log-SNRs up to s = 0.99 alone."""
    process = model.process
    if not isinstance(process, StraightLine):
        return model
    # As a function of log-SNR and state, SL is the variance-preserving process of its scale.
    rate = jnp.full_like(process.sigma0, -2 * math.log(1 - _LAST))
    cut = jax.vmap if rate.ndim else lambda f: f
    shorter = cut(lambda r, k: VariancePreserving(LinearSchedule(r, r), k))(rate, process.sigma0)
    return eqx.tree_at(lambda m: m.process, model, shorter)
