"""Checkpoints of a training run: all that a run needs to go on as if it had never stopped.

A checkpoint holds the arrays of the state, the history so far, and a fingerprint of everything that
shapes the run: data, key, model, numbers of the optimiser. It is taken up only by a run with the
same fingerprint; the resumed run then equals the uninterrupted one bit for bit.
"""

import errno
import os
import pathlib
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.mesh import to_host
from entropix.training.archive import ArrayStore, read_archive, restore_array, write_archive
from entropix.training.layout import Layout


_KIND = "entropix checkpoint"


def checkpoint_path(checkpoint: Any) -> pathlib.Path:
    """The file: as given, or `fit.ckpt` in an existing folder.

    Raises:
        ValueError: if it is no path.
    """
    try:
        path = pathlib.Path(checkpoint)
    except TypeError as error:
        raise ValueError(
            f"`checkpoint` must be the path of a file, got {type(checkpoint).__name__}."
        ) from error
    return path / "fit.ckpt" if path.is_dir() else path


def describe(tree: Any) -> list:
    """Paths, shapes, dtypes and one checksum of a tree; functions and classes by name."""
    checksum = 0
    lines = []
    pairs: Any = jax.tree_util.tree_leaves_with_path(tree)
    for path, leaf in pairs:
        name = jax.tree_util.keystr(path)
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                data = jax.random.key_data(jnp.asarray(leaf))
            else:
                data = leaf
            host = np.ascontiguousarray(data)
            lines.append(f"{name} {host.dtype.name}{list(host.shape)}")
            checksum = zlib.crc32(host.tobytes(), checksum)
        elif isinstance(leaf, Callable):
            lines.append(f"{name} {getattr(leaf, '__qualname__', type(leaf).__qualname__)}")
        else:
            lines.append(f"{name} {leaf!r}")
    checksum = zlib.crc32("\n".join(lines).encode(), checksum)
    return [type(tree).__name__, len(lines), checksum]


def write_checkpoint(
    path: pathlib.Path, step: int, fingerprint: dict, state: Any, history: dict
) -> None:
    """Write the run as it is after `step` steps; the last file stays until this one is whole."""
    store = ArrayStore()
    leaves = jax.tree_util.tree_leaves_with_path(state)
    header = {
        "step": step,
        "fingerprint": fingerprint,
        "state": [[jax.tree_util.keystr(p), _pack(leaf, store)] for p, leaf in leaves],
        "history": {name: store.add(array) for name, array in history.items()},
    }
    write_archive(path, _KIND, header, store.arrays)


def read_checkpoint(path: pathlib.Path, fingerprint: dict, like: Any) -> tuple[int, Any, dict]:
    """The step, the state in the structure of `like`, and the history.

    Raises:
        ValueError: if the file is damaged, or its run was set up differently.
    """
    header, arrays = read_archive(path, _KIND)
    check_fingerprint(header["fingerprint"], fingerprint, path)
    leaves, structure = jax.tree_util.tree_flatten_with_path(like)
    names = [jax.tree_util.keystr(p) for p, _ in leaves]
    if names != [name for name, _ in header["state"]]:
        raise ValueError(
            f"`resume` must continue the run of its checkpoint, got another in {path}."
        )
    values = [
        _unpack(node, arrays, leaf)
        for (_, node), (_, leaf) in zip(header["state"], leaves, strict=True)
    ]
    history = {name: restore_array(node, arrays) for name, node in header["history"].items()}
    return header["step"], jax.tree.unflatten(structure, values), history


def check_fingerprint(saved: dict, fingerprint: dict, path: pathlib.Path) -> None:
    """Refuse a checkpoint of another run.

    Raises:
        ValueError: naming what differs.
    """
    names = sorted(saved.keys() | fingerprint.keys())
    other = [_told(n, saved.get(n), fingerprint.get(n)) for n in names]
    if any(other):
        raise ValueError(
            f"`resume` must continue the run of its checkpoint, got another setup than that of "
            f"{path}: {', '.join(filter(None, other))}."
        )


class FileCheckpoint:
    """A checkpoint in one file, which the first process writes.

    Args:
        path: of the file; its folder is made if need be.

    Raises:
        OSError: if the folder cannot be made.
    """

    def __init__(self, path: pathlib.Path):
        self.path = path
        if jax.process_index() == 0:
            path.parent.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        """Whether there is anything to be taken up."""
        return self.path.exists()

    def write(self, step: int, fingerprint: dict, state: Any, history: dict) -> None:
        """Write the run as it is after `step` steps; the last file stays until this one is whole.

        Raises:
            OSError: if it cannot be written, the folder having been removed included; the last one
                is still there.
        """
        state = jax.tree.map(lambda leaf: to_host(leaf) if _remote(leaf) else leaf, state)
        if jax.process_index() == 0:
            if not self.path.parent.is_dir():
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), str(self.path.parent)
                )
            write_checkpoint(self.path, step, fingerprint, state, history)

    def read(self, fingerprint: dict, like: Any, layout: Layout) -> tuple[int, Any, dict]:
        """The step, the state, not yet on the devices of `layout`, and the history.

        Raises:
            ValueError: if the file is damaged, or its run was set up differently.
        """
        return read_checkpoint(self.path, fingerprint, like)

    def close(self) -> None:
        """Nothing is left to be written."""


def _remote(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and not leaf.is_fully_addressable


def _told(name: str, old: Any, new: Any) -> str:
    """Nothing if the two agree; the values, where they say something to a reader."""
    if old == new:
        return ""
    simple = (int, float, str, bool, type(None))
    if isinstance(old, simple) and isinstance(new, simple):
        return f"`{name}` ({old} there, {new} here)"
    return f"`{name}`"


def _pack(leaf: Any, store: ArrayStore) -> Any:
    if isinstance(leaf, jax.Array | np.ndarray):
        return store.add(leaf)
    if isinstance(leaf, bool | int | str):
        return {"value": leaf}
    if isinstance(leaf, float):
        return {"float": leaf.hex()}
    return {"same": None}  # a function: taken from the run that resumes


def _unpack(node: dict, arrays: dict[str, np.ndarray], leaf: Any) -> Any:
    if "array" in node:
        return restore_array(node, arrays)
    if "value" in node:
        return node["value"]
    return float.fromhex(node["float"]) if "float" in node else leaf
