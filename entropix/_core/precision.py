"""The precision of matrix products, which accelerators reduce by default.

Products of float32 matrices use bfloat16 factors on TPUs and possibly TF32 ones on GPUs. This is
sufficient for training, but not for differences of two large numbers, such as most estimates.
Estimators, solvers and exact models therefore use full precision, unless the user has set
`jax.default_matmul_precision`; training uses the default of JAX, or its `precision`.
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
    """A function with matrix products in full precision, including those of networks."""

    @functools.wraps(fn)
    def wrapped(*args: P.args, **kwargs: P.kwargs) -> R:
        if getattr(jax.config, "jax_default_matmul_precision", None) is not None:
            return fn(*args, **kwargs)
        with jax.default_matmul_precision("highest"):
            return fn(*args, **kwargs)

    return wrapped


def training_precision(precision: str | None) -> contextlib.AbstractContextManager:
    """The context of a training run; None for the default precision of JAX."""
    if precision is None:
        return contextlib.nullcontext()
    return jax.default_matmul_precision(choice(precision, "precision", PRECISIONS))


def matmul(a: Any, b: Any) -> Array:
    """`a @ b` in full precision in any context, for closed forms."""
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)
