"""Compiled programs whose checks are returned and read on the host, instead of called back from.

`equinox.error_if` puts a host callback into a program, which then is kept out of JAX's persistent
cache and cannot run everywhere. A function decorated by `compiled` may hold `error_if` of this
module instead: its program returns one flag for each check, which are looked at after the call.
Where the caller is itself one of these functions, the flags are passed on to its program. In the
program of anyone else, `error_if` is `equinox.error_if`.

`lightly_compiled` is for programs that take longer to compile than to run, as most do.

A check inside of a branch or a loop has no value outside of it that could be returned, unless the
loop returns it (`mapped`, which `entropix._core.chunks` uses): it stays a callback.
"""

import functools
import threading
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import diffrax
import equinox as eqx
import equinox.internal as eqxi
import jax
import jax.core
import jax.lib
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from entropix._core.ahead import Shared
from entropix._core.tracing import current_trace, trace_of


_Function = TypeVar("_Function", bound=Callable[..., Any])
_Tree = TypeVar("_Tree")
# What is left out where compiling takes longer than running: what makes code fast.
_LIGHT: dict[str, Any] = {"xla_llvm_disable_expensive_passes": True}
# The older of two ways to turn fused operations into code takes half the time. Other versions may
# not know of it, and refuse what they do not know.
if jax.lib.__version__.startswith("0.10."):
    _LIGHT["xla_cpu_use_fusion_emitters"] = False


def _is_ours() -> bool:
    """Whether no program is being traced, or one that returns its checks."""
    trace = current_trace()
    return trace is None or trace is _collecting()


class _Checks:
    """The checks met while one program is traced: where one failed, the number of its message."""

    def __init__(self) -> None:
        self.trace = current_trace()
        self.codes: list[Array] = []  # from one; zero where the check is passed
        self.messages: list[Sequence[str]] = []


class _Tracing(threading.local):
    """The programs that are being traced by a thread, the innermost last."""

    def __init__(self) -> None:
        self.programs: list[_Checks] = []


_TRACING = _Tracing()


def _collecting() -> Any:
    """The trace in which checks are collected."""
    return _TRACING.programs[-1].trace if _TRACING.programs else None


def error_if(value: _Tree, failed: ArrayLike, message: str) -> _Tree:
    """`equinox.error_if(value, failed, message)`, without a callback where that is possible."""
    return branched_error_if(value, failed, 0, [message])


def branched_error_if(
    value: _Tree, failed: ArrayLike, index: ArrayLike, messages: Sequence[str]
) -> _Tree:
    """`equinox.branched_error_if`, without a callback where that is possible."""
    flag = eqxi.unvmap_any(failed) if isinstance(failed, jax.core.Tracer) else failed
    if not isinstance(flag, jax.core.Tracer):
        if np.any(np.asarray(flag)):
            return eqx.branched_error_if(value, failed, index, messages)
        return value
    trace = trace_of(flag)
    if trace is None or trace is not _collecting():
        return eqx.branched_error_if(value, flag, index, messages)
    index = eqxi.unvmap_max(index) if isinstance(index, jax.core.Tracer) else index
    checks = _TRACING.programs[-1]
    checks.codes.append(jnp.where(flag, jnp.asarray(index, jnp.int32) + 1, 0))
    checks.messages.append(messages)
    return value


def check_results(value: _Tree, results: PyTree) -> _Tree:
    """`value`, with an error where a solve failed, of Diffrax with `throw=False`."""
    kinds = jnp.arange(len(diffrax.RESULTS), dtype=jnp.int32)
    every = jax.tree.map(lambda _: kinds, diffrax.RESULTS.successful)
    okay = jax.vmap(diffrax.is_okay)(every)
    (codes,) = jax.tree.leaves(results)
    code = jnp.max(jnp.where(okay[codes], 0, codes))
    messages = [
        diffrax.RESULTS[jax.tree.map(lambda _, k=k: np.asarray(k), diffrax.RESULTS.successful)]
        for k in range(len(diffrax.RESULTS))
    ]
    return branched_error_if(value, code > 0, code, messages)


def compiled(function: _Function) -> _Function:
    """`equinox.filter_jit(function)`, whose checks are read after the call."""

    def program(args: tuple, kwargs: dict[str, Any]) -> tuple[PyTree, Array | None, list]:
        return _with_codes(function, *args, **kwargs)

    program.__name__ = program.__qualname__ = function.__name__
    with_codes, with_callbacks = Shared(eqx.filter_jit(program)), eqx.filter_jit(function)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        if not any(isinstance(leaf, jax.core.Tracer) for leaf in leaves) or _is_ours():
            out, codes, messages = with_codes(args, kwargs)
            if not isinstance(codes, jax.core.Tracer) or _is_ours():
                return _checked(out, codes, messages)
        # In the program of a caller. Checks of what is returned would be lost where only its
        # derivative is used.
        return with_callbacks(*args, **kwargs)

    wrapped: Any = call
    return wrapped


def lightly_compiled(function: _Function, *, level: int = 0) -> _Function:
    """`equinox.filter_jit(function)`, of a program that takes longer to compile than to run.

    On a CPU it is compiled without optimisation, where it is a program of its own: in the program
    of a caller, and where an argument is being transformed, it is `equinox.filter_jit(function)`.
    With `level=1`, for one that goes through all samples or evaluates a model many times, it is
    compiled in half the time of `equinox.filter_jit`, and runs about as fast.
    """
    filter_jit: Any = eqx.filter_jit  # its annotations do not know of options of `jax.jit`
    options = _LIGHT | {"xla_backend_optimization_level": level}
    usual, light = filter_jit(function), filter_jit(function, compiler_options=options)
    if level:  # otherwise it is better run
        usual, light = Shared(usual), Shared(light)

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        leaves = jax.tree.leaves((args, kwargs))
        # JAX takes options of the compiler for outermost programs only, and keeps them in
        # derivatives, which may become a part of others.
        traced = any(isinstance(leaf, jax.core.Tracer) for leaf in leaves)
        own = not traced and jax.default_backend() == "cpu" and current_trace() is None
        return light(*args, **kwargs) if own else usual(*args, **kwargs)

    wrapped: Any = call
    return wrapped


def mapped(body: Callable[[Any], Any], args: Any, *, recompute: bool = False) -> Any:
    """`jax.lax.map(body, args)`, whose checks are looked at after the loop.

    With `recompute`, reverse mode keeps nothing of an entry.
    """
    messages: list[Sequence[str]] = []

    def one(entry: Any) -> tuple[Any, Array | None]:
        out, codes, messages[:] = _with_codes(body, entry)
        return out, codes

    out, codes = jax.lax.map(jax.checkpoint(one) if recompute else one, args)
    return _checked(out, None if codes is None else jnp.max(codes, axis=0), messages)


def _with_codes(
    function: Callable[..., Any], *args: Any, **kwargs: Any
) -> tuple[Any, Array | None, list[Sequence[str]]]:
    """What a function returns, and the checks it met while it was traced."""
    checks = _Checks()
    _TRACING.programs.append(checks)
    try:
        out = function(*args, **kwargs)
    finally:
        _TRACING.programs.pop()
    return out, jnp.stack(checks.codes) if checks.codes else None, checks.messages


def _checked(out: _Tree, codes: Array | None, messages: list[Sequence[str]]) -> _Tree:
    """What a program returned, unless one of its checks failed: the first of them is reported."""
    if codes is None:
        return out
    if not isinstance(codes, jax.core.Tracer) and not np.any(np.asarray(codes)):
        return out
    numbers, rest = eqx.partition(out, eqx.is_inexact_array)
    for code, of_code in zip(codes, messages, strict=True):
        numbers = branched_error_if(numbers, code > 0, code - 1, of_code)
    return eqx.combine(numbers, rest)
