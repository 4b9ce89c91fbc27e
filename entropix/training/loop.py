"""The compiled training loop: a chunk of steps as one program, for one seed or for many.

Everything that can change without changing the program is an argument: data, keys, the number of
steps of the chunk, every number of the optimiser. Random numbers depend on the key and the index
of the step alone (`fold_in`), so that a run taken up from a checkpoint repeats, bit for bit, what
it would have done.

On a mesh of devices (`entropix._core.mesh`) the loop is a `jax.shard_map`: every device steps its
own members of the ensemble, for which it needs no other device, on its own share of each batch, for
which it needs one sum a step, of gradient and loss together.
"""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Bool, Float, Int

from entropix._core.arrays import Key, squared_norm
from entropix._core.mesh import DATA, spec
from entropix.networks import trainable
from entropix.training.early_stopping import Stopping
from entropix.training.layout import Layout
from entropix.training.objective import AbstractObjective
from entropix.training.optimiser import RelativeClip, average


class Keys(eqx.Module):
    """The streams of random numbers of a run: for the order of the data, the steps, the holdout."""

    order: Key
    steps: Key
    holdout: Key

    def __init__(self, key: Key):
        self.order, self.steps, self.holdout = _streams(key)


@jax.jit
def _streams(key: Key) -> tuple[Key, ...]:
    streams = (0x0DE5, 0x57E5, 0x401D)  # far from the counters that `jax.random.split` uses
    fold = jax.random.fold_in if key.ndim == 0 else jax.vmap(jax.random.fold_in, (0, None))
    return tuple(fold(key, stream) for stream in streams)


class Setup(eqx.Module):
    """What a step needs and never changes; a pytree of arrays and hashable functions.

    In an ensemble an array is shared by all members, or has a leading seed axis; the `Layout` says
    which.

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
        stopping: whether training goes on, and the best parameters so far; None where it always
            does.
    """

    params: Any
    optimiser: Any
    average: Any
    mean_square: Float[Array, "*seeds"]
    stopping: Stopping | None

    @property
    def current(self) -> Any:
        """The parameters to be judged: the average, if there is one."""
        return self.params if self.average is None else self.average


class Inputs(eqx.Module):
    """What a chunk of steps is computed from, besides the state.

    Attributes:
        setup: see `Setup`.
        source: where batches come from.
        fixed: the rest of the network, with a leading seed axis in an ensemble.
        keys: see `Keys`.
        start: the first step.
        count: how many steps, at most `length`.
        length: of the buffers for losses and norms.
        layout: seeds and devices.
    """

    setup: Any
    source: Any
    fixed: Any
    keys: Any
    start: Any
    count: Any
    length: int = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)

    def within(self, layout: Layout) -> "Inputs":
        """The same with another layout."""
        arrays = (self.setup, self.source, self.fixed, self.keys, self.start, self.count)
        return Inputs(*arrays, self.length, layout)


def split_model(model: Any) -> tuple[Any, Any, Any]:
    """The model without its network, the network's trainable arrays, and the rest of it."""
    params, fixed = eqx.partition(model.network, trainable(model.network))
    return eqx.tree_at(lambda m: m.network, model, None), params, fixed


def join_model(shell: Any, params: Any, fixed: Any) -> Any:
    """The inverse of `split_model`."""
    return eqx.tree_at(
        lambda m: m.network, shell, eqx.combine(params, fixed), is_leaf=lambda x: x is None
    )


@eqx.filter_jit
def initial_state(setup: Setup, params: Any, layout: Layout, stopping: bool = False) -> State:
    """The state before the first step; its buffers are its own, ready to be donated."""

    def one(setup: Setup, params: Any) -> State:
        mean_square = jnp.zeros((), jax.tree.leaves(params)[0].dtype)
        moving = None if setup.ema_decay is None else params
        best = Stopping.begin(params) if stopping else None
        return State(params, setup.optimiser.init(params), moving, mean_square, best)

    state = layout.over_seeds(one, setup)(params)
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _step(
    setup: Setup,
    batch: tuple[Array, Any],
    step: Int[Array, ""],
    fixed: Any,
    key: Key,
    state: State,
    parts: int,
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """One step of gradient descent: the new state, the loss, the norm of the gradient.

    `batch` is the share of this device, one of `parts`.
    """

    def loss_of(params: Any) -> Array:
        model = join_model(setup.shell, params, fixed)
        share = None if parts == 1 else (jax.lax.axis_index(DATA), parts)
        return setup.objective(model, *batch, key=jax.random.fold_in(key, step), share=share)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    if parts > 1:  # as one vector: one sum over devices
        flat, unravel = ravel_pytree((loss, gradient))
        loss, gradient = unravel(jax.lax.pmean(flat, DATA))
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
    new = State(params, opt_state, moving, mean_square, state.stopping)
    if state.stopping is not None:
        active = state.stopping.active
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
    return new, loss, norm


def _steps(
    inputs: Inputs, state: State, order: Any
) -> tuple[State, Any, Array, Array, Bool[Array, "*seeds"]]:
    """All steps of a chunk, for the members and the share of each batch of one device."""
    setup, source, layout = inputs.setup, inputs.source, inputs.layout
    fixed_arrays, fixed_rest = eqx.partition(inputs.fixed, eqx.is_array)
    parts = layout.parts
    part = jax.lax.axis_index(DATA) if parts > 1 else 0

    def one(
        setup: Setup, fixed: Any, key: Key, state: State, order: Any, count: Any, i: Array
    ) -> Any:
        step = inputs.start + i
        batch = source.batch(i, step, order, count, setup.batch_size // parts, part, parts)
        fixed = eqx.combine(fixed, fixed_rest)
        return _step(setup, batch, step, fixed, key, state, parts)

    def advance(state: State, order: Any, i: Array) -> Any:
        mapped = layout.over_seeds(one, setup, last_shared=True)
        return mapped(fixed_arrays, inputs.keys.steps, state, order, source.counts, i)

    def body(i: Array, loop: Any) -> Any:
        state, order, losses, norms = loop
        order = source.reorder(order, inputs.keys.order, inputs.start + i, setup.batch_size, layout)
        state, loss, norm = advance(state, order, i)
        return state, order, losses.at[i].set(loss), norms.at[i].set(norm)

    shape = (inputs.length, *state.mean_square.shape)
    losses = jnp.zeros(shape, source.dtype)
    norms = jnp.zeros(shape, state.mean_square.dtype)
    state, order, losses, norms = jax.lax.fori_loop(
        0, inputs.count, body, (state, order, losses, norms)
    )
    finite = jax.vmap(_finite) if layout.seeds else _finite
    return state, order, losses, norms, finite(state.params)


def _everywhere(tree: Any, mark: Any) -> Any:
    return jax.tree.map(lambda _: mark, tree)


def _marked(arrays: Inputs, stacked: Any, shared: Any, streamed: Any) -> Inputs:
    """A mark for every array: whether it has a seed axis, is shared, or belongs to a stream."""
    return Inputs(
        arrays.layout.flagged(arrays.setup, stacked, shared),
        arrays.source.marked(stacked, shared, streamed),
        _everywhere(arrays.fixed, stacked),
        _everywhere(arrays.keys, stacked),
        shared,
        shared,
        arrays.length,
        arrays.layout,
    )


def _groups(
    inputs: Inputs, state: State, order: Any
) -> tuple[State, Any, Array, Array, Bool[Array, "*seeds"]]:
    """The steps of a chunk for all members of a device, group after group."""
    layout = inputs.layout
    members = state.mean_square.shape[0] if layout.seeds else 1
    size = layout.group(members)
    if not layout.seeds or size == members > 1:
        return _steps(inputs, state, order)
    arrays, rest = eqx.partition(inputs, eqx.is_array)
    grouped, shared = eqx.partition(arrays, _marked(arrays, True, False, False))
    # A group of one is a run without a seed axis.
    within = dataclasses.replace(layout, seeds=size > 1, stacked=layout.stacked if size > 1 else ())

    def of_group(tree: Any) -> Any:
        shape = (members // size, size) if size > 1 else (members,)
        return jax.tree.map(lambda leaf: leaf.reshape(*shape, *leaf.shape[1:]), tree)

    def steps(group: Any) -> Any:
        own, state, order = group
        return _steps(eqx.combine(own, shared, rest).within(within), state, order)

    found = jax.lax.map(steps, of_group((grouped, state, order)))
    *stacked, losses, norms, finite = found

    def of_members(tree: Any, axis: int = 0) -> Any:
        def one(leaf: Array) -> Array:
            leaf = jnp.moveaxis(leaf, 0, axis)
            shape = (*leaf.shape[:axis], members, *leaf.shape[axis + (2 if size > 1 else 1) :])
            return leaf.reshape(shape)

        return jax.tree.map(one, tree)

    state, order = of_members(tuple(stacked))
    return state, order, of_members(losses, 1), of_members(norms, 1), of_members(finite)


def _chunk(
    inputs: Inputs, carry: tuple[State, Any]
) -> tuple[State, Any, Array, Array, Bool[Array, "*seeds"]]:
    """Run steps `start` to `start + count` of a run.

    Args:
        inputs: see `Inputs`.
        carry: the state, and the order of the data in the epoch of `start` (any, where one begins).

    Returns:
        State, order, the losses and gradient norms of the steps, shape (length, *seeds), zero
        beyond `count`, and whether the parameters are finite, shape (*seeds,).
    """
    layout = inputs.layout
    if layout.mesh is None:
        return _groups(inputs, *carry)
    arrays, rest = eqx.partition(inputs, eqx.is_array)
    of_seed, of_step = layout.seed_spec(), layout.seed_spec(axis=1)
    split = spec(layout.mesh, None, DATA)
    specs = _marked(arrays, of_seed, layout.seed_spec(False), split)
    ins = (specs, *_everywhere(carry, of_seed))
    outs = (*_everywhere(carry, of_seed), of_step, of_step, of_seed)

    def local(arrays: Inputs, state: State, order: Any) -> Any:
        return _groups(eqx.combine(arrays, rest), state, order)

    run = jax.shard_map(local, mesh=layout.mesh, in_specs=ins, out_specs=outs, check_vma=False)
    return run(arrays, *carry)


def _finite(params: Any) -> Bool[Array, ""]:
    return jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(params)]))


# The second form frees the old state for the new one; the first keeps it, for a checkpoint.
keeping_chunk = eqx.filter_jit(_chunk)
donating_chunk = eqx.filter_jit(_chunk, donate="all-except-first")


@eqx.filter_jit
def holdout_loss(
    setup: Setup,
    params: Any,
    fixed: Any,
    keys: Keys,
    holdout: Array,
    condition: Any,
    layout: Layout,
) -> Float[Array, "*seeds"]:
    """The objective on held-out data, always with the same draws."""
    fixed_arrays, fixed_rest = eqx.partition(fixed, eqx.is_array)

    def one(setup: Setup, params: Any, fixed_arrays: Any, key: Key) -> Array:
        model = join_model(setup.shell, params, eqx.combine(fixed_arrays, fixed_rest))
        return setup.objective.mean_over(
            eqx.nn.inference_mode(model),
            holdout,
            condition,
            key=key,
            batch_size=setup.batch_size,
        )

    return layout.over_seeds(one, setup)(params, fixed_arrays, keys.holdout)
