"""The settings of a training run: checked once, and turned into what the loop needs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array

from entropix._core.arrays import Key, as_float, as_number
from entropix._core.checks import checked, choice, on_host, positive_integer, samples
from entropix._core.mesh import DATA, axis_size, check_mesh
from entropix._core.precision import PRECISIONS
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import FlowMatching, GaussianScaling
from entropix.networks import trainable
from entropix.training.checkpoint import checkpoint_path
from entropix.training.flow_objective import FlowObjective
from entropix.training.loop import Setup, split_model
from entropix.training.losses import check_weighting
from entropix.training.objective import AbstractObjective, Objective
from entropix.training.optimiser import RelativeClip, WarmupCosine, adam
from entropix.training.path_losses import AbstractPathLoss
from entropix.training.path_objective import PathObjective, check_loss
from entropix.training.sharded_checkpoint import ShardedCheckpoint
from entropix.training.stream import AbstractStream
from entropix.training.times import AbstractTimes, LogisticTimes, UniformTimes


_LEARNING_RATE = 2e-3
_GRADIENT_CLIP = 2.0


@dataclasses.dataclass(frozen=True)
class Options:
    """The keyword arguments of `fit`, with its defaults; see there."""

    steps: int = 2500
    batch_size: int = 32
    num_draws: int = 10
    antithetic: bool | None = None
    weighting: str | Callable | None = None
    times: AbstractTimes | None = None
    loss: AbstractPathLoss | None = None
    coupling: Callable | None = None
    condition: Any = None
    optimiser: optax.GradientTransformation | None = None
    learning_rate: Any = None
    gradient_clip: Any = None
    ema_decay: Any = None
    holdout: Any = None
    holdout_condition: Any = None
    callback: Callable | None = None
    progress: bool = False
    checkpoint: Any = None
    checkpoint_every: int = 1000
    resume: bool = False
    chunk: int = 100
    num_samples: Any = None
    patience: int | None = None
    precision: str | None = None
    mesh: Any = None

    def __post_init__(self):
        for name in ("steps", "batch_size", "num_draws", "checkpoint_every", "chunk"):
            object.__setattr__(self, name, positive_integer(getattr(self, name), name))
        even = self.num_draws % 2 == 0
        if self.antithetic and not even:
            raise ValueError(
                f"`num_draws` must be even for antithetic pairs, got {self.num_draws}."
            )
        if self.antithetic and self.coupling is not None:
            raise ValueError("`antithetic` must be False where noise has a `coupling`, got True.")
        if self.antithetic is None:
            object.__setattr__(self, "antithetic", even and self.coupling is None)
        if self.coupling is not None and not callable(self.coupling):
            raise ValueError(
                f"`coupling` must be a function coupling(x, z, *, key), such as "
                f"MinibatchCoupling(), got {type(self.coupling).__name__}."
            )
        if self.coupling is not None and self.holdout is not None:
            raise ValueError(
                "`holdout` must be None where there is a `coupling`: its loss depends on the batch."
            )
        if self.callback is not None and not callable(self.callback):
            raise ValueError(
                "`callback` must be callable as callback(step, metrics), "
                f"got {type(self.callback).__name__}."
            )
        if self.resume and self.checkpoint is None:
            raise ValueError("`checkpoint` must name a file for `resume=True`, got None.")
        if self.checkpoint is not None and not isinstance(self.checkpoint, ShardedCheckpoint):
            object.__setattr__(self, "checkpoint", checkpoint_path(self.checkpoint))
        if self.patience is not None:
            positive_integer(self.patience, "patience")
            if self.holdout is None:
                raise ValueError(
                    "`patience` must be None without a `holdout`, whose loss it waits for, "
                    f"got {self.patience}."
                )
        if self.precision is not None:
            choice(self.precision, "precision", PRECISIONS)
        object.__setattr__(self, "mesh", check_mesh(self.mesh))
        self._check_shares()
        if self.holdout is None and self.holdout_condition is not None:
            raise ValueError("`holdout` must be given with `holdout_condition`, got None.")

    def _check_shares(self) -> None:
        """A batch falls into equal shares, which do not need one another."""
        parts = axis_size(self.mesh, DATA)
        if self.batch_size % parts:
            raise ValueError(
                f"`batch_size` must be a multiple of the devices along {DATA!r}, {parts}, "
                f"got {self.batch_size}."
            )
        if parts > 1 and self.coupling is not None:
            raise ValueError(
                "`coupling` must be None where a batch is spread over devices: it pairs the whole "
                "batch. Use a mesh with seeds alone."
            )

    def setup(self, model: AbstractModel, data: Array) -> Setup:
        """What the compiled loop needs, besides parameters, data and keys."""
        objective = self._objective(model, data)
        clip = self.gradient_clip
        if self.optimiser is None:
            optimiser = adam()
            rate = _LEARNING_RATE if self.learning_rate is None else self.learning_rate
            if not callable(rate):
                rate = WarmupCosine(rate, self.steps)
            clip = _GRADIENT_CLIP if clip is None else clip
        else:
            optimiser, rate = self.optimiser, None
            if not hasattr(optimiser, "init") or not hasattr(optimiser, "update"):
                raise ValueError(
                    f"`optimiser` must be an optax transformation, got {type(optimiser).__name__}."
                )
            if self.learning_rate is not None:
                raise ValueError(
                    "`learning_rate` must be None for an `optimiser` that brings its own, "
                    f"got {self.learning_rate!r}."
                )
        if clip is not None:
            clip = checked(
                as_float(clip, "gradient_clip"), "gradient_clip", lambda v: v > 0, "positive"
            )
            clip = RelativeClip(clip) if on_host(clip) < np.inf else None
        decay = self.ema_decay
        if decay is not None:
            decay = checked(
                as_float(decay, "ema_decay"), "ema_decay", lambda v: (v >= 0) & (v < 1), "in [0, 1)"
            )
        shell, _, _ = split_model(model)
        return Setup(shell, objective, optimiser, rate, clip, decay, self.batch_size)

    def _objective(self, model: AbstractModel, data: Array) -> AbstractObjective:
        antithetic = bool(self.antithetic)
        if isinstance(model, FlowMatching):
            for name in ("weighting", "times", "loss"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`{name}` must be None for FlowMatching, which has a loss of its own, "
                        f"got {getattr(self, name)!r}."
                    )
            return FlowObjective(
                coupling=self.coupling, num_draws=self.num_draws, antithetic=antithetic
            )
        if self.coupling is not None:
            raise ValueError(
                f"`coupling` must be None for {type(model).__name__}: pairs that are not "
                "independent have no score to be learnt, only a velocity. Train FlowMatching."
            )
        if self.loss is not None:
            for name in ("weighting", "times"):
                if getattr(self, name) is not None:
                    raise ValueError(
                        f"`{name}` must be None for a `loss` along paths, which has its own, "
                        f"got {getattr(self, name)!r}."
                    )
            loss = check_loss(self.loss, model.process)
            return PathObjective(loss=loss, num_draws=self.num_draws, antithetic=antithetic)
        if not isinstance(model.process, AbstractGaussianProcess):
            raise ValueError(
                f"`loss` must be LocalDenoising(...) or SlicedScoreMatching(...) for a process "
                f"without a closed transition kernel ({type(model.process).__name__}), got None."
            )
        weighting = self.weighting
        scaled = getattr(model, "scaling", None) is not None
        if weighting is None:
            weighting = "likelihood" if scaled and model.process.is_finite else "uniform"
        weighting = check_weighting(weighting)
        times = self._times(model, weighting, data)
        return Objective(
            weighting=weighting, times=times, num_draws=self.num_draws, antithetic=antithetic
        )

    def _times(self, model: AbstractModel, weighting: Any, data: Array) -> AbstractTimes:
        times = self.times
        if times is None:
            if weighting == "uniform":
                return UniformTimes()
            scaling = getattr(model, "scaling", None)
            if scaling is None:
                scaling = GaussianScaling.from_data(data, model.process)
            return LogisticTimes.matched(model.process, scaling)
        if not isinstance(times, AbstractTimes):
            raise ValueError(
                "`times` must be a proposal of times such as UniformTimes(), "
                f"got {type(times).__name__}."
            )
        return times


def check_model(model: Any) -> None:
    """Refuse what cannot be trained."""
    if not isinstance(model, AbstractModel) or not hasattr(model, "network"):
        raise ValueError(
            f"`model` must be a model with a network, such as EntropyMatching, "
            f"got {type(model).__name__}."
        )
    wrapper: Any = model
    if not any(jax.tree.leaves(trainable(wrapper.network))):
        raise ValueError("`model` must have a network with trainable arrays, got none.")


def check_data(
    model: AbstractModel, data: Any, condition: Any, name: str = "data", minimum: int = 2
) -> tuple[Array, Any]:
    """Data and conditions as arrays that fit the model and one another."""
    data = samples(data, name, minimum=minimum)
    if model.shape is not None and data.shape[1:] != model.shape:
        raise ValueError(
            f"`{name}` must have shape (num_samples, {', '.join(map(str, model.shape))}) to fit "
            f"`model`, got {data.shape}."
        )
    which = "condition" if name == "data" else f"{name}_condition"
    condition = jax.tree.map(lambda leaf: as_number(leaf, which), condition)
    for leaf in jax.tree.leaves(condition):
        if leaf.ndim == 0 or leaf.shape[0] != data.shape[0]:
            raise ValueError(
                f"`{which}` must have a leading axis of {data.shape[0]}, one entry for each sample "
                f"of `{name}`, got shape {leaf.shape}."
            )
    return data, condition


def check_stream(model: AbstractModel, stream: AbstractStream, options: Options) -> AbstractStream:
    """A stream that fits the model and the other options.

    Raises:
        ValueError: if it does not.
    """
    if model.shape is not None and tuple(stream.shape) != model.shape:
        raise ValueError(
            f"`data` must be a stream of examples of shape {model.shape} to fit `model`, "
            f"got {tuple(stream.shape)}."
        )
    if stream.batch_size != options.batch_size:
        raise ValueError(
            f"`batch_size` must be that of the stream, {stream.batch_size}, "
            f"got {options.batch_size}."
        )
    if options.condition is not None:
        raise ValueError("`condition` must be None for a stream, which brings its own.")
    return stream


def as_key(key: Any, name: str = "key") -> Key:
    """A typed key, or a stack of them, from either kind of JAX key."""
    if isinstance(key, list | tuple):
        key = jnp.stack([as_key(k, name) for k in key])
    key = jnp.asarray(key) if isinstance(key, np.ndarray) else key
    if not isinstance(key, jax.Array):
        raise ValueError(f"`{name}` must be made by jax.random.key, got {type(key).__name__}.")
    if jnp.issubdtype(key.dtype, jax.dtypes.prng_key):
        return key
    if key.dtype != jnp.uint32 or key.ndim == 0:
        raise ValueError(f"`{name}` must be made by jax.random.key, got an array of {key.dtype}.")
    return jax.random.wrap_key_data(key)
