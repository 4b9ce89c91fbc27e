"""The precision of products of matrices, which accelerators lower by default.

A product of float32 matrices is computed from bfloat16 factors on TPUs and may be from TF32 ones on
GPUs. Training bears that; a difference of two large numbers, which most of our estimates are, does
not. Estimators, solvers and oracles therefore ask for full precision, unless the user has set
`jax.default_matmul_precision`; training takes what JAX does, or its `precision`.
"""

import contextlib
import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar

import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.checks import choice


P = ParamSpec("P")
R = TypeVar("R")

PRECISIONS = ("default", "high", "highest", "bfloat16", "tensorfloat32", "float32")


def full_precision(fn: Callable[P, R]) -> Callable[P, R]:
    """A function whose products of matrices are exact to rounding, networks' included."""

    @functools.wraps(fn)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(jax.config, "jax_default_matmul_precision", None) is not None:
            return fn(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return wrapped


def training_precision(precision: str | None) -> contextlib.AbstractContextManager:
    """The context of a training run: JAX's own precision for None."""
    if precision is None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision(choice(precision, "precision", PRECISIONS))


def matmul(a: Any, b: Any) -> Array:
    """`a @ b` in full precision, whatever the context: for closed forms."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
