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

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp

from entropix._core.arrays import Key
from entropix.interfaces import AbstractGaussianProcess
from entropix.models import EntropyMatching
from entropix.networks import PaperMLP
from entropix.processes import LinearSchedule, StraightLine, VariancePreserving


EPOCHS = (5, 10, 20, 30, 40, 80, 120, 160, 200)
DIMENSIONS = (3, 6)
# Samples of a mixture on which the networks are measured.
HELD_OUT = 10_000
BATCH_SIZE, NUM_DRAWS, LEARNING_RATE = 32, 10, 1e-4
# The last time of measurement under the straight-line process.
_LAST = 0.99


def preset(options: Any, fixed: tuple[str, ...]) -> str | None:
    """Which of `paper` and `best` is asked for, if one is.

    Args:
        options: with the fields `paper` and `best`, and defaults for all others.
        fixed: names of the options that the preset sets.

    Raises:
        ValueError: if both are asked for, or an option that the preset sets is given.
    """
    if not (options.paper or options.best):
        return None
    if options.paper and options.best:
        raise ValueError("`best` must be left out with `paper`, got both.")
    chosen, usual = "paper" if options.paper else "best", type(options)()
    for name in fixed if options.paper else ():
        if getattr(options, name) != getattr(usual, name):
            raise ValueError(
                f"`{name}` must be left out with `{chosen}`, which sets it, got "
                f"{getattr(options, name)}."
            )
    return chosen


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
