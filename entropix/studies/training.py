"""What the networks of every study share: process, network, training, seeds."""

import dataclasses
import functools
import math
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
import optax

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive, positive_integer
from entropix.interfaces import (
    AbstractGaussianProcess,
    AbstractKernel,
    AbstractLoss,
    AbstractModel,
    AbstractTimes,
    AbstractTokenProcess,
)
from entropix.models import EntropyMatching, GaussianPart, GaussianScaling
from entropix.networks import DiT, Flattened, FourierMLP, UNet
from entropix.persistence import Checkpoint
from entropix.processes import (
    CosinePath,
    LinearSchedule,
    RectifiedFlow,
    StraightLine,
    SubVariancePreserving,
    VarianceExploding,
    VariancePreserving,
)
from entropix.studies.cells import Task
from entropix.studies.options import ProcessOptions, TrainingOptions
from entropix.training import Denoising, EnsembleFit, Holdout, TokenDenoising, fit_ensemble


if TYPE_CHECKING:
    from entropix.studies.data import PreparedData

# By kind of network: batch size, learning rate, size. A step of a U-Net is expensive: small batches
# leave more of them within the time that users have on a CPU.
_DEFAULTS: dict[str, tuple[int, float, str]] = {
    "mlp": (128, 3e-3, "medium"),
    "unet": (32, 2e-3, "small"),
    "dit": (64, 1e-3, "small"),
}
# Images of more pixels than this along both axes are given to a U-Net.
_LARGEST_FLAT = 12
# Hidden layers: how many for each size, the width relative to that of N and D, and its range.
_LAYERS = {"small": (2, 0.5), "medium": (2, 1.0), "large": (3, 2.0)}
_NARROWEST, _WIDEST = 64, 512
# Channels of a U-Net at each resolution; width and depth of a transformer.
_CHANNELS = {"small": (24, 48), "medium": (32, 64, 128), "large": (64, 128, 256)}
_TRANSFORMERS = {"small": (96, 4), "medium": (192, 6), "large": (384, 8)}
# The largest number of coordinates with a full covariance.
_MOST_COORDINATES = 4096
_PASSES, _FEWEST_STEPS, _MOST_STEPS = 200, 1500, 6000
# Evaluations of the held-out loss in a training, the largest number of steps between two, and the
# share of the cost of the steps that may be spent on them.
_CHECKS, _INTERVAL, _OF_CHECKS, _FEWEST_CHECKED = 50, 100, 0.1, 256
# Number of last steps over which a training loss is averaged.
_LOSSES = 100
# The seeds of the paper (2409.03817); further ones follow the last.
_SEEDS = (1, 7, 17, 23)
TOKEN_PROCESSES = ("masking", "uniform-jumps")
# The parameters of each process, with their defaults.
_PARAMETERS: dict[str, dict[str, float]] = {
    "vp": {"kappa": 1.0, "beta_min": 0.1, "beta_max": 16.0},
    "vpx": {"kappa": 0.1, "beta_min": 0.1, "beta_max": 16.0},
    "sub-vp": {"beta_min": 0.1, "beta_max": 16.0},
    "sl": {"sigma0": 0.1},
    "ve": {"sigma_min": 0.01, "sigma_max": 50.0},
    "rectified-flow": {},
    "cosine": {},
}


# ------------------------------------------------------------------ processes


def process_name(options: ProcessOptions) -> str:
    """The name of the process, chosen if it was not given."""
    return "vp" if options.process == "auto" else options.process


def process_parameters(options: ProcessOptions) -> dict[str, float]:
    """The parameters of the process, with defaults filled in.

    Raises:
        ValueError: if the process does not have a parameter that is given.
    """
    name = process_name(options)
    if name in TOKEN_PROCESSES:
        raise ValueError(f"`process` must be one of diffusion for data of numbers, got {name!r}.")
    allowed = _PARAMETERS[choice(name, "process", tuple(_PARAMETERS))]
    for other in sorted({key for values in _PARAMETERS.values() for key in values}):
        value = getattr(options, other)
        if value is not None and other not in allowed:
            raise ValueError(f"`{other}` must be left out for the process {name!r}, got {value!r}.")
    given = {key: getattr(options, key) for key in allowed}
    return {key: allowed[key] if v is None else float(v) for key, v in given.items()}


def make_process(options: ProcessOptions) -> AbstractGaussianProcess:
    """The process that the options name.

    Raises:
        ValueError: if the name is unknown, a parameter is out of its range, or the process does not
            have a parameter that is given.
    """
    values, name = process_parameters(options), process_name(options)
    if name in ("vp", "vpx"):
        schedule = LinearSchedule(values["beta_min"], values["beta_max"])
        return VariancePreserving(schedule, values["kappa"])
    if name == "sub-vp":
        return SubVariancePreserving(LinearSchedule(**values))
    classes = {
        "sl": StraightLine,
        "ve": VarianceExploding,
        "rectified-flow": RectifiedFlow,
        "cosine": CosinePath,
    }
    return classes[name](**values)


def process_text(options: ProcessOptions) -> str:
    """The process and its parameters, for a report."""
    numbers = process_parameters(options)
    text = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    name = type(make_process(options)).__name__
    return f"{name} ({text})" if text else name


# ------------------------------------------------------------------ networks


def mlp_model(
    points: np.ndarray, process: AbstractGaussianProcess, widths: tuple[int, ...], **network: Any
) -> Callable[[Key], EntropyMatching]:
    """The function from a key to an untrained model with hidden layers.

    Args:
        points: from which its scaling is taken, shape (N, D).
        process: the forward process.
        widths: of the hidden layers.
        **network: further arguments of `FourierMLP`.
    """
    scaling = GaussianScaling.from_data(points, process)

    def make(key: Key) -> EntropyMatching:
        mlp = FourierMLP(points.shape[1], widths=widths, key=key, **network)
        return EntropyMatching(mlp, process, scaling)

    return make


def make_network(
    options: TrainingOptions, shape: tuple[int, ...], key: Key, condition_dim: int | None = None
) -> Callable[..., Any]:
    """An untrained network for vectors of D numbers.

    Args:
        options: as `checked_training` returns them.
        shape: of one example: (D,), or that of an image.
        key: PRNG key of the initial weights.
        condition_dim: size of a condition, or None.
    """
    if options.network == "mlp":
        dim = int(np.prod(shape))
        return FourierMLP(dim, widths=options.widths, key=key, condition_dim=condition_dim)
    if options.network == "unet":
        patch = _patch(shape, 2) if options.size == "small" else 1
        network = UNet(
            shape, widths=options.widths, patch=patch, key=key, condition_dim=condition_dim
        )
    else:
        width, depth = _TRANSFORMERS[options.size]
        network = DiT(
            shape,
            patch=_patch(shape, 4),
            width=width,
            depth=depth,
            key=key,
            condition_dim=condition_dim,
        )
    return Flattened(network)


def _patch(shape: tuple[int, ...], largest: int) -> int:
    """The largest side of patches that divides an image."""
    return max(n for n in range(1, largest + 1) if shape[0] % n == shape[1] % n == 0)


def make_models(
    options: TrainingOptions,
    points: np.ndarray,
    process: AbstractGaussianProcess,
    shape: tuple[int, ...],
    condition_dim: int | None = None,
) -> Callable[[Key], EntropyMatching]:
    """The function from a key to an untrained model.

    Args:
        options: as `checked_training` returns them.
        points: from which its scaling is taken, shape (N, D).
        process: the forward process.
        shape: see `make_network`.
        condition_dim: see `make_network`.
    """
    parts = gaussian_parts(options, points, process)

    def make(key: Key) -> EntropyMatching:
        network = make_network(options, shape, key, condition_dim)
        return EntropyMatching(network, process, **parts)

    return make


def gaussian_parts(
    options: TrainingOptions, points: np.ndarray, process: AbstractGaussianProcess
) -> dict[str, Any]:
    """What models take from the moments of the data: scaling, and Gaussian part if it is wanted."""
    part = GaussianPart.from_data(points) if options.gaussian == "yes" else None
    return {"scaling": GaussianScaling.from_data(points, process), "gaussian": part}


@dataclasses.dataclass(frozen=True, eq=False)
class Training:
    """How networks are trained, all seeds as one program.

    Attributes:
        seeds: of the networks.
        batch_size: samples per step.
        num_draws: noise draws per sample and step.
        learning_rate: peak of the cosine, which ends at zero with the last step.
        checkpoint_every: steps between checkpoints.
        patience: steps without a new least held-out loss after which a network stops; None: all
            networks take all steps.
        check_every: steps between evaluations of the held-out loss, on as many samples as a tenth
            of the cost of training allows; None: 100, on all.
        plain: as in the paper: Adam at a constant rate, the uniform weighting and independent
            draws. Shorter trainings are then the beginning of longer ones.
    """

    seeds: tuple[int, ...]
    batch_size: int
    num_draws: int
    learning_rate: float
    checkpoint_every: int
    patience: int | None = None
    check_every: int | None = None
    plain: bool = False

    def __post_init__(self):
        for name in ("batch_size", "num_draws", "checkpoint_every"):
            positive_integer(getattr(self, name), name)
        positive(self.learning_rate, "learning_rate")
        for name in ("patience", "check_every"):
            if getattr(self, name) is not None:
                positive_integer(getattr(self, name), name)

    def fit(
        self,
        task: Task,
        make_model: Callable[[Key], AbstractModel],
        *,
        data: np.ndarray,
        steps: int,
        process: AbstractKernel,
        condition: np.ndarray | None = None,
        holdout: np.ndarray | None = None,
        holdout_condition: np.ndarray | None = None,
        times: AbstractTimes | None = None,
        deadline: float | None = None,
    ) -> EnsembleFit:
        """Networks for all seeds, continued from the checkpoint of the task if there is one.

        Args:
            task: where checkpoints are written, and how progress is shown.
            make_model: from a key to an untrained model.
            data: shape (N, *shape).
            steps: number of training steps.
            process: of the models.
            condition: of the data, or None.
            holdout: held-out samples, whose loss is recorded, or None.
            holdout_condition: of the held-out samples.
            times: the distribution of times; None for the default.
            deadline: the value of `time.perf_counter` after which no chunk of steps begins.

        Raises:
            FloatingPointError: if the loss does not stay finite.
        """

        def after(step: int, _: Any) -> bool:
            task.advance(step)
            return deadline is not None and time.perf_counter() > deadline

        loss, rate = self.objective(process, times)
        return fit_ensemble(
            make_model,
            data,
            keys=[jax.random.key(seed) for seed in self.seeds],
            steps=steps,
            batch_size=self.batch_size,
            loss=loss,
            condition=condition,
            holdout=self._holdout(holdout, holdout_condition),
            checkpoint=Checkpoint(task.checkpoint, every=self.checkpoint_every, resume=True),
            progress=task.show,
            callback=after,
            **rate,
        )

    def objective(
        self, process: AbstractKernel, times: AbstractTimes | None = None
    ) -> tuple[AbstractLoss, dict[str, Any]]:
        """The loss, and the learning rate or the optimiser as arguments of `fit`."""
        if isinstance(process, AbstractTokenProcess):
            loss = TokenDenoising(self.num_draws, times=times)
            return loss, {"learning_rate": self.learning_rate}
        if self.plain:
            loss = Denoising(self.num_draws, antithetic=False, weighting="uniform", times=times)
            return loss, {"optimiser": _adam(self.learning_rate)}
        assert isinstance(process, AbstractGaussianProcess)
        loss = Denoising(self.num_draws, weighting=weighting(process), times=times)
        return loss, {"learning_rate": self.learning_rate}

    def _holdout(self, samples: np.ndarray | None, condition: np.ndarray | None) -> Holdout | None:
        if samples is None:
            return None
        samples = self.checked(samples)
        condition = None if condition is None else condition[: len(samples)]
        return Holdout(samples, condition, every=self.check_every, patience=self.patience)

    def checked(self, samples: np.ndarray) -> np.ndarray:
        """The held-out samples whose loss is evaluated in training, the first ones."""
        if self.check_every is None:
            return samples
        # A step with its gradient costs about three evaluations of the network.
        count = int(3 * _OF_CHECKS * self.check_every * self.batch_size)
        return samples[: max(_FEWEST_CHECKED, count)]

    def keys(self, stream: int) -> Key:
        """One key per seed for what follows training, shape (seeds,)."""
        keys = [jax.random.fold_in(jax.random.key(seed), stream) for seed in self.seeds]
        return jax.numpy.stack(keys)

    def text(self, network: str, steps: int | None = None, method: str = "entropy matching") -> str:
        """The training in words, for a report.

        Args:
            network: the network in words.
            steps: number of training steps, if it is the same for all networks.
            method: the parametrisation in words.
        """
        which = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        amount = f"{self.batch_size} samples per step"
        if steps is not None:
            amount = f"{steps} steps of {self.batch_size} samples"
        rate = "constant, uniform weighting" if self.plain else "decaying to zero"
        return (
            f"{method}, {which}, {network}, {amount} with {self.num_draws} noise draws, "
            f"learning rate {self.learning_rate:g} {rate}"
        )


@functools.lru_cache
def _adam(rate: float) -> optax.GradientTransformation:
    """Adam at a constant rate: one object, so that compiled loops are reused."""
    return optax.adam(rate)


def training_text(options: TrainingOptions, process: AbstractGaussianProcess) -> str:
    """The training of networks with hidden layers, for a report."""
    text = training(options).text(network_text(options), num_steps(options))
    return f"{text}, {weighting(process)} weighting{stopping_text(options)}"


def stopping_text(options: TrainingOptions) -> str:
    """When training stops, for a report."""
    if not options.patience:
        return ""
    return (
        f"; the network of least held-out loss is kept, and training stops {options.patience} "
        "steps after it"
    )


def weighting(process: AbstractKernel) -> str:
    """The weighting of the loss: maximum likelihood, unless the entropy is infinite with it."""
    infinite = isinstance(process, AbstractGaussianProcess) and not process.is_finite
    return "uniform" if infinite else "likelihood"


def last_loss(fits: EnsembleFit) -> np.ndarray:
    """The mean training loss over the last steps, shape (seeds,)."""
    return np.asarray(fits.history.loss)[:, -_LOSSES:].mean(axis=1)


def network_text(options: TrainingOptions) -> str:
    """The network, for a report."""
    part = " added to a Gaussian" if options.gaussian == "yes" else ""
    return f"{_network_text(options)}{part}"


def _network_text(options: TrainingOptions) -> str:
    if options.network == "mlp":
        return widths_text(options.widths)
    if options.network == "unet":
        halved = " at half of the resolution" if options.size == "small" else ""
        return f"U-Net of {', '.join(map(str, options.widths))} channels{halved}"
    width, depth = _TRANSFORMERS[options.size]
    return f"transformer of {depth} blocks of width {width}"


def widths_text(widths: Sequence[int]) -> str:
    """The hidden layers, for a report."""
    return f"hidden layers {', '.join(map(str, widths))}"


# ------------------------------------------------------------------ options


def checked_training(
    options: TrainingOptions,
    data: "PreparedData",
    process: AbstractGaussianProcess,
    num_samples: int | None = None,
) -> TrainingOptions:
    r"""The options with all that is chosen automatically filled in.

    | option | rule |
    |---|---|
    | network | a U-Net for images above 12 x 12, otherwise hidden layers |
    | gaussian | yes, unless the density is known, D > 4096 or the entropy infinite |
    | widths | two hidden layers of width $2\sqrt{ND}$, rounded to a power of two, 64 to 512 |
    | batch size | 128 for hidden layers, 32 for a U-Net, 64 for a transformer, at most N |
    | steps | 200 passes through the data, 1500 to 6000 |
    | patience | a quarter of the steps |
    | evaluations of the held-out loss | every fiftieth of the steps, at most 100 of them |

    Args:
        options: as requested.
        data: in the coordinates of the model.
        process: the forward process.
        num_samples: N, the number of training samples; None for that of `data`.

    Raises:
        ValueError: naming an option that is out of its range.
    """
    shape = data.example_shape
    num_samples = data.num_train if num_samples is None else num_samples
    image = len(shape) > 1
    network = choice(options.network, "network", ("auto", *_DEFAULTS))
    if network == "auto":
        network = "unet" if image and min(shape[:2]) > _LARGEST_FLAT else "mlp"
    if network != "mlp" and not image:
        raise ValueError(
            f"`network` must be mlp for data that are not images, got {options.network!r}."
        )
    batch_size, learning_rate, usual = _DEFAULTS[network]
    size = choice(options.size, "size", ("auto", *_LAYERS))
    size = usual if size == "auto" else size
    widths = checked_widths(options, network, size, num_samples * int(np.prod(shape)))
    gaussian = choice(options.gaussian, "gaussian", ("auto", "yes", "no"))
    if gaussian == "yes" and not process.is_finite:
        raise ValueError(
            "`gaussian` must be auto or no for a process of infinite entropy, "
            f"{type(process).__name__}, got 'yes'."
        )
    if gaussian == "auto":
        allowed = process.is_finite and data.dim <= _MOST_COORDINATES
        gaussian = "yes" if allowed and data.distribution is None else "no"
    options = dataclasses.replace(
        options, network=network, gaussian=gaussian, size=size, widths=widths
    )
    return checked_steps(options, batch_size, learning_rate, num_samples)


def checked_widths(
    options: TrainingOptions, network: str, size: str, numbers: int
) -> tuple[int, ...]:
    """The widths of `options`, or those that follow the number of numbers in the training data.

    Raises:
        ValueError: if they are given for a network that has none, or together with a size.
    """
    widths = options.widths
    if widths and options.size != "auto":
        raise ValueError(f"`size` must be omitted together with `widths`, got {options.size!r}.")
    if not widths:
        widths = _widths(network, size, numbers)
    elif network in ("dit", "transformer"):
        raise ValueError(
            f"`widths` must be omitted for the network {network}, got {widths}: use --size."
        )
    check_widths(widths)
    return widths


def checked_steps(
    options: TrainingOptions, batch_size: int, learning_rate: float, num_samples: int
) -> TrainingOptions:
    """The options with batch size, learning rate, steps and patience filled in.

    Args:
        options: with the network chosen.
        batch_size: if it is not given and there are as many samples.
        learning_rate: if it is not given.
        num_samples: the number of training samples.

    Raises:
        ValueError: naming an option that is out of its range.
    """
    positive_integer(options.seeds, "seeds")
    for seed in (options.seed, options.seed + options.seeds - 1):
        check_seed(seed, "seed")
    if options.batch_size is not None:
        batch_size = positive_integer(options.batch_size, "batch_size")
    else:
        batch_size = min(batch_size, num_samples)
    steps = options.steps
    if steps is None:
        passes = _PASSES * num_samples // batch_size
        steps = max(_FEWEST_STEPS, min(_MOST_STEPS, passes))
    positive_integer(steps, "steps")
    patience = options.patience
    if patience is None:
        patience = max(1, steps // 4)
    positive_integer(patience, "patience", 0)
    check_every = options.check_every
    if check_every is None:
        check_every = max(1, min(_INTERVAL, steps // _CHECKS))
    options = dataclasses.replace(
        options,
        check_every=check_every,
        batch_size=batch_size,
        steps=steps,
        patience=patience,
        learning_rate=learning_rate if options.learning_rate is None else options.learning_rate,
    )
    batch_size = training(options).batch_size
    if batch_size > num_samples:
        raise ValueError(
            f"`batch_size` must be at most the number of training samples, {num_samples}, "
            f"got {batch_size}."
        )
    return options


def _widths(network: str, size: str, numbers: int) -> tuple[int, ...]:
    """Widths that follow the number of numbers N D in the training data."""
    if network == "unet":
        return _CHANNELS[size]
    layers, factor = _LAYERS[size]
    usual = 2 ** round(math.log2(2 * math.sqrt(numbers)))
    usual = max(_NARROWEST, min(_WIDEST, usual))
    return layers * (int(factor * usual),)


def training(options: TrainingOptions) -> Training:
    """The training of `options` as `checked_training` returns them."""
    seeds = tuple(range(options.seed, options.seed + options.seeds))
    assert options.batch_size is not None
    assert options.learning_rate is not None
    return Training(
        seeds,
        options.batch_size,
        options.num_draws,
        options.learning_rate,
        options.checkpoint_every,
        options.patience or None,
        options.check_every,
    )


def num_steps(options: TrainingOptions) -> int:
    """The number of steps of `options` as `checked_training` returns them."""
    assert options.steps is not None
    return options.steps


def check_seed(seed: int, name: str) -> int:
    """The seed of a PRNG key; refused with a `ValueError` if it does not fit in 32 bits."""
    if not 0 <= seed < 2**32:
        raise ValueError(f"`{name}` must be an integer from 0 to 2^32 - 1, got {seed}.")
    return seed


def check_widths(widths: Sequence[int]) -> None:
    """Refuse hidden layers without units, with a `ValueError`."""
    if not widths:
        raise ValueError("`widths` must hold at least one hidden size, got none.")
    for width in widths:
        positive_integer(width, "widths")


def paper_seeds(count: int) -> tuple[int, ...]:
    """The seeds of the paper, and further ones if more are asked for."""
    positive_integer(count, "seeds")
    further = range(_SEEDS[-1] + 1, _SEEDS[-1] + 1 + count)
    return (*_SEEDS, *further)[:count]


def increasing(values: Sequence[int], name: str, minimum: int = 1) -> tuple[int, ...]:
    """The distinct values in increasing order, as an axis of a grid.

    Raises:
        ValueError: if there are none, or one is below `minimum`.
    """
    if not values:
        raise ValueError(f"`{name}` must hold at least one number, got none.")
    return tuple(sorted({positive_integer(value, name, minimum) for value in values}))
