"""Training of one model, and the settings that it shares with the training of many."""

import dataclasses
import inspect
import os
from collections.abc import Callable, Iterable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import (
    accepts,
    checked,
    choice,
    conditions,
    optional_size,
    positive_integer,
    samples,
)
from entropix._core.formatting import short_repr
from entropix._core.mesh import DATA, axis_size, check_mesh
from entropix._core.precision import PRECISIONS
from entropix.interfaces import AbstractLoss, AbstractModel, AbstractStream, AbstractTokenProcess
from entropix.models import FlowMatching
from entropix.networks import trainable
from entropix.persistence import AbstractCheckpoint, Checkpoint
from entropix.processes import Multimodal, check_example_shape
from entropix.training.layout import Layout
from entropix.training.loop import Setup, join_model, split_model
from entropix.training.losses import Denoising, FlowLoss
from entropix.training.multimodal_loss import MultimodalDenoising
from entropix.training.optimiser import ClippedAdam, WarmupCosine
from entropix.training.run import History, Run, train
from entropix.training.token_loss import TokenDenoising


_LEARNING_RATE = 2e-3
_EVERY = 100
_BATCH_SIZE = 32
# How many samples `loss.for_model` is given of a stream, or of integers.
_HEAD = 4096


@dataclasses.dataclass(frozen=True, eq=False)
class Holdout:
    """Held-out data, for `fit(..., holdout=...)`; their loss is always taken with the same draws.

    Args:
        data: samples, shape (N, *shape).
        condition: their conditions, arrays with a leading axis N.
        patience: stop when the loss has had no new minimum for so many steps, and return the
            parameters of the minimum. None: take all steps, return the last ones.
        every: steps between evaluations; None: 100.

    Raises:
        ValueError: if an argument is not as above.
    """

    data: DataLike
    condition: PyTree = None
    patience: int | None = None
    every: int | None = None

    def __post_init__(self):
        for name in ("patience", "every"):
            if getattr(self, name) is not None:
                positive_integer(getattr(self, name), name)


@dataclasses.dataclass(frozen=True, eq=False)
class Callback:
    """A function to be called in training, for `fit(..., callback=...)`.

    Args:
        function: `function(step, metrics)`, or `function(step, metrics, model)` with an argument of
            that name. Metrics are the held-out loss, and the means of loss and gradient norm since
            the last call. `model()` builds the model of that step, with its averaged parameters;
            call it inside the function. If the function returns True, the run stops.
        every: steps between calls; None: 100. If a `Holdout` has its own, the smaller one counts
            for both.

    Raises:
        ValueError: if an argument is not as above.
    """

    function: Callable
    every: int | None = None

    def __post_init__(self):
        if not callable(self.function):
            raise ValueError(
                "`callback` must be callable as callback(step, metrics), "
                f"got {type(self.function).__name__}."
            )
        names = self._extra()
        if not accepts(self.function, 0, {}, **dict.fromkeys(names)):
            raise ValueError(
                "`callback` must be callable as callback(step, metrics) or callback(step, metrics, "
                f"model), got {self.function!r}{inspect.signature(self.function)}."
            )
        if self.every is not None:
            positive_integer(self.every, "every")

    def _extra(self) -> tuple[str, ...]:
        """The name `model`, if the function has such an argument."""
        try:
            return ("model",) if "model" in inspect.signature(self.function).parameters else ()
        except (TypeError, ValueError):
            return ()

    def __call__(self, step: int, metrics: dict[str, Any], model: Callable[[], Any]) -> Any:
        """Call the function, with `model` if it asks for it."""
        return self.function(step, metrics, **dict.fromkeys(self._extra(), model))


class Fit(eqx.Module):
    """A trained model and the course of its training.

    Attributes:
        model: the model that was passed, its network trained.
        history: a `History`.
    """

    model: AbstractModel
    history: History

    __repr__ = short_repr


def fit(
    model: AbstractModel,
    data: DataLike | AbstractStream,
    *,
    key: Key,
    condition: PyTree = None,
    steps: int = 2500,
    batch_size: int | None = None,
    loss: AbstractLoss | None = None,
    optimiser: optax.GradientTransformation | eqx.Module | None = None,
    learning_rate: ArrayLike | Callable | None = None,
    ema_decay: ArrayLike | None = None,
    holdout: DataLike | Holdout | None = None,
    checkpoint: str | os.PathLike | AbstractCheckpoint | None = None,
    callback: Callable | Callback | None = None,
    measure: Callable | None = None,
    measure_at: Iterable[int] | None = None,
    progress: bool = False,
    precision: str | None = None,
    mesh: Mesh | None = None,
) -> Fit:
    r"""Train the network of a model.

    Each step minimises, over the trainable arrays of `model.network` alone,

    $$\frac{1}{nm}\sum_{i=1}^{n}\sum_{j=1}^{m} \frac{w_\lambda(s_{ij})}{q_\lambda(s_{ij})}\,
      \ell(s_{ij}, x_i, z_{ij}),$$

    for n = `batch_size` examples with m times and noises each; see `Denoising` for $\ell$, $w$
    and $q$. Data are visited in a new order in every epoch; the remainder of N divided by the batch
    size is left out, another one each time. The same key gives the same result, with or without
    interruption.

    Args:
        model: a model with a network.
        data: samples, shape (N, *shape), which stay on the device; integer tokens keep their dtype
            there, such as uint8. Or a stream of batches from files, such as
            `datasets.stream(...)`, which brings its own conditions.
        key: PRNG key.
        condition: arrays with a leading axis N, handed to the network along with the data.
        steps: gradient steps.
        batch_size: examples per step, at most N; None: 32, or N if that is less (of a stream, its
            own).
        loss: what is minimised. None: `Denoising()`, `FlowLoss()` for `FlowMatching`,
            `TokenDenoising()` for models of tokens, or `MultimodalDenoising()` for rows of tokens
            and numbers. A process without a closed transition kernel needs `LocalDenoising(...)` or
            `SlicedScoreMatching(...)`, whose reported loss is relative to $p_{eq}$.
        optimiser: an optax transformation with its learning rate. None: `ClippedAdam` with a
            `WarmupCosine`. Pass the same object to a second call, and its program is not compiled
            again.
        learning_rate: of the default optimiser: the peak of a cosine with a short warm-up (None:
            2e-3), or a function of the step.
        ema_decay: if given, the model returned has the moving average of the parameters. The
            default's cosine ends at zero, so averaging then has little effect.
        holdout: samples whose loss is taken every 100 steps, or a `Holdout`, which may stop the
            training early.
        checkpoint: a file, or a folder for `fit.ckpt`, written every 1000 steps; `Checkpoint(...)`
            to choose when, and to resume; or a `ShardedCheckpoint(...)`, written in the background
            by all processes, from which a run may resume on any number of devices.
        callback: `callback(step, metrics)` every 100 steps, or a `Callback`. One with an argument
            `model`, `callback(step, metrics, model)`, obtains the model by calling `model()`. If it
            returns True, the run stops.
        measure: a function of the model that returns an `Estimate` or a number, or a dictionary of
            them: `lambda model: ex.neural_entropy(model, data, key=key)`. They are in
            `history.measured`, by name, with their errors.
        measure_at: the steps after which `measure` is called, from 0 on; None: after the last,
            which is the one at which the run stops, if it stops early. Steps before a checkpoint
            from which the run resumes are not measured any more, with a warning.
        progress: show a bar with loss, rate and time left (needs tqdm).
        precision: of products of matrices in training: `"highest"`, `"bfloat16"`,
            `"tensorfloat32"`, ...; None for what JAX does by default (bfloat16 on TPUs).
        mesh: devices, as `make_mesh` makes them: each batch is split along `"data"`. None: those of
            `jax.set_mesh`, if it was called; else the one where the arrays are.

    Returns:
        `Fit`, with `model` and `history`.

    Raises:
        ValueError: if an argument is not as above, the data hold NaN, or the checkpoint is damaged
            or of another run.
        FloatingPointError: if a loss, gradient or parameter is not finite; the message names the
            step, and the last checkpoint stays.
        OSError: if a checkpoint cannot be written; the last one stays.

    References:
        Neural Entropy, arXiv 2409.03817.

    Example:
        >>> import jax, entropix as ex
        >>> data = jax.random.normal(jax.random.key(0), (64, 2))
        >>> process = ex.VariancePreserving(ex.LinearSchedule())
        >>> network = ex.FourierMLP(2, key=jax.random.key(1), widths=(8,), num_features=4)
        >>> model = ex.EntropyMatching(network, process)
        >>> trained = ex.fit(model, data, key=jax.random.key(2), steps=5)
        >>> trained.history.loss.shape
        (5,)
    """
    settings = Settings(
        condition=condition,
        steps=steps,
        batch_size=batch_size,
        loss=loss,
        optimiser=optimiser,
        learning_rate=learning_rate,
        ema_decay=ema_decay,
        holdout=holdout,
        checkpoint=checkpoint,
        callback=callback,
        measure=measure,
        measure_at=measure_at,
        progress=progress,
        precision=precision,
        mesh=mesh,
    )
    check_model(model)
    key = as_key(key)
    if key.shape != ():
        raise ValueError(f"`key` must be a single key, got keys of shape {key.shape}.")
    settings, data, condition = settings.fitted(model, data)
    template, params, fixed = split_model(model)
    bound = settings.loss_for(model, data)
    setup = settings.setup(template, fixed, bound, key)
    layout = Layout(mesh=settings.mesh)
    params, history = train(settings.run(model, setup, params, data, condition, layout))
    return Fit(join_model(template, params, fixed), history)


@dataclasses.dataclass(frozen=True, eq=False)
class Settings:
    """What `fit` and `fit_ensemble` share: their arguments, checked; see `fit`."""

    condition: PyTree
    steps: int
    batch_size: int | None
    loss: AbstractLoss | None
    optimiser: Any
    learning_rate: Any
    ema_decay: Any
    holdout: Any
    checkpoint: Any
    callback: Any
    measure: Any
    measure_at: Any
    progress: bool
    precision: str | None
    mesh: Any

    def __post_init__(self):
        def put(name: str, value: Any) -> None:
            object.__setattr__(self, name, value)

        put("steps", positive_integer(self.steps, "steps"))
        put("batch_size", optional_size(self.batch_size, "batch_size"))
        if self.loss is not None and not isinstance(self.loss, AbstractLoss):
            raise ValueError(
                f"`loss` must be None or a loss such as Denoising(...) or LocalDenoising(...), "
                f"got {type(self.loss).__name__}."
            )
        if self.optimiser is not None:
            if not hasattr(self.optimiser, "init") or not hasattr(self.optimiser, "update"):
                raise ValueError(
                    "`optimiser` must be an optax transformation, "
                    f"got {type(self.optimiser).__name__}."
                )
            if self.learning_rate is not None:
                raise ValueError(
                    "`learning_rate` must be None for an `optimiser` that brings its own, "
                    f"got {self.learning_rate!r}."
                )
        if self.ema_decay is not None:
            decay = as_float(self.ema_decay, "ema_decay")
            put(
                "ema_decay",
                checked(decay, "ema_decay", lambda v: (v >= 0) & (v < 1), "in [0, 1)"),
            )
        if self.holdout is not None and not isinstance(self.holdout, Holdout):
            put("holdout", Holdout(self.holdout))
        if self.callback is not None and not isinstance(self.callback, Callback):
            put("callback", Callback(self.callback))
        if self.measure is not None and not (callable(self.measure) and accepts(self.measure, 0)):
            raise ValueError(
                f"`measure` must be a function of the model, got {type(self.measure).__name__}."
            )
        put("measure_at", self._measured_at())
        if self.checkpoint is not None and not isinstance(self.checkpoint, AbstractCheckpoint):
            put("checkpoint", Checkpoint(self.checkpoint))
        if self.precision is not None:
            choice(self.precision, "precision", PRECISIONS)
        put("mesh", check_mesh(self.mesh))
        parts = axis_size(self.mesh, DATA)
        if self.batch_size is not None and self.batch_size % parts:
            raise ValueError(
                f"`batch_size` must be a multiple of the devices along {DATA!r}, {parts}, "
                f"got {self.batch_size}."
            )
        if self.loss is not None and self.loss.coupling is not None:
            if parts > 1:
                raise ValueError(
                    "`coupling` must be None where a batch is spread over devices: it pairs the "
                    "whole batch. Use a mesh with seeds alone."
                )
            if self.holdout is not None:
                raise ValueError(
                    "`holdout` must be None where there is a `coupling`: its loss depends on the "
                    "batch."
                )

    def _measured_at(self) -> tuple[int, ...] | None:
        """The steps of `measure_at`, in their order; None for the last one."""
        if self.measure is None:
            if self.measure_at:
                raise ValueError("`measure_at` must be None where no `measure` is given.")
            return ()
        if self.measure_at is None:
            return None
        given = self.measure_at
        steps = list(given) if isinstance(given, Iterable) else [given]
        if not all(isinstance(at, int | np.integer) and 0 <= at <= self.steps for at in steps):
            raise ValueError(
                f"`measure_at` must hold integers from 0 to `steps`, {self.steps}, got {given!r}."
            )
        return tuple(sorted({int(at) for at in steps}))

    def fitted(
        self,
        model: AbstractModel,
        data: DataLike | AbstractStream,
        fewest: int | None = None,
    ) -> "tuple[Settings, Array | AbstractStream, PyTree]":
        """Settings with a batch size; data and conditions that fit the model and one another.

        Args:
            model: the model, or one of them.
            data: see `fit`.
            fewest: the least number of samples that a member sees; None for all.
        """
        if not isinstance(data, AbstractStream):
            array, condition = check_data(model, data, self.condition)
            count = array.shape[0] if fewest is None else min(fewest, array.shape[0])
            size, parts = self.batch_size, axis_size(self.mesh, DATA)
            if size is None:
                size = max(min(_BATCH_SIZE, count) // parts, 1) * parts
            if size > array.shape[0]:
                raise ValueError(
                    f"`batch_size` must be at most the number of samples, {array.shape[0]}, "
                    f"got {size}."
                )
            return dataclasses.replace(self, batch_size=size), array, condition
        if model.shape is not None and tuple(data.shape) != model.shape:
            raise ValueError(
                f"`data` must be a stream of examples of shape {model.shape} to fit `model`, "
                f"got {tuple(data.shape)}."
            )
        if self.batch_size not in (None, data.batch_size):
            raise ValueError(
                f"`batch_size` must be that of the stream, {data.batch_size}, "
                f"got {self.batch_size}."
            )
        if self.condition is not None:
            raise ValueError("`condition` must be None for a stream, which brings its own.")
        return dataclasses.replace(self, batch_size=data.batch_size), data, None

    def loss_for(self, model: AbstractModel, data: Array | AbstractStream) -> AbstractLoss:
        """The loss, with everything filled in that was left to the model."""
        loss = self.loss
        if loss is None:
            loss = default_loss(model)
        if isinstance(data, AbstractStream):
            return loss.for_model(model, jnp.asarray(data.head(_HEAD)[0]))
        if not jnp.issubdtype(data.dtype, jnp.floating):
            return loss.for_model(model, as_float(data[:_HEAD]))
        return loss.for_model(model, data)

    def setup(
        self,
        template: PyTree,
        fixed: PyTree,
        loss: AbstractLoss,
        key: Key,
        learning_rate: ArrayLike | None = None,
        limit: Array | None = None,
    ) -> Setup:
        """What the compiled loop needs for one member, besides parameters and data.

        Args:
            template: the model without its network.
            fixed: the network without its trainable arrays.
            loss: see `loss_for`.
            key: of the member.
            learning_rate: of the member, in place of that of the settings.
            limit: how many of the first examples it sees.
        """
        optimiser: Any = self.optimiser
        if optimiser is None:
            rate = self.learning_rate if learning_rate is None else learning_rate
            rate = _LEARNING_RATE if rate is None else rate
            optimiser = ClippedAdam(rate if callable(rate) else WarmupCosine(rate, self.steps))
        decay = self.ema_decay
        assert self.batch_size is not None  # of `fitted`
        return Setup(template, fixed, loss, optimiser, decay, key, limit, self.batch_size)

    def run(
        self,
        model: AbstractModel,
        setup: Setup,
        params: PyTree,
        data: Array | AbstractStream,
        condition: PyTree,
        layout: Layout,
    ) -> Run:
        """The run, its held-out data checked."""
        given, callback = self.holdout, self.callback
        holdout = None
        if given is not None:
            holdout = check_data(model, given.data, given.condition, "holdout", 1)
        intervals = [one.every for one in (given, callback) if one is not None and one.every]
        return Run(
            setup,
            params,
            self.steps,
            data,
            condition,
            holdout,
            None if given is None else given.patience,
            min(intervals, default=_EVERY),
            self.checkpoint,
            callback,
            self.measure,
            self.measure_at,
            self.optimiser is None and not callable(self.learning_rate),
            self.progress,
            self.precision,
            layout,
        )


def default_loss(model: AbstractModel) -> AbstractLoss:
    """The loss of a model where none is given."""
    if isinstance(model.process, AbstractTokenProcess):
        return TokenDenoising()
    if isinstance(model.process, Multimodal):
        return MultimodalDenoising()
    return FlowLoss() if isinstance(model, FlowMatching) else Denoising()


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
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    name: str = "data",
    minimum: int = 2,
) -> tuple[Array, PyTree]:
    """Data and conditions as arrays that fit the model and one another.

    Integer tokens are not converted: a batch becomes floating point where it is used.
    """
    of_tokens = isinstance(model.process, AbstractTokenProcess) and name == "data"
    array = samples(data, name, minimum=minimum, integers=of_tokens)
    check_example_shape(model, array, name)
    which = "condition" if name == "data" else f"{name}.condition"
    return array, conditions(condition, array.shape[0], which)


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
