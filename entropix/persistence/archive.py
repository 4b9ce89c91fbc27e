"""One file of named arrays and a JSON header, written atomically, read without pickle.

The file has the layout of safetensors (8 bytes with the length of a JSON text, that text, and the
arrays one after the other), so that any reader of that format opens its arrays. The text holds the
SHA-256 of the whole file, itself replaced by zeros: a file with one wrong bit is refused. What the
format has no dtype for is stored as bytes, typed PRNG keys as their key data; the header says so.
"""

import contextlib
import hashlib
import importlib.metadata
import json
import math
import os
import pathlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.extras import DISTRIBUTION
from entropix._core.files import check_regular
from entropix._core.memory import check_fits


FORMAT_VERSION = 2
_BLANK = "0" * 64
_DTYPES = {
    "BOOL": np.dtype(bool),
    **{f"U{n}": np.dtype(f"<u{n // 8}") for n in (8, 16, 32, 64)},
    **{f"I{n}": np.dtype(f"<i{n // 8}") for n in (8, 16, 32, 64)},
    **{f"F{n}": np.dtype(f"<f{n // 8}") for n in (16, 32, 64)},
    "BF16": np.dtype(jnp.bfloat16),
    "F8_E4M3": np.dtype(jnp.float8_e4m3fn),
    "F8_E5M2": np.dtype(jnp.float8_e5m2),
}
_CODES = {dtype.name: code for code, dtype in _DTYPES.items()}


def package_version() -> str:
    """The version that goes into headers."""
    try:
        return importlib.metadata.version(DISTRIBUTION)
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


class ArrayStore:
    """Arrays on their way into a file: `add` returns the JSON that brings one back."""

    def __init__(self):
        self.arrays: dict[str, np.ndarray] = {}
        self._known: dict[int, tuple[Any, dict]] = {}  # holds the array: its id stays taken

    def add(self, array: Any) -> dict:
        """Store a JAX or NumPy array; one that is stored already is not stored twice."""
        if id(array) in self._known:
            return self._known[id(array)][1]
        name = f"a{len(self.arrays)}"
        node = {"array": name, "of": "jax" if isinstance(array, jax.Array) else "numpy"}
        stored = array
        if isinstance(array, jax.Array) and jnp.issubdtype(array.dtype, jax.dtypes.prng_key):
            node["key"] = str(jax.random.key_impl(array))
            stored = jax.random.key_data(array)
        host = np.asarray(stored)
        if host.dtype.hasobject:
            raise ValueError(f"an array to be saved must hold numbers, got dtype {host.dtype}.")
        if host.dtype.name not in _CODES:
            node |= {"dtype": host.dtype.name, "shape": list(host.shape)}
            host = np.frombuffer(host.tobytes(), np.uint8)
        self.arrays[name] = host
        self._known[id(array)] = (array, node)
        return node


def restore_array(node: dict, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `ArrayStore.add`.

    Raises:
        ValueError: if a 64-bit array would be cut to 32 bits.
    """
    host = arrays[node["array"]]
    if "dtype" in node:
        host = host.view(jnp.dtype(node["dtype"])).reshape(node["shape"])
    if node["of"] == "numpy":
        return host
    if jax.dtypes.canonicalize_dtype(host.dtype) != host.dtype:
        raise ValueError(
            f"`path` must fit the precision of this process, got arrays of {host.dtype.name}: "
            "call jax.config.update('jax_enable_x64', True) first."
        )
    array = jnp.array(host)
    return jax.random.wrap_key_data(array, impl=node["key"]) if "key" in node else array


def write_archive(
    path: str | os.PathLike, kind: str, header: dict, arrays: dict[str, np.ndarray]
) -> None:
    """Write a file that is either the old one or the new one, whenever the process may die."""
    path = pathlib.Path(path)
    metadata = {
        "sha256": _BLANK,  # first, so that the first run of zeros is its own
        "format": kind,
        "format_version": str(FORMAT_VERSION),
        "entropix": package_version(),
        "header": json.dumps(header),
    }
    entries, end = {}, 0
    for name, array in arrays.items():
        start, end = end, end + array.nbytes
        entry = {"dtype": _CODES[array.dtype.name], "shape": list(array.shape)}
        entries[name] = entry | {"data_offsets": [start, end]}
    text = json.dumps({"__metadata__": metadata, **entries}).encode()
    text += b" " * (-len(text) % 8)
    digest = hashlib.sha256()
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:

            def write(part: bytes) -> None:
                digest.update(part)
                file.write(part)

            write(len(text).to_bytes(8, "little") + text)
            for name, array in arrays.items():
                write(array.astype(_DTYPES[entries[name]["dtype"]], copy=False).tobytes())
            file.seek(8 + text.index(_BLANK.encode()))
            file.write(digest.hexdigest().encode())
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    # Make the new name itself durable, where the system can: Windows opens no folders.
    with contextlib.suppress(OSError):
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def read_archive(path: str | os.PathLike, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read header and arrays; the checksum is verified first.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged, of another kind, or of another format.
    """
    path = pathlib.Path(path)
    allowed = f"`path` must be an {kind}"
    check_regular(path, "`path`")
    try:
        size = path.stat().st_size
        check_fits(size, f"the file {path}", "arrays")
        content = bytearray(size)  # arrays are views of it, which can be written to
        with open(path, "rb") as file:
            if file.readinto(content) != size:
                raise ValueError("it changed while it was read")
        metadata, arrays = _parse(content)
        found, version = metadata["format"], metadata["format_version"]
        header = json.loads(metadata["header"])
    except FileNotFoundError:
        raise
    except (
        OSError,
        KeyError,
        TypeError,
        ValueError,
        AttributeError,
        OverflowError,
        RecursionError,
    ) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{allowed}, got {path}, which is damaged or no such file: {reason}."
        ) from error
    if found != kind:
        raise ValueError(f"{allowed}, got {path}, which is an {found}.")
    if version != str(FORMAT_VERSION):
        raise ValueError(
            f"{allowed} of format {FORMAT_VERSION}, got {path} of format {version}, "
            f"written by entropix {metadata.get('entropix')}."
        )
    return header, arrays


def _parse(content: bytearray) -> tuple[dict, dict[str, np.ndarray]]:
    """Metadata and arrays of a whole file."""
    if content[:2] == b"PK":
        raise ValueError("it is a zip file, such as earlier versions of entropix wrote")
    start = 8 + int.from_bytes(content[:8], "little")
    if not 8 < start <= len(content):
        raise ValueError("it does not begin with a header")
    text = bytes(content[8:start])
    entries = json.loads(text)
    metadata = entries.pop("__metadata__")
    place = 8 + text.index(metadata["sha256"].encode())
    whole = memoryview(content)
    digest = hashlib.sha256(whole[:place])
    digest.update(_BLANK.encode())
    digest.update(whole[place + len(_BLANK) :])
    if digest.hexdigest() != metadata["sha256"]:
        raise ValueError("its checksum is not that of its content")
    arrays = {}
    for name, entry in entries.items():
        dtype, shape = _DTYPES[entry["dtype"]], entry["shape"]
        first, last = entry["data_offsets"]
        count = math.prod(shape)
        if count < 0 or last - first != count * dtype.itemsize:
            raise ValueError(f"its array {name} does not have the size of its shape")
        values = (
            np.frombuffer(content, dtype, count, start + first) if count else np.empty(0, dtype)
        )
        arrays[name] = values.reshape(shape)
    return metadata, arrays
