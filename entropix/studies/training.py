"""What the networks of every study share: process, network, training, seeds."""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import choice, positive, positive_integer
from entropix.interfaces import AbstractGaussianProcess, AbstractTimes
from entropix.models import EntropyMatching, GaussianScaling
from entropix.networks import FourierMLP
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
from entropix.training import Denoising, EnsembleFit, Holdout, fit_ensemble


_DEFAULT_BATCH = 128
# Number of last steps over which a training loss is averaged.
_LOSSES = 100
# The seeds of the paper (2409.03817); further ones follow the last.
_SEEDS = (1, 7, 17, 23)
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


def process_parameters(options: ProcessOptions) -> dict[str, float]:
    """The parameters of the process, with defaults filled in.

    Raises:
        ValueError: if the process does not have a parameter that is given.
    """
    allowed = _PARAMETERS[choice(options.process, "process", tuple(_PARAMETERS))]
    for name in sorted({key for values in _PARAMETERS.values() for key in values}):
        value = getattr(options, name)
        if value is not None and name not in allowed:
            raise ValueError(
                f"`{name}` must be left out for the process {options.process!r}, got {value!r}."
            )
    given = {name: getattr(options, name) for name in allowed}
    return {name: allowed[name] if v is None else float(v) for name, v in given.items()}


def make_process(options: ProcessOptions) -> AbstractGaussianProcess:
    """The process that the options name.

    Raises:
        ValueError: if the name is unknown, a parameter is out of its range, or the process does not
            have a parameter that is given.
    """
    values, name = process_parameters(options), options.process
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
    """

    seeds: tuple[int, ...]
    batch_size: int
    num_draws: int
    learning_rate: float
    checkpoint_every: int
    patience: int | None = None

    def __post_init__(self):
        for name in ("batch_size", "num_draws", "checkpoint_every"):
            positive_integer(getattr(self, name), name)
        positive(self.learning_rate, "learning_rate")
        if self.patience is not None:
            positive_integer(self.patience, "patience")

    def fit(
        self,
        task: Task,
        make_model: Callable[[Key], EntropyMatching],
        *,
        data: np.ndarray,
        steps: int,
        process: AbstractGaussianProcess,
        condition: np.ndarray | None = None,
        holdout: np.ndarray | None = None,
        holdout_condition: np.ndarray | None = None,
        times: AbstractTimes | None = None,
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

        Raises:
            FloatingPointError: if the loss does not stay finite.
        """
        return fit_ensemble(
            make_model,
            data,
            keys=[jax.random.key(seed) for seed in self.seeds],
            steps=steps,
            batch_size=self.batch_size,
            loss=Denoising(self.num_draws, weighting=weighting(process), times=times),
            learning_rate=self.learning_rate,
            condition=condition,
            holdout=None
            if holdout is None
            else Holdout(holdout, holdout_condition, patience=self.patience),
            checkpoint=Checkpoint(task.checkpoint, every=self.checkpoint_every, resume=True),
            progress=task.show,
            callback=lambda step, _: task.advance(step),
        )

    def keys(self, stream: int) -> Key:
        """One key per seed for what follows training, shape (seeds,)."""
        keys = [jax.random.fold_in(jax.random.key(seed), stream) for seed in self.seeds]
        return jax.numpy.stack(keys)

    def text(self, network: str, steps: int | None = None) -> str:
        """The training in words, for a report.

        Args:
            network: the network in words.
            steps: number of training steps, if it is the same for all networks.
        """
        which = f"seed{'s' * (len(self.seeds) > 1)} {', '.join(map(str, self.seeds))}"
        amount = f"{self.batch_size} samples per step"
        if steps is not None:
            amount = f"{steps} steps of {self.batch_size} samples"
        return (
            f"entropy matching, {which}, {network}, {amount} with {self.num_draws} noise draws, "
            f"learning rate {self.learning_rate:g} decaying to zero"
        )


def training_text(options: TrainingOptions, process: AbstractGaussianProcess) -> str:
    """The training of networks with hidden layers, for a report."""
    text = training(options).text(widths_text(options.widths), options.steps)
    return f"{text}, {weighting(process)} weighting"


def weighting(process: AbstractGaussianProcess) -> str:
    """The weighting of the loss: maximum likelihood, unless the entropy is infinite with it."""
    return "likelihood" if process.is_finite else "uniform"


def last_loss(fits: EnsembleFit) -> np.ndarray:
    """The mean training loss over the last steps, shape (seeds,)."""
    return np.asarray(fits.history.loss)[:, -_LOSSES:].mean(axis=1)


def widths_text(widths: Sequence[int]) -> str:
    """The hidden layers, for a report."""
    return f"hidden layers {', '.join(map(str, widths))}"


# ------------------------------------------------------------------ options


def checked_training(options: TrainingOptions, num_samples: int) -> TrainingOptions:
    """The options with the batch size filled in.

    Raises:
        ValueError: naming an option that is out of its range.
    """
    for name in ("seeds", "steps"):
        positive_integer(getattr(options, name), name)
    for seed in (options.seed, options.seed + options.seeds - 1):
        check_seed(seed, "seed")
    check_widths(options.widths)
    if options.batch_size is None:
        options = dataclasses.replace(options, batch_size=min(_DEFAULT_BATCH, num_samples))
    batch_size = training(options).batch_size
    if batch_size > num_samples:
        raise ValueError(
            f"`batch_size` must be at most the number of training samples, {num_samples}, "
            f"got {batch_size}."
        )
    return options


def training(options: TrainingOptions) -> Training:
    """The training of `options` as `checked_training` returns them."""
    seeds = tuple(range(options.seed, options.seed + options.seeds))
    assert options.batch_size is not None
    return Training(
        seeds,
        options.batch_size,
        options.num_draws,
        options.learning_rate,
        options.checkpoint_every,
    )


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
