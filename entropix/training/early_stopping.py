"""Early stopping: a member of an ensemble whose held-out loss no longer falls is frozen by a mask.

All members go on being computed, as one program must, until the last has stopped; what a frozen one
computes is thrown away.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Stopping(eqx.Module):
    """Where a member stands.

    Attributes:
        best: the parameters of least held-out loss.
        loss: that loss.
        step: after how many steps it was.
        active: whether training goes on.
    """

    best: Any
    loss: Float[Array, "*seeds"]
    step: Int[Array, "*seeds"]
    active: Bool[Array, "*seeds"]

    @classmethod
    def begin(cls, params: Any) -> "Stopping":
        """Before anything was looked at."""
        dtype = jax.tree.leaves(params)[0].dtype
        return cls(params, jnp.asarray(jnp.inf, dtype), jnp.int32(0), jnp.asarray(True))


@eqx.filter_jit
def look(
    stopping: Stopping,
    params: Any,
    loss: Float[Array, "*seeds"],
    step: Int[Array, ""],
    patience: Int[Array, ""],
) -> Stopping:
    """What a look at the held-out loss after `step` steps changes.

    Args:
        stopping: where the members stand.
        params: their parameters.
        loss: their held-out losses.
        step: steps taken.
        patience: steps without a new least loss after which a member stops.
    """
    better = stopping.active & (loss < stopping.loss)

    def chosen(new: Array, old: Array) -> Array:
        return jnp.where(better.reshape(better.shape + (1,) * (new.ndim - better.ndim)), new, old)

    at = jnp.where(better, step, stopping.step)
    return Stopping(
        jax.tree.map(chosen, params, stopping.best),
        jnp.where(better, loss.astype(stopping.loss.dtype), stopping.loss),
        at,
        stopping.active & (step - at < patience),
    )
