"""Training of many models as one program: seeds, and a grid of hyper-parameters."""

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh
from jaxtyping import Array, ArrayLike, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import positive_integer
from entropix._core.display import html_table, rows_of, with_errors
from entropix._core.extras import needed
from entropix._core.formatting import short_repr
from entropix._core.mesh import to_host
from entropix.interfaces import AbstractLoss, AbstractModel, AbstractStream
from entropix.persistence import AbstractCheckpoint
from entropix.training.fit import Callback, Holdout, Settings, as_key, check_model
from entropix.training.layout import Layout, map_members
from entropix.training.loop import join_model, split_model
from entropix.training.run import History, train


if TYPE_CHECKING:
    import xarray
    from matplotlib.axes import Axes

# Settings of the training that may differ between members.
_OF_TRAINING = ("learning_rate", "num_samples")


class EnsembleFit(eqx.Module):
    """Models trained from several seeds, and for several hyper-parameters, as one program.

    In `model` every array has a leading axis of members: map over it with
    `eqx.filter_vmap(f)(fits.model)`, which is `fits.map(f)`, or take one model out with
    `fits.member(i)`.

    Attributes:
        model: the models.
        history: a `History` with a leading axis of members.
        num_members: how many.
        over: names and values of the hyper-parameters.
        num_seeds: members of each combination of hyper-parameters.
    """

    model: Any
    history: History
    num_members: int = eqx.field(static=True)
    over: tuple[tuple[str, list[Any]], ...]
    num_seeds: int = eqx.field(static=True)

    __repr__ = short_repr

    def _repr_html_(self) -> str:
        rows = {name: str(size) for name, size in self.dims.items()}
        return html_table(f"{self.num_members} models", rows | rows_of(self.history))

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the losses of all members, see `History.plot`."""
        return self.history.plot(ax)

    def to_xarray(self) -> "xarray.Dataset":
        """Losses and measurements as a labelled data set: `record()` without results.

        Raises:
            ImportError: if xarray is not installed.
        """
        return self.record()

    @property
    def dims(self) -> dict[str, int]:
        """The named dimensions that the members fill, in their order."""
        return {name: len(values) for name, values in self.over} | {"seed": self.num_seeds}

    def map(self, fn: Callable, *args: PyTree, batch_size: int | None = None) -> PyTree:
        """`fn(model, *args)` for every member; results have a leading axis of members.

        On a mesh set by `jax.set_mesh` the members are divided along `"seed"`.

        Args:
            fn: a function of one model; it is mapped by `jax.vmap`.
            *args: given to all.
            batch_size: members at a time, which bounds memory; None for all at once.
        """
        arrays, rest = eqx.partition(self.model, eqx.is_array)

        def one(arrays: PyTree, *args: PyTree) -> PyTree:
            return fn(eqx.combine(arrays, rest), *args)

        return map_members(one, arrays, args, batch_size)

    def member(self, index: int) -> AbstractModel:
        """One model, as `fit` would have returned it.

        Raises:
            ValueError: if there is no such member.
        """
        if not -self.num_members <= index < self.num_members:
            raise ValueError(f"`index` must be below {self.num_members}, got {index}.")
        return _member(self.model, np.asarray(index))

    def gathered(self) -> "EnsembleFit":
        """The same, with complete arrays in every process, for `member` and for saving.

        The arrays that a run over several processes returns are spread over their devices.
        """
        arrays, rest = eqx.partition(self, eqx.is_array)
        return eqx.combine(jax.tree.map(lambda leaf: jnp.asarray(to_host(leaf)), arrays), rest)

    def record(self, **results: Any) -> "xarray.Dataset":
        """Results of the members as one record with named dimensions.

        Args:
            **results: what `map` returned: arrays with a leading axis of members, or an `Estimate`,
                which becomes `name`, `name_stderr` and `name_mc_stderr`.

        Returns:
            The results, the losses and the best steps, each with the dimensions `dims`; further
            axes of an array are called `name_0`, `name_1`, ... Hyper-parameters that are numbers
            are coordinates.

        Raises:
            ValueError: if a result lacks the axis of members.
            ImportError: if xarray is not installed.
        """
        xarray = needed("xarray", "`record`", "xarray", "studies")
        found: dict[str, Any] = {}
        for name, result in results.items():
            found |= with_errors(name, result)
        dims = self.dims
        variables: dict[str, Any] = {}

        def add(name: str, values: Any, *rest: str) -> None:
            host = to_host(values)  # the axis of members becomes the named dimensions
            variables[name] = ([*dims, *rest], host.reshape(*dims.values(), *host.shape[1:]))

        for name, result in found.items():
            shape = np.shape(result)
            if shape[:1] != (self.num_members,):
                raise ValueError(
                    f"`{name}` must have a leading axis of {self.num_members} members, got shape "
                    f"{shape}."
                )
            add(name, result, *(f"{name}_{axis}" for axis in range(len(shape) - 1)))
        history = self.history
        add("loss", history.loss, "step")
        add("best_step", history.best_step)
        for name, result in history.measured.items():
            for part, array in with_errors(f"measured_{name}", result).items():
                add(part, array, "measured_step")
        coordinates = {
            name: values
            for name, values in self.over
            if all(isinstance(value, int | float | str) for value in values)
        }
        coordinates |= {"seed": np.arange(self.num_seeds), "step": to_host(history.step)}
        if history.holdout_step.size:
            add("holdout_loss", history.holdout_loss, "holdout_step")
            coordinates["holdout_step"] = to_host(history.holdout_step)
        if history.measured_step.size:
            coordinates["measured_step"] = to_host(history.measured_step)
        return xarray.Dataset(variables, coordinates)


def fit_ensemble(
    make_model: Callable[..., AbstractModel],
    data: DataLike | AbstractStream,
    *,
    keys: Key | Sequence[Key],
    over: Mapping[str, Any] | None = None,
    members_at_once: int | None = None,
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
) -> EnsembleFit:
    """Train one model for each key, and for each combination of hyper-parameters, in one program.

    Member i is the model that `fit(make_model(key), data, key=key, ...)` returns for its key and
    hyper-parameters, up to rounding; the result for a key does not depend on which other members
    are trained. Every array of the models, process and scaling included, gets a leading axis of
    members.

        fits = ex.fit_ensemble(
            make_model,  # make_model(key, kappa)
            data,
            keys=jax.random.split(key, 4),
            over={"kappa": [1.0, 0.3, 0.1], "learning_rate": [1e-3, 3e-3]},
        )

    trains 24 networks. All combinations have the same keys, so that they can be compared in pairs.
    On a mesh the members are divided along `"seed"`, and need no communication.

    Args:
        make_model: `make_model(key, **values) -> model`, called once for each member, with the
            values of `over` that are none of the training. Its models have one structure.
        data: samples, shape (N, *shape), seen by all, each in its own order; or a stream, whose
            batches are the same for all.
        keys: a stack or sequence of PRNG keys, such as `jax.random.split(key, 4)`.
        over: names and values of hyper-parameters: numbers, or modules of one structure such as
            schedules. `learning_rate` and `num_samples` (how many of the first samples a member
            sees, in an order of its own) are settings of the training; all others are arguments of
            `make_model`.
        members_at_once: how many members a device steps at once, at most (groups are of one size),
            the others after them, a chunk of steps each: it bounds memory. None: one on a CPU,
            where products of stacked matrices are slower than single ones; all elsewhere.
        condition: as for `fit`, like all that follow.
        steps: gradient steps.
        batch_size: examples per step; None: 32, or as many as each member sees if they are fewer.
        loss: what is minimised.
        optimiser: an optax transformation with its learning rate.
        learning_rate: of the default optimiser, unless `over` has its values.
        ema_decay: of the moving average of the parameters.
        holdout: samples, or a `Holdout`; with `patience` each member stops by itself.
        checkpoint: a path, a `Checkpoint` or a `ShardedCheckpoint`, of all members.
        callback: `callback(step, metrics)`; metrics, and what `model()` returns, have an axis of
            members. If it returns True, the run stops.
        measure: a function of one model, mapped over the members by `jax.vmap`.
        measure_at: the steps after which it is called, see `fit`.
        progress: show a bar.
        precision: of products of matrices.
        mesh: devices.

    Returns:
        `EnsembleFit`, with `model`, `history`, `member(i)`, `map(f)` and `record(...)`. Members are
        in the order of `itertools.product(*over.values(), keys)`.

    Raises:
        ValueError: as `fit`, or if the models differ in their structure.
        FloatingPointError: as `fit`; the message names the member too.
        OSError: as `fit`.

    Example:
        >>> import jax, entropix as ex
        >>> data = jax.random.normal(jax.random.key(0), (64, 2))
        >>> def make_model(key, kappa):
        ...     process = ex.VariancePreserving(ex.LinearSchedule(), kappa=kappa)
        ...     network = ex.FourierMLP(2, key=key, widths=(8,), num_features=4)
        ...     return ex.EntropyMatching(network, process)
        >>> keys = jax.random.split(jax.random.key(1), 2)
        >>> fits = ex.fit_ensemble(make_model, data, keys=keys, over={"kappa": [1.0, 0.5]}, steps=5)
        >>> fits.history.loss.shape
        (4, 5)
        >>> fits.map(lambda model: model.process.kappa)
        Array([1. , 1. , 0.5, 0.5], dtype=float32)
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
    keys = as_key(keys, "keys")
    if keys.ndim != 1 or keys.shape[0] == 0:
        raise ValueError(f"`keys` must be a stack of keys, shape (S,), got shape {keys.shape}.")
    if members_at_once is not None:
        positive_integer(members_at_once, "members_at_once")
    elif jax.default_backend() == "cpu":
        members_at_once = 1
    grid = _grid(over, settings)
    points = [dict(zip(grid, p, strict=True)) for p in itertools.product(*grid.values())]
    members = [(point, key) for point in points for key in keys]
    models: list[Any] = [
        make_model(key, **{k: v for k, v in point.items() if k not in _OF_TRAINING})
        for point, key in members
    ]
    for model in models:
        check_model(model)
    _check_alike(models)
    counts = [n for n in grid.get("num_samples", ()) if isinstance(n, int) and n > 0]
    settings, data, condition = settings.fitted(models[0], data, min(counts, default=None))

    templates, params, fixed = zip(*(split_model(model) for model in models), strict=True)
    losses: list[AbstractLoss] = []
    for index, template in enumerate(templates):
        # Moments of the data are taken once for all members that differ in their networks alone.
        same = (i for i in range(index) if bool(eqx.tree_equal(templates[i], template)))
        first = next(same, None)
        loss = settings.loss_for(models[index], data) if first is None else losses[first]
        losses.append(loss)
    setups = []
    for (point, key), template, rest, loss in zip(members, templates, fixed, losses, strict=True):
        limit = _limit(point["num_samples"], data, settings) if "num_samples" in point else None
        rate = point.get("learning_rate")
        setups.append(settings.setup(template, rest, loss, key, rate, limit))
    setup = _stacked(setups)
    layout = Layout(True, settings.mesh, members_at_once)
    run = settings.run(models[0], setup, _stacked(params), data, condition, layout)
    trained, history = train(run)
    return EnsembleFit(
        join_model(setup.template, trained, setup.fixed),
        history,
        len(models),
        tuple(grid.items()),
        len(keys),
    )


def _stacked(trees: Sequence[PyTree]) -> Any:
    """Trees of one structure, all their arrays stacked."""
    arrays = [eqx.filter(tree, eqx.is_array) for tree in trees]
    rest = eqx.filter(trees[0], eqx.is_array, inverse=True)
    return eqx.combine(_stacked_arrays(arrays), rest)


# One program each for all arrays, which are many and of many shapes.
@jax.jit
def _stacked_arrays(trees: Sequence[PyTree]) -> PyTree:
    return jax.tree.map(lambda *leaves: jnp.stack(leaves), *trees)


@eqx.filter_jit
def _member(model: AbstractModel, index: Array | np.ndarray) -> AbstractModel:
    return jax.tree.map(lambda a: a[index] if eqx.is_array(a) else a, model)


def _limit(value: Any, data: Array | AbstractStream, settings: Settings) -> Array:
    """A number of samples that holds a batch.

    Raises:
        ValueError: if it has none, or for a stream.
    """
    if isinstance(data, AbstractStream):
        raise ValueError("`num_samples` must be left out for a stream: choose its samples instead.")
    if not isinstance(value, int) or not (settings.batch_size or 1) <= value <= data.shape[0]:
        raise ValueError(
            f"`num_samples` must be an integer from the batch size, {settings.batch_size}, to "
            f"the number of samples, {data.shape[0]}, got {value!r}."
        )
    return jnp.int32(value)


def _grid(over: Mapping[str, Any] | None, settings: Settings) -> dict[str, list[Any]]:
    """Names and values of hyper-parameters.

    Raises:
        ValueError: if a name has no values, or is given as an option too.
    """
    grid: dict[str, list[Any]] = {}
    for name, values in ({} if over is None else over).items():
        if isinstance(values, str) or not hasattr(values, "__len__") or len(values) == 0:
            raise ValueError(f"`over` must give a sequence of values for {name!r}, got {values!r}.")
        if name == "seed":
            raise ValueError("`over` must not name 'seed', the axis of the keys.")
        plain = isinstance(values, np.ndarray | jax.Array)
        grid[name] = np.asarray(values).tolist() if plain else list(values)
    if "learning_rate" in grid:
        for name in ("learning_rate", "optimiser"):
            if getattr(settings, name) is not None:
                raise ValueError(
                    f"`{name}` must be left out where `over` has values of 'learning_rate', "
                    "got both."
                )
    return grid


def _check_alike(models: Sequence[Any]) -> None:
    """Refuse models that differ in more than the values of their arrays.

    Raises:
        ValueError: naming the member and what differs.
    """

    def structure(part: PyTree) -> PyTree:
        arrays, rest = eqx.partition(part, eqx.is_array)
        return jax.tree.map(lambda a: (a.shape, str(a.dtype)), arrays), rest

    def parts(model: Any) -> dict[str, PyTree]:
        return {
            "structure of process and scaling": structure(split_model(model)[0]),
            "structure of the network": structure(model.network),
        }

    first = parts(models[0])
    for index, model in enumerate(models[1:], start=1):
        for name, part in parts(model).items():
            if not bool(eqx.tree_equal(first[name], part)):
                raise ValueError(
                    f"`make_model` must return models of one structure, got another {name} for "
                    f"member {index}."
                )
