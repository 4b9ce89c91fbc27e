"""The noise levels for which models are defined."""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree


def highest_log_snr(tree: PyTree) -> Array | None:
    """The highest log-SNR for which all models in a tree are defined; None where none says."""

    def bounded(node: Any) -> bool:
        return hasattr(node, "log_snr_range")

    bounds = [n.log_snr_range[1] for n in jax.tree.leaves(tree, is_leaf=bounded) if bounded(n)]
    return None if not bounds else jnp.min(jnp.stack(bounds))
