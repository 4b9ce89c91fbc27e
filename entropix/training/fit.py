"""Training: one model, or one for each of several seeds as a single program."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.interfaces import AbstractModel
from entropix.training.ensemble import (
    OF_TRAINING,
    check_alike,
    check_grid,
    combinations,
    members_setup,
)
from entropix.training.history import EnsembleFit, Fit
from entropix.training.layout import Layout, stack_members
from entropix.training.loop import Keys, Setup, join_model, split_model
from entropix.training.options import Options, as_key, check_data, check_model, check_stream
from entropix.training.path_losses import AbstractPathLoss
from entropix.training.run import Run, train
from entropix.training.stream import AbstractStream
from entropix.training.times import AbstractTimes


def fit(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    steps: int = 2500,
    batch_size: int = 32,
    num_draws: int = 10,
    antithetic: bool | None = None,
    weighting: str | Callable | None = None,
    times: AbstractTimes | None = None,
    loss: AbstractPathLoss | None = None,
    coupling: Callable | None = None,
    condition: Any = None,
    optimiser: optax.GradientTransformation | None = None,
    learning_rate: Any = None,
    gradient_clip: Any = None,
    ema_decay: Any = None,
    holdout: Any = None,
    holdout_condition: Any = None,
    callback: Callable | None = None,
    progress: bool = False,
    checkpoint: Any = None,
    checkpoint_every: int = 1000,
    resume: bool = False,
    chunk: int = 100,
    num_samples: int | None = None,
    patience: int | None = None,
    precision: str | None = None,
    mesh: Any = None,
) -> Fit:
    r"""Train the network of a model by denoising.

    Each step minimises, over the trainable arrays of `model.network` alone,

    $$\frac{1}{nm}\sum_{i=1}^{n}\sum_{j=1}^{m} \frac{w_\lambda(s_{ij})}{q_\lambda(s_{ij})}\,
      \ell(s_{ij}, x_i, z_{ij}),$$

    for n = `batch_size` examples with m = `num_draws` times and noises each; see `losses` for
    $\ell$ and $w$, `times` for $q$; `loss` is for processes without a closed transition kernel.
    Data are visited in a new order in every epoch; the remainder of N divided by the batch size is
    left out, another one each time. The same key gives the same result, with or without
    interruption.

    Args:
        model: a model with a network.
        data: samples, shape (N, *shape), which stay on the device; or a stream of batches from
            files, such as `datasets.stream(...)`, which brings its own conditions.
        key: PRNG key.
        steps: gradient steps.
        batch_size: examples per step, at most N.
        num_draws: times and noises per example.
        antithetic: draw noise in pairs (z, -z) at one time. None: if `num_draws` is even.
        weighting: `"likelihood"`, `"uniform"` (the paper's), or a function `weight(process, s)`.
            None: likelihood for a model with a `scaling` and a process whose entropy is finite,
            else uniform.
        times: proposal of times. None: `UniformTimes()` for the uniform weighting, else
            `LogisticTimes.matched`.
        loss: None: denoising from the data, for Gaussian processes. `LocalDenoising(...)` or
            `SlicedScoreMatching(...)`: along paths simulated from the data in each step of
            training, for any process; weighted by $\sigma^2/2$, so that it takes neither
            `weighting` nor `times`. The reported loss is then relative to $p_{eq}$.
        coupling: for `FlowMatching` alone: a function `coupling(x, z, *, key)` of a batch and its
            noise that returns the noise in the order in which it is to go with the batch, such as
            `MinibatchCoupling()`; None for independent pairs.
        condition: arrays with a leading axis N, handed to the network along with the data.
        optimiser: an optax transformation with its learning rate. None: Adam. Pass the same object
            to a second call, and its program is not compiled again.
        learning_rate: of Adam: the peak of a cosine with a short warm-up (None: 2e-3), or a
            function of the step.
        gradient_clip: largest norm of the gradient, in units of its running root mean square; None:
            2 for the default optimiser, no clipping for another; inf: none.
        ema_decay: if given, the model returned has the moving average of the parameters. The
            default's cosine ends at zero, which leaves an average nothing to do.
        holdout: samples whose loss is taken, with fixed draws, after each chunk.
        holdout_condition: their conditions.
        callback: `callback(step, metrics)` after each chunk; means of loss and gradient norm.
        progress: show a bar with loss, rate and time left (needs tqdm).
        checkpoint: a file, or a folder for `fit.ckpt`; or a `ShardedCheckpoint(folder)`, written in
            the background by all processes, and taken up on any number of devices.
        checkpoint_every: steps between checkpoints. A run killed at any time loses at most these.
            Ctrl-C writes one for the last chunk that was finished.
        resume: go on from `checkpoint` if it exists, else begin. The run must be the same.
        chunk: steps taken between two looks from Python.
        num_samples: see only so many of the first samples.
        patience: stop when the held-out loss, looked at after every chunk, has had no new minimum
            for so many steps, and return the parameters of the minimum.
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
    """
    options = Options(
        steps=steps,
        batch_size=batch_size,
        num_draws=num_draws,
        antithetic=antithetic,
        weighting=weighting,
        times=times,
        loss=loss,
        coupling=coupling,
        condition=condition,
        optimiser=optimiser,
        learning_rate=learning_rate,
        gradient_clip=gradient_clip,
        ema_decay=ema_decay,
        holdout=holdout,
        holdout_condition=holdout_condition,
        callback=callback,
        progress=progress,
        checkpoint=checkpoint,
        checkpoint_every=checkpoint_every,
        resume=resume,
        chunk=chunk,
        num_samples=num_samples,
        patience=patience,
        precision=precision,
        mesh=mesh,
    )
    check_model(model)
    key = as_key(key)
    if key.shape != ():
        raise ValueError(f"`key` must be a single key, got keys of shape {key.shape}.")
    shell, params, fixed = split_model(model)
    data, condition = _checked(model, data, options)
    limit = None if num_samples is None else _limits([num_samples], data, options)[0]
    layout = Layout(mesh=options.mesh)
    setup = options.setup(model, _moments_of(data))
    run = _run(model, setup, data, condition, options, params, fixed, key, layout, limit)
    params, history = train(run)
    return Fit(join_model(shell, params, fixed), history)


def fit_ensemble(
    make_model: Callable[..., AbstractModel],
    data: Any,
    *,
    keys: Any,
    over: Mapping[str, Any] | None = None,
    members_at_once: int | None = None,
    **options: Any,
) -> EnsembleFit:
    """Train one model for each key, and for each combination of hyper-parameters, in one program.

    Member i is the model that `fit(make_model(key), data, key=key, ...)` returns for its key and
    hyper-parameters, up to rounding. What differs between members has a leading axis; what does not
    (mostly the process and the scaling) is shared.

        fits = ex.fit_ensemble(
            make_model,  # make_model(key, kappa)
            data,
            keys=jax.random.split(key, 4),
            over={"kappa": [1.0, 0.3, 0.1], "learning_rate": [1e-3, 3e-3]},
        )

    trains 24 networks. All combinations have the same keys, so that they can be compared in pairs.
    On a mesh the members are dealt out along `"seed"`, and need no communication.

    Args:
        make_model: `make_model(key, **values) -> model`, called once for each member, with the
            values of `over` that are none of the training. Its models have one structure.
        data: samples, shape (N, *shape), seen by all, each in its own order; or a stream, whose
            batches are the same for all.
        keys: a stack or sequence of PRNG keys, such as `jax.random.split(key, 4)`.
        over: names and values of hyper-parameters: numbers, or modules of one structure such as
            schedules. `learning_rate` and `num_samples` (how many of the first samples a member
            sees) are settings of the training; all others are arguments of `make_model`.
        members_at_once: how many members a device steps at once, at most (groups are of one size),
            the others after them, a chunk of steps each: it bounds memory. None: one on a CPU,
            where products of stacked matrices are slower than single ones; all elsewhere.
        **options: as for `fit`.

    Returns:
        `EnsembleFit`, with `model`, `history`, `member(i)`, `map(f)` and `record(...)`. Members are
        in the order of `itertools.product(*over.values(), keys)`.

    Raises:
        ValueError: as `fit`, or if the models differ in their structure.
        FloatingPointError: as `fit`; the message names the member too.
        OSError: as `fit`.
    """
    settings = Options(**options)
    keys = as_key(keys, "keys")
    if keys.ndim != 1 or keys.shape[0] == 0:
        raise ValueError(f"`keys` must be a stack of keys, shape (S,), got shape {keys.shape}.")
    grid = check_grid(over, settings)
    points = combinations(grid)
    models: list[Any] = [
        make_model(key, **{k: v for k, v in point.items() if k not in OF_TRAINING})
        for point in points
        for key in keys
    ]
    for model in models:
        check_model(model)
    check_alike(models)
    data, condition = _checked(models[0], data, settings)
    limits = settings.num_samples
    if "num_samples" in grid:
        limits = [point["num_samples"] for point in points for _ in keys]
    elif limits is not None:
        limits = [limits] * len(models)
    if limits is not None:
        limits = jnp.stack(_limits(limits, data, settings))
    rates = [point.get("learning_rate") for point in points for _ in keys]
    setup, stacked = stack_members(members_setup(settings, models, _moments_of(data), rates))
    if members_at_once is not None:
        positive_integer(members_at_once, "members_at_once")
    elif jax.default_backend() == "cpu":
        members_at_once = 1
    layout = Layout(True, stacked, settings.mesh, members_at_once)
    networks = [split_model(model)[1:] for model in models]
    params, fixed = (_stacked(trees) for trees in zip(*networks, strict=True))
    repeated = jnp.tile(keys, len(points))
    run = _run(models[0], setup, data, condition, settings, params, fixed, repeated, layout, limits)
    params, history = train(run)
    # The shell is the first part of the setup, and its arrays are the first that were looked at.
    shell_arrays = jax.tree.leaves(eqx.filter(setup.shell, eqx.is_array))
    return EnsembleFit(
        join_model(setup.shell, params, fixed),
        history,
        len(models),
        stacked[: len(shell_arrays)],
        tuple(grid.items()),
        len(keys),
    )


def _stacked(trees: Sequence[Any]) -> Any:
    """Trees of one structure, their arrays stacked."""
    return jax.tree.map(
        lambda leaf, *others: jnp.stack([leaf, *others]) if isinstance(leaf, jax.Array) else leaf,
        *trees,
    )


def _checked(model: AbstractModel, data: Any, options: Options) -> tuple[Any, Any]:
    """Data and conditions that fit the model, and a batch size that fits the data."""
    if isinstance(data, AbstractStream):
        return check_stream(model, data, options), None
    data, condition = check_data(model, data, options.condition)
    if options.batch_size > data.shape[0]:
        raise ValueError(
            f"`batch_size` must be at most the number of samples, {data.shape[0]}, "
            f"got {options.batch_size}."
        )
    return data, condition


def _moments_of(data: Any) -> Any:
    """The samples from which moments are taken."""
    return jnp.asarray(data.head(4096)[0]) if isinstance(data, AbstractStream) else data


def _limits(values: Sequence[Any], data: Any, options: Options) -> list[Any]:
    """Numbers of samples, each with room for a batch.

    Raises:
        ValueError: if there is none, or for a stream.
    """
    if isinstance(data, AbstractStream):
        raise ValueError("`num_samples` must be None for a stream: choose its samples instead.")
    for value in values:
        if not isinstance(value, int) or not options.batch_size <= value <= data.shape[0]:
            raise ValueError(
                f"`num_samples` must be an integer from the batch size, {options.batch_size}, to "
                f"the number of samples, {data.shape[0]}, got {value!r}."
            )
    return [jnp.int32(value) for value in values]


def _run(
    model: AbstractModel,
    setup: Setup,
    data: Any,
    condition: Any,
    options: Options,
    params: Any,
    fixed: Any,
    key: Key,
    layout: Layout,
    limit: Any,
) -> Run:
    """Check the held-out data."""
    holdout, holdout_condition = options.holdout, options.holdout_condition
    if holdout is not None:
        holdout, holdout_condition = check_data(model, holdout, holdout_condition, "holdout", 1)
    return Run(
        setup,
        params,
        fixed,
        Keys(key),
        data,
        condition,
        holdout,
        holdout_condition,
        options,
        layout,
        limit,
    )
