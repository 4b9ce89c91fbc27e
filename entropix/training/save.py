"""Saving models without pickle: arrays, and a recipe in JSON that needs no template to be loaded.

The recipe walks the model: equinox modules by import path and fields; tuples, lists, dicts and
plain values as themselves; functions by public name; arrays by their name in the file.
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from entropix.training.archive import ArrayStore, read_archive, restore_array, write_archive
from entropix.training.names import default_of, import_name, import_object, is_default


_KIND = "entropix model"


def save(path: Any, model: Any) -> None:
    """Write a model, or any equinox module, to one file.

    Works for whatever is made of equinox modules, containers, numbers, arrays and named functions:
    models and vmapped ensembles of them, processes, schedules, networks of `equinox.nn`. The file
    is replaced as a whole or not at all.

    Args:
        path: the file; its folder is made if need be.
        model: what to save.

    Raises:
        ValueError: if `model` holds something that has no import name, such as a lambda.
    """
    store = ArrayStore()
    recipe = _encode(model, "model", store)
    write_archive(path, _KIND, {"recipe": recipe}, store.arrays)


def load(path: Any, *, trust: tuple[str, ...] = ()) -> Any:
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
        ValueError: if the file is damaged, was not written by `save`, or names code outside the
            trusted packages.
    """
    if isinstance(trust, str):
        raise ValueError(f'`trust` must be a tuple of package names, got "{trust}".')
    header, arrays = read_archive(path, _KIND)
    try:
        return _decode(header["recipe"], arrays, tuple(trust))
    except (KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"`path` must be an {_KIND}, got {path}, which is damaged.") from error


def _encode(node: Any, where: str, store: ArrayStore) -> Any:
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
                _encode(item, f"{where}[{i}]", store) for i, item in enumerate(node)
            ]
        }
    if type(node) is dict:
        return {
            "dict": [
                [_encode(k, f"a key of {where}", store), _encode(v, f"{where}[{k!r}]", store)]
                for k, v in node.items()
            ]
        }
    if isinstance(node, functools.partial):
        return {
            "partial": "jax" if isinstance(node, jax.tree_util.Partial) else "functools",
            "function": _encode(node.func, f"{where}.func", store),
            "args": _encode(tuple(node.args), f"{where}.args", store),
            "keywords": _encode(dict(node.keywords), f"{where}.keywords", store),
        }
    if isinstance(node, eqx.Module):
        names = [f.name for f in dataclasses.fields(node) if f.name in vars(node)]
        return {
            "module": import_name(type(node), where),
            "fields": {name: _encode_field(node, name, where, store) for name in names},
        }
    if callable(node) and not isinstance(node, type):
        return {"function": import_name(node, where)}
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
        return _encode(value, f"{where}.{name}", store)
    except ValueError:
        if callable(value) and is_default(type(module), name, value):
            return {"default": name}  # such as the identity at the end of equinox.nn.MLP
        raise


def _decode(node: Any, arrays: dict[str, np.ndarray], trust: tuple[str, ...]) -> Any:
    """The inverse of `_encode`."""

    def decode(child: Any) -> Any:
        return _decode(child, arrays, trust)

    if node is None or isinstance(node, bool | int | str):
        return node
    if "array" in node:
        return restore_array(node, arrays)
    if "float" in node:
        return float.fromhex(node["float"])
    if "scalar" in node:
        return decode(node["scalar"])[()]
    if "dtype" in node:
        return jnp.dtype(node["dtype"])
    if "scalar type" in node:
        found = getattr({"jax": jnp, "numpy": np}[node["of"]], node["scalar type"])
        if not _is_scalar_type(found, jnp) and not _is_scalar_type(found, np):
            raise TypeError(node["scalar type"])
        return found
    if "tuple" in node:
        return tuple(decode(child) for child in node["tuple"])
    if "list" in node:
        return [decode(child) for child in node["list"]]
    if "dict" in node:
        return {decode(k): decode(v) for k, v in node["dict"]}
    if "partial" in node:
        kind = {"jax": jax.tree_util.Partial, "functools": functools.partial}[node["partial"]]
        return kind(decode(node["function"]), *decode(node["args"]), **decode(node["keywords"]))
    if "module" in node:
        return _module(node, decode, trust)
    if "function" in node:
        return import_object(node["function"], trust, module_class=False)
    raise KeyError(sorted(node))


def _module(node: dict, decode: Any, trust: tuple[str, ...]) -> eqx.Module:
    """Rebuild a module from its fields; its `__init__` is not run."""
    cls = import_object(node["module"], trust, module_class=True)
    given = dict(node["fields"])
    module = object.__new__(cls)
    for field in dataclasses.fields(cls):
        if field.name in given:
            saved = given.pop(field.name)
            by_default = isinstance(saved, dict) and "default" in saved
            value = default_of(cls, field.name) if by_default else decode(saved)
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
