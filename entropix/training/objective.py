r"""The mean of a loss over a batch, and over a whole data set.

Times are stratified over the whole batch. Noise comes in antithetic pairs (u, z), (u, -z): at the
data end, where $y \approx x$ and the target is $-z/\Sigma$, the two gradients cancel to first
order, and with them the term that dominates the variance.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from entropix._core.arrays import Key
from entropix.interfaces import AbstractLoss
from entropix.training.path_losses import path_means


# Streams of random numbers, for paths and couplings: far from the counters that `jax.random.split`
# uses.
_PATHS = 0x9A75
_PAIRS = 0x9A12


def batch_loss(
    loss: AbstractLoss,
    model: Any,
    x: Float[Array, "n *shape"],
    condition: PyTree = None,
    *,
    key: Key,
    share: tuple[Int[Array, ""], int] | None = None,
) -> Float[Array, ""]:
    """The mean over a batch of fresh draws.

    Args:
        loss: the loss of one draw.
        model: what is trained.
        x: the batch, or a share of it.
        condition: arrays with the same leading axis.
        key: PRNG key, the same for all shares.
        share: which share of how many `x` is; its draws are those that the whole batch has.
    """
    time_key, noise_key, network_key = jax.random.split(key, 3)
    size = x.shape[0]
    total = size if share is None else size * share[1]

    def own(tree: PyTree, each: int = 1) -> PyTree:
        if share is None:
            return tree
        start, count = share[0] * size * each, size * each
        return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, count), tree)

    u, z = own(draws(loss, x, time_key, noise_key, total))
    if loss.coupling is not None:
        z = _coupled(loss, x, z, jax.random.fold_in(key, _PAIRS))
    count = u.size
    path_keys = own(jax.random.split(jax.random.fold_in(key, _PATHS), total))
    starts = jax.vmap(_starts, in_axes=(None, None, 0, 0, 0))(loss, model.process, x, u, path_keys)

    # One flat axis of draws: nested vmaps would leave XLA a three-dimensional product.
    def repeat(leaf: Array) -> Array:
        return jnp.repeat(leaf, loss.num_draws, axis=0, total_repeat_length=count)

    def flat(leaf: Array) -> Array:
        return leaf.reshape(count, *leaf.shape[2:])

    losses = jax.vmap(loss.one, in_axes=(None, 0, 0, 0, 0, 0))(
        model,
        flat(starts),
        jax.tree.map(repeat, condition),
        flat(u),
        flat(z),
        own(jax.random.split(network_key, total * loss.num_draws), loss.num_draws),
    )
    return jnp.mean(losses)


def mean_loss(
    loss: AbstractLoss,
    model: Any,
    x: Float[Array, "n *shape"],
    condition: PyTree = None,
    *,
    key: Key,
    batch_size: int,
) -> Float[Array, ""]:
    """The mean over a whole data set, `batch_size` examples at a time, without dropout."""
    u, z = draws(loss, x, *jax.random.split(key))
    path_keys = jax.random.split(jax.random.fold_in(key, _PATHS), x.shape[0])

    def example(args: Any) -> Array:
        x, condition, u, z, key = args
        starts = _starts(loss, model.process, x, u, key)
        losses = jax.vmap(lambda x, u, z: loss.one(model, x, condition, u, z, None))(starts, u, z)
        return jnp.mean(losses)

    return jnp.mean(jax.lax.map(example, (x, condition, u, z, path_keys), batch_size=batch_size))


def draws(
    loss: AbstractLoss,
    x: Float[Array, "_ *shape"],
    time_key: Key,
    noise_key: Key,
    n: int | None = None,
) -> tuple[Array, Array]:
    """Quantiles of time, shape (n, num_draws), and noise, shape (n, num_draws, ...).

    For `n` examples like those of `x`; None: for `x`.
    """
    n = x.shape[0] if n is None else n
    num = loss.num_draws // 2 if loss.antithetic else loss.num_draws
    u = stratified(time_key, n, num, x.dtype)
    z = jax.random.normal(noise_key, (n, num, *loss.noise_shape(x.shape[1:])), x.dtype)
    if loss.antithetic:
        u = jnp.concatenate([u, u], axis=1)
        z = jnp.concatenate([z, -z], axis=1)
    return u, z


def _starts(
    loss: AbstractLoss, process: Any, x: Array, u: Float[Array, " m"], key: Key
) -> Float[Array, "m ..."]:
    """What each draw of one example sees."""
    if loss.num_steps == 0:
        return jnp.broadcast_to(x, (u.shape[0], *x.shape))
    return path_means(process, x, u, loss.num_steps, key)


def _coupled(loss: AbstractLoss, x: Array, z: Array, key: Key) -> Array:
    """The noise of a batch, each of the draws coupled to the examples on its own."""

    def couple(z: Array, key: Key) -> Array:
        assert loss.coupling is not None
        coupled = loss.coupling(x, z, key=key)
        if jnp.shape(coupled) != z.shape:
            raise ValueError(
                f"`coupling` must return an array of the shape of the noise, {z.shape}, "
                f"got {jnp.shape(coupled)}."
            )
        return jax.lax.stop_gradient(coupled)

    return jax.vmap(couple, in_axes=(1, 0), out_axes=1)(z, jax.random.split(key, loss.num_draws))


def stratified(key: Key, num_examples: int, num_draws: int, dtype: Any = float) -> Array:
    r"""One stratified set of `num_examples * num_draws` uniforms, assigned to examples.

    Every interval $[k, k+1)/(nm)$ holds one entry, every row (an example) one entry in each
    $[j, j+1)/m$, and rows are otherwise random: all examples see different times, each sees the
    whole axis, and every entry alone is uniform on (0, 1).

    Args:
        key: PRNG key.
        num_examples: n, rows.
        num_draws: m, columns.
        dtype: floating dtype.

    Returns:
        Shape (n, m), in the open interval (0, 1).
    """
    # One draw serves both the order within each column and the place within each interval.
    shuffle, offsets = jax.random.uniform(key, (2, num_examples, num_draws), dtype)
    rows = jnp.argsort(shuffle, axis=0)
    epsilon = jnp.finfo(offsets.dtype).eps
    inside = (rows + (offsets + epsilon / 2)) / num_examples
    u = (jnp.arange(num_draws) + inside) / num_draws
    return jnp.minimum(u, 1 - epsilon / 2).astype(offsets.dtype)
