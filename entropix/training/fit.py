"""Training: one model, or one for each of several seeds as a single program."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax

from entropix._core.arrays import Key
from entropix._core.interfaces import AbstractModel
from entropix.training.history import EnsembleFit, Fit
from entropix.training.loop import Keys, join_model, split_model
from entropix.training.options import Options, as_key, check_data, check_model
from entropix.training.path_losses import AbstractPathLoss
from entropix.training.run import Run, train
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
        data: samples, shape (N, *shape).
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
        checkpoint: a file, or a folder for `fit.ckpt`.
        checkpoint_every: steps between checkpoints. A run killed at any time loses at most these.
            Ctrl-C writes one for the last chunk that was finished.
        resume: go on from `checkpoint` if it exists, else begin. The run must be the same.
        chunk: steps taken between two looks from Python.

    Returns:
        `Fit`, with `model` and `history`.

    Raises:
        ValueError: if an argument is not as above, the data hold NaN, or the checkpoint is damaged
            or of another run.
        FloatingPointError: if a loss, gradient or parameter is not finite; the message names the
            step, and the last checkpoint stays.
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
    )
    check_model(model)
    key = as_key(key)
    if key.shape != ():
        raise ValueError(f"`key` must be a single key, got keys of shape {key.shape}.")
    shell, params, fixed = split_model(model)
    run = _run(model, data, options, params, fixed, key, seeds=False)
    params, history = train(run)
    return Fit(join_model(shell, params, fixed), history)


def fit_ensemble(
    make_model: Callable[[Key], AbstractModel], data: Any, *, keys: Any, **options: Any
) -> EnsembleFit:
    """Train one model for each key, all in one program.

    Member i is the model that `fit(make_model(keys[i]), data, key=keys[i], ...)` returns, up to
    rounding. The networks are stacked along a leading seed axis; process and scaling are shared.

    Args:
        make_model: `make_model(key) -> model`, called once for each key; what it returns may differ
            in the arrays of the network only.
        data: samples, shape (N, *shape), seen by all, each in its own order.
        keys: a stack or sequence of PRNG keys, such as `jax.random.split(key, 4)`.
        **options: as for `fit`.

    Returns:
        `EnsembleFit`, with `model`, `history`, `member(i)` and `map(f)`.

    Raises:
        ValueError: as `fit`, or if the models differ in more than their networks' arrays.
        FloatingPointError: as `fit`; the message names the seed too.
    """
    settings = Options(**options)
    keys = as_key(keys, "keys")
    if keys.ndim != 1 or keys.shape[0] == 0:
        raise ValueError(f"`keys` must be a stack of keys, shape (S,), got shape {keys.shape}.")
    models: list[Any] = [make_model(key) for key in keys]
    for model in models:
        check_model(model)
    _check_alike(models)
    shell, _, _ = split_model(models[0])
    split = [eqx.partition(model.network, eqx.is_array) for model in models]
    arrays = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(a for a, _ in split))
    stacked = join_model(shell, arrays, split[0][1])
    _, params, fixed = split_model(stacked)
    run = _run(models[0], data, settings, params, fixed, keys, seeds=True)
    params, history = train(run)
    return EnsembleFit(join_model(shell, params, fixed), history, len(models))


def _run(
    model: AbstractModel,
    data: Any,
    options: Options,
    params: Any,
    fixed: Any,
    key: Key,
    seeds: bool,
) -> Run:
    """Check the data against model and options."""
    data, condition = check_data(model, data, options.condition)
    if options.batch_size > data.shape[0]:
        raise ValueError(
            f"`batch_size` must be at most the number of samples, {data.shape[0]}, "
            f"got {options.batch_size}."
        )
    holdout, holdout_condition = options.holdout, options.holdout_condition
    if holdout is not None:
        holdout, holdout_condition = check_data(model, holdout, holdout_condition, "holdout", 1)
    return Run(
        options.setup(model, data),
        params,
        fixed,
        Keys(key),
        data,
        condition,
        holdout,
        holdout_condition,
        options,
        seeds,
    )


def _check_alike(models: list[Any]) -> None:
    """Refuse models that differ in anything but the arrays of their networks."""

    def shared(model: Any) -> tuple[Any, Any]:
        arrays, rest = eqx.partition(model.network, eqx.is_array)
        shapes = jax.tree.map(lambda a: (a.shape, str(a.dtype)), arrays)
        return eqx.tree_at(lambda m: m.network, model, None), (shapes, rest)

    first = shared(models[0])
    for index, model in enumerate(models[1:], start=1):
        for part, one, other in zip(
            ("process and scaling", "structure of the network"), first, shared(model), strict=True
        ):
            if not bool(eqx.tree_equal(one, other)):
                raise ValueError(
                    f"`make_model` must return models that differ in the arrays of their networks "
                    f"only, got another {part} for key {index}."
                )
