"""The samples an objective is averaged over: drawn once, so that it is a smooth function."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import conditions, positive_integer, prng_key, samples
from entropix._core.chunks import in_chunks
from entropix.distributions import Gaussian
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess, AbstractModel
from entropix.models import ExactModel


class Points(eqx.Module):
    r"""Pairs of a data point and a draw of the noise, with equal weights.

    Attributes:
        x: shape (n, *shape).
        z: of that shape.
        condition: None, or a pytree of arrays with leading axis n.
        variance: the mean variance of the data.
    """

    x: Float[Array, "n *shape"]
    z: Float[Array, "n *shape"]
    condition: Any
    variance: Float[Array, ""]

    @classmethod
    def of(
        cls, source: Any, data: Any, condition: Any, *, key: Key | None, num_samples: int
    ) -> "Points":
        """Points of a model or distribution; those of a `Gaussian` have its moments exactly.

        Each data point comes with two opposite draws of the noise.

        Raises:
            ValueError: if `source` is neither, or what is needed to draw is missing.
        """
        if not isinstance(source, AbstractDistribution | AbstractModel):
            raise ValueError(
                f"`source` must be a model or a distribution, got {type(source).__name__}."
            )
        if isinstance(source, Gaussian) and data is None:
            return cls(*_design(source))
        positive_integer(num_samples, "num_samples", 2)
        if key is None:
            raise ValueError("`key` must be given where samples are drawn, got None.")
        prng_key(key)
        if data is not None:
            data = samples(data)
            condition = conditions(condition, data.shape[0])
        elif isinstance(source, AbstractModel):
            raise ValueError("`data` must be given for a model, got None.")
        return cls(*_drawn(source, data, condition, key, num_samples))


@eqx.filter_jit
def _drawn(
    source: Any, data: Array | None, condition: Any, key: Key, count: int
) -> tuple[Array, Array, Any, Array]:
    """Data points and noise, with conditions and the mean variance."""
    data_key, noise_key = jax.random.split(key)
    if data is None:
        x = source.sample(count, key=data_key)
    else:
        index = jax.random.permutation(data_key, data.shape[0])[:count]
        x, condition = data[index], jax.tree.map(lambda c: c[index], condition)
    z = jax.random.normal(noise_key, x.shape, x.dtype)
    twice = jax.tree.map(lambda c: jnp.concatenate([c, c]), (x, condition))
    variance = jnp.mean((x - jnp.mean(x, axis=0)) ** 2)
    return twice[0], jnp.concatenate([z, -z]), twice[1], variance


@eqx.filter_jit
def _design(gaussian: Gaussian) -> tuple[Array, Array, None, Array]:
    """Points whose mean and covariance are those of the data and the noise exactly."""
    dim = gaussian.dim
    size = jnp.sqrt(jnp.asarray(dim, gaussian.mean.dtype))
    root = size * jnp.sqrt(gaussian.eigenvalues)[:, None] * gaussian.eigenvectors.T
    x = gaussian.mean + jnp.concatenate([root, -root])
    z = size * jnp.concatenate([jnp.eye(dim), -jnp.eye(dim)]).astype(x.dtype)
    pairs = jnp.repeat(x, 2 * dim, axis=0), jnp.tile(z, (2 * dim, 1))
    return *pairs, None, jnp.mean(gaussian.eigenvalues)


def with_process(source: Any, process: AbstractGaussianProcess) -> AbstractModel:
    """The model `source` under a process, or the exact model of a distribution."""
    if isinstance(source, AbstractDistribution):
        return ExactModel(source, process)
    return source.with_process(process)


def average(
    function: Any,
    process: AbstractGaussianProcess,
    times: Float[Array, " k"],
    points: Points,
    chunk: int,
) -> Float[Array, "k *out"]:
    r"""The mean of `function(s, Y_s, condition)`, scalar or vector, at each of many times."""
    count = points.x.shape[0]

    def at(s: Array) -> Array:
        def of_chunk(part: Any, weight: Array) -> Array:
            x, z, condition = part
            y = process.scale(s) * x + process.std(s) * z
            return weight @ jax.vmap(function, in_axes=(None, 0, 0))(s, y, condition)

        parts = (points.x, points.z, points.condition)
        return jnp.sum(in_chunks(of_chunk, parts, count, chunk), axis=0) / count

    return jax.lax.map(at, times)
