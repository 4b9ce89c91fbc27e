r"""What the objectives of a schedule need of the data, measured once as functions of the log-SNR.

With $\hat x = E[x|y]$ and $\hat z = E[z|y]$ for $y = \mu x + \Sigma z$, the second moments

$$A = E\|\hat x\|^2, \quad C = E[\hat x\cdot\hat z], \quad N = E\|\hat z\|^2, \quad
  M = E\|x - \hat x\|^2, \quad Q = E\|x - \hat x\|^4$$

depend on the log-SNR $\lambda$ alone: not on the schedule, nor on which Gaussian process brought
the data there. The velocity of any of them is $v = \mu'\hat x + \Sigma'\hat z$, its action a
quadratic form in A, C and N; the rate of entropic time and the error of a sampler are functions of
the MMSE M (Guo, Shamai and Verdú, 2005; Kong et al., 2302.03792).

They are kept divided by powers of $\tau = 1/(1 + c\,e^\lambda)$, c the mean data variance, so that
each has a limit at either end, and nothing is lost to cancellation there.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, squared_norm
from entropix._core.checks import conditions, positive_integer, prng_key, samples
from entropix._core.chunks import in_chunks
from entropix._core.precision import full_precision
from entropix.distributions import Gaussian
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess, AbstractModel
from entropix.processes import VarianceExploding


class DataNoisePairs(eqx.Module):
    r"""Pairs of a data point and a draw of the noise, with equal weights.

    Attributes:
        x: shape (n, *shape).
        z: of that shape.
        condition: None, or a pytree of arrays with leading axis n.
        variance: the mean variance of the data.
    """

    x: Float[Array, "n *shape"]
    z: Float[Array, "n *shape"]
    condition: PyTree
    variance: Float[Array, ""]

    @classmethod
    def of(
        cls, source: PyTree, data: PyTree, condition: PyTree, *, key: Key | None, num_samples: int
    ) -> "DataNoisePairs":
        """Pairs for a model or distribution; those of a `Gaussian` have its moments exactly.

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
    source: PyTree, data: Array | None, condition: PyTree, key: Key, count: int
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


def average(
    function: Callable,
    process: AbstractGaussianProcess,
    times: Float[Array, " k"],
    pairs: DataNoisePairs,
    chunk: int,
) -> Float[Array, "k *out"]:
    r"""The mean of `function(s, Y_s, condition)`, scalar or vector, at each of many times."""
    count = pairs.x.shape[0]

    def at(s: Array) -> Array:
        def of_chunk(part: Any, weight: Array) -> Array:
            x, z, condition = part
            y = process.scale(s) * x + process.std(s) * z
            return weight @ jax.vmap(function, in_axes=(None, 0, 0))(s, y, condition)

        parts = (pairs.x, pairs.z, pairs.condition)
        return jnp.sum(in_chunks(of_chunk, parts, count, chunk), axis=0) / count

    return jax.lax.map(at, times)


class Moments(eqx.Module):
    r"""The five moments at log-SNRs, each with a limit at both ends.

    Attributes:
        signal: A.
        cross: $C\,e^{-\lambda/2}/\tau$.
        noise: $N/\tau$.
        error: $M/\tau$.
        quartic: $Q/\tau^2$.
    """

    signal: Array
    cross: Array
    noise: Array
    error: Array
    quartic: Array


class AbstractPosterior(eqx.Module):
    """Moments of the posterior means of a data set as functions of the log-SNR."""

    @property
    @abc.abstractmethod
    def variance(self) -> Array:
        """c, the mean variance of the data."""

    @property
    @abc.abstractmethod
    def scales(self) -> Array:
        """The variances known of the data, of any shape: where the moments change."""

    @abc.abstractmethod
    def moments(self, log_snr: Array) -> Moments:
        """The moments, in the shape of `log_snr`."""

    def total_noise(self, process: AbstractGaussianProcess, s: Array) -> Array:
        r"""$\Sigma^2 + c\mu^2 = \Sigma^2/\tau$."""
        return process.var(s) + self.variance * process.scale(s) ** 2

    def squared_speed(self, process: AbstractGaussianProcess, s: Array) -> Array:
        r"""$E\|v\|^2$ at times, finite at both ends."""
        m = self.moments(process.log_snr(s))
        scale, scale_rate = process.scale(s), process.scale_rate(s)
        half = process.var_rate(s) / 2  # Sigma Sigma', finite where Sigma' is not
        by_noise = half * (2 * scale_rate * scale * m.cross + half * m.noise)
        return scale_rate**2 * m.signal + by_noise / self.total_noise(process, s)


class GaussianPosterior(AbstractPosterior):
    r"""The moments of a Gaussian, in closed form.

    Attributes:
        mean_square: $\|m\|^2$.
        variances: eigenvalues of the covariance.
    """

    mean_square: Float[Array, ""]
    variances: Float[Array, " dim"]

    def __init__(self, gaussian: Gaussian):
        self.mean_square = squared_norm(gaussian.mean)
        self.variances = gaussian.eigenvalues

    @property
    def variance(self) -> Array:
        return jnp.mean(self.variances)

    @property
    def scales(self) -> Array:
        return self.variances

    def moments(self, log_snr: Array) -> Moments:
        level = jnp.clip(log_snr + jnp.log(self.variance), -80.0, 80.0)[..., None]
        relative = jnp.log(self.variances) - jnp.log(self.variance)
        share = jax.nn.sigmoid(-level - relative)  # tau of each dimension
        ratio = share / jax.nn.sigmoid(-level)
        posterior = self.variances * ratio
        error = jnp.sum(posterior, -1)
        known = self.variances * jax.nn.sigmoid(level + relative)
        return Moments(
            self.mean_square + jnp.sum(known, -1),
            error,  # C = exp(lambda / 2) M
            jnp.sum(ratio, -1),
            error,
            error**2 + 2 * jnp.sum(posterior**2, -1),
        )


class MeasuredPosterior(AbstractPosterior):
    r"""Measured moments, interpolated by cubics; constant (as scaled) beyond the measured range.

    Attributes:
        start: the lowest log-SNR.
        spacing: distance of the log-SNRs.
        values: the moments there, shape (K, 5).
        mean_variance: c.
    """

    start: Float[Array, ""]
    spacing: Float[Array, ""]
    values: Float[Array, "k 5"]
    mean_variance: Float[Array, ""]

    @property
    def variance(self) -> Array:
        return self.mean_variance

    @property
    def scales(self) -> Array:
        return self.mean_variance

    def moments(self, log_snr: Array) -> Moments:
        last = self.values.shape[0] - 1
        place = jnp.clip((log_snr - self.start) / self.spacing, 0.0, last)
        index = jnp.clip(jnp.floor(jax.lax.stop_gradient(place)).astype(int), 0, last - 1)
        t = (place - index)[..., None]
        a, b = self.values[index], self.values[index + 1]
        slope_a = (b - self.values[jnp.maximum(index - 1, 0)]) / 2
        slope_b = (self.values[jnp.minimum(index + 2, last)] - a) / 2
        bend = (1 - t) * (slope_a - (b - a)) + t * ((b - a) - slope_b)
        value = a + t * (b - a) + t * (1 - t) * bend
        return Moments(*jnp.moveaxis(value, -1, 0))


@full_precision
def posterior_curve(
    source: AbstractDistribution | AbstractModel | AbstractPosterior,
    data: DataLike | None = None,
    *,
    key: Key | None = None,
    num_samples: int = 2048,
    num_log_snr: int = 257,
    condition: PyTree = None,
    chunk_size: int = 4096,
) -> AbstractPosterior:
    r"""Measure a data set's posterior moments once, for the objectives of a schedule.

    The same data and noise serve all log-SNRs, so that the curve is smooth. It holds for every
    Gaussian process: that of a model for the same denoiser under any of them (`with_process`), at
    the log-SNRs of the model's own process; outside them the moments, as scaled, are constant.

    Args:
        source: a distribution or a model; a curve is returned as it is.
        data: samples, shape (N, *shape); None draws them from a distribution.
        key: PRNG key; a `Gaussian` needs none, its moments are in closed form.
        num_samples: data points, each with two opposite draws of the noise.
        num_log_snr: log-SNRs at which to measure.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Returns:
        The curve.

    Raises:
        ValueError: if an argument is missing or malformed.

    References:
        Guo, Shamai and Verdú, IEEE Trans. Inf. Theory 51, 1261 (2005); Kong et al., 2302.03792.
    """
    if isinstance(source, AbstractPosterior):
        return source
    if isinstance(source, Gaussian) and data is None:
        return GaussianPosterior(source)
    positive_integer(num_log_snr, "num_log_snr", 8)
    positive_integer(chunk_size, "chunk_size")
    pairs = DataNoisePairs.of(source, data, condition, key=key, num_samples=num_samples)
    return _measure(source, pairs, num_log_snr, chunk_size)


@eqx.filter_jit
def _measure(
    source: AbstractDistribution | AbstractModel, pairs: DataNoisePairs, count: int, chunk: int
) -> MeasuredPosterior:
    dtype = pairs.x.dtype
    variance = pairs.variance
    centre = -jnp.log(variance)
    low, high = centre - 20.0, centre + 20.0
    if isinstance(source, AbstractModel):
        process = source.process
        # The levels are a grid, not part of the result: its ends have no derivative.
        last, first = jax.lax.stop_gradient(process.log_snr(jnp.stack([process.t1, process.t0])))
        low, high = jnp.maximum(low, last), jnp.minimum(high, first)
    else:
        process = VarianceExploding(jnp.exp(-high / 2 - 1), jnp.exp(-low / 2 + 1))
    spacing = (high - low) / (count - 1)
    levels = low + spacing * jnp.arange(count, dtype=dtype)
    tau = jax.nn.sigmoid(-(levels - centre))

    def posterior_means(s: Array, y: Array, condition: Any) -> tuple[Array, Array]:
        if isinstance(source, AbstractDistribution):
            score = source.diffused(process, s).score(y)
            return source.denoise(process, s, y), -process.std(s) * score
        # By the entropy field: nothing cancels at either end.
        field = source.entropy_field(s, y, condition)
        signal = process.equilibrium_gain(s) * y + process.var(s) / process.scale(s) * field
        return signal, -process.std(s) * (field + process.equilibrium_score(s, y))

    def at(level: Array) -> Array:
        s = process.time_of_log_snr(level)

        def one(x: Array, z: Array, condition: Any) -> Array:
            signal, noise = posterior_means(s, process.perturb(s, x, z), condition)
            error = squared_norm(x - signal)
            cross = jnp.sum(signal * noise)
            return jnp.stack([squared_norm(signal), cross, squared_norm(noise), error, error**2])

        def of_chunk(part: Any, weight: Array) -> Array:
            return weight @ jax.vmap(one)(*part)

        parts = (pairs.x, pairs.z, pairs.condition)
        total = in_chunks(of_chunk, parts, pairs.x.shape[0], chunk)
        return jnp.sum(total, axis=0) / pairs.x.shape[0]

    values = jax.lax.map(at, levels)
    one = jnp.ones_like(tau)
    scales = jnp.stack([one, jnp.exp(levels / 2) * tau, tau, tau, tau**2], axis=-1)
    return MeasuredPosterior(low, spacing, values / scales, variance)
