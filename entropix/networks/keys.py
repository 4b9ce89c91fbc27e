"""Keys for networks that draw random numbers, such as those with dropout."""

import inspect
from typing import Any

from entropix._core.arrays import Key


def with_key(network: Any, key: Key | None) -> dict[str, Any]:
    """`{"key": key}` for a network that accepts one, else nothing."""
    try:
        accepts = "key" in inspect.signature(network).parameters
    except (TypeError, ValueError):
        accepts = False
    return {"key": key} if accepts else {}
