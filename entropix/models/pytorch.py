"""PyTorch modules as functions of JAX: inference on the host, batch by batch.

A call leaves the compiled program, so it costs a copy of its inputs and outputs; the module itself
runs as fast as in PyTorch. Everything that needs values works, and derivatives in the forward
direction, which `ProbabilityFlow` needs. Gradients in the reverse direction do not.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.checks import positive_integer
from entropix._core.extras import needed


class TorchFunction(eqx.Module):
    """A PyTorch module as `function(state, level, condition=None)`, for `from_denoiser`.

    Written for one example; under `jax.vmap` the module is called with batches. It is put into
    evaluation mode, and its parameters are constants.

    Args:
        module: `module(states, levels)` or, with a condition, `module(states, levels, condition)`,
            with tensors of shape (n, *shape), (n,) and (n, ...). An output with a `.sample` (those
            of diffusers) is unwrapped, and so is a tuple, of which the first entry is taken.
        shape: of one output; None: that of the state. Further channels (a learned variance) are
            ignored.
        batch_size: how many examples are handed over at a time, at most.
        call: None, or a function `call(module, states, levels, condition)` for modules with other
            arguments.

    Raises:
        ValueError: if PyTorch is not installed (the extra `torch`).
    """

    module: Any = eqx.field(static=True)
    shape: tuple[int, ...] | None = eqx.field(static=True)
    batch_size: int = eqx.field(static=True)
    call: Callable | None = eqx.field(static=True)

    def __init__(
        self,
        module: Any,
        *,
        shape: tuple[int, ...] | None = None,
        batch_size: int = 256,
        call: Callable | None = None,
    ):
        torch = needed("torch", "a model of PyTorch", "torch", "torch")

        if not isinstance(module, torch.nn.Module):
            raise ValueError(f"`module` must be a torch.nn.Module, got {type(module).__name__}.")
        self.module = module.eval()
        self.shape = shape
        self.batch_size = positive_integer(batch_size, "batch_size")
        self.call = call

    def __call__(
        self, state: Float[Array, "*shape"], level: Float[Array, ""], condition: Any = None
    ) -> Float[Array, "*shape"]:
        state, level = jnp.asarray(state), jnp.asarray(level)

        @jax.custom_jvp
        def evaluate(state: Array, level: Array) -> Array:
            result = jax.ShapeDtypeStruct(state.shape, state.dtype)
            return jax.pure_callback(
                self._values, result, state, level, condition, vmap_method="broadcast_all"
            )

        @evaluate.defjvp
        def _(primals: Any, tangents: Any) -> tuple[Array, Array]:
            state, level = primals
            result = jax.ShapeDtypeStruct(state.shape, state.dtype)
            tangent = jax.pure_callback(
                self._tangents,
                result,
                state,
                level,
                condition,
                tangents[0],
                vmap_method="broadcast_all",
            )
            return evaluate(state, level), tangent

        return evaluate(state, level)

    def _values(self, state: Any, level: Any, condition: Any) -> np.ndarray:
        torch = needed("torch", "a model of PyTorch", "torch", "torch")

        with torch.inference_mode():
            return self._batches(self._apply, state, level, condition)

    def _tangents(self, state: Any, level: Any, condition: Any, tangent: Any) -> np.ndarray:
        torch = needed("torch", "a model of PyTorch", "torch", "torch")

        def push(state: Any, level: Any, condition: Any, tangent: Any) -> Any:
            def at(states: Any) -> Any:
                return self._apply(states, level, condition)

            return torch.func.jvp(at, (state,), (tangent,))[1]

        with torch.no_grad():
            return self._batches(push, state, level, condition, tangent)

    def _apply(self, states: Any, levels: Any, condition: Any) -> Any:
        if self.call is not None:
            out = self.call(self.module, states, levels, condition)
        elif condition is None:
            out = self.module(states, levels)
        else:
            out = self.module(states, levels, condition)
        out = getattr(out, "sample", out)
        out = out[0] if isinstance(out, tuple) else out
        if out.ndim == states.ndim and out.shape[1] > states.shape[1]:
            out = out[:, : states.shape[1]]  # a learned variance follows
        if out.shape != states.shape:
            raise ValueError(
                f"`module` must return a tensor of shape {tuple(states.shape)}, "
                f"got {tuple(out.shape)}."
            )
        return out

    def _batches(self, fn: Callable, state: Any, level: Any, condition: Any, *more: Any) -> Any:
        """Apply `fn` to tensors of at most `batch_size` examples, whatever the leading axes."""
        torch = needed("torch", "a model of PyTorch", "torch", "torch")

        host = np.asarray(state)
        leading = np.shape(level)
        shape = host.shape[len(leading) :]

        def flat(leaf: Any) -> Any:
            leaf = np.array(leaf)  # a copy: tensors want to own what they may write to
            return torch.from_numpy(leaf.reshape(-1, *leaf.shape[len(leading) :]))

        parts = jax.tree.map(flat, (state, level, condition, *more))
        count = parts[0].shape[0]
        out = np.empty((count, *shape), host.dtype)
        for start in range(0, count, self.batch_size):
            stop = start + self.batch_size
            batch = jax.tree.map(lambda leaf, a=start, b=stop: leaf[a:b], parts)
            out[start:stop] = fn(*batch).to(torch.float32).numpy()
        return out.reshape(host.shape)
