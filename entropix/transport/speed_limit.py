r"""Speed limits: how far the density moves, and what the motion costs.

With $v$ the probability-flow velocity (Ikeda et al., 2407.04495; Benamou and Brenier, 2000),

$$W_2(p_0, p_T) \le \int\sqrt{E\|v\|^2}\,ds = \mathrm{length}, \qquad
\mathrm{length}^2 \le T\int E\|v\|^2 ds = \mathrm{action}, \qquad
W_2^2 \le S_{tot}\int\tfrac{\sigma^2}{2}ds = S_{tot}\cdot\mathrm{budget},$$

and the efficiency is $W_2^2/(S_{tot}\cdot\mathrm{budget})$, between 0 and 1. Processes that end in
pure noise spend an infinite budget; for them the last bound says nothing.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from entropix._core.arrays import Key, squared_norm
from entropix._core.checks import conditions, positive_integer, samples
from entropix._core.chunks import in_chunks
from entropix._core.estimate import Estimate
from entropix._core.interfaces import AbstractModel
from entropix.entropy import neural_entropy
from entropix.transport.gaussian import bures_wasserstein
from entropix.transport.wasserstein import wasserstein


_BLOCKS = 32


class SpeedLimit(eqx.Module):
    """What a process costs, with standard errors for the population; distances in data units.

    Attributes:
        w2: Wasserstein distance between the data and the diffused data. In more than one
            dimension it is that of two samples, which sampling biases upwards.
        w2_lower: the Gelbrich bound $W_2$ of the Gaussians with the same moments; below `w2`, and
            equal to it for Gaussian data.
        length: of the path in Wasserstein space.
        action: the kinetic action; not less than length squared.
        total_entropy: entropy of the model's field in nats; infinite where it is known to diverge.
        budget: the integral of sigma^2 / 2; infinite for processes that end in pure noise.
        efficiency: W2^2 / (total entropy x budget); 0 where either is infinite.
        holds: whether W2 <= length, length^2 <= action, and W2^2 <= total entropy x budget, each
            within four standard errors.
    """

    w2: Estimate
    w2_lower: Float[Array, ""]
    length: Estimate
    action: Estimate
    total_entropy: Estimate
    budget: Float[Array, ""]
    efficiency: Estimate
    holds: Bool[Array, " inequalities"]


def _knots(model: AbstractModel, variance: Array, count: int) -> tuple[Array, Array]:
    r"""Times and weights of a quadrature over time, smooth at both ends of any process.

    Gauss-Legendre in $w = \sqrt{\log(1 + \Sigma^2/c\mu^2)}$ resolves the data end ($w \propto
    \Sigma$); where $\mu(t_1) = 0$ it is carried to a remaining signal of $10^{-12}$ at which the
    time left is of order $10^{-6}$, and the last stretch gets a weight of its own.
    """
    process = model.process
    log_ratio = jax.nn.softplus(-process.log_snr(process.t1) - jnp.log(variance))
    top = jnp.sqrt(jnp.minimum(log_ratio, -jnp.log(1e-12)))
    nodes, weights = np.polynomial.legendre.leggauss(count)

    def time(w: Array) -> Array:
        ratio = jnp.expm1(w**2)
        return process.time_of_log_snr(-jnp.log(variance * ratio))

    w = top * jnp.asarray((nodes + 1) / 2, top.dtype)
    slopes = jax.vmap(jax.grad(time))(w)
    rest = process.t1 - time(top)
    weights = slopes * jnp.asarray(weights / 2, top.dtype) * top
    return jax.vmap(time)(w), weights.at[-1].add(rest)


@eqx.filter_jit
def _speeds(
    model: AbstractModel,
    data: Array,
    condition: Any,
    times: Array,
    key: Key,
    num_samples: int,
    chunk: int,
) -> Array:
    """Mean squared speed at each time in each of the blocks of samples, shape (times, blocks)."""
    index_key, noise_key = jax.random.split(key)
    block = num_samples // _BLOCKS
    index = jax.random.permutation(index_key, data.shape[0])
    index = jnp.resize(index, (_BLOCKS * block,))

    def at(args: Any, _: Array) -> Array:
        def one(s: Array, i: Array, n: Array) -> Array:
            x = data[i]
            z = jax.random.normal(jax.random.fold_in(noise_key, n), x.shape, x.dtype)
            y = model.process.perturb(s, x, z)
            chosen = jax.tree.map(lambda c: c[i], condition)
            return squared_norm(model.velocity(s, y, chosen))

        return jax.vmap(one)(*args)

    count = times.shape[0] * index.shape[0]
    every = jnp.arange(count)
    # The same example at every time, with noise of its own: blocks are independent of one another.
    args = (jnp.repeat(times, index.shape[0]), jnp.tile(index, times.shape[0]), every)
    out = in_chunks(at, args, count, chunk).reshape(-1)[:count]
    return jnp.mean(out.reshape(times.shape[0], _BLOCKS, block), axis=-1)


def _jackknife(function: Any, blocks: Array) -> tuple[Array, Array]:
    """A function of a mean over blocks (last axis), its bias removed, and its standard error."""
    count = blocks.shape[-1]
    mean = jnp.mean(blocks, axis=-1)
    left_out = (count * mean[:, None] - blocks) / (count - 1)
    values = jax.vmap(function, in_axes=-1)(left_out)
    value = count * function(mean) - (count - 1) * jnp.mean(values)
    return value, jnp.sqrt((count - 1) * jnp.mean((values - jnp.mean(values)) ** 2))


def speed_limit(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    num_times: int = 48,
    num_samples: int = 4096,
    num_pairs: int = 1024,
    num_evaluations: int = 16_384,
    condition: Any = None,
    chunk_size: int = 4096,
) -> SpeedLimit:
    r"""Length, action, entropy and efficiency of a model's probability flow on diffused data.

    Args:
        model: any model; with an `ExactModel` the inequalities are theorems, with another they
            describe its own velocity field.
        data: samples, shape (N, *shape).
        key: PRNG key.
        num_times: nodes of the quadrature over time.
        num_samples: examples at each of them, at least 64; with fewer data they are used again.
        num_pairs: samples in the assignment for W2, in more than one dimension.
        num_evaluations: evaluations for the total entropy.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is malformed.

    References:
        Ikeda, Uda, Okanohara and Ito, Speed-accuracy relations for diffusion models (2407.04495).
    """
    data = samples(data)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_times, "num_times", 8)
    positive_integer(num_samples, "num_samples", 2 * _BLOCKS)
    positive_integer(num_pairs, "num_pairs", 2)
    process = model.process
    speed_key, distance_key, noise_key, entropy_key = jax.random.split(key, 4)

    flat = data.reshape(data.shape[0], -1)
    mean = jnp.mean(flat, axis=0)
    covariance = jnp.atleast_2d(jnp.cov(flat.T, ddof=0))
    variance = jnp.trace(covariance) / flat.shape[1]
    variance = jnp.where(variance > 0, variance, 1.0)
    times, weights = _knots(model, variance, num_times)
    blocks = _speeds(model, data, condition, times, speed_key, num_samples, chunk_size)
    spent = num_times * (num_samples // _BLOCKS) * _BLOCKS
    duration = process.t1 - process.t0
    length = Estimate(*_twice(_jackknife(lambda m: jnp.sum(weights * jnp.sqrt(m)), blocks)), spent)
    action = Estimate(*_twice(_jackknife(lambda m: duration * jnp.sum(weights * m), blocks)), spent)

    w2 = _distance(process, flat, distance_key, noise_key, num_pairs)
    scale, var = process.scale(process.t1), process.var(process.t1)
    identity = jnp.eye(flat.shape[1], dtype=flat.dtype)
    ridge = 1e-6 * variance * identity  # flat directions: the bound needs a definite covariance
    lower = bures_wasserstein(
        mean, covariance + ridge, scale * mean, scale**2 * covariance + ridge + var * identity
    )

    budget = process.noise_budget()
    total = _total_entropy(model, data, condition, entropy_key, num_evaluations, chunk_size)
    scope = total.value * budget
    finite = jnp.isfinite(scope)
    safe = jnp.where(finite, scope, 1.0)
    share = jnp.where(finite, w2.value**2 / safe, 0.0)
    relative = jnp.hypot(2 * w2.stderr / w2.value, total.stderr / jnp.where(finite, total.value, 1))
    efficiency = Estimate(
        share, jnp.where(finite, share * relative, 0.0), jnp.where(finite, share * relative, 0.0)
    )
    holds = jnp.stack(
        [
            w2.value <= length.value + 4 * jnp.hypot(w2.stderr, length.stderr),
            length.value**2 <= action.value + 4 * action.stderr,
            (share <= 1 + 4 * share * relative) | ~finite,
        ]
    )
    return SpeedLimit(w2, lower, length, action, total, budget, efficiency, holds)


def _twice(pair: tuple[Array, Array]) -> tuple[Array, Array, Array]:
    return pair[0], pair[1], pair[1]


def _total_entropy(
    model: AbstractModel, data: Array, condition: Any, key: Key, count: int, chunk: int
) -> Estimate:
    if model.divergence is not None:
        infinite = jnp.asarray(jnp.inf, data.dtype)
        return Estimate(infinite, jnp.zeros_like(infinite), jnp.zeros_like(infinite))
    return neural_entropy(
        model, data, key=key, num_evaluations=count, condition=condition, chunk_size=chunk
    )


def _distance(process: Any, flat: Array, key: Key, noise_key: Key, num_pairs: int) -> Estimate:
    """W2 between data and diffused data, from independent samples, and its error by blocks."""
    one_dimensional = flat.shape[1] == 1
    count = flat.shape[0] if one_dimensional else min(num_pairs, flat.shape[0])
    first_key, second_key = jax.random.split(key)
    first = jax.random.permutation(first_key, flat.shape[0])[:count]
    second = jax.random.permutation(second_key, flat.shape[0])[:count]
    z = jax.random.normal(noise_key, (count, flat.shape[1]), flat.dtype)
    diffused = process.scale(process.t1) * flat[second] + process.std(process.t1) * z
    value = wasserstein(flat[first], diffused, max_exact=max(count, 1)).value
    parts = max(2, min(8, count // 32))
    size = count // parts
    pieces = jnp.stack(
        [
            wasserstein(
                flat[first][i * size : (i + 1) * size], diffused[i * size : (i + 1) * size]
            ).value
            for i in range(parts)
        ]
    )
    stderr = jnp.std(pieces, ddof=1) / jnp.sqrt(parts)
    return Estimate(value, stderr, stderr, 0)
