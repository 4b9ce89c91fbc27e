r"""Functions of PyTorch as functions of JAX, with derivatives of any order in both directions.

A function f of tensors is a primitive of JAX, evaluated on the host. Its derivatives are functions
of tensors again, evaluated by `torch.func`, and so the same primitive:

- forward, $(x, \dot x) \mapsto \partial f(x)\,\dot x$, is linear in $\dot x$, and
- its transpose in $\dot x$ is backward, $(x, \bar y) \mapsto \partial f(x)^T\bar y$, whose
  transpose in $\bar y$ is forward.

Arguments and results share their leading axes, those of `jax.vmap`. On the host these become one
axis, which is handed over in batches.
"""

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import ShapedArray
from jax.extend.core import Primitive
from jax.interpreters import ad, batching, mlir
from jaxtyping import Array

from entropix._core.extras import needed


# From tensors with a batch axis to a tuple of such tensors.
TensorFunction = Callable[..., tuple[Any, ...]]


@dataclasses.dataclass(frozen=True)
class Forward:
    """The derivative of a function along tangents of some of its arguments, which come last."""

    function: TensorFunction
    which: tuple[int, ...]

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        torch = torch_module()
        count = len(args) - len(self.which)
        at, chosen = _restricted(self.function, args[:count], self.which)
        with _derivatives(torch):
            try:
                return torch.func.jvp(at, chosen, args[count:])[1]
            except NotImplementedError:  # some operations have no forward derivatives
                values, pull = torch.func.vjp(at, *chosen)
                zeros = tuple(torch.zeros_like(value) for value in values)
                return torch.func.vjp(pull, zeros)[1](args[count:])[0]


@dataclasses.dataclass(frozen=True)
class Backward:
    """The transpose of `Forward`: from cotangents of the results, which come last."""

    function: TensorFunction
    which: tuple[int, ...]
    arguments: int

    def __call__(self, *args: Any) -> tuple[Any, ...]:
        torch = torch_module()
        count = self.arguments
        at, chosen = _restricted(self.function, args[:count], self.which)
        with _derivatives(torch):
            return torch.func.vjp(at, *chosen)[1](tuple(args[count:]))


def torch_module() -> Any:
    """The package `torch`.

    Raises:
        ImportError: if it is not installed.
    """
    return needed("torch", "a model of PyTorch", "torch", "torch")


def _derivatives(torch: Any) -> Any:
    """Fused attention has no forward derivatives."""
    return torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH)


def _restricted(
    function: TensorFunction, args: Sequence[Any], which: tuple[int, ...]
) -> tuple[TensorFunction, tuple[Any, ...]]:
    """The function of some of its arguments, and their values."""

    def at(*chosen: Any) -> tuple[Any, ...]:
        full = list(args)
        for i, value in zip(which, chosen, strict=True):
            full[i] = value
        return function(*full)

    return at, tuple(args[i] for i in which)


# ------------------------------------------------------------------ the primitive


def call_torch(
    function: TensorFunction, args: Sequence[Array], results: Sequence[Any], batch_size: int
) -> list[Array]:
    """Evaluate a function of tensors, for one example.

    Args:
        function: from tensors with a batch axis to a tuple of such tensors. Equal functions are
            compiled once.
        args: of one example.
        results: `jax.ShapeDtypeStruct` of the results for one example.
        batch_size: how many examples are handed over at a time, at most.
    """
    return _call_p.bind(
        *args, function=function, results=tuple(results), batch_size=batch_size, leading=0
    )


_call_p = Primitive("torch_call")
_call_p.multiple_results = True


@_call_p.def_impl
def _evaluate(*args: Any, function: Any, results: Any, batch_size: int, leading: int) -> Any:
    def on_host(*args: Any) -> list[np.ndarray]:
        torch = torch_module()
        # JAX arrays may be read only, but not written to: PyTorch gets copies.
        hosts = [np.asarray(arg) for arg in args]
        flat = [host.reshape(-1, *host.shape[leading:]) for host in hosts]
        outs = [np.empty((len(flat[0]), *r.shape[leading:]), r.dtype) for r in results]
        for start in range(0, len(flat[0]), batch_size):
            batch = slice(start, start + batch_size)
            with torch.no_grad():  # apart from the derivatives of `torch.func`
                values = function(*(torch.from_numpy(np.array(arg[batch])) for arg in flat))
            for out, value in zip(outs, values, strict=True):
                out[batch] = value.numpy()
        return [out.reshape(r.shape) for out, r in zip(outs, results, strict=True)]

    return jax.pure_callback(on_host, list(results), *args)


@_call_p.def_abstract_eval
def _(*_: Any, results: Any, **__: Any) -> Any:
    return [ShapedArray(r.shape, r.dtype) for r in results]


mlir.register_lowering(_call_p, mlir.lower_fun(_evaluate, multiple_results=True))


def _batched(args: Any, axes: Any, *, results: Any, leading: int, **options: Any) -> Any:
    pairs = list(zip(args, axes, strict=True))
    size = next(arg.shape[axis] for arg, axis in pairs if axis is not None)
    args = [
        jnp.broadcast_to(arg, (size, *arg.shape)) if axis is None else jnp.moveaxis(arg, axis, 0)
        for arg, axis in pairs
    ]
    results = tuple(jax.ShapeDtypeStruct((size, *r.shape), r.dtype) for r in results)
    outs = _call_p.bind(*args, results=results, leading=leading + 1, **options)
    return outs, [0] * len(outs)


batching.primitive_batchers[_call_p] = _batched


def _jvp(primals: Any, tangents: Any, *, function: Any, results: Any, **options: Any) -> Any:
    outs = _call_p.bind(*primals, function=function, results=results, **options)
    which = tuple(i for i, t in enumerate(tangents) if type(t) is not ad.Zero)
    pushed = _call_p.bind(
        *primals,
        *(tangents[i] for i in which),
        function=Forward(function, which),
        results=results,
        **options,
    )
    return outs, pushed


ad.primitive_jvps[_call_p] = _jvp


def _transpose(cotangents: Any, *args: Any, function: Any, results: Any, **options: Any) -> Any:
    if isinstance(function, Forward):
        count = len(args) - len(function.which)
        transposed: Any = Backward(function.function, function.which, count)
    else:
        count = function.arguments
        transposed = Forward(function.function, function.which)
    # A linear argument may be known: what depends on it alone is no part of the linear map.
    wanted = [ad.is_undefined_primal(arg) for arg in args]
    avals = [arg.aval if want else arg for arg, want in zip(args, wanted, strict=True)]
    outs = _call_p.bind(
        *args[:count],
        *(ad.instantiate_zeros(ct) for ct in cotangents),
        function=transposed,
        results=tuple(jax.ShapeDtypeStruct(aval.shape, aval.dtype) for aval in avals[count:]),
        **options,
    )
    linear = zip(outs, wanted[count:], strict=True)
    return [None] * count + [out if want else None for out, want in linear]


ad.primitive_transposes[_call_p] = _transpose
