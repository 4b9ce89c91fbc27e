"""The options of the studies: frozen dataclasses, which are also their command line.

The text under a field is its help on the command line. Values are checked where they are used,
before any training starts.
"""

import dataclasses
from typing import Literal, get_args


# ------------------------------------------------------------------ of several studies


@dataclasses.dataclass(frozen=True)
class DataOptions:
    """How the data are read, split and transformed to the coordinates of the model."""

    num_samples: int | None = None
    """Number of samples drawn from a synthetic data set. auto: 8192."""
    array: str | None = None
    """The array of an .npz file, the column of a Hugging Face data set, or the sheet of an .xlsx
    file, to read. auto: the only one, or the first sheet."""
    columns: tuple[str, ...] = ()
    """Columns of a table to read, by name, or by number from 0 if they have no names. auto: all but
    that of --condition."""
    drop: tuple[str, ...] = ()
    """Columns of a table to leave out."""
    drop_missing: bool = False
    """Leave out rows with a missing value in a column that is read; how many is reported."""
    drop_repeated: bool = False
    """Leave out samples that are equal to an earlier one (and have the same label); how many is
    reported."""
    encode: tuple[str, ...] = ()
    """Columns whose values are replaced by 0, 1, ... in alphabetical order, with uniform noise one
    unit wide."""
    delimiter: str | None = None
    """Separates the fields of a text file: one character, tab or space. auto: detected."""
    decimal: str | None = None
    """The decimal mark of numbers that are text, . or ,. auto: detected."""
    split: str | None = None
    """The split to read, for data that have splits (MNIST, CIFAR-10, Hugging Face): train, test,
    all, or any other name they use. auto: train. --held-out divides the samples of this split."""
    kind: Literal["auto", "table", "image", "points"] = "auto"
    """What the samples are. auto: chosen by the shape of the data."""
    levels: int | None = None
    """Number L of grey levels of images with values 0 to L - 1, or these divided by L - 1. auto:
    known for integers; floating-point values are treated as continuous."""
    channels: Literal["auto", "first", "last"] = "auto"
    """The axis of an image that holds its channels, if there are any. auto: the axis of length
    1, 3 or 4."""
    held_out: float = 0.2
    """Fraction of the samples not used for training. The main results are measured on them."""
    dequantise: bool = True
    """Add uniform noise, one grey level wide, to integer images, so that they have a density."""
    dequantise_columns: tuple[str, ...] = ()
    """Columns with values on equidistant levels (integers, counts, rounded numbers) to which
    uniform noise one level wide is added, so that they have a density; all: every such column."""
    standardise: Literal["auto", "none", "feature", "global", "range", "ranks"] = "auto"
    """Change of units. feature: each feature to unit variance; global: all coordinates divided by
    the same number; range: integer levels to [0, 1]; ranks: each feature to a normal distribution,
    for heavy tails. auto: feature for tables, global for images and points, none if the true
    density is known."""
    components: int | None = None
    """Work in this number of principal components of the training data. auto: in all
    coordinates."""
    data_seed: int = 0
    """Random seed of the data: synthetic samples, noise of dequantisation, split."""
    tokens: Literal["auto", "char", "int"] = "auto"
    """Read sequences of tokens, for measure and storage. char: the characters of a text file; int:
    integers; an array with one axis is a long sequence. auto: FASTA files and python-topics are
    tokens, all others are not."""
    length: int | None = None
    """Number of tokens in the windows into which texts and long sequences are cut. auto: 64."""
    max_tokens: int | None = None
    """Keep the most frequent tokens, and replace all others by one token. auto: characters that
    make up less than one in 100,000 become one token, and more than 65,536 tokens are refused."""


@dataclasses.dataclass(frozen=True)
class ConditionOptions:
    """Labels whose mutual information with the data is measured."""

    condition: str | None = None
    """One label for each sample: `labels` for those that belong to the data (digits, mixtures), a
    column of the table or an array of the .npz file (then not part of the data), or a file. auto:
    no labels. One network is trained both with and without the labels."""
    condition_kind: Literal["auto", "discrete", "continuous"] = "auto"
    """Whether the labels are classes or a number. auto: classes if they are text or take few
    values."""
    condition_dropout: float = 0.5
    """Fraction of labels dropped in training, so that the network also learns the data alone."""
    keep_na: bool = False
    """Treat NA, null and similar entries of a .csv file as labels, not as missing values."""
    shuffle_labels: bool = False
    """Shuffle the labels (by the data seed): a control with zero mutual information."""


@dataclasses.dataclass(frozen=True)
class LabelOptions:
    """Labels that the networks are given: all results are those of densities given the label."""

    condition: str | None = None
    """One label for each sample: `labels` for those that belong to the data (digits, mixtures), or
    a column of the table or an array of the .npz file, which is then not part of the data. auto: no
    labels."""
    condition_kind: Literal["auto", "discrete", "continuous"] = "auto"
    """Whether the labels are classes or a number. auto: classes if they are text or take few
    values."""
    keep_na: bool = False
    """Treat NA, null and similar entries of a .csv file as labels, not as missing values."""


@dataclasses.dataclass(frozen=True)
class ProcessOptions:
    """The forward process, in the coordinates of the model."""

    process: Literal[
        "auto",
        "vp",
        "vpx",
        "sl",
        "ve",
        "sub-vp",
        "rectified-flow",
        "cosine",
        "masking",
        "uniform-jumps",
    ] = "auto"
    """vp: variance preserving; vpx: the same with kappa 0.1; sl: straight line; ve: variance
    exploding; sub-vp: sub-variance preserving. For tokens: masking, or uniform-jumps, which replace
    tokens by uniform ones. auto: vp, for tokens masking."""
    kappa: float | None = None
    """vp, vpx: standard deviation of the equilibrium. auto: 1 (vp) or 0.1 (vpx)."""
    beta_min: float | None = None
    """vp, vpx, sub-vp: noise rate at the data end. auto: 0.1."""
    beta_max: float | None = None
    """vp, vpx, sub-vp: noise rate at the noise end. auto: 16."""
    sigma0: float | None = None
    """sl: standard deviation of the equilibrium. auto: 0.1."""
    sigma_min: float | None = None
    """ve: noise standard deviation from which it grows geometrically. auto: 0.01."""
    sigma_max: float | None = None
    """ve: noise standard deviation at the noise end. auto: 50."""


@dataclasses.dataclass(frozen=True)
class TrainingOptions:
    """The networks and their training. All seeds are trained together, as one program."""

    seeds: int = 1
    """Number of networks to train."""
    seed: int = 0
    """Seed of the first network; the others follow it. The result for a seed does not depend on
    which other seeds are trained."""
    network: Literal["auto", "mlp", "unet", "dit", "transformer"] = "auto"
    """mlp: hidden layers; unet: convolutions at several resolutions, for images; dit: a transformer
    over patches of an image; transformer: over tokens. auto: unet for images above 12 x 12,
    transformer for tokens, otherwise mlp."""
    size: Literal["auto", "small", "medium", "large"] = "auto"
    """How large the network is. auto: medium for mlp and transformer, small for unet and dit, whose
    medium and large sizes are meant for an accelerator."""
    gaussian: Literal["auto", "yes", "no"] = "auto"
    """Add the field of the Gaussian with the mean and covariance of the training data to the
    network, which then learns only the remainder. auto: yes, unless the density of the data is
    known, the entropy of the process is infinite, there are more than 4096 dimensions, or the data
    are tokens."""
    widths: tuple[int, ...] = ()
    """mlp: widths of the hidden layers; unet: channels at each resolution. auto: by --size; two
    layers of width 2 sqrt(N D), to a power of two between 64 and 512, for a medium mlp."""
    steps: int | None = None
    """Number of training steps. auto: 200 passes through the N training samples, between 1500 and
    6000 steps."""
    patience: int | None = None
    """Stop a network when its held-out loss has not decreased for this number of steps, and keep
    the one of least held-out loss; 0: keep the last. auto: a quarter of the steps."""
    check_every: int | None = None
    """Training steps between evaluations of the held-out loss. auto: a fiftieth of the steps, at
    most 100."""
    batch_size: int | None = None
    """Samples per training step. auto: 128 for mlp, 32 for unet, 64 for dit, 16 for transformer, or
    all of them if there are fewer."""
    num_draws: int = 2
    """Noise draws per sample and training step."""
    learning_rate: float | None = None
    """Peak learning rate. It warms up, then decays to zero along a cosine. auto: 3e-3 for mlp and
    transformer, 2e-3 for unet, 1e-3 for dit."""
    checkpoint_every: int = 500
    """Training steps between checkpoints. A run that is killed loses at most this number."""


@dataclasses.dataclass(frozen=True)
class OutputOptions:
    """Where results are written."""

    out: str | None = None
    """Output folder. auto: entropix-NAME."""
    resume: bool = False
    """Continue an interrupted run in the output folder; the results are those of a run without
    interruption. The other options must be the same as before; those of estimation may change,
    except for transport and storage. mutual-information has no checkpoints, and starts again."""
    overwrite: bool = False
    """Replace the results of an earlier run in the output folder."""
    plots: bool = True
    """Write figures as PNG files."""
    cache: bool = True
    """Keep compiled programs in the user's cache folder, so that later runs start faster."""
    quiet: bool = False
    """Print errors only."""


# ------------------------------------------------------------------ measure


@dataclasses.dataclass(frozen=True)
class EstimationOptions:
    """The effort spent on measuring. Every result has a standard error."""

    evaluations: int = 65_536
    """Network evaluations per entropy estimate and seed."""
    relative_error: float | None = None
    """Choose the number of evaluations so that the Monte Carlo error of S_NN is this fraction of
    it, such as 0.01, by a pilot estimate. auto: --evaluations."""
    density_evaluations: int = 256
    """Network evaluations per sample for the bound on its log density."""
    samples: int = 1000
    """Samples to generate per seed, and the largest number used for W2 and log densities."""
    sampling_steps: int = 256
    """Number of steps of the sampler."""
    cutoff: float | None = None
    """Smallest noise standard deviation included in the entropy, in the coordinates of the model.
    auto: none; if the entropy is infinite without a cut-off, one is chosen and reported."""


@dataclasses.dataclass(frozen=True)
class BudgetOptions:
    """A limit on time."""

    minutes: float | None = None
    """Time limit of the whole command, in minutes: it determines the number of training steps, and
    reduces evaluations and samples that would take more than a third of it. auto: no limit."""


@dataclasses.dataclass(frozen=True)
class ModelOptions:
    """A model that exists already: it is measured, and nothing is trained."""

    model: str | None = None
    """A file written by entropix.save, or the folder of a diffusers pipeline. Options that concern
    training and the process cannot be given with it. auto: networks are trained."""
    model_range: tuple[float, ...] = ()
    """With --model: LOW and HIGH, the values in which the model expects the smallest and the
    largest value of the data, such as -1 1; the data are rescaled. Otherwise the data of a pipeline
    must lie in [-1, 1], and those of other models are taken as they are."""
    model_precision: str | None = None
    """With --model FOLDER: bfloat16 or float16, the dtype of the matrix products and convolutions
    of a pipeline. auto: the dtype of its weights."""
    model_condition: str | None = None
    """With --model FOLDER: a .npy file with the embedding of a prompt, of shape (tokens, width),
    which a text-conditioned pipeline is given for all samples."""


@dataclasses.dataclass(frozen=True)
class MeasureOptions:
    """All options of `measure`, except the data."""

    data: DataOptions = DataOptions()
    process: ProcessOptions = ProcessOptions()
    training: TrainingOptions = TrainingOptions()
    estimation: EstimationOptions = EstimationOptions()
    output: OutputOptions = OutputOptions()
    condition: ConditionOptions = ConditionOptions()
    pretrained: ModelOptions = ModelOptions()
    budget: BudgetOptions = BudgetOptions()


# ------------------------------------------------------------------ information


@dataclasses.dataclass(frozen=True)
class DivergenceOptions:
    """The effort spent on comparing. Every result has a standard error."""

    evaluations: int = 65_536
    """Network evaluations per divergence, form and seed."""
    samples: int = 1000
    """The largest number of samples on each side of W2; never more than half of a data set."""
    cutoff: float | None = None
    """Smallest noise standard deviation included, in the coordinates of the model. auto: none; if
    the divergence is infinite without a cut-off, one is chosen and reported."""


@dataclasses.dataclass(frozen=True)
class InformationOptions:
    """All options of `divergence`, except the two data sets."""

    data: DataOptions = DataOptions()
    process: ProcessOptions = ProcessOptions()
    training: TrainingOptions = TrainingOptions()
    estimation: DivergenceOptions = DivergenceOptions()
    output: OutputOptions = OutputOptions()
    condition: LabelOptions = LabelOptions()


# ------------------------------------------------------------------ mutual-information


@dataclasses.dataclass(frozen=True)
class PairOptions:
    """Which variables are paired, and how a table is read."""

    x: tuple[str, ...] = ()
    """Columns of the table that form X, by name, or by number if they have no names."""
    y: tuple[str, ...] = ()
    """Columns of the table that form Y."""
    condition: str | None = None
    """Labels that take the place of Y: `labels` for those that belong to the data, a column of the
    table, of text or of numbers, or a file. X are then the other columns, or those of --x. auto:
    `labels`, unless there is another Y."""
    drop: tuple[str, ...] = ()
    """Columns of a table to leave out."""
    drop_missing: bool = False
    """Leave out rows with a missing value in a column that is read; how many is reported."""
    delimiter: str | None = None
    """Separates the fields of a text file: one character, tab or space. auto: detected."""
    decimal: str | None = None
    """The decimal mark of numbers that are text, . or ,. auto: detected."""
    normal_scores: bool = True
    """Map every continuous column to normal scores, which does not change the information;
    otherwise to unit variance."""
    shuffle: bool = False
    """Put Y in random order: a control with zero mutual information."""
    seed: int = 0
    """Seed of folds, networks and synthetic data."""


@dataclasses.dataclass(frozen=True)
class CrossFittingOptions:
    """How the networks are trained."""

    folds: int = 3
    """Number of parts of the samples; each is measured with a network trained on the others."""
    steps: int = 4000
    """The largest number of gradient steps of each network."""


@dataclasses.dataclass(frozen=True)
class MutualInformationOptions:
    """All options of `mutual-information`, except the data."""

    pairs: PairOptions = PairOptions()
    cross_fitting: CrossFittingOptions = CrossFittingOptions()
    output: OutputOptions = OutputOptions()


# ------------------------------------------------------------------ schedule

Objective = Literal["action", "length", "entropic-time", "variance", "girsanov", "sampler"]
OBJECTIVES: tuple[str, ...] = get_args(Objective)


@dataclasses.dataclass(frozen=True)
class SearchOptions:
    """What the schedule is optimised for."""

    objective: tuple[Objective, ...] = ("sampler",)
    """One or several objectives; each gives a schedule. action: kinetic action of the path of the
    density; length: change of the score; entropic-time: equal steps in the information about the
    data; variance: variance of a Monte Carlo estimate of the likelihood bound; girsanov: bound on
    the error of a stochastic sampler; sampler: error of the few-step sampler itself."""
    iterations: int = 300
    """Number of steps of the optimiser."""
    knots: int = 24
    """Number of parameters of a schedule."""
    target_steps: int = 10
    """sampler, girsanov: the number of sampling steps the schedule is optimised for."""


@dataclasses.dataclass(frozen=True)
class ComparisonOptions:
    """How the schedules are compared."""

    steps_compared: tuple[int, ...] = (5, 10, 20, 50)
    """Numbers of sampling steps, which are uniform in each schedule's own time."""
    sampler: Literal["ddim", "dpm"] = "ddim"
    """The sampler of the probability flow: ddim is of first order, dpm (DPM-Solver++) of second.
    Both evaluate the model once per step."""
    samples: int = 1000
    """Samples on each side of W2; for real data at most the number of held-out samples."""
    evaluations: int = 1000
    """Evaluations of an estimate of S_NN, whose Monte Carlo error is compared."""
    model: Literal["auto", "exact", "trained"] = "auto"
    """Which model is sampled. auto: the exact one if the density is known, otherwise trained
    networks."""
    train: bool = False
    """Also train networks with the initial and with the optimised schedule, with times uniform in
    each, to compare the schedules in training."""


@dataclasses.dataclass(frozen=True)
class ScheduleOptions:
    """All options of `schedule`, except the data."""

    data: DataOptions = DataOptions()
    process: ProcessOptions = ProcessOptions()
    search: SearchOptions = SearchOptions()
    comparison: ComparisonOptions = ComparisonOptions()
    training: TrainingOptions = TrainingOptions()
    output: OutputOptions = OutputOptions()


# ------------------------------------------------------------------ storage


@dataclasses.dataclass(frozen=True)
class StorageTraining:
    """The networks and their training. All seeds of a cell are trained as one program."""

    sizes: tuple[int, ...] = ()
    """Numbers N of training samples; each set is part of the next. auto: 50, 100, 200, ... and
    nearly all samples."""
    steps: tuple[int, ...] = ()
    """Lengths of training, the same for all N. Each length is a separate training run, because the
    learning rate decays to zero at its end; with --paper all are measured along one run. auto: 250
    1000 4000; with --paper or --best 5 10 20 40 80 160 320 600 epochs."""
    epochs: tuple[int, ...] = ()
    """Lengths of training in epochs of N samples, instead of --steps: more steps for larger N."""
    patience: int | None = None
    """Stop each network when its held-out loss has not decreased for this number of steps, and keep
    the parameters of the least held-out loss. auto: train to the end."""
    paper: bool = False
    """Repeat the experiment of the paper on MNIST or CIFAR-10: its network and loss, Adam at a
    constant rate, the first N per class of the split train, pixels in [0, 1] without added noise,
    the first 1000 images of the split test, its cut-off, and all lengths along one run."""
    best: bool = False
    """The samples, the coordinates, the cut-off and the numbers of gradient steps of --paper, with
    noise added to the levels and the scaling and training of this library. --network paper keeps
    the network of --paper."""
    network: Literal["auto", "mlp", "unet", "paper", "transformer"] = "auto"
    """mlp: hidden layers of --widths; unet: entropix.UNet with its defaults, for images; paper:
    that of --paper, for images of 17 x 17 or more; transformer: entropix.TokenTransformer of the
    medium size, for tokens. auto: mlp, with --best unet."""
    seeds: int = 4
    """Number of networks per cell: the seeds of the paper, 1, 7, 17, 23, then 24, 25, ..."""
    batch_size: int = 64
    """Samples per training step, each with its own noise."""
    num_draws: int = 2
    """Noise draws per sample and training step."""
    learning_rate: float = 2e-3
    """Peak learning rate. It warms up, then decays to zero along a cosine."""
    widths: tuple[int, ...] = (256, 256)
    """Widths of the hidden layers."""
    checkpoint_every: int = 500
    """Training steps between checkpoints. A process that is killed loses at most this number."""


@dataclasses.dataclass(frozen=True)
class StorageEstimation:
    """The effort spent on measuring. Every result has a standard error."""

    evaluations: int = 16_384
    """Network evaluations per estimate of S_NN; there are two or more estimates per network."""
    samples: int = 500
    """Samples to generate per network, to measure their distance to the training samples."""
    sampling_steps: int = 100
    """Number of steps of the sampler."""
    cutoff: float | None = None
    """Smallest noise standard deviation included in the entropies, in the coordinates of the model.
    auto: none; if one of the entropies is infinite without a cut-off, one is chosen for all of
    them and reported."""


@dataclasses.dataclass(frozen=True)
class StorageOptions:
    """All options of `storage`, except the data."""

    data: DataOptions = DataOptions(held_out=0.15)
    process: ProcessOptions = ProcessOptions()
    training: StorageTraining = StorageTraining()
    estimation: StorageEstimation = StorageEstimation()
    output: OutputOptions = OutputOptions()
    condition: LabelOptions = LabelOptions()


# ------------------------------------------------------------------ transport


@dataclasses.dataclass(frozen=True)
class MixtureOptions:
    """The data: Gaussian mixtures, whose entropy production is known."""

    dimensions: tuple[int, ...] = ()
    """Dimensions D. auto: those of the file given by --mixtures, otherwise 2 and 3, with --full
    also 6 and 9, with --paper or --best 3 and 6. For 2, 3 and 6 the mixtures of the paper are used;
    others are drawn at random with --mixture-seed."""
    mixtures: str | None = None
    """A JSON file with weights, means and stds for each dimension. auto: none."""
    mixture_seed: int = 0
    """Random seed of the parameters of mixtures that are drawn."""
    num_samples: int = 8192
    """Number of samples to train on; the same number of others is used for measuring, with --paper
    or --best 10,000."""
    data_seed: int = 0
    """Random seed of the samples."""


@dataclasses.dataclass(frozen=True)
class TransportTraining:
    """The networks and their training. All seeds of a cell are trained as one program."""

    processes: tuple[Literal["vp", "vpx", "sl"], ...] = ("vp", "vpx", "sl")
    """vp: variance preserving; vpx: the same with kappa 0.1; sl: straight line, sigma0 0.1."""
    epochs: tuple[int, ...] = ()
    """Lengths of training. auto: 1 2 4 8, with --full 5 10 20 50 100 200, with --paper or --best
    5 10 20 30 40 80 120 160 200. Each length is a separate training run, because the learning rate
    decays to zero at its end; with --paper all are measured along one run."""
    full: bool = False
    """Dimensions 2, 3, 6 and 9, and lengths of 5 10 20 50 100 200 epochs, unless they are given."""
    paper: bool = False
    """Repeat the experiment of the paper: its network, its loss, Adam at the constant rate 1e-4.
    This sets batch size, noise draws, learning rate and widths. 200 epochs take hours."""
    best: bool = False
    """The dimensions and numbers of gradient steps of --paper, with the network and training of
    this library."""
    seeds: int = 4
    """Number of networks per cell: the seeds of the paper, 1, 7, 17, 23, then 24, 25, ..."""
    batch_size: int = 32
    """Samples per training step."""
    num_draws: int = 10
    """Noise draws per sample and training step."""
    learning_rate: float = 2e-3
    """Peak learning rate. It warms up, then decays to zero along a cosine."""
    widths: tuple[int, ...] = (512, 256)
    """Widths of the hidden layers."""
    checkpoint_every: int = 500
    """Training steps between checkpoints. A process that is killed loses at most this number."""


@dataclasses.dataclass(frozen=True)
class TransportEstimation:
    """The effort spent on measuring. Every result has a standard error."""

    evaluations: int = 16_384
    """Evaluations per network for each estimate of S_NN, S_tot and the path KL."""


@dataclasses.dataclass(frozen=True)
class TransportOptions:
    """All options of `transport`."""

    mixtures: MixtureOptions = MixtureOptions()
    training: TransportTraining = TransportTraining()
    estimation: TransportEstimation = TransportEstimation()
    output: OutputOptions = OutputOptions()
