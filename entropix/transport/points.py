"""Checks shared by the distances between samples."""

from typing import Any

from jaxtyping import Array, Float

from entropix._core.arrays import as_float
from entropix._core.checks import samples


def as_points(x: Any, name: str, *, like: Array | None = None) -> Float[Array, "n dim"]:
    """Samples as points: trailing axes flattened, numbers taken as points on a line."""
    array = as_float(x, name)
    if array.ndim == 1:
        array = array[:, None]
    array = samples(array, name, minimum=1)
    array = array.reshape(array.shape[0], -1)
    if like is not None and like.shape[1] != array.shape[1]:
        raise ValueError(
            f"`{name}` must have samples of the same size as `x`, {like.shape[1]} numbers, "
            f"got {array.shape[1]}."
        )
    return array if like is None else array.astype(like.dtype)


def order(p: Any) -> float:
    """The order of a Wasserstein distance: a finite number of at least one."""
    if isinstance(p, bool) or not isinstance(p, int | float) or not 1 <= p < float("inf"):
        raise ValueError(f"`p` must be a finite number of at least 1, got {p!r}.")
    return float(p)
