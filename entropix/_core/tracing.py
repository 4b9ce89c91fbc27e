"""Which program is being traced."""

from typing import Any

import jax
import jax.numpy as jnp


def trace_of(x: Any) -> Any:
    """What a tracer belongs to; None for an array, or if JAX does not say."""
    return getattr(x, "_trace", None)


def current_trace() -> Any:
    """Of the innermost program or loop that is being traced; None outside of all."""
    return trace_of(jax.lax.iota(jnp.int32, 1))
