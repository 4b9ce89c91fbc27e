r"""The speed of the probability flow along a process.

$E\|v(Y_s, s)\|^2$ with $Y_s = \mu x + \Sigma z$. The same x and z serve all times, so that every
integral over time is an average over (x, z), with a standard error. Of the Gaussian with the
moments of the data the speed is known,

$$E\|v_r\|^2 = |\mu' m|^2 + \sum_j\left(\frac{d}{ds}\sqrt{\mu^2c_j + \Sigma^2}\right)^2 ,$$

and integrated on many nodes; on a few nodes the model adds the difference (see
`entropix.transport.quadrature` for both). Half of the nodes against the other half give the error
of either sum; the rest of the error is that of rounding.

**Standard errors.** An estimate that is smooth in the distribution of its points changes, when one
point is added, by that point's influence divided by their number: its variance is that of a mean of
influences. Each is taken for two populations: the one that the data were drawn from, and the given
data themselves, of which the points are a part drawn without replacement.
"""

import functools
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, safe_sqrt
from entropix._core.checks import conditions, is_concrete, positive_integer, prng_key, samples
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import lightly_compiled
from entropix.estimators import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, Estimate
from entropix.models import checked_model
from entropix.transport.quadrature import TimeAxis, movement_of


_KNOWN_NODES = 4096
_TOLERANCE = 1e-4  # relative error of the quadrature below which it is not refined
_MOST_REFINED = 4  # doublings of the number of nodes


def errors_of(
    influence: Float[Array, "n r"], population: int, known: Float[Array, " n"] | float = 0.0
) -> tuple[Array, Array]:
    """Standard errors of a mean over n points with r >= 2 draws of noise each.

    A control variate moves a part of each point's influence to a term that is averaged over all
    data and over the noise exactly: that part is `known`, and adds no error but that of the data.

    Args:
        influence: what was averaged over the points, shape (n, r).
        population: number of given data.
        known: influence of these points on the term averaged over all data, shape (n,).

    Returns:
        With respect to the population of the data, and to the given data alone.
    """
    influence, known = jax.lax.stop_gradient((influence, known))
    count, draws = influence.shape
    of_points = jnp.mean(influence, axis=1)
    within = jnp.mean(jnp.var(influence, axis=1, ddof=1)) / draws
    of_data = jnp.maximum(jnp.var(of_points, ddof=1) - within, 0.0)
    of_both = jnp.maximum(jnp.var(of_points + known, ddof=1) - within, 0.0)
    alone = (within + (1 - count / population) * of_data) / count
    return jnp.sqrt(alone + of_both / population), jnp.sqrt(alone)


class TimeIntegral(eqx.Module):
    """An integral over time, and what each sampled point contributes.

    Attributes:
        value: the integral.
        residual: influence of each point and draw on its sampled part, shape (n, r).
        of_data: influence of each point on its known part, shape (n,).
        lattice: error of the quadrature that more nodes would reduce.
        other: error of the quadrature that they would not: tails and rounding.
    """

    value: Float[Array, "*seeds"]
    residual: Float[Array, "*seeds n r"]
    of_data: Float[Array, "*seeds n"]
    lattice: Float[Array, "*seeds"]
    other: Float[Array, "*seeds"]

    @property
    def quadrature(self) -> Float[Array, "*seeds"]:
        """The error of the quadrature in time."""
        return self.lattice + self.other

    def estimate(self, population: int, evaluations: int) -> Estimate:
        """With standard errors, given the number of all data."""
        errors = errors_of(self.residual, population, self.of_data)
        whole, noise = (jnp.hypot(error, self.quadrature) for error in errors)
        return Estimate(self.value, whole, noise, evaluations)

    def unresolved(self, population: int) -> Bool[Array, "*seeds"]:
        """Whether more nodes would make the error smaller in a way that matters."""
        noise = errors_of(self.residual, population, self.of_data)[1]
        enough = jnp.maximum(_TOLERANCE * jnp.abs(self.value), jnp.maximum(noise / 4, self.other))
        return self.lattice > enough


class SpeedProfile(eqx.Module):
    r"""Squared speeds of many points along a process.

    Attributes:
        times: nodes, increasing.
        weights: so that $\sum_k \mathrm{weights}_k f(\mathrm{times}_k) \approx \int f\,ds$.
        sigma_squared: $\sigma^2$ at the nodes.
        known: $qE\|v_r\|^2$ of the reference, over all data and noise.
        of_data: $qE_z\|v_r\|^2$ of the sampled points, shape (times, points).
        residual: $\|v\|^2 - q\|v_r\|^2$, shape (times, points, draws): `draws` of z for each x.
        many_weights: of the many nodes of the reference, in ds.
        many_sigma_squared: $\sigma^2$ there.
        many_known: $qE\|v_r\|^2$ there.
        many_gross: the same if nothing cancelled in it: what rounding is relative to.
    """

    times: Float[Array, "*seeds k"]
    weights: Float[Array, "*seeds k"]
    sigma_squared: Float[Array, "*seeds k"]
    known: Float[Array, "*seeds k"]
    of_data: Float[Array, "*seeds k n"]
    residual: Float[Array, "*seeds k n r"]
    many_weights: Float[Array, "*seeds many"]
    many_sigma_squared: Float[Array, "*seeds many"]
    many_known: Float[Array, "*seeds many"]
    many_gross: Float[Array, "*seeds many"]

    @property
    def squared(self) -> Float[Array, "*seeds k"]:
        r"""$E\|v\|^2$ at the nodes."""
        # A difference of means may fall below zero by its error, a speed may not.
        return jnp.maximum(self.known + jnp.mean(self.residual, axis=(-2, -1)), 0.0)

    @property
    def speed(self) -> Float[Array, "*seeds k"]:
        r"""$\sqrt{E\|v\|^2}$ at the nodes."""
        return safe_sqrt(self.squared)

    def _integral(self, integrand: Callable[[Array, Array], Array]) -> TimeIntegral:
        r"""Of a function of $E\|v\|^2$ and $\sigma^2$."""

        def at(squared: Array) -> Array:
            return integrand(squared, self.sigma_squared)

        def at_many(squared: Array) -> Array:
            return self.many_weights * integrand(squared, self.many_sigma_squared)

        squared, known = self.squared, at_many(self.many_known)
        rest = self.weights * (at(squared) - at(self.known))
        value = jnp.sum(known) + jnp.sum(rest)
        share = self.weights * jax.jvp(at, (squared,), (jnp.ones_like(squared),))[1]
        # What rounding of the velocity by a few units of its gross value would change.
        eps = 16 * jnp.finfo(value.dtype).eps
        moved = at_many((safe_sqrt(self.many_known) + eps * jnp.sqrt(self.many_gross)) ** 2)
        rounding = jnp.sum(moved) - jnp.sum(known) + eps * jnp.abs(value)
        lattice = _lattice_error(known, 4) / 4 + _lattice_error(rest, 2)
        return TimeIntegral(
            value,
            jnp.asarray(jnp.tensordot(share, self.residual, axes=1)),
            jnp.asarray(jnp.tensordot(share, self.of_data, axes=1)),
            jax.lax.stop_gradient(lattice),
            jax.lax.stop_gradient(rounding + _tail(rest, value) + _tail(rest[::-1], value)),
        )

    def length(self) -> TimeIntegral:
        r"""$\int\sqrt{E\|v\|^2}\,ds$."""
        return self._integral(lambda squared, _: safe_sqrt(squared))

    def action(self, duration: RealScalarLike) -> TimeIntegral:
        r"""$(t_1 - t_0)\int E\|v\|^2\,ds$."""
        return self._integral(lambda squared, _: jnp.asarray(duration * squared))

    def entropy(self) -> TimeIntegral:
        r"""$\int\frac{2}{\sigma^2}E\|v\|^2\,ds$."""
        return self._integral(lambda squared, sigma_squared: 2 * squared / sigma_squared)


def _lattice_error(terms: Array, parts: int) -> Array:
    """The farthest that a sum over every `parts`-th node lies from the sum over all."""
    sums = jnp.stack([parts * jnp.sum(terms[i::parts]) for i in range(parts)])
    return jnp.max(jnp.abs(sums - jnp.sum(terms)))


def _tail(terms: Array, value: Array) -> Array:
    """What a sum leaves out before its first term: a geometric series, if it falls at all."""
    first, second = jnp.abs(terms[0]), jnp.abs(terms[1])
    ratio = first / jnp.where(second > 0, second, 1.0)
    falls = (second > 0) & (ratio < 1)
    series = jnp.where(falls, first * ratio / jnp.where(falls, 1 - ratio, 1.0), jnp.inf)
    negligible = first <= 8 * jnp.finfo(value.dtype).eps * jnp.abs(value)
    return jnp.where(negligible, first, series)


def reference_of(data: Float[Array, "n *shape"]) -> GaussianReference:
    """The Gaussian with the moments of `data`, as narrow as rounding lets them be known."""
    reference = GaussianReference.from_data(data)
    variances = reference.variances
    eps = jnp.finfo(data.dtype).eps
    of_data = (4 * eps) ** 2 * jnp.mean(jax.lax.stop_gradient(data) ** 2)
    floor = of_data + 4 * eps * jnp.max(variances) + jnp.finfo(data.dtype).tiny
    return eqx.tree_at(lambda r: r.spread, reference, jnp.maximum(variances, floor))


def _gaussian_speed(
    process: AbstractGaussianProcess, reference: GaussianReference, s: Array
) -> tuple[Array, Array]:
    r"""$E\|v_r\|^2$ at a time, and the same if nothing cancelled in it."""
    scale, var = process.scale(s), process.var(s)
    rate, var_rate = process.scale_rate(s), process.var_rate(s)
    total = scale**2 * reference.spread + var
    moments = scale**2 * reference.variances + var
    pull = scale * rate * reference.spread
    moved = jnp.sum((rate * reference.mean) ** 2)
    known = moved + jnp.sum(((pull + var_rate / 2) / total) ** 2 * moments)
    # The mean is subtracted from the states, and leaves its rounding there.
    second = moments + (scale * reference.mean) ** 2
    # The variances are known to a few units in the last place of the largest.
    unsure = 1 + scale**2 * jnp.max(reference.spread) / (8 * total)
    gain = (jnp.abs(pull) + jnp.abs(var_rate) / 2) / total * unsure
    gross = moved + jnp.sum(gain**2 * second)
    return known, jax.lax.stop_gradient(gross)


def speed_profile(
    model: AbstractModel,
    x: Float[Array, "n *shape"],
    z: Float[Array, "n r *shape"],
    condition: PyTree,
    reference: GaussianReference,
    num_times: int,
    chunk: int,
    shift: Array | float = 0.5,
) -> SpeedProfile:
    """Squared speeds of `model` at `mu x + Sigma z`, for each x and each of its draws of z.

    `shift` moves the nodes, by a fraction of their distance.
    """
    process = model.process
    axis = TimeAxis.of(process, jnp.min(reference.spread))
    places, many, many_weights = axis.even(_KNOWN_NODES, shift)
    gaussian = jax.checkpoint(functools.partial(_gaussian_speed, process, reference))
    many_squared, gross = jax.lax.map(gaussian, many, batch_size=64)
    movement = movement_of(many_squared, many_weights)
    times, weights = axis.stretched(num_times, shift, places, movement)
    count, draws = z.shape[:2]
    # The reference knows the data by their moments, which are held fixed: so must be the points.
    fixed = jax.lax.stop_gradient(x)
    centred = jax.vmap(reference.deviation)(fixed)

    def at(s: Array) -> tuple[Array, Array, Array, Array]:
        scale, var = process.scale(s), process.var(s)
        drift = process.scale_rate(s) * reference.mean
        gain = scale * process.scale_rate(s) * reference.spread + process.var_rate(s) / 2
        gain = gain / (scale**2 * reference.spread + var)

        def of_points(index: Array, _: Array) -> tuple[Array, Array]:
            i, j = index // draws, index % draws
            noise = process.std(s) * z[i, j]
            velocity = jax.vmap(model.velocity, in_axes=(None, 0, 0))(
                s, scale * x[i] + noise, jax.tree.map(lambda c: c[i], condition)
            )
            linear = drift + gain * (scale * centred[i] + jax.vmap(reference.rotate)(noise))
            squared = jnp.sum(velocity.reshape(index.shape[0], -1) ** 2, axis=-1)
            return squared, jnp.sum(linear**2, axis=-1)

        total = count * draws
        chunks = in_chunks(of_points, jnp.arange(total), total, chunk)
        squared, guess = (unchunk(c, total).reshape(count, draws) for c in chunks)
        of_data = jnp.sum((drift + gain * scale * centred) ** 2 + gain**2 * var, axis=-1)
        return gaussian(s)[0], of_data, squared, guess

    known, of_data, squared, guess = jax.lax.map(at, times)
    # How much of the control variate to take: its regression coefficient in the action.
    paired = (jnp.tensordot(weights, part, axes=1) for part in (squared, guess))
    action, guessed = jax.lax.stop_gradient(tuple(paired))
    spread = guessed - jnp.mean(guessed)
    # Where the guess hardly varies, its rounding would decide: one is right for Gaussian data.
    rounding = jnp.sqrt(jnp.finfo(guessed.dtype).eps) * jnp.sum(guessed**2)
    square = jnp.sum(spread**2) + rounding + jnp.finfo(guessed.dtype).tiny
    share = 1 + jnp.sum(spread * (action - guessed)) / square
    return SpeedProfile(
        times,
        weights,
        process.sigma_squared(times),
        share * known,
        share * of_data,
        squared - share * guess,
        many_weights,
        process.sigma_squared(many),
        share * many_squared,
        gross,
    )


class Speeds(eqx.Module):
    """The integrals of the speed along a process.

    Attributes:
        length: the length.
        action: the action.
        entropy: the total entropy.
        unresolved: whether more nodes would make the first two better.
        population: the number of all data.
        evaluations: evaluations spent.
    """

    length: TimeIntegral
    action: TimeIntegral
    entropy: TimeIntegral
    unresolved: Bool[Array, "*seeds"]
    population: int = eqx.field(static=True)
    evaluations: int = eqx.field(static=True)

    @classmethod
    def of(cls, integrals: tuple[TimeIntegral, ...], population: int, evaluations: int) -> "Speeds":
        length, action, entropy = integrals
        unresolved = length.unresolved(population) | action.unresolved(population)
        return cls(length, action, entropy, unresolved, population, evaluations)


def check_speed_options(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    key: Key,
    *,
    minimum: int = 2,
    **sizes: int,
) -> tuple[Array, PyTree]:
    """Data and conditions, checked, as are the model, the key and the sizes given by name."""
    checked_model(model, gaussian=True)
    least = {"num_times": 2, "num_samples": 8, "num_speeds": 8, "chunk_size": 1}
    for name, size in sizes.items():
        positive_integer(size, name, least[name])
    prng_key(key)
    array = samples(data, minimum=minimum)
    return array, conditions(condition, array.shape[0])


def measure_speeds(
    model: AbstractModel,
    data: Array,
    condition: PyTree,
    *,
    key: Key,
    num_times: int,
    num_samples: int,
    chunk: int,
) -> tuple[tuple[Array, Array], SpeedProfile, Speeds]:
    """Points at both ends of the process, the speeds on the way, and their integrals.

    The nodes are doubled while the quadrature's error matters next to that of sampling; in a
    transformation of JAX, where errors are not known, it is only stated.

    Args:
        model: the model.
        data: the data.
        condition: of the data.
        key: PRNG key.
        num_times: nodes in time.
        num_samples: points at which the velocity is evaluated at each node.
        chunk: evaluations held in memory at once.
    """
    sizes = {"num_times": num_times, "num_samples": num_samples, "chunk": chunk}

    def at(shift: float) -> tuple[tuple[Array, Array], SpeedProfile, Speeds]:
        return _sampled(model, data, condition, jnp.asarray(shift, data.dtype), key=key, **sizes)

    ends, profile, speeds = at(0.5)
    if is_concrete(speeds.unresolved):
        for level in range(_MOST_REFINED):
            if not jnp.any(speeds.unresolved):
                break
            count = 2**level
            others = [at(k / count + (0.5 / count if level else 0.0))[2] for k in range(count)]
            while len(others) > 1:
                others = [_merge(a, b) for a, b in zip(others[::2], others[1::2], strict=True)]
            speeds = _merge(speeds, others[0])
    return ends, profile, speeds


@lightly_compiled
def _merge(one: Speeds, other: Speeds) -> Speeds:
    """The integrals by the nodes of both, which lie between one another."""

    def mean(a: TimeIntegral, b: TimeIntegral) -> TimeIntegral:
        middle = jax.tree.map(lambda x, y: (x + y) / 2, a, b)
        between = jax.lax.stop_gradient(jnp.abs(a.value - b.value) / 2)
        # Two sums may agree by chance; twice the nodes are at least of second order.
        return eqx.tree_at(lambda i: i.lattice, middle, between + middle.lattice / 4)

    pairs = (one.length, other.length), (one.action, other.action), (one.entropy, other.entropy)
    integrals = tuple(mean(*pair) for pair in pairs)
    return Speeds.of(integrals, one.population, one.evaluations + other.evaluations)


@functools.partial(lightly_compiled, level=1)
def _sampled(
    model: AbstractModel,
    data: Array,
    condition: PyTree,
    shift: Array,
    *,
    key: Key,
    num_times: int,
    num_samples: int,
    chunk: int,
) -> tuple[tuple[Array, Array], SpeedProfile, Speeds]:
    """Half as many data points as samples (all, if fewer), each with two or more draws of z."""
    process = model.process
    count = min(max(num_samples // 2, 2), data.shape[0])
    draws = max(num_samples // count, 2)
    index_key, noise_key = jax.random.split(key)
    index = jax.random.permutation(index_key, data.shape[0])[:count]
    x, condition = data[index], jax.tree.map(lambda c: c[index], condition)
    z = jax.random.normal(noise_key, (count, draws, *x.shape[1:]), x.dtype)
    profile = speed_profile(model, x, z, condition, reference_of(data), num_times, chunk, shift)
    integrals = profile.length(), profile.action(process.t1 - process.t0), profile.entropy()
    end = process.scale(process.t1) * x + process.std(process.t1) * z[:, 0]
    ends = x.reshape(count, -1), end.reshape(count, -1)
    return ends, profile, Speeds.of(integrals, data.shape[0], profile.residual.size)
