r"""Gradient descent on the numbers of a process.

One compiled loop: value and gradient of the objective, the optimiser's step, the best process so
far, and the test for convergence. Nothing in it calls the host, so that it lowers for any device
and maps over starts (`eqx.filter_vmap`).
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Bool, Float, Int, PyTree

from entropix._core.arrays import Key, squared_norm
from entropix._core.checks import finite, positive_integer, prng_key
from entropix._core.compiled import compiled, error_if
from entropix._core.precision import full_precision
from entropix.interfaces import AbstractKernel, AbstractLearnable, AbstractProcess


_RUNNING, _CONVERGED, _NOT_FINITE = 0, 1, 2
_REASONS = ("ran all its steps", "converged", "met a value or gradient that is not finite")


class OptimisedSchedule(eqx.Module):
    """What `optimise_schedule` found.

    Attributes:
        process: the best process found.
        value: its objective.
        history: the objective at each step, shape (steps,); the last one taken is repeated.
        gradient_norms: the same of the gradient's norm.
        num_steps: evaluations of the objective that were made.
        status: 0 if all steps were taken, 1 if it converged, 2 if a value or a gradient was not
            finite; see `reason`.
    """

    process: AbstractProcess | AbstractKernel
    value: Float[Array, "*starts"]
    history: Float[Array, "*starts steps"]
    gradient_norms: Float[Array, "*starts steps"]
    num_steps: Int[Array, "*starts"]
    status: Int[Array, "*starts"]

    @property
    def converged(self) -> Bool[Array, "*starts"]:
        """Whether the best value stopped falling before the steps ran out."""
        return self.status == _CONVERGED

    @property
    def reason(self) -> str:
        """Why it stopped, in words."""
        return "; ".join(_REASONS[code] for code in np.unique(np.asarray(self.status)))

    def __str__(self) -> str:
        if np.ndim(self.value):
            best = np.argmin(np.asarray(self.value))
            return f"{len(self.value)} starts, best {self.value[best]:.6g} at {best}: {self.reason}"
        start = float(self.history[0])
        return f"{start:.6g} -> {float(self.value):.6g} in {int(self.num_steps)}: {self.reason}"


@functools.lru_cache
def decaying_adam(learning_rate: float, steps: int) -> optax.GradientTransformation:
    """Adam with a learning rate that falls to zero along half a cosine."""
    return optax.adam(optax.cosine_decay_schedule(learning_rate, steps))


@full_precision
def optimise_schedule(
    process: AbstractProcess | AbstractKernel,
    objective: Callable,
    *,
    key: Key,
    steps: int = 500,
    optimiser: optax.GradientTransformation | None = None,
    learning_rate: float = 0.1,
    tolerance: float = 1e-6,
    patience: int = 50,
    trainable: Callable | None = None,
) -> OptimisedSchedule:
    r"""Minimise an objective over the learnable numbers of a process by gradient descent.

    The best process found is kept. Descent stops early when the best value has fallen by less than
    `tolerance`, relative to its size, in the last `patience` steps, and at once where the objective
    or its gradient is not finite.

    Works under `jit` and, for several starts at once, under `eqx.filter_vmap`.

    Args:
        process: where to start. Its learnable parts (`MonotoneSchedule`, `MonotoneWarp`,
            `LearnablePath`) are trained, everything else is held.
        objective: any function of a process to a scalar: `KineticAction(...)` and its like, or your
            own. One that takes `key=` receives a new key at each step; the best value then also
            depends on the draw, and is too small.
        key: PRNG key for such an objective.
        steps: largest number of steps.
        optimiser: any of optax, including those with a line search (`optax.lbfgs()`); None
            takes Adam with a learning rate that falls to zero over `steps`.
        learning_rate: of the default optimiser, in units of log-rates.
        tolerance: see above; 0 takes all steps.
        patience: see above.
        trainable: a function of the process that picks the arrays to train, such as
            `lambda p: (p.schedule.beta_min, p.kappa)`; None takes the learnable parts.

    Returns:
        An `OptimisedSchedule`.

    Raises:
        ValueError: if an argument is malformed or there is nothing to train. Where the objective
            is not finite to begin with, an error is raised when the compiled program runs.

    References:
        Kingma et al., 2107.00630; Sabour et al., 2404.14507; Williams et al., 2412.07877.

    Example:
        >>> import entropix as ex, jax
        >>> schedule = ex.MonotoneSchedule([0.0, 0.0], 2.0, learn_total=True)
        >>> process = ex.VariancePreserving(schedule)
        >>> def objective(process):  # or `KineticAction(data)`, for example
        ...     return 1 + (process.schedule.total - 3.0) ** 2
        >>> found = ex.optimise_schedule(process, objective, key=jax.random.key(0))
        >>> print(f"{float(found.process.schedule.total):.2f}")
        3.00
    """
    if not isinstance(process, AbstractProcess | AbstractKernel):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
    if not callable(objective):
        raise ValueError(
            f"`objective` must be a function of a process, got {type(objective).__name__}."
        )
    positive_integer(steps, "steps")
    positive_integer(patience, "patience")
    if optimiser is None:
        optimiser = decaying_adam(float(learning_rate), steps)
    return _descend(
        process,
        objective,
        _mask(process, trainable),
        finite(tolerance, "tolerance", shape=()),
        prng_key(key),
        optimiser=optimiser,
        steps=steps,
        patience=patience,
    )


def _mask(process: AbstractProcess | AbstractKernel, trainable: Callable | None) -> PyTree:
    """A tree of the shape of `process`, True at what is trained."""
    held = jax.tree.map(lambda _: False, process)
    if trainable is not None:
        mask = eqx.tree_at(trainable, held, replace_fn=lambda _: True)
        mask = jax.tree.map(lambda m, x: bool(m) and eqx.is_inexact_array(x), mask, process)
        message = "`trainable` must pick floating arrays of the process, got none."
    else:

        def mark(part: Any) -> Any:
            if not isinstance(part, AbstractLearnable):
                return False
            still = jax.tree.map(lambda _: False, part)
            return eqx.tree_at(lambda p: p.learnable(), still, replace_fn=lambda _: True)

        mask = jax.tree.map(mark, process, is_leaf=lambda p: isinstance(p, AbstractLearnable))
        message = (
            "`process` must have a learnable part (MonotoneSchedule, MonotoneWarp, LearnablePath), "
            f"or `trainable` must pick what to train, got {type(process).__name__} without."
        )
    if not any(jax.tree.leaves(mask)):
        raise ValueError(message)
    return mask


@compiled
def _descend(
    process: AbstractProcess | AbstractKernel,
    objective: Callable,
    mask: PyTree,
    tolerance: Array,
    key: Key,
    *,
    optimiser: optax.GradientTransformation,
    steps: int,
    patience: int,
) -> OptimisedSchedule:
    start, held = eqx.partition(process, mask)
    update = optax.with_extra_args_support(optimiser).update
    try:
        noisy = "key" in inspect.signature(objective).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        noisy = False

    def value_of(params: Any, key: Key) -> Array:
        candidate = eqx.combine(params, held)
        value = jnp.asarray(objective(candidate, key=key) if noisy else objective(candidate))
        if value.shape != ():
            raise ValueError(f"`objective` must return a scalar, got shape {value.shape}.")
        return value

    kind = jax.eval_shape(value_of, start, key)

    def body(state: tuple) -> tuple:
        step, params, memory, best, lowest, mark, values, norms, status = state
        fresh = jax.random.fold_in(key, step)
        value, gradient = jax.value_and_grad(value_of)(params, fresh)
        norm = jnp.sqrt(sum(squared_norm(g) for g in jax.tree.leaves(gradient))).astype(kind.dtype)
        fine = jnp.isfinite(value) & jnp.isfinite(norm)
        better = fine & (value < lowest)
        best = jax.tree.map(lambda new, old: jnp.where(better, new, old), params, best)
        lowest = jnp.where(better, value, lowest)
        step = step + 1
        check = step % patience == 0
        small = mark - lowest <= tolerance * jnp.abs(lowest)  # never of an infinite mark
        stop = check & (step > patience) & small & (tolerance > 0)
        status = jnp.where(fine, jnp.where(stop, _CONVERGED, _RUNNING), _NOT_FINITE)
        mark = jnp.where(check, lowest, mark)
        values = values.at[step - 1].set(value)
        norms = norms.at[step - 1].set(norm)
        extra = {"value": value, "grad": gradient, "value_fn": lambda p: value_of(p, fresh)}
        updates, memory = update(gradient, memory, params, **extra)
        params = optax.apply_updates(params, updates)
        return step, params, memory, best, lowest, mark, values, norms, status

    def running(state: tuple) -> Array:
        return (state[0] < steps) & (state[-1] == _RUNNING)

    infinite, zeros = jnp.asarray(jnp.inf, kind.dtype), jnp.zeros(steps, kind.dtype)
    state = (jnp.asarray(0), start, optimiser.init(start), start, infinite, infinite)
    state = (*state, zeros, zeros, jnp.asarray(_RUNNING))
    step, _, _, best, lowest, _, values, norms, status = jax.lax.while_loop(running, body, state)
    # What was not finite ended the descent, and is left out of its record.
    taken = jnp.maximum(step - (status == _NOT_FINITE), 1)
    place = jnp.minimum(jnp.arange(steps), taken - 1)
    lowest = error_if(
        lowest,
        ~jnp.isfinite(lowest),
        "`objective` must be finite, with a finite gradient, at the process it starts from.",
    )
    return OptimisedSchedule(
        eqx.combine(best, held), lowest, values[place], norms[place], step, status
    )
