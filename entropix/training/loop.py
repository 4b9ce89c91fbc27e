"""The compiled training loop: a chunk of steps as one program, for one network or for many.

Everything that can change without changing the program is an argument: data, keys, the number of
steps of the chunk, every number of the optimiser. Random numbers depend on the key and the index
of the step alone (`fold_in`), so that a run that resumes from a checkpoint repeats, bit for bit,
what it would have done.

On a mesh of devices (`entropix._core.mesh`) the loop is a `jax.shard_map`: every device steps its
own members of the ensemble, for which it needs no other device, on its own share of each batch, for
which it needs one sum a step, of gradient and loss together.
"""

import dataclasses
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jax.flatten_util import ravel_pytree
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, PyTree

from entropix._core.arrays import Key
from entropix._core.compiled import lightly_compiled
from entropix._core.mesh import DATA
from entropix.interfaces import AbstractLoss
from entropix.networks import trainable
from entropix.training.layers import with_fast_derivatives
from entropix.training.layout import Layout
from entropix.training.objective import batch_loss, mean_loss
from entropix.training.source import Source, floating


# Streams of random numbers, far from the counters that `jax.random.split` uses.
_STEPS = 0x57E5
_HOLDOUT = 0x401D


class Setup(eqx.Module):
    """What a member needs and never changes; a pytree of arrays and hashable functions.

    Attributes:
        template: the model (or whatever else has a `network`), its network taken out.
        fixed: the network without its trainable arrays.
        loss: of a draw.
        optimiser: an optax transformation with its learning rate.
        ema_decay: of the parameters' moving average, or None.
        key: of the run.
        limit: how many of the first examples are seen; None for all.
        batch_size: examples per step.
    """

    template: PyTree
    fixed: PyTree
    loss: AbstractLoss
    optimiser: Any
    ema_decay: Float[Array, "*members"] | None
    key: Key
    limit: Int[Array, "*members"] | None
    batch_size: int = eqx.field(static=True)

    def model(self, params: PyTree) -> Any:
        """The model with these parameters."""
        return join_model(self.template, params, self.fixed)


class Stopping(eqx.Module):
    """Early stopping: where a member stands.

    A member whose held-out loss no longer falls is frozen by a mask. All go on being computed, as
    one program must, until the last has stopped.

    Attributes:
        best: the parameters of least held-out loss.
        loss: that loss.
        step: after how many steps it was.
        active: whether training goes on.
    """

    best: PyTree
    loss: Float[Array, "*members"]
    step: Int[Array, "*members"]
    active: Bool[Array, "*members"]

    @classmethod
    def begin(cls, params: PyTree) -> "Stopping":
        """Before the first evaluation."""
        dtype = jax.tree.leaves(params)[0].dtype
        return cls(params, jnp.asarray(jnp.inf, dtype), jnp.int32(0), jnp.asarray(True))

    @eqx.filter_jit
    def evaluated(
        self,
        params: PyTree,
        loss: Float[Array, "*members"],
        step: Int[Array, ""],
        patience: Int[Array, ""],
    ) -> "Stopping":
        """After an evaluation of the held-out loss of all members.

        Args:
            params: their parameters.
            loss: their held-out losses.
            step: steps taken.
            patience: steps without a new least loss after which a member stops.
        """
        better = self.active & (loss < self.loss)

        def chosen(new: Array, old: Array) -> Array:
            mask = better.reshape(better.shape + (1,) * (new.ndim - better.ndim))
            return jnp.where(mask, new, old)

        at = jnp.where(better, step, self.step)
        return Stopping(
            jax.tree.map(chosen, params, self.best),
            jnp.where(better, loss.astype(self.loss.dtype), self.loss),
            at,
            self.active & (step - at < patience),
        )


class State(eqx.Module):
    """What a step changes: the arrays of a checkpoint.

    Attributes:
        params: the trainable arrays of the network.
        optimiser: the optimiser's state.
        average: the moving average of `params`, or None.
        stopping: see `Stopping`; None where training never stops early.
    """

    params: PyTree
    optimiser: PyTree
    average: PyTree
    stopping: Stopping | None

    @property
    def current(self) -> PyTree:
        """The parameters to be judged: the average, if there is one."""
        return self.params if self.average is None else self.average


class Inputs(eqx.Module):
    """What a chunk of steps is computed from, besides the state.

    Attributes:
        setup: see `Setup`.
        source: where batches come from.
        rows: which examples each step takes, shape (*members, length, batch); None for a stream.
        start: the first step, an integer of NumPy or traced.
        count: how many steps, at most `length`.
        length: of the buffers for losses and norms.
        block: how many steps the innermost loop takes, see `steps_at_once`.
        layout: members and devices.
    """

    setup: Setup
    source: Source
    rows: PyTree
    start: Any
    count: Any
    length: int = eqx.field(static=True)
    block: int = eqx.field(static=True)
    layout: Layout = eqx.field(static=True)


class Outputs(eqx.Module):
    """What a chunk of steps leaves behind.

    Attributes:
        state: see `State`.
        losses: of the steps, zero beyond `count`.
        norms: of their gradients.
        finite: whether the parameters are.
    """

    state: State
    losses: Float[Array, "*members length"]
    norms: Float[Array, "*members length"]
    finite: Bool[Array, "*members"]


def steps_at_once() -> int:
    """Steps of the innermost loop: one on a CPU.

    On an accelerator, a loop waits for the host after each iteration, unless the number of
    iterations is known when it is compiled. Surplus steps of the last block are masked.
    """
    return 1 if jax.default_backend() == "cpu" else 10


def split_model(model: Any) -> tuple[PyTree, PyTree, PyTree]:
    """The model without its network, the network's trainable arrays, and the rest of it."""
    params, fixed = eqx.partition(model.network, trainable(model.network))
    return eqx.tree_at(lambda m: m.network, model, None), params, fixed


def join_model(template: PyTree, params: PyTree, fixed: PyTree) -> Any:
    """The inverse of `split_model`."""
    network = eqx.combine(params, fixed)
    return eqx.tree_at(lambda m: m.network, template, network, is_leaf=lambda x: x is None)


@lightly_compiled
def initial_state(setup: Setup, params: PyTree, layout: Layout, stopping: bool = False) -> State:
    """The state before the first step; its buffers are its own, ready to be donated."""

    def one(setup: Setup, params: PyTree) -> State:
        average = None if setup.ema_decay is None else params
        best = Stopping.begin(params) if stopping else None
        return State(params, setup.optimiser.init(params), average, best)

    state = layout.over_members(one)(setup, params)
    return jax.tree.map(lambda leaf: jnp.array(leaf, copy=True), state)


def _step(
    setup: Setup, batch: tuple[Array, PyTree], step: Int[Array, ""], state: State, parts: int
) -> tuple[State, Float[Array, ""], Float[Array, ""]]:
    """One step of gradient descent: the new state, the loss, the norm of the gradient.

    `batch` is the share of this device, one of `parts`.
    """

    def loss_of(params: PyTree) -> Array:
        share = None if parts == 1 else (jax.lax.axis_index(DATA), parts)
        key = jax.random.fold_in(jax.random.fold_in(setup.key, _STEPS), step)
        model = with_fast_derivatives(setup.model(params))
        return batch_loss(setup.loss, model, *batch, key=key, share=share)

    loss, gradient = jax.value_and_grad(loss_of)(state.params)
    if parts > 1:  # as one vector: one sum over devices
        flat, unravel = ravel_pytree((loss, gradient))
        loss, gradient = unravel(jax.lax.pmean(flat, DATA))
    # Some transformations, such as reduce_on_plateau, also want the loss.
    optimiser = optax.with_extra_args_support(setup.optimiser)
    updates, opt_state = optimiser.update(gradient, state.optimiser, state.params, value=loss)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if setup.ema_decay is not None:
        # Faster while few steps lie behind it, as the first parameters are of no use.
        rate = 1 - jnp.minimum(setup.ema_decay, (1 + step) / (10 + step))
        moved = optax.incremental_update(params, average, rate)
        average = jax.tree.map(lambda new, old: new.astype(old.dtype), moved, average)
    new = State(params, opt_state, average, state.stopping)
    if state.stopping is not None:
        active = state.stopping.active
        new = jax.tree.map(lambda a, b: jnp.where(active, a, b), new, state)
    return new, loss, optax.tree.norm(gradient)


def _steps(inputs: Inputs, state: State) -> Outputs:
    """All steps of a chunk, for the members and the share of each batch of one device."""
    setup, source, layout = inputs.setup, inputs.source, inputs.layout
    parts = layout.parts
    part = jax.lax.axis_index(DATA) if parts > 1 else 0

    def one(setup: Setup, state: State, rows: PyTree, i: Array) -> Any:
        batch = source.batch(i, rows, (part, parts))
        return _step(setup, batch, inputs.start + i, state, parts)

    advance = layout.over_members(one, last_shared=True)

    def body(i: Array, loop: Any) -> Any:
        state, losses, norms = loop
        state, loss, norm = advance(setup, state, inputs.rows, i)
        return state, losses.at[..., i].set(loss), norms.at[..., i].set(norm)

    first = jax.tree.leaves(state.params)[0]
    shape = (*first.shape[: int(layout.members)], inputs.length)
    losses, norms = jnp.zeros(shape, floating(source.data.dtype)), jnp.zeros(shape, first.dtype)

    def masked(i: Array, loop: Any) -> Any:
        return jax.tree.map(lambda a, b: jnp.where(i < inputs.count, a, b), body(i, loop), loop)

    def several(k: Array, loop: Any) -> Any:
        first = k * inputs.block
        return jax.lax.fori_loop(0, inputs.block, lambda j, loop: masked(first + j, loop), loop)

    # A loop with a traced bound: a last chunk of fewer steps runs the same program.
    block, outer = inputs.block, body if inputs.block == 1 else several
    loop = (state, losses, norms)
    state, losses, norms = jax.lax.fori_loop(0, -(-inputs.count // block), outer, loop)

    def finite(params: PyTree) -> Array:
        return jnp.all(jnp.stack([jnp.all(jnp.isfinite(p)) for p in jax.tree.leaves(params)]))

    return Outputs(state, losses, norms, layout.over_members(finite)(state.params))


def _groups(inputs: Inputs, state: State) -> Outputs:
    """The steps of a chunk for all members of a device, group after group.

    A product of stacked matrices is slower on a CPU than the single ones, and many members may not
    fit into memory at once. A group takes all steps of the chunk before the next one begins, so
    that its parameters stay in the cache.
    """
    layout = inputs.layout
    members = jax.tree.leaves(state.params)[0].shape[0] if layout.members else 1
    size = layout.group(members)
    if not layout.members or size == members > 1:
        return _steps(inputs, state)
    # A group of one is a single run: its arrays lose the axis, and nothing is vmapped.
    shape = (members // size, size) if size > 1 else (members,)
    within = dataclasses.replace(layout, members=size > 1)
    arrays, rest = eqx.partition(inputs.setup, eqx.is_array)

    def steps(group: Any) -> Outputs:
        arrays, state, rows = group
        setup = eqx.combine(arrays, rest)
        numbers = (inputs.start, inputs.count, inputs.length, inputs.block)
        return _steps(Inputs(setup, inputs.source, rows, *numbers, within), state)

    members_first = (arrays, state, inputs.rows)
    grouped = jax.tree.map(lambda a: a.reshape(*shape, *a.shape[1:]), members_first)
    found = jax.lax.map(steps, grouped)
    return jax.tree.map(lambda a: a.reshape(members, *a.shape[len(shape) :]), found)


def _chunk(inputs: Inputs, state: State) -> Outputs:
    """Run steps `start` to `start + count` of a run.

    Args:
        inputs: see `Inputs`.
        state: the state before them.
    """
    layout = inputs.layout
    if layout.mesh is None:
        return _groups(inputs, state)
    arrays, rest = eqx.partition(inputs, eqx.is_array)

    def local(
        setup: Setup, source: Source, rows: PyTree, start: Array, count: Array, state: State
    ) -> Outputs:
        numbers = (start, count, inputs.length, inputs.block)
        arrays = Inputs(setup, source, rows, *numbers, layout)
        return _groups(eqx.combine(arrays, rest), state)

    of_member, everywhere = layout.spec, PartitionSpec()
    of_source = inputs.source.spec(layout.mesh)
    run = jax.shard_map(
        local,
        mesh=layout.mesh,
        in_specs=(of_member, of_source, of_member, everywhere, everywhere, of_member),
        out_specs=of_member,
        check_vma=False,
    )
    return run(arrays.setup, arrays.source, arrays.rows, arrays.start, arrays.count, state)


# The new state reuses the memory of the old one.
donating_chunk = eqx.filter_jit(_chunk, donate="all-except-first")


@functools.partial(lightly_compiled, level=1)
def holdout_loss(
    setup: Setup, params: PyTree, holdout: tuple[Array, PyTree], layout: Layout
) -> Float[Array, "*members"]:
    """The loss on held-out data, always with the same draws."""

    def one(setup: Setup, params: PyTree) -> Array:
        model = eqx.nn.inference_mode(setup.model(params))
        key = jax.random.fold_in(setup.key, _HOLDOUT)
        return mean_loss(setup.loss, model, *holdout, key=key, batch_size=setup.batch_size)

    return layout.over_members(one)(setup, params)
