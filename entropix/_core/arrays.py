"""Array types and conversions shared by every room.

Numbers held in modules are arrays of an explicit dtype: a Python float in a module would be a
static constant for `jax.jit` (one compilation per value) and would get no gradient.
"""

from typing import Any, TypeAlias

import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, Real
from jaxtyping import ArrayLike as ArrayLike


Scalar: TypeAlias = Float[Array, ""]
RealLike: TypeAlias = Real[ArrayLike, "..."]  # elementwise: a number or an array of any shape
RealScalarLike: TypeAlias = Real[ArrayLike, ""]
Key: TypeAlias = PRNGKeyArray | Array  # a typed key, or the legacy array of two uint32


def as_float(x: Any) -> Array:
    """Convert to a strongly typed floating array: floating dtypes are kept, others promoted.

    What is no tracer stays concrete inside `jax.jit` too, so that its checks run at once.
    """
    dtype = getattr(x, "dtype", None)
    if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
        dtype = jnp.result_type(float)
    dtype = jax.dtypes.canonicalize_dtype(dtype)
    if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(x)):
        return jnp.asarray(x, dtype=dtype)
    with jax.ensure_compile_time_eval():
        return jnp.asarray(x, dtype=dtype)


def safe_sqrt(x: Array) -> Array:
    """Square root whose derivative at zero is zero rather than infinite."""
    positive = x > 0
    return jnp.where(positive, jnp.sqrt(jnp.where(positive, x, 1.0)), 0.0)


def inner(a: Array, b: Array) -> Array:
    """Inner product over all axes of two arrays of one shape."""
    return jnp.sum(a * b)


def squared_norm(a: Array) -> Array:
    """Sum of squares over all axes."""
    return jnp.sum(a * a)
