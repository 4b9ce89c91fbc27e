"""PyTorch modules as functions of JAX: evaluation on the host, batch by batch.

A call leaves the compiled program, so it costs a copy of its inputs and outputs; the module itself
runs as fast as in PyTorch. Small networks need large batches for that: with few operations each,
the hand-over between the threads of both libraries takes as long as they do. Derivatives with
respect to the state, the level and a condition are those of PyTorch, in both directions and of any
order. The parameters are constants.
"""

import dataclasses
import functools
import hashlib
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.checks import choice, positive_integer
from entropix.models.torch_call import call_torch, torch_module


PRECISIONS = ("bfloat16", "float16")
# A batch whose largest intermediate tensor is of this many bytes, within these numbers of examples.
_BYTES, _BYTES_ELSEWHERE = 2**24, 2**28  # on the CPU, and on other devices
_FEWEST, _MOST = 16, 4096


class TorchFunction(eqx.Module):
    """A PyTorch module as `function(state, level, condition=None)`, for `from_denoiser`.

    Written for one example; under `jax.vmap` the module is called with batches. It is put into
    evaluation mode, and its parameters are constants. It is called on the device and in the dtype
    of its parameters; levels have at least single precision.

    Args:
        module: `module(states, levels)` or, with a condition, `module(states, levels, condition)`,
            with tensors of shape (n, *shape), (n,) and (n, ...). An output with a `.sample` (those
            of diffusers) is unwrapped, and so is a tuple, of which the first entry is taken.
            Further channels (a learned variance) are ignored.
        batch_size: how many examples are handed over at a time, at most. None: 16 to 4096, so that
            the largest output of its submodules takes about 16 MiB on the CPU, 256 MiB elsewhere.
        call: None, or a function `call(module, states, levels, condition)` for modules with other
            arguments.
        precision: dtype of matrix products and convolutions, "bfloat16" or "float16", by PyTorch's
            automatic mixed precision (`torch.autocast`); None for that of the parameters.

    Raises:
        ValueError: if an argument is not allowed.
        ImportError: if PyTorch is not installed (the extra `torch`).
    """

    module: Any = eqx.field(static=True)
    batch_size: int | None = eqx.field(static=True)
    call: Callable | None = eqx.field(static=True)
    precision: str | None = eqx.field(static=True)

    def __init__(
        self,
        module: Any,
        *,
        batch_size: int | None = None,
        call: Callable | None = None,
        precision: str | None = None,
    ):
        if not isinstance(module, torch_module().nn.Module):
            raise ValueError(f"`module` must be a torch.nn.Module, got {type(module).__name__}.")
        self.module = module.eval()
        self.batch_size = batch_size
        if batch_size is not None:
            self.batch_size = positive_integer(batch_size, "batch_size")
        self.call = call
        self.precision = None if precision is None else choice(precision, "precision", PRECISIONS)

    def __call__(
        self, state: Float[Array, "*shape"], level: Float[Array, ""], condition: PyTree = None
    ) -> Float[Array, "*shape"]:
        state = jnp.asarray(state)
        leaves, structure = jax.tree.flatten(condition)
        args = [jnp.asarray(leaf) for leaf in (state, level, *leaves)]
        function = _Evaluation(self.module, self.call, self.precision, structure)
        result = jax.ShapeDtypeStruct(state.shape, state.dtype)
        batch_size = self.batch_size
        if batch_size is None:
            batch_size = _fitting(function, tuple((a.shape, a.dtype.name) for a in args))
        return call_torch(function, args, [result], batch_size)[0]

    @property
    def fingerprint(self) -> str:
        """A hash of the class of the module and its parameters."""
        torch = torch_module()
        digest = hashlib.sha256(f"{type(self.module).__name__} {self.precision}".encode())
        for name, tensor in self.module.state_dict().items():
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            digest.update(flat.view(torch.uint8).numpy())
        return digest.hexdigest()[:16]


@dataclasses.dataclass(frozen=True)
class _Evaluation:
    """The module as a function of the leaves of its arguments."""

    module: Any
    call: Callable | None
    precision: str | None
    structure: Any

    def __call__(self, states: Any, levels: Any, *leaves: Any) -> tuple[Any]:
        torch = torch_module()
        own = next((p for p in self.module.parameters() if p.is_floating_point()), states)
        device, dtype = own.device, own.dtype
        fine = torch.promote_types(dtype, torch.float32)
        given = [leaf.to(device, dtype if leaf.is_floating_point() else None) for leaf in leaves]
        condition = jax.tree.unflatten(self.structure, given)
        args = (states.to(device, dtype), levels.to(device, fine))
        precision = None if self.precision is None else getattr(torch, self.precision)
        with torch.autocast(device.type, dtype=precision, enabled=precision is not None):
            if self.call is not None:
                out = self.call(self.module, *args, condition)
            elif condition is None:
                out = self.module(*args)
            else:
                out = self.module(*args, condition)
        out = getattr(out, "sample", out)
        out = out[0] if isinstance(out, tuple) else out
        if not isinstance(out, torch.Tensor):
            raise ValueError(
                f"`module` must return a tensor, or an object with one as `.sample`, got "
                f"{type(out).__name__}."
            )
        if out.ndim == states.ndim and out.shape[1] > states.shape[1]:
            out = out[:, : states.shape[1]]  # a learned variance follows
        if out.shape != states.shape:
            raise ValueError(
                f"`module` must return a tensor of shape {tuple(states.shape)}, "
                f"got {tuple(out.shape)}."
            )
        return (out.to(states.device, states.dtype),)


@functools.lru_cache(maxsize=64)
def _fitting(function: _Evaluation, args: tuple[tuple[tuple[int, ...], str], ...]) -> int:
    """The size of a batch, from the sizes of all outputs of the submodules for one example."""
    torch = torch_module()
    module, largest = function.module, 1

    def note(_: Any, __: Any, out: Any) -> None:
        nonlocal largest
        for leaf in jax.tree.leaves(getattr(out, "sample", out)):
            if isinstance(leaf, torch.Tensor):
                largest = max(largest, leaf.nbytes)

    hooks = [part.register_forward_hook(note) for part in module.modules()]
    examples = [torch.ones((1, *shape), dtype=getattr(torch, dtype)) for shape, dtype in args]
    try:
        with torch.no_grad():
            # Numbers of classes are zero: there may be one.
            function(*(e if e.is_floating_point() else 0 * e for e in examples))
    finally:
        for hook in hooks:
            hook.remove()
    elsewhere = any(p.device.type != "cpu" for p in module.parameters())
    fits = (_BYTES_ELSEWHERE if elsewhere else _BYTES) // largest
    return 1 << (min(max(fits, _FEWEST), _MOST).bit_length() - 1)
