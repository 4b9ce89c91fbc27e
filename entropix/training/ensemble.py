"""What the members of an ensemble share, and the grid of hyper-parameters that they fill."""

import dataclasses
import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import equinox as eqx
import jax
import numpy as np

from entropix.training.loop import Setup, split_model
from entropix.training.options import Options


# Settings of the training that may differ between members.
OF_TRAINING = ("learning_rate", "num_samples")


def check_grid(over: Mapping[str, Any] | None, options: Options) -> dict[str, list[Any]]:
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
        if name in OF_TRAINING and getattr(options, name) is not None:
            raise ValueError(f"`{name}` must be left out where `over` has its values, got both.")
        plain = isinstance(values, np.ndarray | jax.Array)
        grid[name] = np.asarray(values).tolist() if plain else list(values)
    return grid


def combinations(grid: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """All points of the grid, the last name varying fastest."""
    return [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]


def members_setup(
    options: Options, models: Sequence[Any], data: Any, rates: Sequence[Any]
) -> list[Setup]:
    """The `Setup` of every member; one object for all that are set up alike."""
    first: list[tuple[Any, Any, Setup]] = []
    setups = []
    for model, rate in zip(models, rates, strict=True):
        shell = split_model(model)[0]
        known = (s for sh, r, s in first if r == rate and bool(eqx.tree_equal(sh, shell)))
        setup = next(known, None)
        if setup is None:
            own = options if rate is None else dataclasses.replace(options, learning_rate=rate)
            setup = own.setup(model, data)
            first.append((shell, rate, setup))
        setups.append(setup)
    return setups


def check_alike(models: Sequence[Any]) -> None:
    """Refuse models that differ in more than the values of their arrays.

    Raises:
        ValueError: naming the member and what differs.
    """

    def structure(part: Any) -> Any:
        arrays, rest = eqx.partition(part, eqx.is_array)
        return jax.tree.map(lambda a: (a.shape, str(a.dtype)), arrays), rest

    def parts(model: Any) -> dict[str, Any]:
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
