"""Driving the compiled loop from Python: chunks, checks, checkpoints, and what the user sees."""

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int

from entropix.training.checkpoint import describe, read_checkpoint, write_checkpoint
from entropix.training.history import History
from entropix.training.loop import (
    Keys,
    Setup,
    State,
    donating_chunk,
    epoch_order,
    holdout_loss,
    initial_state,
    keeping_chunk,
)
from entropix.training.options import Options


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: its constants. With `seeds`, parameters and keys have a leading axis."""

    setup: Setup
    params: Any
    fixed: Any
    keys: Keys
    data: Array
    condition: Any
    holdout: Array | None
    holdout_condition: Any
    options: Options
    seeds: bool

    def fingerprint(self, state: State) -> dict:
        """What two runs must share for one to take up a checkpoint of the other."""
        options, setup = self.options, self.setup
        return {
            "steps": options.steps,
            "batch_size": options.batch_size,
            "num_draws": options.num_draws,
            "antithetic": bool(options.antithetic),
            **setup.objective.record(),
            "optimiser": describe(state.optimiser),
            "learning_rate": describe(setup.learning_rate),
            "gradient_clip": describe(setup.clip),
            "ema_decay": describe(setup.ema_decay),
            "model": describe((setup.shell, self.params, self.fixed)),
            "data": describe((self.data, self.condition)),
            "key": describe(self.keys),
        }

    def order(self, step: int) -> Array:
        """The order of the data in the epoch that holds `step`."""
        epoch = step // (self.data.shape[0] // self.options.batch_size)
        return epoch_order(self.keys.order, jnp.int32(epoch), self.data.shape[0], self.seeds)

    def holdout_loss(self, state: State) -> np.ndarray:
        """The loss on the held-out data, shape (*seeds,)."""
        params = state.params if state.average is None else state.average
        holdout: Any = self.holdout  # `train` asks only where there is one
        return np.asarray(
            holdout_loss(
                self.setup,
                params,
                self.fixed,
                self.keys,
                holdout,
                self.holdout_condition,
                self.seeds,
            )
        )


@dataclasses.dataclass(frozen=True)
class _Moment:
    """Where a run stands: replaced as a whole, so that an interrupt finds it consistent."""

    step: int
    state: State
    order: Int[Array, "*seeds n"]
    history: dict[str, np.ndarray]


def train(run: Run) -> tuple[Any, History]:
    """Take all steps of a run; the trained (or averaged) parameters and the history.

    Raises:
        FloatingPointError: if a loss, a gradient or a parameter is not finite, naming the step.
        ValueError: if a checkpoint cannot be taken up.
    """
    options, path = run.options, run.options.checkpoint
    now, fingerprint, saved = _begin(run)
    advance = donating_chunk if path is None else keeping_chunk
    with _progress_bar(options, now.step) as bar:
        try:
            while now.step < options.steps:
                stop = _next_stop(options, now.step)
                inputs = (
                    run.setup,
                    run.data,
                    run.condition,
                    run.fixed,
                    run.keys,
                    np.int32(now.step),
                    np.int32(stop - now.step),
                    options.chunk,
                    run.seeds,
                )
                state, order, losses, norms, finite = advance(inputs, (now.state, now.order))
                count = stop - now.step
                losses, norms = np.asarray(losses)[:count], np.asarray(norms)[:count]
                _check_finite(now.step, losses, norms, np.asarray(finite))
                history = {
                    **now.history,
                    "loss": np.concatenate([now.history["loss"], losses]),
                    "gradient_norm": np.concatenate([now.history["gradient_norm"], norms]),
                }
                metrics: dict[str, Any] = {"loss": losses.mean(0), "gradient_norm": norms.mean(0)}
                if run.holdout is not None:
                    value = run.holdout_loss(state)
                    metrics["holdout_loss"] = value
                    history["holdout_step"] = np.append(now.history["holdout_step"], stop)
                    history["holdout_loss"] = np.concatenate(
                        [now.history["holdout_loss"], value[None]]
                    )
                now = _Moment(stop, state, order, history)
                bar.show(count, metrics)
                if path is not None and (stop % options.checkpoint_every == 0 or _done(run, stop)):
                    write_checkpoint(path, stop, fingerprint, now.state, now.history)
                    saved = stop
                if options.callback is not None:
                    options.callback(stop, _plain(metrics))
        except KeyboardInterrupt:
            if path is not None and now.step > saved:
                write_checkpoint(path, now.step, fingerprint, now.state, now.history)
            raise
    params = now.state.params if now.state.average is None else now.state.average
    return params, _as_history(now.history)


def _done(run: Run, step: int) -> bool:
    return step == run.options.steps


def _begin(run: Run) -> tuple[_Moment, dict, int]:
    """The first moment: that of the checkpoint to be resumed, or the beginning."""
    options, path = run.options, run.options.checkpoint
    state = initial_state(run.setup, run.params, run.seeds)
    seeds = state.mean_square.shape
    history = {
        "loss": np.zeros((0, *seeds), run.data.dtype),
        "gradient_norm": np.zeros((0, *seeds), state.mean_square.dtype),
        "holdout_step": np.zeros((0,), np.int32),
        "holdout_loss": np.zeros((0, *seeds), run.data.dtype),
    }
    step = 0
    fingerprint = {} if path is None else run.fingerprint(state)
    if options.resume and path is not None and path.exists():
        step, state, history = read_checkpoint(path, fingerprint, state)
    return _Moment(step, state, run.order(step), history), fingerprint, step


def _next_stop(options: Options, step: int) -> int:
    """The end of the chunk that starts at `step`: the same for a resumed run as for a whole one."""
    stops = [options.steps, (step // options.chunk + 1) * options.chunk]
    if options.checkpoint is not None:
        stops.append((step // options.checkpoint_every + 1) * options.checkpoint_every)
    return min(stops)


def _check_finite(
    start: int, losses: np.ndarray, norms: np.ndarray, parameters: np.ndarray
) -> None:
    """Name the first step whose loss, gradient or outcome is not finite."""
    # What a step leaves behind shows in the next loss; the last one's is looked at itself.
    last = np.where(parameters, 0.0, np.nan)[None] + np.zeros_like(losses[-1:])
    for name, first, values in (
        ("loss", start, losses),
        ("gradient", start, norms),
        ("parameters", start + len(losses) - 1, last),
    ):
        bad = np.argwhere(~np.isfinite(values))
        if len(bad):
            at = tuple(bad[0])
            seed = f" of seed {at[1]}" if values.ndim > 1 else ""
            raise FloatingPointError(
                f"the {name} must stay finite, got {values[at]} at step {first + at[0] + 1}{seed}: "
                "lower the learning rate, or check data and network."
            )


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Python floats for one seed, arrays for several."""
    return {k: np.asarray(v) if np.ndim(v) else float(v) for k, v in metrics.items()}


def _as_history(history: dict[str, np.ndarray]) -> History:
    return History(
        step=jnp.arange(1, len(history["loss"]) + 1),
        loss=jnp.asarray(history["loss"].T),
        gradient_norm=jnp.asarray(history["gradient_norm"].T),
        holdout_step=jnp.asarray(history["holdout_step"]),
        holdout_loss=jnp.asarray(history["holdout_loss"].T),
    )


class _ProgressBar:
    """Loss, rate and time left on the terminal; silent without `progress`."""

    def __init__(self, bar: Any):
        self.bar = bar

    def __enter__(self) -> "_ProgressBar":
        return self

    def __exit__(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.close()

    def show(self, steps: int, metrics: dict[str, Any]) -> None:
        if self.bar is not None:
            shown = {
                name.removesuffix("_loss"): f"{np.mean(value):.4g}"
                for name, value in metrics.items()
                if name != "gradient_norm"
            }
            self.bar.set_postfix(shown, refresh=False)
            self.bar.update(steps)


def _progress_bar(options: Options, start: int) -> _ProgressBar:
    if not options.progress:
        return _ProgressBar(None)
    try:
        from tqdm import tqdm
    except ImportError as error:
        raise ImportError(
            "`progress=True` needs tqdm: python -m pip install 'entropix[studies]'"
        ) from error
    return _ProgressBar(tqdm(total=options.steps, initial=start, unit="step", desc="training"))
