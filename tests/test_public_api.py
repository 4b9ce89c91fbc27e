"""The public names and signatures, against `public_api.txt`: no interface changes by accident.

After a change that is meant, write the file anew, check the difference, and commit it:

    ENTROPIX_WRITE_API=1 python -m pytest -n 0 tests/test_public_api.py

Annotations are left out, and so are defaults that are modules: how they print is not ours.
"""

import dataclasses
import inspect
import os
import pathlib
import types
from dataclasses import is_dataclass

import entropix


SNAPSHOT = pathlib.Path(__file__).with_name("public_api.txt")
PLAIN = (type(None), bool, int, float, str)


def default(value):
    if isinstance(value, PLAIN):
        return repr(value)
    if isinstance(value, tuple) and all(isinstance(item, PLAIN) for item in value):
        return repr(value)
    return "..."


def signature(function):
    words, keywords_only = [], False
    for parameter in inspect.signature(function).parameters.values():
        name = parameter.name
        if parameter.kind is parameter.VAR_POSITIONAL:
            name, keywords_only = f"*{name}", True
        elif parameter.kind is parameter.VAR_KEYWORD:
            name = f"**{name}"
        elif parameter.kind is parameter.KEYWORD_ONLY and not keywords_only:
            words.append("*")
            keywords_only = True
        if parameter.default is not parameter.empty:
            name += f"={default(parameter.default)}"
        words.append(name)
    return f"({', '.join(words)})"


def members(cls):
    """Public methods with their signatures, properties and fields, inherited ones included."""
    fields = {field.name for field in dataclasses.fields(cls)} if is_dataclass(cls) else set()
    for name in sorted({*dir(cls), *fields}):
        if name in fields and not name.startswith("_"):
            yield f".{name}"
            continue
        ours = any(
            name in vars(base) for base in cls.__mro__ if base.__module__.startswith("entropix")
        )
        if name.startswith("_") or not ours:
            continue
        value = inspect.getattr_static(cls, name)
        function = getattr(value, "__func__", value)
        if isinstance(value, property) or not callable(getattr(cls, name)):
            yield f".{name}"
        elif callable(function):
            yield f".{name}{signature(function)}"


def describe(path, value):
    if isinstance(value, type):
        plain = inspect.isabstract(value) or issubclass(value, Exception)
        yield f"class {path}" + ("" if plain else signature(value))
        yield from (f"    {member}" for member in members(value))
    elif callable(value):
        yield f"{path}{signature(value)}"
    else:
        yield path


def public(module):
    return {
        name: value
        for name, value in ((name, getattr(module, name)) for name in sorted(dir(module)))
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    }


def current():
    """The flat names first, then what each subpackage has besides them."""
    flat = public(entropix)
    lines = [line for name, value in flat.items() for line in describe(name, value)]
    for name, module in ((name, getattr(entropix, name)) for name in dir(entropix)):
        if isinstance(module, types.ModuleType) and module.__name__ == f"entropix.{name}":
            if name.startswith("_") or name in ("cli", "studies"):  # once they were imported
                continue
            for inner, value in public(module).items():
                if inner not in flat:
                    lines += describe(f"{name}.{inner}", value)
    return "\n".join(lines) + "\n"


def test_flat_names_are_few():
    assert len(public(entropix)) <= 66


def test_nothing_changed_by_accident():
    text = current()
    if os.environ.get("ENTROPIX_WRITE_API"):
        SNAPSHOT.write_text(text)
    assert text.splitlines() == SNAPSHOT.read_text().splitlines(), (
        "the public interface differs from tests/public_api.txt; the docstring of this file says "
        "what to do if that is meant"
    )


def test_types_are_shipped():
    """`py.typed` lies in the package, wherever that is: a release runs this test of its wheel."""
    assert pathlib.Path(entropix.__file__).with_name("py.typed").is_file()
