"""What training returns: the trained model, or one for each seed, and the course of the loss."""

from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
from jaxtyping import Array, Float, Int

from entropix._core.interfaces import AbstractModel


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
    """

    step: Int[Array, " steps"]
    loss: Float[Array, "*seeds steps"]
    gradient_norm: Float[Array, "*seeds steps"]
    holdout_step: Int[Array, " points"]
    holdout_loss: Float[Array, "*seeds points"]

    def keys(self) -> tuple[str, ...]:
        """The names of the arrays, so that `dict(history)` works."""
        return ("step", "loss", "gradient_norm", "holdout_step", "holdout_loss")

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
    """Models trained from several seeds as one program.

    `model` has a leading seed axis on the arrays of its network and nowhere else: process and
    scaling are shared. Map over it with `axes`,

        eqx.filter_vmap(f, in_axes=(fits.axes,))(fits.model)

    which is `fits.map(f)`, or take one model out with `fits.member(i)`.

    Attributes:
        model: the models.
        history: a `History` with a leading seed axis.
        num_seeds: how many.
    """

    model: Any
    history: History
    num_seeds: int = eqx.field(static=True)

    @property
    def axes(self) -> Any:
        """For `in_axes`: a tree like `model`, 0 at the arrays of the network, else None."""
        shared = jax.tree.map(lambda _: None, self.model)
        network = jax.tree.map(lambda leaf: 0 if eqx.is_array(leaf) else None, self.model.network)
        return eqx.tree_at(lambda m: m.network, shared, network, is_leaf=lambda x: x is None)

    def map(self, fn: Callable, *args: Any) -> Any:
        """`fn(model, *args)` for every seed at once; results have a leading seed axis."""
        return eqx.filter_vmap(fn, in_axes=(self.axes, *(None for _ in args)))(self.model, *args)

    def member(self, index: int) -> AbstractModel:
        """The model of one seed, as `fit` would have returned it.

        Raises:
            ValueError: if there is no such seed.
        """
        if not -self.num_seeds <= index < self.num_seeds:
            raise ValueError(f"`index` must be below {self.num_seeds}, got {index}.")
        network = jax.tree.map(
            lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, self.model.network
        )
        return eqx.tree_at(lambda m: m.network, self.model, network)
