"""A Gaussian process from any pair of functions."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float
from entropix._core.checks import is_concrete
from entropix._core.interfaces import AbstractGaussianProcess
from entropix.processes.inversion import invert_log_snr


def _as_pytree(fn: Callable, name: str) -> Callable:
    """A plain function becomes a pytree without leaves; a module keeps its parameters."""
    if not callable(fn):
        raise ValueError(
            f"`{name}` must be a function of time or a callable module, got {type(fn).__name__}."
        )
    if isinstance(fn, eqx.Module | jax.tree_util.Partial):
        return fn
    return jax.tree_util.Partial(fn)


class GaussianPath(AbstractGaussianProcess):
    r"""The linear process with given $\mu(s)$ and $\Sigma(s)$ on [0, 1].

    Coefficients are derived by forward-mode differentiation of $\mu$ and $\Sigma^2$ (so that
    `std_fn = jnp.sqrt` works): $b = (\mu'/\mu) y$ and $\sigma^2 = (\Sigma^2)' - 2(\mu'/\mu)\Sigma^2$
    (Albergo et al., 2303.08797; Kingma et al., 2107.00630). Derivatives at s = 0 are taken as
    limits from the right.

    Args:
        scale_fn: $\mu(s)$, from 1 at s = 0, positive on [0, 1) and not increasing. A plain function
            or a callable module, whose parameters are then differentiable.
        std_fn: $\Sigma(s)$, not negative, with $\mu/\Sigma$ strictly decreasing.

    Raises:
        ValueError: if either is not callable, a value is not finite, or the log-SNR does not fall
            strictly.
    """

    scale_fn: Callable
    std_fn: Callable
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = False
    is_finite = True

    def __init__(self, scale_fn: Callable, std_fn: Callable):
        self.scale_fn = _as_pytree(scale_fn, "scale_fn")
        self.std_fn = _as_pytree(std_fn, "std_fn")
        self.t0 = as_float(0.0)
        self.t1 = as_float(1.0)

    def __check_init__(self):
        times = jnp.linspace(self.t0, self.t1, 129)
        values = (self.scale(times), self.std(times), self.log_snr(times[1:-1]))
        if not is_concrete(values):
            return
        scale, std, log_snr = (np.asarray(v) for v in values)
        for name, value in (("scale_fn", scale), ("std_fn", std)):
            if not np.all(np.isfinite(value)) or np.any(value < 0):
                raise ValueError(f"`{name}` must be finite and not negative on [0, 1].")
        if np.any(np.diff(scale) > 1e-6):
            raise ValueError("`scale_fn` must not increase on [0, 1].")
        if not np.all(np.diff(log_snr) < 0):
            where = float(times[1:-1][int(np.argmax(~(np.diff(log_snr) < 0)))])
            raise ValueError(
                "`scale_fn` and `std_fn` must have a strictly decreasing ratio on [0, 1], "
                f"got a log-SNR that does not fall after s = {where:.3f}."
            )

    def _inside(self, s: RealLike) -> Array:
        """Time for ratios of rates: a subnormal step inside, where 0/0 has its limit."""
        s = as_float(s)
        return jnp.maximum(s, jnp.sqrt(jnp.asarray(jnp.finfo(s.dtype).tiny, s.dtype)))

    def _evaluate(self, fn: Callable, s: RealLike) -> Array:
        """`fn(s)`, not negative; derivatives are taken just inside, where those of sqrt are finite."""
        s = as_float(s)
        inside = s + jax.lax.stop_gradient(self._inside(s) - s)
        value = jnp.broadcast_to(as_float(fn(inside)), s.shape)
        exact = jnp.maximum(as_float(fn(s)), 0.0)  # rounding at an exact end
        return value + jax.lax.stop_gradient(exact - value)

    def _rate(self, fn: Callable[[Array], Array], s: RealLike) -> Array:
        s = as_float(s)
        return jax.jvp(fn, (s,), (jnp.ones_like(s),))[1]

    def scale(self, s: RealLike) -> Array:
        return self._evaluate(self.scale_fn, s)

    def log_scale(self, s: RealLike) -> Array:
        return jnp.log(self.scale(s))

    def scale_rate(self, s: RealLike) -> Array:
        return self._rate(self.scale, s)

    def std(self, s: RealLike) -> Array:
        return self._evaluate(self.std_fn, s)

    def var(self, s: RealLike) -> Array:
        return self.std(s) ** 2

    def var_rate(self, s: RealLike) -> Array:
        return self._rate(self.var, s)

    def log_snr(self, s: RealLike) -> Array:
        return 2 * (self.log_scale(s) - jnp.log(self.std(s)))

    def time_of_log_snr(self, value: RealLike) -> Array:
        return invert_log_snr(self, as_float(value))

    def equilibrium_precision(self, s: RealLike) -> Array:
        s = self._inside(s)
        return -2 * self.scale_rate(s) / self.scaled_sigma_squared(s)

    def equilibrium_gain(self, s: RealLike) -> Array:
        s = self._inside(s)
        return self.var_rate(s) / self.scaled_sigma_squared(s)

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        s = self._inside(s)
        return self.var_rate(s) * self.scale(s) - 2 * self.scale_rate(s) * self.var(s)

    def noise_budget(self) -> Array:
        # (1/2) int sigma^2 = [Sigma^2]/2 + int (-mu'/mu) Sigma^2 ds, infinite where mu reaches 0.
        nodes, weights = np.polynomial.legendre.leggauss(64)
        length = self.t1 - self.t0
        times = self.t0 + length * (as_float(nodes) + 1) / 2
        erosion = -self.scale_rate(times) / self.scale(times) * self.var(times)
        erosion = jnp.sum(as_float(weights) * erosion) * length / 2
        total = (self.var(self.t1) - self.var(self.t0)) / 2 + erosion
        # cos(pi/2) is 6e-17 in float64: a zero of mu within rounding of t1 is a zero at t1.
        rounding = jnp.finfo(total.dtype).eps * jnp.abs(self.scale_rate(self.t1))
        return jnp.where(self.scale(self.t1) > rounding, total, jnp.inf)
