r"""Monotone curves on the unit interval whose logarithmic slope is piecewise linear.

Between knots $u_i$ the logarithm of the rate is linear, so that integral and inverse are in closed
form: with $h$ the width of a segment, $\ell$ the log-rate at its left end, $x$ its rise to the
right end, and $t \in [0, 1]$ the place within it,

$$\int_0^t e^{\ell + x t'} h\,dt' = h e^\ell\,t\,\phi(xt), \qquad t = q\,\psi(xq), \qquad
  \phi(x) = \frac{e^x - 1}{x}, \quad \psi(z) = \frac{\log(1 + z)}{z},$$

where $q$ is the value over $h e^\ell$. Normalised to end at one, such a curve has unconstrained
parameters (a constant added to all of them changes nothing), is strictly increasing whatever they
are, and may vary its slope by many orders of magnitude. Knots lie closer at both ends, where
noise schedules vary most.
"""

import abc
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float
from entropix._core.checks import finite


class AbstractLearnable(eqx.Module):
    """A part of a process that is made to be trained."""

    @abc.abstractmethod
    def learnable(self) -> tuple[Any, ...]:
        """The arrays among its own that an optimiser moves: free of constraints."""


def _polynomial(x: Array, coefficients: Sequence[float]) -> Array:
    value = jnp.zeros_like(x)
    for c in reversed(coefficients):
        value = c + x * value
    return value


def _phi(x: Array) -> Array:
    """`expm1(x) / x`, with derivatives to rounding near zero, where it is a series."""
    small = jnp.abs(x) < 0.3
    away = jnp.where(small, 1.0, x)
    factorials = np.cumprod(np.arange(1.0, 15.0))
    return jnp.where(small, _polynomial(x, list(1 / factorials)), jnp.expm1(away) / away)


def _psi(z: Array) -> Array:
    """`log1p(z) / z`, likewise."""
    small = jnp.abs(z) < 0.1
    away = jnp.where(small, 1.0, jnp.maximum(z, -1 + jnp.finfo(z.dtype).eps))
    series = [(-1.0) ** n / (n + 1) for n in range(18)]
    return jnp.where(small, _polynomial(jnp.where(small, z, 0.0), series), jnp.log1p(away) / away)


def _segment(bounds: Array, value: Array) -> Array:
    """How many of the inner bounds lie at or below a value: no loop to compile, and few knots."""
    return jnp.sum(jax.lax.stop_gradient(value)[..., None] >= jax.lax.stop_gradient(bounds), -1)


def knot_places(count: int) -> tuple[float, ...]:
    r"""$\sin^2(\pi i/2(n-1))$: closer at both ends."""
    return tuple(float(v) for v in np.sin(np.pi / 2 * np.linspace(0.0, 1.0, count)) ** 2)


def checked_log_rates(log_rates: Any, name: str = "log_rates") -> Array:
    """A vector of at least two finite numbers."""
    log_rates = finite(log_rates, name)
    if log_rates.ndim != 1 or log_rates.shape[0] < 2:
        raise ValueError(
            f"`{name}` must have shape (num_knots,), num_knots >= 2, got {log_rates.shape}."
        )
    return log_rates


def log_rates_of(places: Array, heights: Array, rates: Array) -> Array:
    """Log-rates at knots, for a curve of which heights and rates there are known.

    A rate at an end that vanishes or is infinite is replaced by the one that gives the last segment
    its rise.
    """
    rise = jnp.log(jnp.diff(heights)) - jnp.log(jnp.diff(places))
    valid = (rates > 0) & jnp.isfinite(rates)
    logs = jnp.log(jnp.where(valid, rates, 1.0))
    first, last = 2 * rise[0] - logs[1], 2 * rise[-1] - logs[-2]
    tame = valid[0] & (jnp.abs(logs[0] - logs[1]) < 3)
    logs = logs.at[0].set(jnp.where(tame, logs[0], first))
    tame = valid[-1] & (jnp.abs(logs[-1] - logs[-2]) < 3)
    return logs.at[-1].set(jnp.where(tame, logs[-1], last))


class UnitCurve(eqx.Module):
    r"""A strictly increasing map of [0, 1] onto itself.

    Attributes:
        log_rates: logarithms of the slope at the knots, up to a common constant, shape (K,).
    """

    log_rates: Float[Array, " knots"]

    @property
    def places(self) -> np.ndarray:
        """Where the knots lie."""
        return np.asarray(knot_places(self.log_rates.shape[0]), self.log_rates.dtype)

    def _segments(self) -> tuple[Array, Array, Array]:
        """Width times rate at the left end, rise of the log-rate, integral; largest rate 1."""
        logs = self.log_rates - jax.lax.stop_gradient(jnp.max(self.log_rates))
        size = jnp.diff(self.places) * jnp.exp(logs[:-1])
        rise = jnp.diff(logs)
        return size, rise, size * _phi(rise)

    def _within(self, u: Array) -> tuple[Array, Array]:
        """The segment of a place, and where in it."""
        index = _segment(jnp.asarray(self.places[1:-1]), u)
        places = jnp.asarray(self.places)
        return index, (u - places[index]) / (places[index + 1] - places[index])

    def rate(self, u: RealLike) -> Array:
        """The slope."""
        u = as_float(u)
        size, rise, integrals = self._segments()
        index, t = self._within(u)
        rates = size / jnp.diff(self.places)
        return rates[index] * jnp.exp(rise[index] * t) / jnp.sum(integrals)

    def value(self, u: RealLike) -> Array:
        """The curve itself, from 0 to 1; without cancellation near 0."""
        u = as_float(u)
        size, rise, integrals = self._segments()
        index, t = self._within(u)
        before = jnp.concatenate([jnp.zeros_like(integrals[:1]), jnp.cumsum(integrals)[:-1]])
        partial = size[index] * t * _phi(rise[index] * t)
        return (before[index] + partial) / jnp.sum(integrals)

    def rest(self, u: RealLike) -> Array:
        """One minus the curve, without cancellation near 1."""
        u = as_float(u)
        size, rise, integrals = self._segments()
        index, t = self._within(u)
        after = jnp.cumsum(integrals[::-1])[::-1] - integrals
        after = jnp.concatenate([after[:-1], jnp.zeros_like(after[:1])])
        left = 1 - t
        partial = size[index] * jnp.exp(rise[index]) * left * _phi(-rise[index] * left)
        return (after[index] + partial) / jnp.sum(integrals)

    def inverse(self, value: RealLike) -> Array:
        """The place at which the curve has a value."""
        value = as_float(value)
        size, rise, integrals = self._segments()
        total = jnp.cumsum(integrals)
        before = jnp.concatenate([jnp.zeros_like(total[:1]), total[:-1]])
        wanted = value * jnp.sum(integrals)
        index = _segment(total[:-1], wanted)
        q = (wanted - before[index]) / size[index]
        places = jnp.asarray(self.places)
        width = places[index + 1] - places[index]
        return places[index] + width * q * _psi(rise[index] * q)
