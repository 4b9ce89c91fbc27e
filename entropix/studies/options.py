"""What can be asked of a study: plain frozen dataclasses, which are also its command line.

The text under a field is its help on the command line. Values are checked where they are used,
before any training starts.
"""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How the data are read, split and put into the model's coordinates."""

    num_samples: int | None = None
    """How many samples to draw of a synthetic set; auto: 8192."""
    array: str | None = None
    """Which array of an .npz file, or column of a Hugging Face dataset; auto: the only one."""
    split: str | None = None
    """Which part of data that come in splits (MNIST, CIFAR-10, Hugging Face): train, test, any
    other name they have, or all; auto: train. --held-out divides what this leaves."""
    kind: Literal["auto", "table", "image", "points"] = "auto"
    """What the columns mean; auto: what the shape suggests."""
    levels: int | None = None
    """Grey levels L of images whose values are 0 ... L - 1, or these divided by L - 1; auto: known
    for integers, and floating numbers are taken for continuous."""
    channels: Literal["auto", "first", "last"] = "auto"
    """Which axis of an image holds its channels; auto: the one of 1, 3 or 4 entries."""
    held_out: float = 0.2
    """Fraction of the samples kept from training, on which the headline numbers are measured."""
    dequantise: bool = True
    """Add uniform noise of one grey level to integer-valued images, so that they have a density."""
    standardise: Literal["auto", "none", "feature", "global"] = "auto"
    """Change of units: every feature to unit variance, or all coordinates by one number (global).
    auto: feature for tables, global for images and points, none where the truth is known."""
    components: int | None = None
    """Work in so many principal components of the training data; auto: in all coordinates."""
    data_seed: int = 0
    """Seed of everything random about the data: drawing, noise of dequantisation, split."""


@dataclasses.dataclass(frozen=True)
class ConditionOptions:
    """Labels whose information about the data is measured along with everything else."""

    condition: str | None = None
    """What holds one label for each sample: `labels` for those the data carry (digits, mixtures), a
    column of the table or an array of the .npz file (no part of the data then), or a file; auto:
    none. One network then serves with labels and without."""
    condition_kind: Literal["auto", "discrete", "continuous"] = "auto"
    """Names of classes, or a number; auto: classes if they are text or take few values."""
    condition_dropout: float = 0.5
    """Share of the labels withheld in training: what the network learns of the data alone."""
    keep_na: bool = False
    """NA, null and the like in a .csv file are labels as any other, not missing ones."""
    shuffle_labels: bool = False
    """Deal the labels out at random (by the data seed): a control, which has no information."""


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """The forward process, in the model's coordinates."""

    process: Literal["vp", "vpx", "sl", "ve", "sub-vp", "rectified-flow", "cosine"] = "vp"
    """vp: variance preserving; vpx: with kappa 0.1; sl: straight line; ve: variance exploding."""
    kappa: float | None = None
    """vp, vpx: standard deviation of the equilibrium; auto: 1 (vp) or 0.1 (vpx)."""
    beta_min: float | None = None
    """vp, vpx, sub-vp: noise rate at the data end; auto: 0.1."""
    beta_max: float | None = None
    """vp, vpx, sub-vp: noise rate at the noise end; auto: 16."""
    sigma0: float | None = None
    """sl: standard deviation of the equilibrium; auto: 0.1."""
    sigma_min: float | None = None
    """ve: noise at which the geometric growth begins; auto: 0.01."""
    sigma_max: float | None = None
    """ve: noise at the noise end; auto: 50."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The network and its training: all seeds are trained together, as one program."""

    seeds: int = 1
    """How many networks to train."""
    seed: int = 0
    """The first seed; the others follow it. A seed gives the same network in every company."""
    steps: int = 6000
    """Steps of the optimiser."""
    batch_size: int | None = None
    """Samples per step; auto: 128, or all of them if there are fewer."""
    num_draws: int = 2
    """Noise draws per sample and step."""
    learning_rate: float = 3e-3
    """Peak learning rate; it warms up and decays to zero along a cosine."""
    widths: tuple[int, ...] = (512, 512)
    """Hidden layers of the network."""
    checkpoint_every: int = 500
    """Steps between checkpoints: what a killed run may lose at most."""


@dataclasses.dataclass(frozen=True)
class EstimationOptions:
    """What is spent on measuring, once trained. Standard errors are reported with every number."""

    evaluations: int = 65_536
    """Network evaluations per entropy estimate and seed."""
    density_evaluations: int = 256
    """Network evaluations per sample for the bound on its log density."""
    samples: int = 1000
    """Samples to generate per seed, and at most so many enter W2 and the log densities."""
    sampling_steps: int = 256
    """Steps of the sampler."""
    cutoff: float | None = None
    """Smallest noise standard deviation included in the entropy, in the model's coordinates.
    auto: none, or where the entropy would be infinite one that is chosen and printed."""


@dataclasses.dataclass(frozen=True)
class DivergenceOptions:
    """What is spent on comparing, once trained. Standard errors are reported with every number."""

    evaluations: int = 65_536
    """Network evaluations per divergence, form and seed."""
    samples: int = 1000
    """At most so many samples on either side of W2; never more than half of a set."""
    cutoff: float | None = None
    """Smallest noise standard deviation included, in the model's coordinates. auto: none, or where
    the divergence would be infinite one that is chosen and printed."""


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """Where results go."""

    out: str | None = None
    """Output folder; auto: entropix-NAME."""
    resume: bool = False
    """Take up an interrupted run in the output folder, to the numbers of one without interruption.
    The options of estimation may differ from the first time, all else must be the same."""
    overwrite: bool = False
    """Replace the results of an earlier run in the output folder."""
    plots: bool = True
    """Write PNG plots."""
    quiet: bool = False
    """Print nothing but errors."""


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """Everything about a measurement but the data."""

    data: DataOptions = DataOptions()
    process: ProcessOptions = ProcessOptions()
    training: TrainingOptions = TrainingOptions()
    estimation: EstimationOptions = EstimationOptions()
    output: OutputOptions = OutputOptions()
    condition: ConditionOptions = ConditionOptions()


@dataclasses.dataclass(frozen=True)
class InformationOptions:
    """Everything about a comparison but the two data sets."""

    data: DataOptions = DataOptions()
    process: ProcessOptions = ProcessOptions()
    training: TrainingOptions = TrainingOptions()
    estimation: DivergenceOptions = DivergenceOptions()
    output: OutputOptions = OutputOptions()
