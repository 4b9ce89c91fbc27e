"""Argument checks with one format of errors: "`name` must be <allowed>, got <given>."

Values known when Python runs raise `ValueError`; values known only inside `jax.jit` raise through
`equinox.error_if` when the compiled program runs.
"""

import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import as_float, as_number
from entropix._core.compiled import error_if


def is_concrete(x: Any) -> bool:
    """Whether the values of all arrays in `x` are known to Python."""
    return not any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x))


def on_host(value: Array) -> Any:
    """A NumPy array if the value is known, so that `jax.jit` does not trace comparisons with it."""
    return np.asarray(value) if is_concrete(value) else value


def checked(value: Array, name: str, ok: Callable[[Any], Any], allowed: str) -> Array:
    """Return `value` if all of its entries satisfy `ok`.

    Raises:
        ValueError: immediately for concrete values; through `eqx.error_if` for traced ones.
    """
    host = on_host(value)
    valid = ok(host)
    if is_concrete((host, valid)):  # a bound may be traced, though the value is not
        if not np.all(valid):
            given = host.item() if host.ndim == 0 else host.tolist()
            raise ValueError(f"`{name}` must be {allowed}, got {given}.")
        return value
    return error_if(value, ~jnp.all(valid), f"`{name}` must be {allowed}.")


def _numeric(value: Any, name: str, shape: tuple[int, ...] | None) -> Array:
    array = as_float(value, name)
    if shape is not None and array.shape != shape:
        raise ValueError(f"`{name}` must have shape {shape}, got shape {array.shape}.")
    return array


def positive(value: Any, name: str, *, shape: tuple[int, ...] | None = None) -> Array:
    """A positive, finite number or array, of shape `shape` if given."""
    array = _numeric(value, name, shape)
    return checked(array, name, lambda v: (v > 0) & (v < np.inf), "positive and finite")


def finite(value: Any, name: str, *, shape: tuple[int, ...] | None = None) -> Array:
    """A finite number or array, of shape `shape` if given."""
    array = _numeric(value, name, shape)
    return checked(array, name, lambda v: abs(v) < np.inf, "finite (no NaN)")


def optional_size(value: Any, name: str) -> int | None:
    """None, or a positive Python integer."""
    return None if value is None else positive_integer(value, name)


def positive_integer(value: Any, name: str, minimum: int = 1) -> int:
    """A Python integer of at least `minimum`."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or value < minimum:
        raise ValueError(f"`{name}` must be an integer of at least {minimum}, got {value!r}.")
    return int(value)


def as_pytree(fn: Callable, name: str, argument: str = "time") -> Callable:
    """A function given by a user: a plain one becomes a pytree without leaves.

    A module keeps its parameters.
    """
    if not callable(fn):
        raise ValueError(
            f"`{name}` must be a function of {argument} or a callable module, "
            f"got {type(fn).__name__}."
        )
    wrapped: Any = fn
    if not isinstance(fn, eqx.Module | jax.tree_util.Partial):
        wrapped = jax.tree_util.Partial(fn)
    return wrapped


def choice(value: Any, name: str, allowed: tuple[str, ...]) -> str:
    """One of a few names."""
    if value not in allowed:
        options = ", ".join(repr(a) for a in allowed)
        raise ValueError(f"`{name}` must be one of {options}, got {value!r}.")
    return value


def trailing_shape(value: Any, shape: tuple[int, ...], name: str) -> Array:
    """An array with trailing axes `shape`; other shapes might broadcast by accident."""
    array = as_float(value, name)
    given = array.shape
    if given[len(given) - len(shape) :] != shape or len(given) < len(shape):
        sizes = ", ".join(["...", *map(str, shape)])
        raise ValueError(f"`{name}` must have shape ({sizes}), got {given}.")
    return array


def exact_shape(value: Any, shape: tuple[int, ...], name: str) -> Array:
    """An array of this shape, that of one example."""
    array = as_float(value, name)
    if array.shape != shape:
        raise ValueError(
            f"`{name}` must have the shape {shape} of one example (use jax.vmap for more), "
            f"got {array.shape}."
        )
    return array


def samples(data: Any, name: str = "data", *, minimum: int = 2, integers: bool = False) -> Array:
    """At least `minimum` finite samples along a leading axis, converted to floating point.

    With `integers`, arrays of integers are not converted.
    """
    array = as_number(data, name) if integers else as_float(data, name)
    if array.ndim < 2:
        raise ValueError(
            f"`{name}` must have shape (num_samples, ...) with at least two axes, "
            f"got shape {array.shape}."
        )
    if array.shape[0] < minimum or array.size == 0:
        raise ValueError(f"`{name}` must hold at least {minimum} samples, got shape {array.shape}.")
    if is_concrete(array):
        inexact = jnp.issubdtype(array.dtype, jnp.inexact)
        bad = int(np.sum(~np.isfinite(np.asarray(array)))) if inexact else 0
        if bad:
            raise ValueError(
                f"`{name}` must be finite, got {bad} entries that are NaN or infinite."
            )
        return array
    return error_if(array, ~jnp.all(jnp.isfinite(array)), f"`{name}` must be finite.")


def conditions(condition: Any, count: int, name: str = "condition") -> Any:
    """Conditions of `count` samples: None, or a pytree of arrays with this leading axis.

    Integers and booleans are not converted, because networks embed them.
    """
    condition = jax.tree.map(lambda leaf: as_number(leaf, name), condition)
    for leaf in jax.tree.leaves(condition):
        if jnp.shape(leaf)[:1] != (count,):
            raise ValueError(
                f"`{name}` must have a leading axis of {count} entries, one per sample, "
                f"got shape {jnp.shape(leaf)}."
            )
    return condition


def prng_key(key: Any, name: str = "key") -> Any:
    """One PRNG key: a typed key, or the legacy array of two uint32."""
    dtype = getattr(key, "dtype", None)
    shape = jnp.shape(key) if dtype is not None else None
    typed = dtype is not None and jnp.issubdtype(dtype, jax.dtypes.prng_key)
    if not ((typed and shape == ()) or (dtype == jnp.uint32 and shape == (2,))):
        given = type(key).__name__ if dtype is None else f"{dtype} of shape {shape}"
        raise ValueError(
            f"`{name}` must be one PRNG key such as jax.random.key(0) (use jax.vmap for more), "
            f"got {given}."
        )
    return key


def accepts(function: Callable, *args: Any, **kwargs: Any) -> bool:
    """Whether a function can be called like this; True where its signature is not known."""
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):
        return True
    try:
        signature.bind(*args, **kwargs)
    except TypeError:
        return False
    return True


def with_key(network: Any, key: Any) -> dict[str, Any]:
    """`{"key": key}` for a network that accepts a key (for dropout), otherwise nothing."""
    try:
        accepts = "key" in inspect.signature(network).parameters
    except (TypeError, ValueError):
        accepts = False
    return {"key": key} if accepts else {}


def equal(one: Any, other: Any, *, traced: bool) -> bool:
    """Whether two pytrees are equal, dtypes included; values not known count as `traced`."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)

    def same(a: Any, b: Any) -> bool:
        if a is b:
            return True
        if not (eqx.is_array_like(a) and eqx.is_array_like(b)):
            return False
        if not is_concrete((a, b)):
            return traced
        a, b = np.asarray(a), np.asarray(b)
        return a.dtype == b.dtype and np.array_equal(a, b)

    return structure == other_structure and all(map(same, leaves, others))


def check_same_process(
    one: Any, other: Any, name: str = "reference_model", of: str = "model"
) -> None:
    """Raise ValueError if two processes differ: models are compared along one process."""
    if not equal(one, other, traced=True):
        raise ValueError(
            f"`{name}` must run on the process of `{of}`, got another process; "
            f"use `{name}.with_process({of}.process)`."
        )
