"""What can be asked of `transport`, as in `entropix.studies.options`."""

import dataclasses
from typing import Literal

from entropix.studies.options import OutputOptions


Process = Literal["vp", "vpx", "sl"]


@dataclasses.dataclass(frozen=True)
class MixtureOptions:
    """The Gaussian mixtures, whose entropy production is known."""

    dimensions: tuple[int, ...] = ()
    """Dimensions D; auto: those of the file of --mixtures, else 2 and 3, with --full also 6 and 9.
    2 and 3 are the paper's mixtures; those of other dimensions are drawn with --mixture-seed."""
    mixtures: str | None = None
    """A JSON file with weights, means and stds under the name of each dimension; auto: none."""
    mixture_seed: int = 0
    """Seed of the parameters of mixtures that are neither embedded nor in a file."""
    num_samples: int = 8192
    """Samples to train on, and as many others to measure on."""
    data_seed: int = 0
    """Seed of the samples."""


@dataclasses.dataclass(frozen=True)
class TransportTraining:
    """The networks and their training: all seeds of a cell are trained as one program."""

    processes: tuple[Process, ...] = ("vp", "vpx", "sl")
    """vp: variance preserving; vpx: with kappa 0.1; sl: straight line with sigma0 0.1."""
    epochs: tuple[int, ...] = ()
    """Lengths of training; auto: 1 2 4 8, with --full 5 10 20 50 100 200. Each is a run of its own,
    because the learning rate ends at zero with it."""
    full: bool = False
    """The size of the paper's experiment: for an accelerator, or many processes."""
    seeds: int = 4
    """How many networks to each cell: the paper's seeds 1, 7, 17, 23, then 24, 25, ..."""
    batch_size: int = 32
    """Samples per step."""
    num_draws: int = 10
    """Noise draws per sample and step."""
    learning_rate: float = 2e-3
    """Peak learning rate; it warms up and decays to zero along a cosine."""
    widths: tuple[int, ...] = (512, 256)
    """Hidden layers of the network."""
    checkpoint_every: int = 500
    """Steps between checkpoints: what a killed process may lose at most."""


@dataclasses.dataclass(frozen=True)
class TransportEstimation:
    """What is spent on measuring. Standard errors are reported with every number."""

    evaluations: int = 16_384
    """Evaluations per estimate of S_NN, of S_tot and of the path KL, and network."""


@dataclasses.dataclass(frozen=True)
class TransportOptions:
    """Everything about a study of transport."""

    mixtures: MixtureOptions = MixtureOptions()
    training: TransportTraining = TransportTraining()
    estimation: TransportEstimation = TransportEstimation()
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)
