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

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealLike, as_float
from entropix._core.checks import finite


# Near zero both are means over [0, 1], of exp(x t) and of 1/(1 + z t): by eight Gauss nodes
# to rounding in float64, derivatives of every order included, and few operations to compile.
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(8)


def _mean(function: Callable[[Array], Array], x: Array) -> Array:
    """The mean of `function(x t)` over t in [0, 1], for functions that are smooth there."""
    nodes, weights = (np.asarray(v, x.dtype) for v in ((_NODES + 1) / 2, _WEIGHTS / 2))
    return jnp.sum(weights * function(x[..., None] * nodes), axis=-1)


def _phi(x: Array) -> Array:
    """`expm1(x) / x`, with derivatives to rounding near zero."""
    small = jnp.abs(x) < 0.3
    away = jnp.where(small, 1.0, x)
    return jnp.where(small, _mean(jnp.exp, jnp.where(small, x, 0.0)), jnp.expm1(away) / away)


def _psi(z: Array) -> Array:
    """`log1p(z) / z`, likewise."""
    small = jnp.abs(z) < 0.1
    away = jnp.where(small, 1.0, jnp.maximum(z, -1 + jnp.finfo(z.dtype).eps))
    near = _mean(lambda v: 1 / (1 + v), jnp.where(small, z, 0.0))
    return jnp.where(small, near, jnp.log1p(away) / away)


def _segment(bounds: Array, value: Array) -> Array:
    """The number of inner bounds at or below a value: no loop to compile, and knots are few."""
    return jnp.sum(jax.lax.stop_gradient(value)[..., None] >= jax.lax.stop_gradient(bounds), -1)


class UnitCurve(eqx.Module):
    r"""A strictly increasing map of [0, 1] onto itself.

    Args:
        log_rates: logarithms of the slope at K >= 2 knots, up to a common constant, shape (K,).

    Raises:
        ValueError: on a wrong shape or an entry that is not finite.
    """

    log_rates: Float[Array, " knots"]

    def __init__(self, log_rates: DataLike):
        self.log_rates = finite(log_rates, "log_rates")
        if self.log_rates.ndim != 1 or self.log_rates.shape[0] < 2:
            raise ValueError(
                f"`log_rates` must have shape (num_knots,), num_knots >= 2, "
                f"got {self.log_rates.shape}."
            )

    @staticmethod
    def knots(count: int) -> np.ndarray:
        r"""$\sin^2(\pi i/2(n-1))$: closer at both ends."""
        return np.sin(np.pi / 2 * np.linspace(0.0, 1.0, count)) ** 2

    @staticmethod
    def log_rates_through(places: Array, heights: Array, rates: Array) -> Array:
        """Log-rates at knots, for a curve whose heights and rates there are known.

        A rate at an end that vanishes or is infinite is replaced by the one that gives the last
        segment its rise.

        Args:
            places: the knots, shape (K,).
            heights: of the curve, shape (K,).
            rates: its slopes, shape (K,).
        """
        rise = jnp.log(jnp.diff(heights)) - jnp.log(jnp.diff(places))
        valid = (rates > 0) & jnp.isfinite(rates)
        logs = jnp.log(jnp.where(valid, rates, 1.0))
        first, last = 2 * rise[0] - logs[1], 2 * rise[-1] - logs[-2]
        tame = valid[0] & (jnp.abs(logs[0] - logs[1]) < 3)
        logs = logs.at[0].set(jnp.where(tame, logs[0], first))
        tame = valid[-1] & (jnp.abs(logs[-1] - logs[-2]) < 3)
        return logs.at[-1].set(jnp.where(tame, logs[-1], last))

    @property
    def places(self) -> np.ndarray:
        """Where the knots lie, shape (K,)."""
        return self.knots(self.log_rates.shape[0]).astype(self.log_rates.dtype)

    def _segments(self) -> tuple[Array, Array]:
        """A row for each segment, and the integral over all; the largest rate is 1.

        A row holds the place of its left end, its width, width times rate there, the rise of the
        log-rate, and the integrals before and after: one table, for one gather.
        """
        logs = self.log_rates - jax.lax.stop_gradient(jnp.max(self.log_rates))
        width, rise = np.diff(self.places), jnp.diff(logs)
        size = width * jnp.exp(logs[:-1])
        integrals = size * _phi(rise)
        before = jnp.cumsum(jnp.concatenate([jnp.zeros_like(size[:1]), integrals[:-1]]))
        after = jax.lax.cumsum(
            jnp.concatenate([integrals[1:], jnp.zeros_like(size[:1])]), reverse=True
        )
        columns = (jnp.asarray(self.places[:-1]), jnp.asarray(width), size, rise, before, after)
        return jnp.stack(columns, axis=1), jnp.sum(integrals)

    def _at(self, u: RealLike) -> tuple[tuple[Array, ...], Array, Array]:
        """The row of the segment of a place, where in it, and the integral over all."""
        u = as_float(u)
        table, total = self._segments()
        row = _row(table, _segment(jnp.asarray(self.places[1:-1]), u))
        return row, (u - row[0]) / row[1], total

    @eqx.filter_jit
    def rate(self, u: RealLike) -> Array:
        """The slope."""
        (_, width, size, rise, _, _), t, total = self._at(u)
        return size / width * jnp.exp(rise * t) / total

    @eqx.filter_jit
    def value(self, u: RealLike) -> Array:
        """The curve itself, from 0 to 1; without cancellation near 0."""
        (_, _, size, rise, before, _), t, total = self._at(u)
        return (before + size * t * _phi(rise * t)) / total

    @eqx.filter_jit
    def rest(self, u: RealLike) -> Array:
        """One minus the curve, without cancellation near 1."""
        (_, _, size, rise, _, after), t, total = self._at(u)
        left = 1 - t
        return (after + size * jnp.exp(rise) * left * _phi(-rise * left)) / total

    @eqx.filter_jit
    def inverse(self, value: RealLike) -> Array:
        """The place at which the curve has a value."""
        table, total = self._segments()
        wanted = as_float(value) * total
        place, width, size, rise, before, _ = _row(table, _segment(table[1:, 4], wanted))
        q = (wanted - before) / size
        return place + width * q * _psi(rise * q)


def _row(table: Array, index: Array) -> tuple[Array, ...]:
    """The entries of a row, for any shape of `index`."""
    found = jnp.take(table, index, axis=0, mode="clip")
    return tuple(jnp.moveaxis(found, -1, 0))
