"""Public import names of classes and functions, and importing them back with caution.

A file that names code to import must not be able to run any code it likes. Names are resolved only
below trusted packages, never through a module that another module happens to hold, and what is
found must itself have been defined in a trusted package.
"""

import importlib
import inspect
import sys
import types
from typing import Any

import equinox as eqx


TRUSTED = ("entropix", "equinox", "jax", "jaxlib", "optax")
# A function in `jax._src` is looked for here first: private paths move between releases.
_PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "jax.scipy.special", "jax", "equinox", "equinox.nn")


def import_name(obj: Any, what: str) -> str:
    """`"package.module:Name"`, by the shortest public path at which `obj` itself is found.

    Raises:
        ValueError: if there is none: a lambda, a local function, a class made in a function.
    """
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    module = getattr(obj, "__module__", None)
    if name and "<" not in name:
        parts = (module or "").split(".")
        parents = [".".join(parts[:n]) for n in range(1, len(parts) + 1) if module]
        # Classes and functions of private modules are public in a parent of their module.
        private = [p for p in parents if any(part.startswith("_") for part in p.split("."))]
        public = [p for p in parents if p not in private]
        for candidate in (*public, *_PUBLIC, *private):
            if _lookup(candidate, name) is obj:
                return f"{candidate}:{name}"
    raise ValueError(
        f"`model` must be made of importable classes and named functions, got {_shown(obj)} as "
        f"{what}: use a function with a name at the top of a module, or an equinox module."
    )


def import_object(path: Any, trust: tuple[str, ...], *, module_class: bool) -> Any:
    """The class or function of a name, if it may be imported.

    Args:
        path: `"package.module:Name"`.
        trust: packages trusted besides the libraries that entropix itself is made of.
        module_class: whether it must be a subclass of `equinox.Module`, or else a function.

    Raises:
        ValueError: if it is not below a trusted package, does not exist, or is something else.
    """
    wanted = "a subclass of equinox.Module" if module_class else "a function"
    module, _, name = str(path).partition(":")
    trusted = (*TRUSTED, *trust)
    if not _is_below(module, trusted):
        raise ValueError(
            f"`trust` must name the package of everything in the file, got {path}: pass "
            f'trust=("{module.partition(".")[0]}",) if you trust it.'
        )
    try:
        importlib.import_module(module)
    except ImportError as error:
        raise ValueError(f"`path` must name what can be imported, got {path}: {error}.") from error
    found = _lookup(module, name)
    if found is None:
        raise ValueError(f"`path` must name what can be imported, got {path}, which is not there.")
    home = getattr(found, "__module__", None) or type(found).__module__
    is_class = isinstance(found, type) and issubclass(found, eqx.Module)
    fits = is_class if module_class else callable(found) and not isinstance(found, type)
    if not fits or not _is_below(home, trusted):
        raise ValueError(f"`path` must name {wanted} of a trusted package, got {path}.")
    return found


def is_default(cls: type, name: str, value: Any) -> bool:
    """Whether `value` is what the `__init__` of `cls` takes for `name` if nothing is given."""
    parameter = inspect.signature(cls.__init__).parameters.get(name)
    return parameter is not None and parameter.default is value


def default_of(cls: type, name: str) -> Any:
    """The default for `name` in the `__init__` of `cls`.

    Raises:
        ValueError: if it has none.
    """
    parameter = inspect.signature(cls.__init__).parameters.get(name)
    if parameter is None or parameter.default is inspect.Parameter.empty:
        raise ValueError(
            f"`path` must fit this version of {cls.__qualname__}, which has no default for {name}."
        )
    return parameter.default


def _is_below(module: str, packages: tuple[str, ...]) -> bool:
    return any(module == p or module.startswith(f"{p}.") for p in packages)


def _lookup(module: str, name: str) -> Any:
    found: Any = sys.modules.get(module)
    for part in name.split("."):
        found = getattr(found, part, None)
        if found is None or isinstance(found, types.ModuleType):
            return None
    return found


def _shown(obj: Any) -> str:
    name = getattr(obj, "__qualname__", None) or getattr(obj, "__name__", None)
    home = getattr(obj, "__module__", None)
    return f"{home}.{name}" if name else f"an object of {type(obj).__qualname__}"
