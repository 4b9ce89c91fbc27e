"""Pickles of dictionaries of bytes, numbers, lists and byte arrays, and of nothing else.

A pickle is a program. Its instructions that build plain containers are harmless; what makes it
dangerous is that it may name any function and call it. Here the few names that a pickled NumPy
array needs stand for small recorders defined below: no function of any library is ever called by
a pickle, not even one of NumPy, whose own `__setstate__` trusts what it is given. Every other name
is refused.

References:
    Python documentation, *pickle: Restricting Globals*.
"""

import io
import math
import pickle
import pickletools
from pathlib import Path
from typing import Any

import numpy as np

from entropix.datasets.files import reading


class _DType:
    """Records the dtype that a pickle names."""

    def __init__(self, code: Any = None, *_: Any):
        self.code = code

    def __setstate__(self, state: Any) -> None:
        """Byte order and the like: of no meaning for bytes, the only numbers admitted."""


class _Array:
    """Records the contents that a pickle gives to an array."""

    def __init__(self, *_: Any):
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state


def _latin1(text: Any, encoding: Any) -> bytes:
    """Bytes, as protocol 2 of Python 3 writes them: as text to be encoded."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes must be encoded in latin1")
    return text.encode("latin1")


_ADMITTED = {
    ("numpy.core.multiarray", "_reconstruct"): _Array,
    ("numpy._core.multiarray", "_reconstruct"): _Array,
    ("numpy", "ndarray"): _Array,
    ("numpy", "dtype"): _DType,
    ("_codecs", "encode"): _latin1,
}


class _Restricted(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:  # the hook that pickle documents
        if (module, name) not in _ADMITTED:
            raise pickle.UnpicklingError(
                f"it names {f'{module}.{name}'[:80]!r}, which is not needed to hold an array"
            )
        return _ADMITTED[module, name]


def read_pickle(content: bytes, path: Path, member: str) -> dict[bytes, Any]:
    """The dictionary that a pickle holds, its arrays as arrays of bytes (uint8).

    Args:
        content: the pickle.
        path: the file it comes from, for errors.
        member: which part of it.

    Raises:
        ValueError: if the pickle is damaged, names anything but NumPy arrays, or holds no
            dictionary.
    """
    with reading(path, f"data whose {member!r} is a pickled dictionary of NumPy arrays"):
        _check_memo(content)
        loaded = _Restricted(io.BytesIO(content), encoding="bytes").load()
        if not isinstance(loaded, dict):
            raise pickle.UnpicklingError(f"it holds a {type(loaded).__name__}")
        named = ((k.encode() if isinstance(k, str) else k, v) for k, v in loaded.items())
        return {k: _as_array(v) if isinstance(v, _Array) else v for k, v in named}


def _check_memo(content: bytes) -> None:
    """Refuse a memo of gigabytes, which one damaged byte can ask for.

    Every pickler numbers what it remembers by counting.
    """
    for count, (opcode, argument, _) in enumerate(pickletools.genops(content)):
        number = argument if opcode.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
        if isinstance(number, int) and number > count + 1:
            raise pickle.UnpicklingError(f"it remembers number {number} of {count} things")


def _as_array(recorded: _Array) -> np.ndarray:
    try:
        _, shape, dtype, fortran, raw = recorded.state
        code, size = dtype.code, math.prod(shape)
    except (AttributeError, TypeError, ValueError):
        raise pickle.UnpicklingError("it holds an array that is not finished") from None
    if code not in ("u1", b"u1") or not isinstance(raw, bytes):
        raise pickle.UnpicklingError(f"it holds an array of {code!r}, not of bytes ('u1')")
    if any(not isinstance(n, int) or n < 0 for n in shape) or size != len(raw):
        raise pickle.UnpicklingError(
            f"it holds an array of shape {tuple(shape)} and {len(raw)} bytes"
        )
    return np.frombuffer(raw, np.uint8).reshape(shape, order="F" if fortran else "C")
