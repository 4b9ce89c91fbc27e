"""Driving the compiled loop from Python: chunks, checks, checkpoints, and what the user sees."""

import dataclasses
import functools
import time
import warnings
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jaxtyping import Array, Float, Int, PyTree

from entropix._core.display import (
    ERRORS,
    axes_or_new,
    axis,
    draw_losses,
    label,
    lines_of,
    with_errors,
)
from entropix._core.mesh import DATA, spec, to_host
from entropix._core.precision import training_precision
from entropix._core.progress import progress_bar
from entropix.interfaces import AbstractResult, AbstractStream, Estimate
from entropix.persistence import AbstractCheckpoint, describe, outline
from entropix.training.layout import Layout, map_members, resized
from entropix.training.loop import (
    Inputs,
    Setup,
    State,
    donating_chunk,
    holdout_loss,
    initial_state,
    join_model,
    steps_at_once,
)
from entropix.training.source import Source, epoch_orders, floating, rows_of_steps


if TYPE_CHECKING:
    from matplotlib.axes import Axes


# Seconds between two updates of a progress bar, at most.
_SHOWN = 2.0


class History(AbstractResult):
    """The course of a run, as arrays; `history["loss"]` is `history.loss`.

    For an ensemble, losses and norms have a leading axis of members.

    Attributes:
        step: 1, ..., n: how many steps had been taken, the one of this loss included.
        loss: of the step's batch, before the step, in the units of the weighting (see `losses`):
            for `"likelihood"` nats, of which a perfect network would reach $-S_{tot}$.
        gradient_norm: before clipping.
        holdout_step: the steps after which the held-out loss was taken; empty without `holdout`.
        holdout_loss: the loss on all held-out data, always with the same draws.
        best_step: after how many steps the network had the parameters that were returned: those of
            the last, or with `patience` those of least held-out loss.
        measured_step: the steps after which `measure` was called; empty without it.
        measured: what it returned, by name: estimates, or arrays, of shape (*members, k).
    """

    step: Int[Array, " steps"] = eqx.field(metadata=axis("step", "1"))
    loss: Float[Array, "*members steps"] = eqx.field(metadata=label("step"))
    gradient_norm: Float[Array, "*members steps"] = eqx.field(metadata=label("step", "1"))
    holdout_step: Int[Array, " points"] = eqx.field(metadata=axis("holdout_step", "1"))
    holdout_loss: Float[Array, "*members points"] = eqx.field(metadata=label("holdout_step"))
    best_step: Int[Array, "*members"] = eqx.field(metadata=label("", "1"))
    measured_step: Int[Array, " k"] = eqx.field(metadata=axis("measured_step", "1"))
    measured: dict[str, Estimate | Array] = eqx.field(metadata=label("measured_step"))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the loss of every step, its running mean, and the loss on held-out data."""
        ax = axes_or_new(ax)
        losses = lines_of(self.loss)
        names = [f"member {i}" for i in range(len(losses))] if len(losses) > 1 else [""]
        draw_losses(
            ax,
            np.asarray(self.step),
            losses,
            np.asarray(self.holdout_step),
            lines_of(self.holdout_loss),
            names,
            "nats",
        )
        if len(names) <= 4:
            ax.legend()
        return ax

    def keys(self) -> tuple[str, ...]:
        """The names of the arrays, so that `dict(history)` works."""
        return tuple(f.name for f in dataclasses.fields(self) if f.name != "measured")

    def __getitem__(self, name: str) -> Array:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


@dataclasses.dataclass(frozen=True)
class Run:
    """A training run: its constants. In an ensemble `setup` and `params` have an axis of members.

    Attributes:
        setup: see `Setup`.
        params: the trainable arrays of the network.
        steps: how many to take.
        data: examples that stay on the device, or a stream.
        condition: of the examples, or None.
        holdout: held-out examples and their conditions, or None.
        patience: steps without a new least held-out loss after which a member stops; None: never.
        every: steps between evaluations; a chunk of the compiled loop has at most these.
        checkpoint: where the run is saved, or None.
        callback: called every `every` steps, `callback(step, metrics, model)`, or None; the last
            is a function without arguments. If it returns True, the run stops.
        measure: from a model to an estimate, or to a dictionary of estimates and numbers, or None.
        measure_at: after how many steps it is called; None: after the last that is taken.
        follows_steps: whether the learning rate was made for `steps`.
        progress: whether to show a bar.
        precision: of products of matrices, or None for JAX's own.
        layout: members and devices.
    """

    setup: Setup
    params: PyTree
    steps: int
    data: Array | AbstractStream
    condition: PyTree = None
    holdout: tuple[Array, PyTree] | None = None
    patience: int | None = None
    every: int = 100
    checkpoint: AbstractCheckpoint | None = None
    callback: Callable | None = None
    measure: Callable | None = None
    measure_at: tuple[int, ...] | None = ()
    follows_steps: bool = False
    progress: bool = False
    precision: str | None = None
    layout: Layout = dataclasses.field(default_factory=Layout)

    def fingerprint(self, state: State) -> dict:
        """What two runs must share for one to resume from a checkpoint of the other."""
        setup, data = self.setup, self.data
        if self.follows_steps:  # a run may be extended: `steps` alone tells their number
            setup = eqx.tree_at(
                lambda s: (s.optimiser.learning_rate.steps, s.optimiser.learning_rate.warmup),
                setup,
                replace_fn=jnp.zeros_like,
            )
        optional = {"num_samples": setup.limit, "patience": self.patience}
        return {
            "steps": self.steps,
            "learning_rate_follows_steps": self.follows_steps,
            "batch_size": setup.batch_size,
            "loss": type(setup.loss).__name__,
            **_fields(setup.loss),
            "optimiser": describe((setup.optimiser, state.optimiser)),
            **_fields(setup.optimiser),
            "ema_decay": describe(setup.ema_decay),
            "model": outline((setup.template, self.params, setup.fixed)),
            "data": data.fingerprint()
            if isinstance(data, AbstractStream)
            else describe((data, self.condition)),
            "key": describe(setup.key),
            **{k: describe(v) for k, v in optional.items() if v is not None},
        }

    def placed(self) -> "Run":
        """The run with its arrays on its devices, the members filled up to a multiple of them."""
        place, data = self.layout.place, self.data
        return dataclasses.replace(
            self,
            setup=place(self.setup),
            params=place(self.params),
            data=data if isinstance(data, AbstractStream) else place(data, shared=True),
            condition=place(self.condition, shared=True),
            holdout=place(self.holdout, shared=True),
        )

    def rows(self) -> Callable[[int], PyTree]:
        """A function of a step: which examples a chunk that starts there takes; None of a stream.

        A new order of the data is drawn where an epoch begins, outside of the compiled loop.
        """
        if isinstance(self.data, AbstractStream):
            return lambda step: None
        key, limit, size = self.setup.key, self.setup.limit, self.setup.batch_size
        total = self.data.shape[0]
        batches = (total if limit is None else to_host(limit)) // size
        # As many epochs as the longest chunk may see, wherever it starts.
        least = int(np.min(batches))
        epochs = min(-(-self.every // least) + 1, -(-self.steps // least))
        known: dict[bytes, Array] = {}

        def rows(step: int) -> PyTree:
            first = np.asarray(step // batches, np.int32)
            if first.tobytes() not in known:
                known.clear()
                known[first.tobytes()] = epoch_orders(key, first, epochs, total, limit)
            orders = known[first.tobytes()]
            return rows_of_steps(orders, first, np.int32(step), self.every, size, limit)

        return rows

    def sources(self, start: int) -> Callable[[int], Source]:
        """A function that gives the source of the next `count` steps, from step `start` on."""
        if not isinstance(self.data, AbstractStream):
            source = Source(self.data, self.condition, False)
            return lambda count: source
        batches = self.data.batches(start)

        def following(count: int) -> Source:
            found = [next(batches) for _ in range(count)]
            # One shape for all chunks: the last is filled up with what is never used.
            found += found[-1:] * (self.every - count)
            data, condition = jax.tree.map(lambda *part: self._whole(np.stack(part)), *found)
            return Source(data, condition, True)

        return following

    def _whole(self, part: np.ndarray) -> Array:
        """Batches of which every process holds its part."""
        if self.layout.mesh is None:
            return jnp.asarray(part)
        split = NamedSharding(self.layout.mesh, spec(self.layout.mesh, None, DATA))
        if jax.process_count() == 1:
            return jax.device_put(part, split)
        return jax.make_array_from_process_local_data(split, part)

    def next_stop(self, step: int) -> int:
        """The end of the chunk that starts at `step`; it does not depend on where a run resumed."""
        intervals = [self.every] + ([] if self.checkpoint is None else [self.checkpoint.every])
        stops = [(step // every + 1) * every for every in intervals]
        return min(self.steps, *stops, *(at for at in self.measure_at or () if at > step))

    def evaluates(self, step: int) -> bool:
        """Whether the held-out loss is evaluated and the callback called after this step."""
        return step > 0 and (step % self.every == 0 or step == self.steps)

    def model(self, params: PyTree, members: int | None) -> Any:
        """The model, or the stacked models, with a copy of these parameters.

        The loop gives the memory of its parameters to the next ones, and may have filled up the
        members.
        """
        template, fixed = self.setup.template, self.setup.fixed
        params = jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), params)
        if members is not None:
            template, params, fixed = resized((template, params, fixed), members)
        return join_model(template, params, fixed)

    def measured(self, step: int, params: PyTree, members: int | None) -> dict[str, np.ndarray]:
        """What is added to the history by the measurement at a step.

        Raises:
            ValueError: if it is not as `measure` must be.
        """
        assert self.measure is not None
        measure, model = self.measure, self.model(params, members)
        if members is None:
            found = measure(model)
        else:
            arrays, rest = eqx.partition(model, eqx.is_array)
            found = map_members(lambda arrays: measure(eqx.combine(arrays, rest)), arrays, ())
        found = found if isinstance(found, dict) else {"estimate": found}
        parts: dict[str, np.ndarray] = {"measured_step": np.array([step], np.int32)}
        for name, value in found.items():
            for part, array in with_errors("value", value).items():
                part = part.removeprefix("value_")
                host = to_host(array) if eqx.is_array(array) else np.asarray(array)
                expected = () if members is None else (members,)
                if host.shape == ():  # a number that does not depend on the member
                    host = np.broadcast_to(host, expected)
                if host.shape != expected or host.dtype.kind not in "fiub":
                    raise ValueError(
                        "`measure` must return an Estimate or a number, or a dictionary of them, "
                        f"got {type(value).__name__} of shape {host.shape} and dtype {host.dtype} "
                        f"for {name!r}."
                    )
                parts[f"measured_{part}__{name}"] = host[..., None]
        return parts


def _fields(module: Any) -> dict[str, Any]:
    """Each setting of a loss or an optimiser by its name, so that an error can name it."""
    if not isinstance(module, eqx.Module):
        return {}
    plain = int | str | bool | None
    found = {field.name: getattr(module, field.name) for field in dataclasses.fields(module)}
    return {k: v if isinstance(v, plain) else describe(v) for k, v in found.items()}


@dataclasses.dataclass(frozen=True)
class _Moment:
    """Where a run stands: replaced as a whole, so that an interrupt finds it consistent.

    Attributes:
        step: how many steps have been taken.
        state: the arrays that they changed.
        history: losses and norms of all steps, shape (*members, steps).
        active: whether any member goes on.
        pending: of chunks whose losses are still on the device: their first step, their number of
            steps, losses, norms, and whether the parameters are finite.
    """

    step: int
    state: State
    history: dict[str, np.ndarray]
    active: bool
    pending: tuple[tuple[int, int, tuple[Array, Array, Array]], ...] = ()

    def fetched(self, pending: int = 0) -> "_Moment":
        """The same with the losses of all but the last `pending` chunks in its history.

        Raises:
            FloatingPointError: if one of them is not finite.
        """
        history, all_pending = self.history, self.pending
        for start, count, found in all_pending[: len(all_pending) - pending]:
            losses, norms, finite = (to_host(a) for a in found)
            losses, norms = losses[..., :count], norms[..., :count]
            _check_finite(start, losses, norms, finite)
            history = _longer(history, {"loss": losses, "gradient_norm": norms})
        rest = all_pending[len(all_pending) - pending :] if pending else ()
        return dataclasses.replace(self, history=history, pending=rest)


def train(run: Run) -> tuple[PyTree, History]:
    """Take all steps of a run; the trained (averaged, or best) parameters and the history.

    Raises:
        FloatingPointError: if a loss, a gradient or a parameter is not finite, naming the step.
        ValueError: if a run cannot resume from its checkpoint.
        OSError: if a checkpoint cannot be written.
    """
    if run.checkpoint is not None:
        run.checkpoint.open()
    try:
        with training_precision(run.precision):
            return _train(run)
    finally:
        if run.checkpoint is not None:
            run.checkpoint.close()


def _train(run: Run) -> tuple[PyTree, History]:
    layout, checkpoint = run.layout, run.checkpoint
    members = jax.tree.leaves(run.params)[0].shape[0] if layout.members else None
    run, now, fingerprint = _begin(run, members)
    sources, rows, saved = run.sources(now.step), run.rows(), now.step

    def cut(tree: PyTree) -> PyTree:
        """Without the members that only fill up the devices."""
        return tree if members is None else resized(tree, members)

    def write() -> int:
        nonlocal now
        if checkpoint is not None:
            now = now.fetched()
            history = _with_members(now.history, members)
            checkpoint.write(now.step, fingerprint, cut(now.state), history)
        return now.step

    # The losses of a chunk that nobody waits for are fetched while the next one runs.
    reported = run.progress or run.callback is not None or run.holdout is not None
    block = steps_at_once()
    with progress_bar(run.steps, "training", "step", run.progress, initial=now.step) as bar:
        try:
            now = _settled(run, now, members)
            # The first steps determine how many are taken between updates of the progress bar.
            most = block if run.progress else run.steps
            while now.step < run.steps and now.active:
                stop = min(run.next_stop(now.step), now.step + most)
                count, began = stop - now.step, time.perf_counter()
                # The numbers of a chunk are arguments of one program: it is compiled once.
                start = np.int32(now.step)
                source = sources(count)
                numbers = (start, np.int32(count), run.every, block)
                inputs = Inputs(run.setup, source, rows(now.step), *numbers, layout)
                out = donating_chunk(inputs, now.state)
                # The old state is gone: an interrupt finds the new one, from here on.
                chunk = (now.step, count, (out.losses, out.norms, out.finite))
                pending = (*now.pending, chunk)
                now = dataclasses.replace(now, step=stop, state=out.state, pending=pending)
                waited_for = reported or stop in (run.measure_at or ()) or stop == run.steps
                now = now.fetched(0 if waited_for else 1)
                if run.progress:
                    shown = _SHOWN * count / (time.perf_counter() - began)
                    most = max(1, int(shown / block)) * block
                now = _settled(run, now, members)
                # Means since the last evaluation, wherever chunks ended for other reasons.
                since = (stop - 1) // run.every * run.every
                metrics = {
                    name: cut(now.history[name][..., since:].mean(-1))
                    for name in ("loss", "gradient_norm")
                    if reported
                }
                evaluated = run.evaluates(stop)
                if run.holdout is not None and evaluated:
                    metrics["holdout_loss"] = cut(now.history["holdout_loss"][..., -1])
                bar.update(count, _shown(metrics))
                last = stop == run.steps or not now.active
                if checkpoint is not None and (stop % checkpoint.every == 0 or last):
                    saved = write()
                if run.callback is not None and evaluated:
                    # Python floats for one network, arrays for several.
                    plain = {
                        k: np.asarray(v) if np.ndim(v) else float(v) for k, v in metrics.items()
                    }
                    model = functools.partial(run.model, now.state.current, members)
                    answer = run.callback(stop, plain, model)
                    if _is_true(answer) and not last:
                        now = _settled(run, dataclasses.replace(now, active=False), members)
                        if saved < stop:
                            saved = write()
        except KeyboardInterrupt:
            arrays = [leaf for leaf in jax.tree.leaves(now.state) if isinstance(leaf, jax.Array)]
            # While a chunk is being started, the old state is deleted and there is no new one yet.
            if now.step > saved and not any(leaf.is_deleted() for leaf in arrays):
                write()
            raise
    stopping = now.state.stopping
    params = now.state.current if stopping is None else stopping.best
    shape = now.history["loss"].shape[:-1]
    best = np.full(shape, now.step, np.int32) if stopping is None else to_host(stopping.step)
    if members is None and jax.process_count() > 1:  # every process has all of it
        params = jax.tree.map(lambda leaf: jnp.asarray(to_host(leaf)), params)
    history = _with_members(now.history, members)
    step = np.arange(1, now.step + 1, dtype=jnp.result_type(int))
    # Placed as they are: `jnp.asarray` would compile a copy for each shape.
    arrays = jax.device_put({"step": step, "best_step": cut(best), **history})
    measured = {k: arrays.pop(k) for k in list(arrays) if k.startswith("measured_") and "__" in k}
    return cut(params), History(**arrays, measured=_estimates(measured))


def _settled(run: Run, now: _Moment, members: int | None) -> _Moment:
    """The moment, with the held-out loss and the measurement after its steps.

    They are missing after a chunk, and in a checkpoint that was written by an interrupt.
    """
    step, state, history, layout = now.step, now.state, now.history, run.layout
    if run.holdout is not None and run.evaluates(step) and step not in history["holdout_step"]:
        value = holdout_loss(run.setup, state.current, run.holdout, layout)
        found = {"holdout_step": np.array([step], np.int32)}
        history = _longer(history, found | {"holdout_loss": to_host(value)[..., None]})
        active = True
        if state.stopping is not None:
            at, patience = jnp.int32(step), jnp.int32(run.patience or 0)
            stopping = state.stopping.evaluated(state.current, value, at, patience)
            state = eqx.tree_at(lambda s: s.stopping, state, stopping)
            active = bool(np.any(to_host(stopping.active)))
        now = dataclasses.replace(now, state=state, history=history, active=active)
    due = step == run.steps or not now.active  # the last step, also of a run that stops early
    if run.measure_at is not None:
        due = step in run.measure_at
    if due and step not in history["measured_step"]:
        measured = run.measured(step, state.current, members)
        padded = None if members is None else layout.padded(members)
        history = _longer(history, _with_members(measured, padded))
        now = dataclasses.replace(now, history=history)
    return now


def _begin(run: Run, members: int | None) -> tuple[Run, _Moment, dict]:
    """The run on its devices, and its first moment: that of its checkpoint, or the beginning."""
    layout, checkpoint = run.layout, run.checkpoint
    unspread = dataclasses.replace(layout, mesh=None)
    state = initial_state(run.setup, run.params, unspread, run.patience is not None)
    fingerprint = {} if checkpoint is None else run.fingerprint(state)
    norm_dtype = jax.tree.leaves(run.params)[0].dtype
    run = run.placed()
    shape = () if members is None else (layout.padded(members),)
    history = {
        "loss": np.zeros((*shape, 0), floating(run.data.dtype)),
        "gradient_norm": np.zeros((*shape, 0), norm_dtype),
        "holdout_step": np.zeros((0,), np.int32),
        "holdout_loss": np.zeros((*shape, 0), floating(run.data.dtype)),
        "measured_step": np.zeros((0,), np.int32),
    }
    step, active = 0, True
    if checkpoint is not None and checkpoint.resume and checkpoint.exists():
        step, state, history = checkpoint.read(fingerprint, state, layout.sharding)
        history = _with_members(history, shape[0] if shape else None)
        if state.stopping is not None:
            active = bool(np.any(to_host(state.stopping.active)))
        known = history["measured_step"].tolist()
        if missed := [at for at in run.measure_at or () if at < step and at not in known]:
            warnings.warn(
                f"`measure_at` names steps before the checkpoint, which is of step {step}: "
                f"{', '.join(map(str, missed))} will not be measured.",
                stacklevel=2,
            )
    return run, _Moment(step, layout.place(state), history, active), fingerprint


def _with_members(history: dict[str, np.ndarray], size: int | None) -> dict[str, np.ndarray]:
    """A history whose axis of members is cut, or filled up, to `size`; None: it has none."""
    if size is None:
        return history
    return {k: v if k.endswith("_step") else to_host(resized(v, size)) for k, v in history.items()}


def _longer(history: dict[str, np.ndarray], found: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """A history and what a chunk has added to it.

    Raises:
        ValueError: if a measurement differs from those before it.
    """
    known = {name for name in history if "__" in name}
    new = {name for name in found if "__" in name}
    if "measured_step" in found and history["measured_step"].size and known != new:
        names = [sorted({n.split("__", 1)[1] for n in group}) for group in (known, new)]
        raise ValueError(
            f"`measure` must return what it returned before, {', '.join(names[0])} with the same "
            f"errors, got {', '.join(names[1])}."
        )
    joined = {
        k: np.concatenate([history[k], v], axis=-1) if k in history else v for k, v in found.items()
    }
    return history | joined


def _estimates(parts: dict[str, Array]) -> dict[str, Estimate | Array]:
    """Measurements by name, from their parts `measured_value__name`, `measured_stderr__name`."""
    found: dict[str, Estimate | Array] = {}
    for key, value in parts.items():
        kind, name = key.removeprefix("measured_").split("__", 1)
        if kind == "value":
            stderr, mc_stderr = (parts.get(f"measured_{error}__{name}") for error in ERRORS)
            if stderr is None or mc_stderr is None:
                found[name] = value
            else:
                found[name] = Estimate(value, stderr, mc_stderr)
    return found


def _is_true(answer: Any) -> bool:
    """Whether a callback asks to stop: True, of Python, NumPy or JAX, and nothing else."""
    if isinstance(answer, bool | np.bool_):
        return bool(answer)
    return eqx.is_array(answer) and answer.shape == () and answer.dtype == bool and bool(answer)


def _check_finite(
    start: int, losses: np.ndarray, norms: np.ndarray, parameters: np.ndarray
) -> None:
    """Name the first step whose loss, gradient or outcome is not finite."""
    # The parameters of a step show in the next loss; only the last ones need a check of their own.
    last = np.where(parameters, 0.0, np.nan)[..., None]
    for name, first, values in (
        ("loss", start, losses),
        ("gradient", start, norms),
        ("parameters", start + losses.shape[-1] - 1, last),
    ):
        bad = np.argwhere(~np.isfinite(values).T)  # the first step first, then the first member
        if len(bad):
            step, *member = bad[0]
            of = f" of member {member[0]}" if member else ""
            raise FloatingPointError(
                f"the {name} must stay finite, got {values[(*member, step)]} at step "
                f"{first + step + 1}{of}: lower the learning rate, or check data and network."
            )


def _shown(metrics: dict[str, Any]) -> str:
    names = [name for name in metrics if name != "gradient_norm"]
    return ", ".join(f"{n.removesuffix('_loss')}={np.mean(metrics[n]):.4g}" for n in names)
