"""entropix: how much information a diffusion model stores, and what it costs.

The names that are used daily are here; everything else is reached through its subpackage, such as
`entropix.transport.schroedinger_bridge` or `entropix.interfaces.AbstractModel`.

The names of a package are listed in its `__init__.pyi`, which type checkers read. They are imported
when they are first used, so that a program waits for what it needs only.
"""

import importlib
from typing import Any

import lazy_loader


__version__ = "0.1.0"

_attached, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> Any:
    if name in ("cli", "studies"):  # of an extra: not in `dir(entropix)`
        return importlib.import_module(f"entropix.{name}")
    return _attached(name)
