"""Checkpoints by Orbax: written in the background, by every process its own shards.

A checkpoint is a folder for each step that is kept. It appears under its name only when it is
whole, and may be taken up on any number of devices and processes. Which run it belongs to is
checked as for a checkpoint in one file (`entropix.training.checkpoint`).
"""

import os
import pathlib
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from entropix._core.checks import positive_integer
from entropix._core.mesh import SEED, axis_size, to_host
from entropix.training.checkpoint import check_fingerprint
from entropix.training.layout import Layout


class ShardedCheckpoint:
    """A folder of checkpoints, for `checkpoint=` of the training functions.

    Args:
        folder: where; one that all processes share.
        keep: how many of the latest to keep. If the last cannot be read, the one before serves.
        asynchronous: write while training goes on. The numbers are the same.

    Raises:
        ValueError: if an argument is not as above.
        ImportError: if Orbax is not installed.
    """

    def __init__(self, folder: Any, *, keep: int = 2, asynchronous: bool = True):
        try:
            import orbax.checkpoint  # noqa: F401
        except ImportError as error:
            raise ImportError(
                "ShardedCheckpoint needs orbax-checkpoint: python -m pip install 'entropix[scale]'"
            ) from error
        try:
            self.folder = pathlib.Path(os.path.abspath(os.path.expanduser(folder)))
        except TypeError as error:
            raise ValueError(
                f"`folder` must be the path of a folder, got {type(folder).__name__}."
            ) from error
        self.keep = positive_integer(keep, "keep")
        self.asynchronous = asynchronous
        self._manager: Any = None

    def exists(self) -> bool:
        """Whether there is anything to be taken up."""
        return bool(self._open().all_steps())

    def write(self, step: int, fingerprint: dict, state: Any, history: dict) -> None:
        """Write the run as it is after `step` steps; earlier checkpoints stay until it is whole.

        Raises:
            OSError: if it cannot be written; the last one is still there.
        """
        import orbax.checkpoint as ocp

        manager = self._open()
        if step in manager.all_steps():  # of the run that this one takes up
            return
        arrays = _named(state)
        about = {
            "fingerprint": fingerprint,
            "shapes": {name: list(array.shape) for name, array in arrays.items()},
            "history": {name: [list(a.shape), str(a.dtype)] for name, a in history.items()},
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

    def read(self, fingerprint: dict, like: Any, layout: Layout) -> tuple[int, Any, dict]:
        """The step, the state, and the history, of the last whole one.

        Args:
            fingerprint: of the run that goes on.
            like: a state of its structure.
            layout: where its arrays are going: those that divide among its devices are read there.

        Raises:
            ValueError: if none can be read, or the run was set up differently.
        """
        import orbax.checkpoint as ocp

        manager = self._open()
        failure: BaseException | None = None
        for step in sorted(manager.all_steps(), reverse=True):
            try:
                about = _load(manager, step, about=ocp.args.JsonRestore())["about"]
                check_fingerprint(about["fingerprint"], fingerprint, self.folder)
                state, history = self._restore(manager, step, about, like, layout)
            except _DamagedError as error:
                failure = error.__cause__
                continue
            return step, state, history
        raise ValueError(
            f"`checkpoint` must hold a whole checkpoint, got {self.folder}, in which none of the "
            f"steps {sorted(manager.all_steps())} can be read."
        ) from failure

    def close(self) -> None:
        """Wait until everything is written.

        Raises:
            OSError: if something could not be.
        """
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
        self, manager: Any, step: int, about: dict, like: Any, layout: Layout
    ) -> tuple[Any, dict]:
        import orbax.checkpoint as ocp

        wanted = {
            name: jax.ShapeDtypeStruct(
                tuple(about["shapes"][name]),
                leaf.dtype,
                sharding=_sharding(layout, tuple(about["shapes"][name])),
            )
            for name, leaf in _named(like).items()
        }
        empty = {k: np.zeros(s, d) for k, (s, d) in about["history"].items()}
        history = {k: v for k, v in empty.items() if v.size}
        found = _load(
            manager,
            step,
            state=ocp.args.StandardRestore(wanted),
            history=ocp.args.StandardRestore(history),
        )
        leaves, structure = jax.tree.flatten(like)
        names = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(like)]
        leaves = [found["state"].get(n, leaf) for n, leaf in zip(names, leaves, strict=True)]
        restored = {k: to_host(v) for k, v in found["history"].items()}
        return jax.tree.unflatten(structure, leaves), empty | restored


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


def _named(state: Any) -> dict[str, Any]:
    """The arrays of a state by their paths."""
    return {
        jax.tree_util.keystr(path): leaf
        for path, leaf in jax.tree_util.tree_leaves_with_path(state)
        if eqx.is_array(leaf)
    }


def _sharding(layout: Layout, shape: tuple[int, ...]) -> Any:
    """Where an array of a saved state can lie: spread over seeds, if it divides."""
    if layout.mesh is None:
        return jax.sharding.SingleDeviceSharding(jnp.zeros(()).devices().pop())
    fits = layout.seeds and shape and shape[0] % axis_size(layout.mesh, SEED) == 0
    return NamedSharding(layout.mesh, layout.seed_spec() if fits else PartitionSpec())


def _unwritten(folder: pathlib.Path, error: Exception) -> OSError:
    reason = getattr(error, "strerror", None) or " ".join(str(error).split())[:200]
    return OSError(
        f"`checkpoint` must be a folder that can be written to, got {str(folder)!r}: {reason}. "
        "What it held before is still there."
    )
