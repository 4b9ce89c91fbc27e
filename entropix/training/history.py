"""What training returns: the trained model, or one for each seed, and the course of the loss."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.mesh import to_host
from entropix.interfaces import AbstractModel, Estimate
from entropix.training.layout import map_members


if TYPE_CHECKING:
    import xarray


class History(eqx.Module):
    """The course of a run, as arrays; `history["loss"]` is `history.loss`.

    For an ensemble, losses and norms have a leading seed axis.

    Attributes:
        step: 1, ..., n: how many steps had been taken, the one of this loss included.
        loss: of the step's batch, before the step, in the units of the weighting (see `losses`):
            for `"likelihood"` nats, of which a perfect network would reach $-S_{tot}$.
        gradient_norm: before clipping.
        holdout_step: the steps after which the held-out loss was taken; empty without `holdout`.
        holdout_loss: the loss on all of `holdout`, always with the same draws.
        best_step: after how many steps the network had the parameters that were returned: those of
            the last, or with `patience` those of least held-out loss.
    """

    step: Int[Array, " steps"]
    loss: Float[Array, "*seeds steps"]
    gradient_norm: Float[Array, "*seeds steps"]
    holdout_step: Int[Array, " points"]
    holdout_loss: Float[Array, "*seeds points"]
    best_step: Int[Array, "*seeds"]

    def keys(self) -> tuple[str, ...]:
        """The names of the arrays, so that `dict(history)` works."""
        return ("step", "loss", "gradient_norm", "holdout_step", "holdout_loss", "best_step")

    def members(self, count: int) -> "History":
        """The history of the first members of an ensemble."""
        return History(
            self.step,
            self.loss[:count],
            self.gradient_norm[:count],
            self.holdout_step,
            self.holdout_loss[:count],
            self.best_step[:count],
        )

    def __getitem__(self, name: str) -> Array:
        if name not in self.keys():
            raise KeyError(name)
        return getattr(self, name)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def __len__(self) -> int:
        return len(self.keys())


class Fit(eqx.Module):
    """A trained model and the course of its training.

    Attributes:
        model: the model that was passed, its network trained.
        history: a `History`.
    """

    model: AbstractModel
    history: History


class EnsembleFit(eqx.Module):
    """Models trained from several seeds, and for several hyper-parameters, as one program.

    In `model` the arrays of the network, and whatever else differs between members, have a leading
    axis; what is the same for all is shared. Map over it with `axes`,

        eqx.filter_vmap(f, in_axes=(fits.axes,))(fits.model)

    which is `fits.map(f)`, or take one model out with `fits.member(i)`.

    Attributes:
        model: the models.
        history: a `History` with a leading axis of members.
        num_members: how many.
        stacked: for every array of the model without its network, whether it has the axis.
        over: names and values of the hyper-parameters.
        num_seeds: members of each combination of hyper-parameters.
    """

    model: Any
    history: History
    num_members: int = eqx.field(static=True)
    stacked: tuple[bool, ...] = eqx.field(static=True)
    over: tuple[tuple[str, list[Any]], ...]
    num_seeds: int = eqx.field(static=True)

    @property
    def axes(self) -> Any:
        """For `in_axes`: a tree like `model`, 0 at arrays with an axis of members, else None."""
        shell = eqx.tree_at(lambda m: m.network, self.model, None)
        leaves, structure = jax.tree.flatten(shell)
        flags = iter(self.stacked)
        marks = [0 if eqx.is_array(leaf) and next(flags) else None for leaf in leaves]
        network = jax.tree.map(lambda leaf: 0 if eqx.is_array(leaf) else None, self.model.network)
        shared = jax.tree.unflatten(structure, marks)
        return eqx.tree_at(lambda m: m.network, shared, network, is_leaf=lambda x: x is None)

    @property
    def dims(self) -> dict[str, int]:
        """The named dimensions that the members fill, in their order."""
        return {name: len(values) for name, values in self.over} | {"seed": self.num_seeds}

    def map(self, fn: Callable, *args: Any, batch_size: int | None = None) -> Any:
        """`fn(model, *args)` for every member; results have a leading axis of members.

        On a mesh set by `jax.set_mesh` the members are dealt out along `"seed"`.

        Args:
            fn: a function of one model; it is mapped by `jax.vmap`.
            *args: given to all.
            batch_size: members at a time, which bounds memory; None for all at once.
        """
        mapped = jax.tree.map(lambda axis: axis == 0, self.axes, is_leaf=lambda x: x is None)
        arrays, rest = eqx.partition(self.model, mapped)

        def one(arrays: Any, *args: Any) -> Any:
            return fn(eqx.combine(arrays, rest), *args)

        return map_members(one, arrays, args, batch_size)

    def member(self, index: int) -> AbstractModel:
        """One model, as `fit` would have returned it.

        Raises:
            ValueError: if there is no such member.
        """
        if not -self.num_members <= index < self.num_members:
            raise ValueError(f"`index` must be below {self.num_members}, got {index}.")
        return jax.tree.map(
            lambda axis, leaf: leaf if axis is None else leaf[index],
            self.axes,
            self.model,
            is_leaf=lambda x: x is None,
        )

    def gathered(self) -> "EnsembleFit":
        """The same with every array whole in every process, for `member` and for saving.

        What a run over several processes returns lies where it was trained.
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
            ImportError: if xarray is not installed.
            ValueError: if a result lacks the axis of members.
        """
        try:
            import xarray
        except ImportError as error:
            raise ImportError(
                "`record` needs xarray: python -m pip install 'entropix[studies]'"
            ) from error
        found: dict[str, Any] = {}
        for name, result in results.items():
            if isinstance(result, Estimate):
                errors = {"stderr": result.stderr, "mc_stderr": result.mc_stderr}
                found |= {name: result.value} | {f"{name}_{k}": v for k, v in errors.items()}
            else:
                found[name] = result
        dims = self.dims
        variables: dict[str, Any] = {}
        for name, result in found.items():
            values = to_host(result)
            if values.ndim == 0 or values.shape[0] != self.num_members:
                raise ValueError(
                    f"`{name}` must have a leading axis of {self.num_members} members, got shape "
                    f"{values.shape}."
                )
            rest = [f"{name}_{axis}" for axis in range(values.ndim - 1)]
            variables[name] = ([*dims, *rest], self._unfold(values))
        history = self.history
        variables["loss"] = ([*dims, "step"], self._unfold(to_host(history.loss)))
        if history.holdout_step.size:
            checks = self._unfold(to_host(history.holdout_loss))
            variables["holdout_loss"] = ([*dims, "holdout_step"], checks)
        variables["best_step"] = ([*dims], self._unfold(to_host(history.best_step)))
        coordinates = {
            name: values
            for name, values in self.over
            if all(isinstance(value, int | float | str) for value in values)
        }
        coordinates |= {"seed": np.arange(self.num_seeds), "step": to_host(history.step)}
        if history.holdout_step.size:
            coordinates["holdout_step"] = to_host(history.holdout_step)
        return xarray.Dataset(variables, coordinates)

    def _unfold(self, values: np.ndarray) -> np.ndarray:
        """The axis of members as the named dimensions."""
        return values.reshape(*self.dims.values(), *values.shape[1:])
