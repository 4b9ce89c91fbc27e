"""Optional dependencies, imported late."""

import importlib
from types import ModuleType


DISTRIBUTION = "entropix-jax"  # the name on the package index; the import name is `entropix`


class MissingPackageError(ModuleNotFoundError):
    """An optional dependency is not installed; the message has the command that installs it."""


def install(extra: str) -> str:
    """The command that installs an extra of this package."""
    return f"python -m pip install '{DISTRIBUTION}[{extra}]'"


def needed(module: str, reason: str, package: str, extra: str) -> ModuleType:
    """Import an optional dependency.

    Args:
        module: its name, dots included.
        reason: what needs it, as the error begins.
        package: what has to be installed.
        extra: the extra of this package that installs it.

    Raises:
        MissingPackageError: if it cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            f"{reason} needs {package}: {install(extra)}.", name=module
        ) from error
