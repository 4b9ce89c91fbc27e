"""Modules are abstract or final: only classes named `Abstract...` are subclassed."""

import inspect

import equinox as eqx
import pytest

from tests.helpers import every_file


def modules():
    """All Equinox modules of the library."""
    found = set()
    for module in every_file():
        for value in vars(module).values():
            is_module = isinstance(value, type) and issubclass(value, eqx.Module)
            if is_module and value.__module__.startswith("entropix."):
                found.add(value)
    return sorted(found, key=lambda c: (c.__qualname__, c.__module__))


def is_interface(cls):
    return inspect.isabstract(cls) or cls.__name__.lstrip("_").startswith("Abstract")


def is_abstract(attribute):
    return getattr(attribute, "__isabstractmethod__", False)


@pytest.mark.parametrize("cls", modules(), ids=lambda c: c.__name__)
def test_abstract_or_final(cls):
    if inspect.isabstract(cls):
        assert cls.__name__.lstrip("_").startswith("Abstract")
    for base in cls.__mro__[1:]:
        if not base.__module__.startswith("entropix."):
            continue
        assert is_interface(base), f"{cls.__name__} subclasses the finished {base.__name__}"
        kinds = (property, classmethod, staticmethod)
        for name, attribute in vars(base).items():
            concrete = inspect.isfunction(attribute) or isinstance(attribute, kinds)
            if concrete and not name.startswith("__") and not is_abstract(attribute):
                assert name not in vars(cls), f"{cls.__name__}.{name} overrides {base.__name__}'s"


def test_interfaces_cannot_be_instantiated():
    interfaces = [c for c in modules() if inspect.isabstract(c)]
    assert len(interfaces) > 5
    for cls in interfaces:
        with pytest.raises(TypeError, match="abstract"):
            cls()
