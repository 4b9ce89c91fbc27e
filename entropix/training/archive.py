"""One file of named arrays and a JSON header, written atomically and read without pickle.

The file is an uncompressed zip of `.npy` members (`numpy.load` opens it too) with checksums. What
NumPy cannot name is stored as what it is made of: bfloat16 and its kin as unsigned integers, typed
PRNG keys as their key data; the header says so.
"""

import importlib.metadata
import io
import json
import os
import pathlib
import zipfile
import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.files import check_npy, check_regular
from entropix._core.memory import check_fits


_HEADER = "header.json"
FORMAT_VERSION = 1


def package_version() -> str:
    """The version that goes into headers."""
    try:
        return importlib.metadata.version("entropix")
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
        node["dtype"] = host.dtype.name
        if host.dtype.kind == "V":  # bfloat16, float8, int4: no NumPy dtypes
            host = host.view(f"u{host.dtype.itemsize}")
        self.arrays[name] = host
        self._known[id(array)] = (array, node)
        return node


def restore_array(node: dict, arrays: dict[str, np.ndarray]) -> Any:
    """The inverse of `ArrayStore.add`.

    Raises:
        ValueError: if a 64-bit array would be cut to 32 bits.
    """
    host = arrays[node["array"]]
    if host.dtype.name != node["dtype"]:
        host = host.view(jnp.dtype(node["dtype"]))
    if node["of"] == "numpy":
        return host
    if jax.dtypes.canonicalize_dtype(host.dtype) != host.dtype:
        raise ValueError(
            f"`path` must fit the precision of this process, got arrays of {host.dtype.name}: "
            "call jax.config.update('jax_enable_x64', True) first."
        )
    array = jnp.array(host)
    return jax.random.wrap_key_data(array, impl=node["key"]) if "key" in node else array


def write_archive(path: Any, kind: str, header: dict, arrays: dict[str, np.ndarray]) -> None:
    """Write a file that is either the old one or the new one, whenever the process may die."""
    path = pathlib.Path(path)
    header = {
        "format": kind,
        "format_version": FORMAT_VERSION,
        "entropix": package_version(),
        "arrays": list(arrays),
        **header,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.tmp")
    try:
        with open(temporary, "wb") as file:
            with zipfile.ZipFile(file, "w", zipfile.ZIP_STORED) as archive:
                # Fixed dates: equal content makes equal files.
                archive.writestr(zipfile.ZipInfo(_HEADER), json.dumps(header, indent=1))
                for name, array in arrays.items():
                    with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w", force_zip64=True) as f:
                        np.lib.format.write_array(f, array, allow_pickle=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


def _sync_folder(folder: pathlib.Path) -> None:
    """Make the new name itself durable, where the system can."""
    try:
        descriptor = os.open(folder, os.O_RDONLY)
    except OSError:  # Windows opens no folders
        return
    try:
        os.fsync(descriptor)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def read_archive(path: Any, kind: str) -> tuple[dict, dict[str, np.ndarray]]:
    """Read header and arrays; every checksum is verified.

    Raises:
        FileNotFoundError: if there is no file.
        ValueError: if the file is damaged, of another kind, or from a later version.
    """
    path = pathlib.Path(path)
    allowed = f"`path` must be an {kind}"
    check_regular(path, "`path`")
    if path.is_file():
        check_fits(path.stat().st_size, f"the file {path}", "arrays")
    try:
        with open(path, "rb") as file, zipfile.ZipFile(file) as archive:
            _check_members(archive, path.stat().st_size)
            header = json.loads(archive.read(_HEADER))
            arrays = {
                name.removesuffix(".npy"): np.lib.format.read_array(
                    io.BytesIO(archive.read(name)), allow_pickle=False
                )
                for name in archive.namelist()
                if name != _HEADER
            }
        if list(arrays) != header["arrays"]:  # the zip directory itself has no checksum
            raise ValueError("arrays are missing")
        found, version = header["format"], header["format_version"]
    except FileNotFoundError:
        raise
    except (
        zipfile.BadZipFile,
        zlib.error,
        OSError,
        EOFError,
        KeyError,
        TypeError,
        ValueError,
        NotImplementedError,
        RuntimeError,
    ) as error:
        reason = " ".join(str(error).split())[:200].rstrip(".") or type(error).__name__
        raise ValueError(
            f"{allowed}, got {path}, which is damaged or no such file: {reason}."
        ) from error
    if found != kind:
        raise ValueError(f"{allowed}, got {path}, which is an {found}.")
    if version != FORMAT_VERSION:
        raise ValueError(
            f"{allowed} of format {FORMAT_VERSION}, got {path} of format {version}, "
            f"written by entropix {header.get('entropix')}."
        )
    return header, arrays


def _check_members(archive: zipfile.ZipFile, size: int) -> None:
    """Refuse what would take more memory than the file is long, before any of it is read.

    Raises:
        ValueError: if a member is compressed, members overlap, or the header of an array claims
            more than there is.
    """
    members = archive.infolist()
    stored = all(
        member.compress_type == zipfile.ZIP_STORED and member.file_size == member.compress_size
        for member in members
    )
    if not stored or sum(member.file_size for member in members) > size:
        raise ValueError("its members are not stored as they are")
    for member in members:
        if member.filename != _HEADER:
            with archive.open(member) as file:
                check_npy(file, member.file_size)
