r"""The training objective: weighted denoising losses, averaged over data, times and noise.

$$J(\theta) = E_{x, z} \int_{t_0}^{t_1} w(s)\,\ell(s, x, z)\,ds \approx
  \frac{1}{nm}\sum_{i,j} \frac{w_\lambda(s_{ij})}{q_\lambda(s_{ij})}\,\ell(s_{ij}, x_i, z_{ij}),$$

with times stratified over the whole batch. Noise comes in antithetic pairs $(s, z), (s, -z)$: at
the data end, where $y \approx x$ and the target is $-z/\Sigma$, the two gradients cancel to first
order, and with them the term that dominates the variance.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key
from entropix.interfaces import AbstractModel, AbstractProcess
from entropix.training.checkpoint import describe
from entropix.training.losses import (
    denoising_loss,
    relative_denoising_loss,
    weight_per_log_snr,
)
from entropix.training.times import AbstractTimes, stratified


# Streams of random numbers, for paths and couplings: far from the counters that `jax.random.split`
# uses.
_PATHS = 0x9A75
_PAIRS = 0x9A12


class AbstractObjective(eqx.Module):
    """The mean of a loss over data, times and noise.

    Attributes:
        num_draws: times and noises per example.
        antithetic: whether noise comes in pairs (s, z), (s, -z); `num_draws` is even then.
    """

    num_draws: AbstractVar[int]
    antithetic: AbstractVar[bool]

    @abc.abstractmethod
    def record(self) -> dict[str, Any]:
        """What two runs must share for one to take up a checkpoint of the other."""

    @abc.abstractmethod
    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the noise of one draw, for examples of shape `shape`."""

    @abc.abstractmethod
    def paired(
        self, x: Float[Array, "n *shape"], z: Float[Array, "n m ..."], key: Key
    ) -> Float[Array, "n m ..."]:
        """The noise of a batch, in the order in which it goes with the examples."""

    @abc.abstractmethod
    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m *shape"]:
        """What the noise is added to in each draw of one example, at quantiles `u` of time."""

    @abc.abstractmethod
    def one(
        self,
        model: Any,
        start: Float[Array, "*shape"],
        condition: Any,
        u: Float[Array, ""],
        z: Float[Array, "..."],
        key: Key | None,
    ) -> Float[Array, ""]:
        """The weighted loss of one draw."""

    def draws(
        self, x: Float[Array, "_ *shape"], time_key: Key, noise_key: Key, n: int | None = None
    ) -> tuple[Array, Array]:
        """Quantiles of time, shape (n, num_draws), and noise, shape (n, num_draws, ...).

        For `n` examples like those of `x`; None: for `x`.
        """
        n = x.shape[0] if n is None else n
        num = self.num_draws // 2 if self.antithetic else self.num_draws
        u = stratified(time_key, n, num, x.dtype)
        z = jax.random.normal(noise_key, (n, num, *self.noise_shape(x.shape[1:])), x.dtype)
        if self.antithetic:
            u = jnp.concatenate([u, u], axis=1)
            z = jnp.concatenate([z, -z], axis=1)
        return u, z

    def __call__(
        self,
        model: Any,
        x: Float[Array, "n *shape"],
        condition: Any = None,
        *,
        key: Key,
        share: tuple[Int[Array, ""], int] | None = None,
    ) -> Float[Array, ""]:
        """The mean over a batch, shape (n, *shape), of fresh draws.

        Args:
            model: what is trained.
            x: the batch, or a share of it.
            condition: arrays with the same leading axis.
            key: PRNG key, the same for all shares.
            share: which share of how many `x` is; its draws are those that the whole batch has.
        """
        time_key, noise_key, network_key = jax.random.split(key, 3)
        size = x.shape[0]
        total = size if share is None else size * share[1]

        def own(tree: Any, each: int = 1) -> Any:
            if share is None:
                return tree
            start, count = share[0] * size * each, size * each
            return jax.tree.map(lambda leaf: jax.lax.dynamic_slice_in_dim(leaf, start, count), tree)

        u, z = own(self.draws(x, time_key, noise_key, total))
        z = self.paired(x, z, jax.random.fold_in(key, _PAIRS))
        count = u.size

        path_keys = own(jax.random.split(jax.random.fold_in(key, _PATHS), total))
        starts = jax.vmap(self.starts, in_axes=(None, 0, 0, 0))(model.process, x, u, path_keys)

        # One flat axis of draws: nested vmaps would leave XLA a three-dimensional product.
        def repeat(leaf: Array) -> Array:
            return jnp.repeat(leaf, self.num_draws, axis=0, total_repeat_length=count)

        def flat(leaf: Array) -> Array:
            return leaf.reshape(count, *leaf.shape[2:])

        losses = jax.vmap(self.one, in_axes=(None, 0, 0, 0, 0, 0))(
            model,
            flat(starts),
            jax.tree.map(repeat, condition),
            flat(u),
            flat(z),
            own(jax.random.split(network_key, total * self.num_draws), self.num_draws),
        )
        return jnp.mean(losses)

    def mean_over(
        self,
        model: Any,
        x: Float[Array, "n *shape"],
        condition: Any = None,
        *,
        key: Key,
        batch_size: int,
    ) -> Float[Array, ""]:
        """The mean over a whole data set, `batch_size` examples at a time, no dropout."""
        u, z = self.draws(x, *jax.random.split(key))
        path_keys = jax.random.split(jax.random.fold_in(key, _PATHS), x.shape[0])

        def example(args: Any) -> Array:
            x, condition, u, z, key = args
            starts = self.starts(model.process, x, u, key)
            losses = jax.vmap(lambda x, u, z: self.one(model, x, condition, u, z, None))(
                starts, u, z
            )
            return jnp.mean(losses)

        args = (x, condition, u, z, path_keys)
        return jnp.mean(jax.lax.map(example, args, batch_size=batch_size))


class Objective(AbstractObjective):
    """The weighted denoising loss of a batch.

    Attributes:
        weighting: `"likelihood"`, `"uniform"` or a function `weight(process, s)`.
        times: the proposal of times.
        num_draws: times and noises per example.
        antithetic: whether noise comes in pairs (s, z), (s, -z); `num_draws` is even then.
    """

    weighting: str | Callable
    times: AbstractTimes
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    def record(self) -> dict[str, Any]:
        return {"weighting": describe(self.weighting), "times": describe(self.times)}

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def paired(
        self, x: Float[Array, "n *shape"], z: Float[Array, "n m ..."], key: Key
    ) -> Float[Array, "n m ..."]:
        return z

    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m *shape"]:
        return jnp.broadcast_to(x, (u.shape[0], *x.shape))

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "*shape"],
        condition: Any,
        u: Float[Array, ""],
        z: Float[Array, "..."],
        key: Key | None,
    ) -> Float[Array, ""]:
        s, density = self.times(model.process, u)
        loss = relative_denoising_loss if self.weighting == "likelihood" else denoising_loss
        weight = weight_per_log_snr(self.weighting, model.process, s) / density
        return weight * loss(model, s, start, z, condition, key=key)
