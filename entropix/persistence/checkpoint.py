"""Checkpoints of a training run: all that a run needs to go on as if it had never stopped.

A checkpoint holds the arrays of the state, the history so far, and a fingerprint of everything that
shapes the run: data, key, model, numbers of the optimiser. Only a run with the same fingerprint may
resume from it; the resumed run then equals the uninterrupted one bit for bit, on the same machine.
Initial weights are computed, and other devices and versions of JAX round them differently: they are
compared up to rounding.
"""

import abc
import errno
import os
import pathlib
import warnings
import zlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from entropix._core.checks import positive_integer
from entropix._core.mesh import to_host
from entropix.persistence.archive import ArrayStore, read_archive, write_archive
from entropix.persistence.save import decode, encode


KIND = "entropix checkpoint"
# Initial weights are the same if sums of them differ by less than this part of their norm. Rounding
# in float32 changes them by about 1e-7.
_ROUNDING = 1e-5


class AbstractCheckpoint(abc.ABC):
    """Where a training run saves itself.

    Attributes:
        every: steps between checkpoints. A run that is killed loses at most these.
        resume: whether to go on from what is there.
    """

    every: int
    resume: bool

    @abc.abstractmethod
    def open(self) -> None:
        """Make ready to write.

        Raises:
            OSError: if nothing can be written there.
        """

    @abc.abstractmethod
    def exists(self) -> bool:
        """Whether there is anything to resume from."""

    @abc.abstractmethod
    def write(self, step: int, fingerprint: dict, state: PyTree, history: dict) -> None:
        """Write the run as it is after `step` steps; the last file stays until this one is whole.

        Raises:
            OSError: if it cannot be written; the last one is still there.
        """

    @abc.abstractmethod
    def read(
        self, fingerprint: dict, like: PyTree, sharding: Callable[[tuple[int, ...]], Any]
    ) -> tuple[int, PyTree, dict]:
        """The step, the state and the history.

        Args:
            fingerprint: of the run that resumes.
            like: a state of its structure.
            sharding: from a shape to where an array of it is going to lie.

        Raises:
            ValueError: if the checkpoint is damaged, or its run was set up differently.
        """

    @abc.abstractmethod
    def close(self) -> None:
        """Wait until everything is written."""


class Checkpoint(AbstractCheckpoint):
    """A checkpoint in one file, for `fit(..., checkpoint=...)`; the first process writes it.

    A run that is interrupted by Ctrl-C writes one for the steps that it has finished.

    Args:
        path: the file, or an existing folder for `fit.ckpt` in it.
        every: steps between checkpoints.
        resume: go on from the file if it is there. The run must be the same, but may have more
            steps: it is then extended. With `learning_rate` a function of the step (or an
            optimiser) the numbers are those of one long run, bit for bit. The default cosine
            depends on the number of steps: the rate jumps to that of the long run, with a warning.

    Raises:
        ValueError: if an argument is not as above.
    """

    def __init__(self, path: str | os.PathLike, *, every: int = 1000, resume: bool = False):
        try:
            given = pathlib.Path(path)
        except TypeError as error:
            raise ValueError(
                f"`checkpoint` must be the path of a file, got {type(path).__name__}."
            ) from error
        self.path = given / "fit.ckpt" if given.is_dir() else given
        self.every = positive_integer(every, "every")
        self.resume = bool(resume)

    def open(self) -> None:
        if jax.process_index() == 0:
            self.path.parent.mkdir(parents=True, exist_ok=True)

    def exists(self) -> bool:
        return self.path.exists()

    def write(self, step: int, fingerprint: dict, state: PyTree, history: dict) -> None:
        def whole(leaf: Any) -> Any:
            remote = isinstance(leaf, jax.Array) and not leaf.is_fully_addressable
            return to_host(leaf) if remote else leaf

        state = jax.tree.map(whole, state)
        if jax.process_index() == 0:
            if not self.path.parent.is_dir():  # it was removed while the run went on
                raise FileNotFoundError(
                    errno.ENOENT, os.strerror(errno.ENOENT), str(self.path.parent)
                )
            write_checkpoint(self.path, step, fingerprint, state, history)

    def read(
        self, fingerprint: dict, like: PyTree, sharding: Callable[[tuple[int, ...]], Any]
    ) -> tuple[int, PyTree, dict]:
        return read_checkpoint(self.path, fingerprint, like)

    def close(self) -> None:
        pass


def write_checkpoint(
    path: pathlib.Path, step: int, fingerprint: dict, state: PyTree, history: dict
) -> None:
    """Write one file; see `AbstractCheckpoint.write`."""
    store = ArrayStore()
    # Functions in a state are those of the run that resumes.
    leaves = {
        name: encode(None if callable(leaf) else leaf, name, store)
        for name, leaf in named_leaves(state).items()
    }
    header = {
        "step": step,
        "fingerprint": fingerprint,
        "state": leaves,
        "history": {name: store.add(array) for name, array in history.items()},
    }
    write_archive(path, KIND, header, store.arrays)


def read_checkpoint(path: pathlib.Path, fingerprint: dict, like: PyTree) -> tuple[int, Any, dict]:
    """Read one file; see `AbstractCheckpoint.read`."""
    header, arrays = read_archive(path, KIND)
    check_fingerprint(header["fingerprint"], fingerprint, path)
    leaves = named_leaves(like)
    if list(leaves) != list(header["state"]):
        raise ValueError(
            f"`resume` must continue the run of its checkpoint, got another in {path}."
        )
    values = [
        leaf if callable(leaf) else decode(header["state"][name], arrays, ())
        for name, leaf in leaves.items()
    ]
    history = {name: decode(node, arrays, ()) for name, node in header["history"].items()}
    return header["step"], jax.tree.unflatten(jax.tree.structure(like), values), history


def named_leaves(tree: PyTree) -> dict[str, Any]:
    """The leaves of a tree by their paths."""
    return {jax.tree_util.keystr(p): v for p, v in jax.tree_util.tree_leaves_with_path(tree)}


def describe(tree: PyTree) -> list:
    """Paths, shapes, dtypes and one checksum of a tree; functions and classes by name."""
    checksum = 0
    lines = []
    for name, leaf in named_leaves(tree).items():
        if eqx.is_array(leaf) or isinstance(leaf, np.ndarray | np.generic):
            if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(jnp.asarray(leaf))
            host = np.ascontiguousarray(leaf)
            lines.append(f"{name} {host.dtype.name}{list(host.shape)}")
            checksum = zlib.crc32(host.tobytes(), checksum)
        elif isinstance(leaf, Callable):
            lines.append(f"{name} {getattr(leaf, '__qualname__', type(leaf).__qualname__)}")
        else:
            lines.append(f"{name} {leaf!r}")
    checksum = zlib.crc32("\n".join(lines).encode(), checksum)
    return [type(tree).__name__, len(lines), checksum]


def outline(tree: PyTree) -> dict:
    """Like `describe`, with the norm and a sum of each floating array in place of a checksum.

    The signs of the sum are random, but always the same.
    """
    sums, others = {}, {}
    for name, leaf in named_leaves(tree).items():
        if eqx.is_array(leaf) and jnp.issubdtype(leaf.dtype, jnp.floating):
            values = np.asarray(leaf, np.float64).ravel()
            signs = 2 * np.random.default_rng(0).integers(0, 2, values.size, dtype=np.int8) - 1
            sums[name] = [float(np.linalg.norm(values)), float(values @ signs)]
            leaf = f"{leaf.dtype.name}{list(leaf.shape)}"
        others[name] = leaf
    return {"others": describe(others), "sums": sums}


def _same(name: str, old: Any, new: Any) -> bool:
    """Whether two parts of a fingerprint are equal, that of the model up to rounding."""
    # Checkpoints of earlier versions, and losses and streams of users, may hold anything.
    if name != "model" or not (isinstance(old, dict) and isinstance(new, dict)):
        return old == new
    if old["others"] != new["others"]:
        return False
    return all(
        np.allclose(there, new["sums"][name], rtol=0, atol=_ROUNDING * there[0], equal_nan=True)
        for name, there in old["sums"].items()
    )


def check_fingerprint(saved: dict, fingerprint: dict, path: pathlib.Path) -> None:
    """Refuse a checkpoint of another run; one of fewer steps may be extended.

    Raises:
        ValueError: naming what differs, with the values that are short.
    """
    plain = int | float | str | bool | None
    differing = []
    for name in sorted(saved.keys() | fingerprint.keys()):
        old, new = saved.get(name), fingerprint.get(name)
        if not _same(name, old, new) and not (name == "steps" and 0 < (old or 0) <= (new or 0)):
            both = isinstance(old, plain) and isinstance(new, plain)
            differing.append(f"`{name}`" + (f" ({old} there, {new} here)" if both else ""))
    if differing:
        raise ValueError(
            f"`resume` must continue the run of its checkpoint, got another setup than that of "
            f"{path}: {', '.join(differing)}."
        )
    extended = saved.get("steps") != fingerprint.get("steps")
    if extended and fingerprint.get("learning_rate_follows_steps"):
        warnings.warn(
            f"the run of {saved['steps']} steps in {path} goes on to {fingerprint['steps']} with "
            "the learning rate that a run of so many has there: its numbers are those of one long "
            "run only if `learning_rate` is a function of the step.",
            stacklevel=2,
        )
