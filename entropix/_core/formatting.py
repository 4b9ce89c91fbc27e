"""Numbers as text."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import numpy as np


def format_with_error(value: float, error: float) -> str:
    """Write a value and its standard error with two significant digits of the error."""
    if not np.isfinite(error) or not np.isfinite(value):
        return f"{value:.6g} ± {error:.2g}"
    if error <= 0:
        return f"{value:.6g} ± 0"
    digits = 1 - int(np.floor(np.log10(float(f"{error:.1e}"))))
    if digits > 12:
        return f"{value:.12g} ± {error:.2g}"
    digits = max(digits, 0)
    return f"{value:.{digits}f} ± {error:.{digits}f}"


def listed(words: Sequence[str], most: int, separator: str = ", ") -> str:
    """The first words of a list, and how many more there are."""
    more = f"{separator.rstrip(', ')} and {len(words) - most} more" if len(words) > most else ""
    return separator.join(words[:most]) + more


# A part of a module with more arrays than this is shown by its name and size, as is a layer.
_MOST_ARRAYS = 8


class _Text:
    """A text that Equinox prints as it is."""

    def __init__(self, text: str):
        self.text = text

    def __repr__(self) -> str:
        return self.text


def short_repr(self: eqx.Module) -> str:
    """Equinox's own text of a module, with values for single numbers and sizes for networks."""

    def arrays_of(node: Any) -> list[Any]:
        kinds = jax.Array | np.ndarray | jax.ShapeDtypeStruct
        return [leaf for leaf in jax.tree.leaves(node) if isinstance(leaf, kinds)]

    def is_large(node: Any) -> bool:
        if node is self or not isinstance(node, eqx.Module | tuple | list):
            return False
        layer = type(node).__module__.startswith("equinox.nn")
        return layer or len(arrays_of(node)) > (_MOST_ARRAYS if isinstance(node, eqx.Module) else 2)

    def shown(node: Any) -> Any:
        if is_large(node):
            arrays = arrays_of(node)
            name = type(node).__name__ if isinstance(node, eqx.Module) else ""
            size = sum(leaf.size for leaf in arrays)
            return _Text(f"{name}(<{size:,} numbers>)")
        if eqx.is_array(node) and node.size == 1 and not isinstance(node, jax.core.Tracer):
            if jnp.issubdtype(node.dtype, np.floating):
                return _Text(f"{float(np.asarray(node).item()):.6g}")
            if jnp.issubdtype(node.dtype, np.integer):
                return _Text(str(np.asarray(node).item()))
        return node

    return eqx.tree_pformat(jax.tree.map(shown, self, is_leaf=is_large))
