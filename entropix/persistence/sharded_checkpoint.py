"""Checkpoints by Orbax: written in the background, by every process its own shards.

A checkpoint is a folder for each step that is kept. It appears under its name only when it is
whole, and a run may resume from it on any number of devices and processes. Which run it belongs to
is checked as for a checkpoint in one file. So are its numbers: the sum of the bits of every array,
which does not depend on how the array is spread over devices, is stored and compared.
"""

import os
import pathlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from entropix._core.checks import positive_integer
from entropix._core.extras import needed
from entropix._core.mesh import to_host
from entropix.persistence.checkpoint import (
    AbstractCheckpoint,
    check_fingerprint,
    describe,
    named_leaves,
)


class ShardedCheckpoint(AbstractCheckpoint):
    """A folder of checkpoints, for `fit(..., checkpoint=...)` on many devices or hosts.

    Args:
        folder: where; one that all processes share.
        every: steps between checkpoints.
        resume: go on from the last checkpoint that can be read, if there is one; see `Checkpoint`.
        keep: how many of the latest to keep. If the last cannot be read, the one before serves.
        asynchronous: write while training goes on. The numbers are the same.

    Raises:
        ValueError: if an argument is not as above.
        ImportError: if Orbax is not installed.
    """

    def __init__(
        self,
        folder: str | os.PathLike,
        *,
        every: int = 1000,
        resume: bool = False,
        keep: int = 2,
        asynchronous: bool = True,
    ):
        needed("orbax.checkpoint", "ShardedCheckpoint", "orbax-checkpoint", "scale")
        try:
            self.folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
        except TypeError as error:
            raise ValueError(
                f"`folder` must be the path of a folder, got {type(folder).__name__}."
            ) from error
        self.every = positive_integer(every, "every")
        self.resume = bool(resume)
        self.keep = positive_integer(keep, "keep")
        self.asynchronous = asynchronous
        self._manager: Any = None

    def open(self) -> None:
        self._open()

    def exists(self) -> bool:
        return bool(self._open().all_steps())

    def write(self, step: int, fingerprint: dict, state: PyTree, history: dict) -> None:
        import orbax.checkpoint as ocp

        manager = self._open()
        if step in manager.all_steps():  # the one that this run resumed from
            return
        arrays = {name: leaf for name, leaf in named_leaves(state).items() if eqx.is_array(leaf)}
        about = {
            "fingerprint": fingerprint,
            "shapes": {name: list(array.shape) for name, array in arrays.items()},
            "sums": _bit_sums(arrays),
            "history": {name: [list(a.shape), str(a.dtype)] for name, a in history.items()},
            "history_checksum": describe(history),
        }
        try:
            manager.save(
                step,
                args=ocp.args.Composite(
                    state=ocp.args.StandardSave(arrays),
                    history=ocp.args.StandardSave({k: v for k, v in history.items() if v.size}),
                    about=ocp.args.JsonSave(about),
                ),
            )
        except (OSError, ValueError, RuntimeError) as error:
            raise _unwritten(self.folder, error) from error

    def read(
        self, fingerprint: dict, like: PyTree, sharding: Callable[[tuple[int, ...]], Any]
    ) -> tuple[int, PyTree, dict]:
        import orbax.checkpoint as ocp

        manager = self._open()
        failure: BaseException | None = None
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                about = _load(manager, step, about=ocp.args.JsonRestore())["about"]
                check_fingerprint(about["fingerprint"], fingerprint, self.folder)
                state, history = self._restore(manager, step, about, like, sharding)
            except (_DamagedError, KeyError, TypeError) as error:
                failure = error.__cause__ or error
                continue
            return step, state, history
        raise ValueError(
            f"`checkpoint` must hold a whole checkpoint, got {self.folder}, in which none of the "
            f"steps {sorted(manager.all_steps())} can be read."
        ) from failure

    def close(self) -> None:
        if self._manager is None:
            return
        manager, self._manager = self._manager, None
        try:
            manager.wait_until_finished()
        except Exception as error:  # a failure of the thread that writes comes as it is
            raise _unwritten(self.folder, error) from error
        finally:
            manager.close()

    def _open(self) -> Any:
        import orbax.checkpoint as ocp

        if self._manager is None:
            try:
                self._manager = ocp.CheckpointManager(
                    self.folder,
                    options=ocp.CheckpointManagerOptions(
                        max_to_keep=self.keep,
                        enable_async_checkpointing=self.asynchronous,
                    ),
                    item_names=("state", "history", "about"),
                )
            except OSError as error:
                raise _unwritten(self.folder, error) from error
        return self._manager

    def _restore(
        self, manager: Any, step: int, about: dict, like: PyTree, sharding: Callable
    ) -> tuple[Any, dict]:
        import orbax.checkpoint as ocp

        leaves = named_leaves(like)
        arrays = {name: leaf for name, leaf in leaves.items() if eqx.is_array(leaf)}
        wanted = {}
        for name, leaf in arrays.items():
            shape = tuple(about["shapes"][name])
            wanted[name] = jax.ShapeDtypeStruct(shape, leaf.dtype, sharding=sharding(shape))
        history = {k: np.zeros(s, d) for k, (s, d) in about["history"].items()}
        found = _load(
            manager,
            step,
            state=ocp.args.StandardRestore(wanted),
            history=ocp.args.StandardRestore({k: v for k, v in history.items() if v.size}),
        )
        history |= {k: to_host(v) for k, v in found["history"].items()}
        if about["sums"] != _bit_sums(found["state"]):
            raise _DamagedError from ValueError("its state is not what was written")
        if about["history_checksum"] != describe(history):
            raise _DamagedError from ValueError("its history is not what was written")
        values = [found["state"].get(name, leaf) for name, leaf in leaves.items()]
        return jax.tree.unflatten(jax.tree.structure(like), values), history


class _DamagedError(Exception):
    """A checkpoint that cannot be read, for the reason that is its cause."""


def _load(manager: Any, step: int, **items: Any) -> Any:
    """Items of a checkpoint.

    Raises:
        _DamagedError: if they cannot be read.
    """
    import orbax.checkpoint as ocp

    try:
        return manager.restore(step, args=ocp.args.Composite(**items))
    except Exception as error:  # a damaged file makes Orbax raise one of many
        raise _DamagedError from error


def _bit_sums(arrays: dict[str, Any]) -> dict[str, int]:
    """The sum of the bits of each array, as words, modulo 2^32: any one wrong bit changes it."""
    return {name: int(to_host(total)) for name, total in _sums(arrays).items()}


@jax.jit
def _sums(arrays: dict[str, Array]) -> dict[str, Array]:
    def total(leaf: Array) -> Array:
        if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        if leaf.dtype != jnp.bool_:
            width = min(leaf.dtype.itemsize, 4)
            leaf = jax.lax.bitcast_convert_type(leaf, jnp.dtype(f"uint{8 * width}"))
        return jnp.sum(leaf, dtype=jnp.uint32)

    return {name: total(leaf) for name, leaf in arrays.items()}


def _unwritten(folder: pathlib.Path, error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return OSError(
        f"`checkpoint` must be a folder that can be written to, got {str(folder)!r}: {reason}. "
        "What it held before is still there."
    )
