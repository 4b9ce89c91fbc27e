"""The compiled training loop: a chunk of steps as one program, for one seed or for many.

Everything that can change without changing the program is an argument: data, keys, the number of
steps of the chunk, every number of the optimiser. Random numbers depend on the key and the index
of the step alone (`fold_in`), so that a run taken up from a checkpoint repeats, bit for bit, what
it would have done.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Bool, Float, Int

from entropix._core.arrays import Key, squared_norm
from entropix.networks import trainable
from entropix.training.objective import AbstractObjective
from entropix.training.optimiser import RelativeClip, average


class Keys(eqx.Module):
    """The streams of random numbers of a run: for the order of the data, the steps, the holdout."""

    order: Key
    steps: Key
    holdout: Key

    def __init__(self, key: Key):
        streams = (0x0DE5, 0x57E5, 0x401D)  # far from the counters that `jax.random.split` uses
        fold = jax.random.fold_in if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))
        self.order, self.steps, self.holdout = (fold(key, stream) for stream in streams)


class Setup(eqx.Module):
    """What a step needs and never changes; a pytree of arrays and hashable functions.

    Attributes:
        shell: the model (or whatever else has a `network`), its network taken out.
        objective: the loss of a batch.
        optimiser: an optax transformation; scaled by `-learning_rate(step)` if there is one.
        learning_rate: a schedule, or None where `optimiser` has its own.
        clip: relative clipping of the gradient, or None.
        ema_decay: of the parameters' moving average, or None.
        batch_size: examples per step.
    """

    shell: eqx.Module
    objective: AbstractObjective
    optimiser: optax.GradientTransformation
    learning_rate: Any
    clip: RelativeClip | None
    ema_decay: Float[Array, ""] | None
    batch_size: int = eqx.field(static=True)


class State(eqx.Module):
    """What a step changes: the arrays of a checkpoint.

    Attributes:
        params: the trainable arrays of the network.
        optimiser: the optimiser's state.
        average: the moving average of `params`, or None.
        mean_square: running mean square of the gradient's norm.
    """

    params: Any
    optimiser: Any
    average: Any
    mean_square: Float[Array, "*seeds"]


def split_model(model: Any) -> tuple[Any, Any, Any]:
    """The model without its network, the network's trainable arrays, and the rest of it."""
    params, fixed = eqx.partition(model.network, trainable(model.network))
    return eqx.tree_at(lambda m: m.network, model, None), params, fixed


def join_model(shell: Any, params: Any, fixed: Any) -> Any:
    """The inverse of `split_model`."""
    return eqx.tree_at(
        lambda m: m.network, shell, eqx.combine(params, fixed), is_leaf=lambda x: x is None
    )


def over_seeds(tree: Any, seeds: bool) -> Any:
    """`in_axes` of a tree: its arrays carry the seed axis, or not."""
    return jax.tree.map(lambda leaf: 0 if seeds and eqx.is_array(leaf) else None, tree)


@eqx.filter_jit
def initial_state(setup: Setup, params: Any, seeds: bool) -> State:
    """The state before the first step; its buffers are its own, ready to be donated."""

    def one(params: Any) -> State:
        mean_square = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        moving = None if setup.ema_decay is None else params
        return State(params, setup.optimiser.init(params), moving, mean_square)

    state = jax.vmap(one)(params) if seeds else one(params)
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


@eqx.filter_jit
def epoch_order(key: Key, epoch: Int[Array, ""], num_samples: int, seeds: bool) -> Array:
    """The order of the data in an epoch: a permutation."""

    def one(key: Key) -> Array:
        return jax.random.permutation(jax.random.fold_in(key, epoch), num_samples)

    return jax.vmap(one)(key) if seeds else one(key)


def _step(
    setup: Setup,
    data: Array,
    condition: Any,
    step: Int[Array, ""],
    fixed: Any,
    key: Key,
    state: State,
    order: Int[Array, " n"],
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """One step of gradient descent: the new state, the loss, the norm of the gradient."""
    batches = data.shape[0] // setup.batch_size
    start = (step % batches) * setup.batch_size
    index = jax.lax.dynamic_slice_in_dim(order, start, setup.batch_size)
    batch, given = data[index], jax.tree.map(lambda leaf: leaf[index], condition)

    def loss_of(params: Any) -> Array:
        model = join_model(setup.shell, params, fixed)
        return setup.objective(model, batch, given, key=jax.random.fold_in(key, step))

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    norm = jnp.sqrt(sum(squared_norm(g) for g in jax.tree.leaves(gradient)))
    mean_square = state.mean_square
    if setup.clip is not None:
        factor, mean_square = setup.clip(norm.astype(mean_square.dtype), mean_square, step)
        gradient = jax.tree.map(lambda g: (factor * g).astype(g.dtype), gradient)
    # Some transformations, such as reduce_on_plateau, also want the loss.
    optimiser = optax.with_extra_args_support(setup.optimiser)
    updates, opt_state = optimiser.update(gradient, state.optimiser, state.params, value=loss)
    if setup.learning_rate is not None:
        rate = setup.learning_rate(step)
        updates = jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates)
    params = optax.apply_updates(state.params, updates)
    moving = state.average
    if setup.ema_decay is not None:
        moving = average(setup.ema_decay, moving, params, step)
    return State(params, opt_state, moving, mean_square), loss, norm


def _chunk(inputs: Any, carry: tuple[State, Array]) -> tuple[State, Array, Array, Array, Array]:
    """Run steps `start` to `start + count` of a run.

    Args:
        inputs: setup, data, condition, the network's fixed arrays, keys, start, count, the length
            of the buffers, and whether there is a seed axis.
        carry: the state, and the order of the data in the epoch of `start` (any, where one begins).

    Returns:
        State, order, the losses and gradient norms of the steps, shape (length, *seeds), zero
        beyond `count`, and whether the parameters are finite, shape (*seeds,).
    """
    setup, data, condition, fixed, keys, start, count, length, seeds = inputs
    batches = data.shape[0] // setup.batch_size
    fixed_arrays, fixed_rest = eqx.partition(fixed, eqx.is_array)

    def one(step: Array, fixed_arrays: Any, key: Key, state: State, order: Array) -> Any:
        fixed = eqx.combine(fixed_arrays, fixed_rest)
        return _step(setup, data, condition, step, fixed, key, state, order)

    advance = jax.vmap(one, in_axes=(None, 0, 0, 0, 0)) if seeds else one

    def body(i: Array, loop: Any) -> Any:
        state, order, losses, norms = loop
        step = start + i
        order = jax.lax.cond(
            step % batches == 0,
            lambda: epoch_order(keys.order, step // batches, data.shape[0], seeds),
            lambda: order,
        )
        state, loss, norm = advance(step, fixed_arrays, keys.steps, state, order)
        return state, order, losses.at[i].set(loss), norms.at[i].set(norm)

    state, order = carry
    shape = (length, *state.mean_square.shape)
    losses = jnp.zeros(shape, data.dtype)
    norms = jnp.zeros(shape, state.mean_square.dtype)
    state, order, losses, norms = jax.lax.fori_loop(0, count, body, (state, order, losses, norms))
    return state, order, losses, norms, (jax.vmap(_finite) if seeds else _finite)(state.params)


def _finite(params: Any) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


# The second form frees the old state for the new one; the first keeps it, for a checkpoint.
keeping_chunk = eqx.filter_jit(_chunk)
donating_chunk = eqx.filter_jit(_chunk, donate="all-except-first")


@eqx.filter_jit
def holdout_loss(
    setup: Setup, params: Any, fixed: Any, keys: Keys, holdout: Array, condition: Any, seeds: bool
) -> Array:
    """The objective on held-out data, always with the same draws."""
    fixed_arrays, fixed_rest = eqx.partition(fixed, eqx.is_array)

    def one(params: Any, fixed_arrays: Any, key: Key) -> Array:
        model = join_model(setup.shell, params, eqx.combine(fixed_arrays, fixed_rest))
        return setup.objective.mean_over(
            eqx.nn.inference_mode(model),
            holdout,
            condition,
            key=key,
            batch_size=setup.batch_size,
        )

    return (jax.vmap(one) if seeds else one)(params, fixed_arrays, keys.holdout)
