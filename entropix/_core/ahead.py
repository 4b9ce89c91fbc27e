"""Programs that one thread compiles before another one calls them.

Compiling takes one core, and most programs of a study follow its training. Beside the training, a
thread therefore measures the untrained model, without running what takes long: it compiles the
programs, and takes zeros for what they return. What it finds is forgotten.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.tracing import current_trace


class _Stopped(Exception):
    """Nothing is left to be compiled ahead."""


class _Thread(threading.local):
    """Whether a thread only compiles: until this event; None if it runs its programs."""

    def __init__(self) -> None:
        self.until: threading.Event | None = None


_THREAD = _Thread()
_AHEAD: list[threading.Thread] = []  # those that only compile


@contextlib.contextmanager
def compiled_ahead(measure: Callable[[], Any]) -> Iterator[None]:
    """A block beside which a thread compiles the programs of `measure()`, and does not run them.

    An error ends the thread without a word, because zeros may be what no program would return. A
    program that it is compiling when the block ends, or is interrupted, is waited for: Python must
    not end in the middle of it.
    """
    done = threading.Event()

    def compile_all() -> None:
        _THREAD.until = done
        with contextlib.suppress(Exception), np.errstate(all="ignore"):
            measure()

    thread = threading.Thread(target=compile_all, name="compiles ahead", daemon=True)
    _AHEAD.append(thread)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()
        _AHEAD.remove(thread)


class Shared:
    """A program of `equinox.filter_jit` that may be compiled ahead.

    Whoever comes second waits for the first, and finds the program compiled.
    """

    def __init__(self, program: Any):
        self._program, self._lock = program, threading.RLock()

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if not _AHEAD or current_trace() is not None:
            return self._program(*args, **kwargs)
        with self._lock:
            if _THREAD.until is None:
                return self._program(*args, **kwargs)
            if _THREAD.until.is_set():
                raise _Stopped
            lowered = self._program.lower(*args, **kwargs)
            lowered.compile()
            return lowered.postprocess(jax.tree.map(_zeros, lowered.lowered.out_info))


def _zeros(of: jax.ShapeDtypeStruct) -> Array:
    if jnp.issubdtype(of.dtype, jax.dtypes.prng_key):
        return jnp.broadcast_to(jax.random.key(0), of.shape)
    return jnp.zeros(of.shape, of.dtype)
