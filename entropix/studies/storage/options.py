"""What can be asked of `storage`, as in `entropix.studies.options`."""

import dataclasses
from typing import Literal

from entropix.studies.options import DataOptions, OutputOptions, ProcessOptions


# Of 1797 digits, 1500 and more to train on.
DATA = DataOptions(held_out=0.15)


@dataclasses.dataclass(frozen=True)
class StorageTraining:
    """The networks and their training: all seeds of a cell are trained as one program."""

    sizes: tuple[int, ...] = ()
    """Numbers N of training samples, each set a part of the next; auto: from 50 on in doublings,
    and two significant digits of all there are."""
    steps: tuple[int, ...] = (250, 1000, 4000)
    """Lengths of training, the same for all N. Each is a run of its own, because the learning rate
    ends at zero with it."""
    epochs: tuple[int, ...] = ()
    """Lengths of training in epochs of N samples, in place of --steps: more steps for larger N."""
    patience: int | None = None
    """Stop each network when its held-out loss has not fallen for so many steps, and keep the
    parameters of its minimum; auto: train to the end."""
    network: Literal["mlp", "unet"] = "mlp"
    """mlp: hidden layers of --widths; unet: entropix.UNet with its defaults, for images."""
    seeds: int = 4
    """How many networks to each cell: seeds 1, 7, 17, 23, then 24, 25, ..."""
    batch_size: int = 64
    """Samples per step, with noise of their own."""
    num_draws: int = 2
    """Noise draws per sample and step."""
    learning_rate: float = 2e-3
    """Peak learning rate; it warms up and decays to zero along a cosine."""
    widths: tuple[int, ...] = (256, 256)
    """Hidden layers of the network."""
    checkpoint_every: int = 500
    """Steps between checkpoints: what a killed process may lose at most."""


@dataclasses.dataclass(frozen=True)
class StorageEstimation:
    """What is spent on measuring. Standard errors are reported with every number."""

    evaluations: int = 16_384
    """Network evaluations per estimate of S_NN, of which a network gets two or more."""
    samples: int = 500
    """Samples to generate per network, whose nearest training samples are looked for."""
    sampling_steps: int = 100
    """Steps of the sampler."""
    cutoff: float | None = None
    """Smallest noise standard deviation included in the entropies, in the model's coordinates.
    auto: none, or where one of them would be infinite one for all that is chosen and printed."""


@dataclasses.dataclass(frozen=True)
class StorageOptions:
    """Everything about a study of storage but the data."""

    data: DataOptions = DATA
    process: ProcessOptions = dataclasses.field(default_factory=ProcessOptions)
    training: StorageTraining = StorageTraining()
    estimation: StorageEstimation = StorageEstimation()
    output: OutputOptions = dataclasses.field(default_factory=OutputOptions)
