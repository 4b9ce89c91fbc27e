"""Compiled programs are kept between runs of the command line, in JAX's persistent cache.

The folder is `entropix/programs-...` in the user's cache folder; its name has the features of the
processor, because folders may be shared by machines, and programs may not. When a command begins,
what was used least recently is removed from a folder that has become too large. JAX can limit the
size itself, but visits all entries for each that it adds, and lets other processes wait meanwhile.
Whoever has configured a cache of JAX keeps that one.
"""

import contextlib
import os
import pathlib
import platform
import shutil
import sys
import tempfile
import warnings
import zlib

import jax


LIMIT = 512 * 2**20  # bytes
# With less free space than this the cache is not used: results need it more.
_FREE = 64 * 2**20


def use_cache(wanted: bool) -> None:
    """Use the persistent cache, or none; with a note on stderr if it cannot be used."""
    if not wanted:
        jax.config.update("jax_enable_compilation_cache", False)
        return
    if getattr(jax.config, "jax_compilation_cache_dir", None):
        return
    try:
        folder = _prepared()
    except (ImportError, OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or error
        print(f"entropix: note: compiled programs are not kept, {reason}", file=sys.stderr)
        return
    jax.config.update("jax_compilation_cache_dir", str(folder))
    for name, value in (
        ("jax_compilation_cache_max_size", -1),
        ("jax_persistent_cache_min_compile_time_secs", 0.0),
        ("jax_persistent_cache_min_entry_size_bytes", -1),
    ):
        if name.upper() not in os.environ:
            jax.config.update(name, value)
    # An entry that cannot be read is compiled, and one that cannot be written is not kept.
    warnings.filterwarnings("ignore", message="Error (reading|writing) persistent compilation")


def _prepared() -> pathlib.Path:
    """The folder, which can be written, and takes at most `LIMIT`.

    Raises:
        OSError: if it cannot be written, or too little space is free.
    """
    import platformdirs

    folder = pathlib.Path(platformdirs.user_cache_dir("entropix"), f"programs-{_processor()}")
    folder.mkdir(parents=True, exist_ok=True)
    if shutil.disk_usage(folder).free < _FREE:
        raise OSError(f"less than {_FREE >> 20} MiB are free in {folder}")
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(bytes(1))
    remove_oldest(folder, LIMIT)
    return folder


def remove_oldest(folder: pathlib.Path, limit: int) -> None:
    """Remove files until half of `limit` bytes are left, if there are more than `limit`.

    Those go first that were read and written longest ago.
    """
    found = []
    for path in folder.iterdir():
        with contextlib.suppress(OSError):  # another command may have removed it
            state = path.stat()
            found.append((max(state.st_atime, state.st_mtime), state.st_size, path))
    size = sum(each for _, each, _ in found)
    if size <= limit:
        return
    for _, each, path in sorted(found):
        if size <= limit // 2:
            break
        with contextlib.suppress(OSError):
            path.unlink()
        size -= each


def _processor() -> str:
    """A word for the instructions that programs may use."""
    features = platform.machine()
    with contextlib.suppress(OSError):
        lines = pathlib.Path("/proc/cpuinfo").read_text().splitlines()
        features += next((line for line in lines if line.startswith(("flags", "Features"))), "")
    return f"{zlib.crc32(features.encode()):08x}"
