"""Saving models without pickle: arrays, and a recipe in JSON that needs no template to be loaded.

The recipe walks the model: equinox modules by import path and fields; tuples, lists, dicts and
plain values as themselves; functions by public name; arrays by their name in the file.

A file that names code to import must not be able to run any code it likes. Names are resolved only
below trusted packages, never through a module that another module happens to hold, and what is
found must itself have been defined in a trusted package.
"""

import dataclasses
import functools
import importlib
import inspect
import os
import sys
import types
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from entropix.persistence.archive import ArrayStore, read_archive, restore_array, write_archive


_KIND = "entropix model"
TRUSTED = ("entropix", "equinox", "jax", "jaxlib", "optax")
# A function in `jax._src` is looked for here first: private paths move between releases.
_PUBLIC = ("jax.nn", "jax.numpy", "jax.lax", "jax.scipy.special", "jax", "equinox", "equinox.nn")


def save(path: str | os.PathLike, model: PyTree) -> None:
    """Write a model, or any equinox module, to one file.

    Works for whatever is made of equinox modules, containers, numbers, arrays and named functions:
    models and vmapped ensembles of them, processes, schedules, networks of `equinox.nn`. The file
    is replaced as a whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        model: what to save.

    Raises:
        ValueError: if `model` holds something that has no import name, such as a lambda.

    Example:
        >>> import os, tempfile, jax, entropix as ex
        >>> folder = tempfile.mkdtemp()
        >>> network = ex.FourierMLP(2, key=jax.random.key(0), widths=(8,), num_features=4)
        >>> ex.save(os.path.join(folder, "model"), network)
        >>> os.listdir(folder)
        ['model']
    """
    store = ArrayStore()
    recipe = encode(model, "model", store)
    write_archive(path, _KIND, {"recipe": recipe}, store.arrays)


def load(path: str | os.PathLike, *, trust: tuple[str, ...] = ()) -> PyTree:
    """Read what `save` wrote; its outputs are those of the original, bit for bit.

    Only subclasses of `equinox.Module` and functions are imported, and only from entropix, jax,
    equinox and optax.

    Args:
        path: the file.
        trust: further packages the file may import from, such as `("mypackage",)`. Importing a
            package runs its code.

    Returns:
        The model.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged (a single wrong bit is found), was not written by
            `save`, or names code outside the trusted packages.

    Example:
        >>> import os, tempfile, jax.numpy as jnp, entropix as ex
        >>> path = os.path.join(tempfile.mkdtemp(), "model")
        >>> ex.save(path, {"process": ex.CosinePath(), "numbers": jnp.arange(3)})
        >>> ex.load(path)["numbers"]
        Array([0, 1, 2], dtype=int32)
    """
    if isinstance(trust, str):
        raise ValueError(f'`trust` must be a tuple of package names, got "{trust}".')
    header, arrays = read_archive(path, _KIND)
    try:
        return decode(header["recipe"], arrays, tuple(trust))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"`path` must be an {_KIND}, got {path}, which is damaged.") from error


def encode(node: Any, where: str, store: ArrayStore) -> Any:
    """The recipe of one node; `where` is its place in the model, for errors."""
    if node is None or type(node) in (bool, int, str):
        return node
    if type(node) is float:
        return {"float": node.hex()}
    if isinstance(node, jax.Array | np.ndarray):
        return store.add(node)
    if isinstance(node, np.generic):
        return {"scalar": store.add(np.asarray(node))}
    if isinstance(node, np.dtype):
        return {"dtype": node.name}
    for home, library in (("jax", jnp), ("numpy", np)):
        if _is_scalar_type(node, library):
            return {"scalar type": node.__name__, "of": home}
    if type(node) in (tuple, list):
        return {
            type(node).__name__: [
                encode(item, f"{where}[{i}]", store) for i, item in enumerate(node)
            ]
        }
    if type(node) is dict:
        return {
            "dict": [
                [encode(k, f"a key of {where}", store), encode(v, f"{where}[{k!r}]", store)]
                for k, v in node.items()
            ]
        }
    if isinstance(node, functools.partial):
        return {
            "partial": "jax" if isinstance(node, jax.tree_util.Partial) else "functools",
            "function": encode(node.func, f"{where}.func", store),
            "args": encode(tuple(node.args), f"{where}.args", store),
            "keywords": encode(dict(node.keywords), f"{where}.keywords", store),
        }
    if isinstance(node, eqx.Module):
        names = [f.name for f in dataclasses.fields(node) if f.name in vars(node)]
        return {
            "module": _import_name(type(node), where),
            "fields": {name: _encode_field(node, name, where, store) for name in names},
        }
    if callable(node) and not isinstance(node, type):
        return {"function": _import_name(node, where)}
    raise ValueError(
        f"`model` must be made of modules, containers, numbers, arrays and named functions, got "
        f"{type(node).__qualname__} as {where}."
    )


def _is_scalar_type(node: Any, library: Any) -> bool:
    """Whether `node` is a dtype spelled as a class, `jnp.float32` or `np.float32`."""
    if getattr(library, getattr(node, "__name__", ""), None) is not node:
        return False
    return isinstance(node, type(jnp.float32)) or (
        isinstance(node, type) and issubclass(node, np.generic)
    )


def _encode_field(module: eqx.Module, name: str, where: str, store: ArrayStore) -> Any:
    """The recipe of a field; a nameless function passes as the default of its argument."""
    value = getattr(module, name)
    try:
        return encode(value, f"{where}.{name}", store)
    except ValueError:
        parameter = inspect.signature(type(module).__init__).parameters.get(name)
        if callable(value) and parameter is not None and parameter.default is value:
            return {"default": name}  # such as the identity at the end of equinox.nn.MLP
        raise


def decode(node: Any, arrays: dict[str, np.ndarray], trust: tuple[str, ...]) -> Any:
    """The inverse of `encode`; nothing is imported but what is below `trust`."""

    def inner(child: Any) -> Any:
        return decode(child, arrays, trust)

    if node is None or isinstance(node, bool | int | str):
        return node
    if "array" in node:
        return restore_array(node, arrays)
    if "float" in node:
        return float.fromhex(node["float"])
    if "scalar" in node:
        return inner(node["scalar"])[()]
    if "dtype" in node:
        return jnp.dtype(node["dtype"])
    if "scalar type" in node:
        found = getattr({"jax": jnp, "numpy": np}[node["of"]], node["scalar type"])
        if not _is_scalar_type(found, jnp) and not _is_scalar_type(found, np):
            raise TypeError(node["scalar type"])
        return found
    if "tuple" in node:
        return tuple(inner(child) for child in node["tuple"])
    if "list" in node:
        return [inner(child) for child in node["list"]]
    if "dict" in node:
        return {inner(k): inner(v) for k, v in node["dict"]}
    if "partial" in node:
        kind = {"jax": jax.tree_util.Partial, "functools": functools.partial}[node["partial"]]
        return kind(inner(node["function"]), *inner(node["args"]), **inner(node["keywords"]))
    if "module" in node:
        return _module(node, inner, trust)
    if "function" in node:
        return _import_object(node["function"], trust, module_class=False)
    raise KeyError(sorted(node))


def _module(node: dict, decode: Any, trust: tuple[str, ...]) -> eqx.Module:
    """Rebuild a module from its fields; its `__init__` is not run."""
    cls = _import_object(node["module"], trust, module_class=True)
    given = dict(node["fields"])
    module = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in given:
            saved = given.pop(field.name)
            by_default = isinstance(saved, dict) and "default" in saved
            value = _default(cls, field.name) if by_default else decode(saved)
        elif field.default is not dataclasses.MISSING:
            value = field.default  # the field is younger than the file
        elif field.default_factory is not dataclasses.MISSING:
            value = field.default_factory()
        else:
            raise ValueError(
                f"`path` must fit this version of {node['module']}, got a file without its field "
                f"{field.name!r}."
            )
        object.__setattr__(module, field.name, value)
    if given:
        raise ValueError(
            f"`path` must fit this version of {node['module']}, got a file with the unknown "
            f"field {sorted(given)[0]!r}."
        )
    return module


def _import_name(obj: Any, what: str) -> str:
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


def _import_object(path: Any, trust: tuple[str, ...], *, module_class: bool) -> Any:
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


def _default(cls: type, name: str) -> Any:
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
