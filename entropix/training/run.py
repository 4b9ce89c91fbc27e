"""Driving the compiled loop from Python: chunks, checks, checkpoints, and what the user sees."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Int

from entropix._core.mesh import DATA, spec, to_host
from entropix._core.precision import training_precision
from entropix._core.progress import progress_bar
from entropix.training.checkpoint import FileCheckpoint, describe
from entropix.training.early_stopping import look
from entropix.training.history import History
from entropix.training.layout import Layout, resized
from entropix.training.loop import (
    Inputs,
    Keys,
    Setup,
    State,
    donating_chunk,
    holdout_loss,
    initial_state,
    keeping_chunk,
)
from entropix.training.options import Options
from entropix.training.sharded_checkpoint import ShardedCheckpoint
from entropix.training.source import AbstractSource, Resident, Streamed, epoch_order
from entropix.training.stream import AbstractStream


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: its constants. With seeds, parameters and keys have a leading axis.

    Attributes:
        setup: see `Setup`.
        params: the trainable arrays of the network.
        fixed: the rest of it.
        keys: see `Keys`.
        data: examples that stay on the device, or a stream.
        condition: of the examples, or None.
        holdout: held-out examples, or None.
        holdout_condition: their conditions, or None.
        options: see `Options`.
        layout: seeds and devices.
        limit: how many of the first examples each member sees; None for all.
    """

    setup: Setup
    params: Any
    fixed: Any
    keys: Keys
    data: Array | AbstractStream
    condition: Any
    holdout: Array | None
    holdout_condition: Any
    options: Options
    layout: Layout = dataclasses.field(default_factory=Layout)
    limit: Any = None

    @property
    def members(self) -> int:
        """The size of the seed axis; 1 where there is none."""
        return jax.tree.leaves(self.params)[0].shape[0] if self.layout.seeds else 1

    def fingerprint(self, state: State) -> dict:
        """What two runs must share for one to take up a checkpoint of the other."""
        options, setup = self.options, self.setup
        if isinstance(self.data, AbstractStream):
            data: Any = self.data.fingerprint()
        else:
            data = describe((self.data, self.condition))
        optional = {"num_samples": self.limit, "patience": options.patience}
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
            "data": data,
            "key": describe(self.keys),
            **{k: describe(v) for k, v in optional.items() if v is not None},
        }

    def placed(self) -> "Run":
        """The run with its arrays on its devices, the seed axis filled up to a multiple of them."""
        layout = self.layout

        def everywhere(tree: Any) -> Any:
            return tree if isinstance(tree, AbstractStream) else layout.place(tree, stacked=False)

        return dataclasses.replace(
            self,
            setup=layout.place_setup(self.setup),
            params=layout.place(self.params),
            fixed=layout.place(self.fixed),
            keys=layout.place(self.keys),
            data=everywhere(self.data),
            condition=everywhere(self.condition),
            holdout=everywhere(self.holdout),
            holdout_condition=everywhere(self.holdout_condition),
            limit=layout.place(self.limit),
        )

    def order(self, step: int) -> Any:
        """The order of the data in the epoch that holds `step`; None for a stream."""
        if isinstance(self.data, AbstractStream):
            return None
        total = self.data.shape[0]
        if self.limit is None:
            epoch: Any = np.int32(step // (total // self.options.batch_size))
        else:
            epoch = jnp.int32(step) // (self.limit // self.options.batch_size)
        return epoch_order(self.keys.order, epoch, total, self.layout.seeds, self.limit)

    def sources(self, start: int) -> Callable[[int], AbstractSource]:
        """A function that gives the source of the next `count` steps, from step `start` on."""
        if not isinstance(self.data, AbstractStream):
            source = Resident(self.data, self.condition, self.limit)
            return lambda count: source
        batches, length = self.data.batches(start), self.options.chunk

        def following(count: int) -> AbstractSource:
            found = [next(batches) for _ in range(count)]
            # One shape for all chunks: the last is filled up with what is never looked at.
            found += found[-1:] * (length - count)
            return Streamed(*jax.tree.map(lambda *leaves: self._whole(np.stack(leaves)), *found))

        return following

    def _whole(self, part: np.ndarray) -> Array:
        """Batches of which every process holds its part."""
        if self.layout.mesh is None:
            return jnp.asarray(part)
        split = NamedSharding(self.layout.mesh, spec(self.layout.mesh, None, DATA))
        if jax.process_count() == 1:
            return jax.device_put(part, split)
        return jax.make_array_from_process_local_data(split, part)

    def holdout_loss(self, state: State) -> Array:
        """The loss on the held-out data, shape (*seeds,)."""
        holdout: Any = self.holdout  # `train` asks only where there is one
        return holdout_loss(
            self.setup,
            state.current,
            self.fixed,
            self.keys,
            holdout,
            self.holdout_condition,
            self.layout,
        )


@dataclasses.dataclass(frozen=True)
class _Moment:
    """Where a run stands: replaced as a whole, so that an interrupt finds it consistent."""

    step: int
    state: State
    order: Int[Array, "*seeds n"] | None
    history: dict[str, np.ndarray]
    active: bool


def train(run: Run) -> tuple[Any, History]:
    """Take all steps of a run; the trained (averaged, or best) parameters and the history.

    Raises:
        FloatingPointError: if a loss, a gradient or a parameter is not finite, naming the step.
        ValueError: if a checkpoint cannot be taken up.
        OSError: if one cannot be written.
    """
    checkpoint = _checkpoint(run.options)
    try:
        with training_precision(run.options.precision):
            return _train(run, checkpoint)
    finally:
        if checkpoint is not None:
            checkpoint.close()


def _train(run: Run, checkpoint: FileCheckpoint | ShardedCheckpoint | None) -> tuple[Any, History]:
    options, members = run.options, run.members
    run, now, fingerprint, saved = _begin(run, checkpoint)
    sources = run.sources(now.step)
    advance = donating_chunk if checkpoint is None else keeping_chunk

    def write(checkpoint: FileCheckpoint | ShardedCheckpoint, now: _Moment) -> int:
        state = now.state
        if run.layout.seeds:
            state = resized(state, members)
        history = {k: _members(v, members) for k, v in now.history.items()}
        checkpoint.write(now.step, fingerprint, state, history)
        return now.step

    with progress_bar(options.steps, "training", "step", options.progress, initial=now.step) as bar:
        try:
            while now.step < options.steps and now.active:
                stop = _next_stop(options, now.step)
                count = stop - now.step
                inputs = Inputs(
                    run.setup,
                    sources(count),
                    run.fixed,
                    run.keys,
                    np.int32(now.step),
                    np.int32(count),
                    options.chunk,
                    run.layout,
                )
                state, order, losses, norms, finite = advance(inputs, (now.state, now.order))
                losses, norms = to_host(losses)[:count], to_host(norms)[:count]
                _check_finite(now.step, losses, norms, to_host(finite))
                history = {
                    **now.history,
                    "loss": np.concatenate([now.history["loss"], losses]),
                    "gradient_norm": np.concatenate([now.history["gradient_norm"], norms]),
                }
                metrics: dict[str, Any] = {
                    "loss": _mean(losses, members),
                    "gradient_norm": _mean(norms, members),
                }
                active = True
                if run.holdout is not None:
                    value = run.holdout_loss(state)
                    if options.patience is not None:
                        state, active = _looked(state, value, stop, options.patience)
                    value = to_host(value)
                    metrics["holdout_loss"] = value[:members] if value.ndim else value
                    history["holdout_step"] = np.append(now.history["holdout_step"], stop)
                    history["holdout_loss"] = np.concatenate(
                        [now.history["holdout_loss"], value[None]]
                    )
                now = _Moment(stop, state, order, history, active)
                bar.update(count, _shown(metrics))
                last = stop == options.steps or not active
                if checkpoint is not None and (stop % options.checkpoint_every == 0 or last):
                    saved = write(checkpoint, now)
                if options.callback is not None:
                    options.callback(stop, _plain(metrics))
        except KeyboardInterrupt:
            if checkpoint is not None and now.step > saved:
                write(checkpoint, now)
            raise
    stopping = now.state.stopping
    params = now.state.current if stopping is None else stopping.best
    best = np.full(now.state.mean_square.shape, now.step, np.int32)
    best = best if stopping is None else to_host(stopping.step)
    history = _as_history(now.history, best)
    if run.layout.seeds:
        return resized(params, members), history.members(members)
    if jax.process_count() > 1:  # every process has all of it
        params = jax.tree.map(lambda leaf: jnp.asarray(to_host(leaf)), params)
    return params, history


def _mean(values: np.ndarray, members: int) -> Any:
    """The mean over steps, without what fills up the seed axis."""
    return values.mean(0)[:members] if values.ndim > 1 else values.mean(0)


def _members(values: np.ndarray, size: int = 1) -> np.ndarray:
    """A history, its second axis the seed axis, cut or filled up to `size` members."""
    return np.asarray(resized(values.T, size)).T if values.ndim > 1 else values


def _looked(state: State, loss: Array, step: int, patience: int) -> tuple[State, bool]:
    """The state after a look at the held-out loss, and whether any member goes on."""
    assert state.stopping is not None
    stopping = look(state.stopping, state.current, loss, jnp.int32(step), jnp.int32(patience))
    state = eqx.tree_at(lambda s: s.stopping, state, stopping)
    return state, bool(np.any(to_host(stopping.active)))


def _checkpoint(options: Options) -> FileCheckpoint | ShardedCheckpoint | None:
    given = options.checkpoint
    return given if given is None or isinstance(given, ShardedCheckpoint) else FileCheckpoint(given)


def _begin(
    run: Run, checkpoint: FileCheckpoint | ShardedCheckpoint | None
) -> tuple[Run, _Moment, dict, int]:
    """The first moment: that of the checkpoint to be resumed, or the beginning."""
    options, layout, members = run.options, run.layout, run.members
    unspread = dataclasses.replace(layout, mesh=None)
    state = initial_state(run.setup, run.params, unspread, options.patience is not None)
    fingerprint = {} if checkpoint is None else run.fingerprint(state)
    run = run.placed()
    seeds = (layout.padded(members),) if layout.seeds else ()
    dtype = run.data.dtype
    history = {
        "loss": np.zeros((0, *seeds), dtype),
        "gradient_norm": np.zeros((0, *seeds), state.mean_square.dtype),
        "holdout_step": np.zeros((0,), np.int32),
        "holdout_loss": np.zeros((0, *seeds), dtype),
    }
    step, active = 0, True
    if options.resume and checkpoint is not None and checkpoint.exists():
        step, state, found = checkpoint.read(fingerprint, state, layout)
        history = {k: _members(v, *seeds) for k, v in found.items()}
        if state.stopping is not None:
            active = bool(np.any(to_host(state.stopping.active)))
    state = layout.place(state)
    return run, _Moment(step, state, run.order(step), history, active), fingerprint, step


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
            seed = f" of member {at[1]}" if values.ndim > 1 else ""
            raise FloatingPointError(
                f"the {name} must stay finite, got {values[at]} at step {first + at[0] + 1}{seed}: "
                "lower the learning rate, or check data and network."
            )


def _plain(metrics: dict[str, Any]) -> dict[str, Any]:
    """Python floats for one seed, arrays for several."""
    return {k: np.asarray(v) if np.ndim(v) else float(v) for k, v in metrics.items()}


def _shown(metrics: dict[str, Any]) -> str:
    names = [name for name in metrics if name != "gradient_norm"]
    return ", ".join(f"{n.removesuffix('_loss')}={np.mean(metrics[n]):.4g}" for n in names)


def _as_history(history: dict[str, np.ndarray], best: np.ndarray) -> History:
    step = np.arange(1, len(history["loss"]) + 1, dtype=jnp.result_type(int))
    # Placed as they are: `jnp.asarray` would compile a copy for each shape.
    return History(
        **jax.device_put(
            {
                "step": step,
                "loss": history["loss"].T,
                "gradient_norm": history["gradient_norm"].T,
                "holdout_step": history["holdout_step"],
                "holdout_loss": history["holdout_loss"].T,
                "best_step": best,
            }
        )
    )
