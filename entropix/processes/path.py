"""A Gaussian process from any pair of functions."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float
from entropix._core.checks import is_concrete
from entropix.interfaces import AbstractGaussianProcess
from entropix.processes.functions import as_pytree
from entropix.processes.inversion import invert_log_snr


def _sampled(fn: Callable, times: Array, name: str) -> Array:
    try:
        return jnp.broadcast_to(as_float(fn(times)), times.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must map times to an array of their shape, with jax.numpy: {error}"
        ) from error


class GaussianPath(AbstractGaussianProcess):
    r"""The linear process with given $\mu(s)$ and $\Sigma(s)$ on [0, 1].

    Coefficients are derived by forward-mode differentiation of $\mu$ and $\Sigma^2$ (so that
    `std_fn = jnp.sqrt` works): $b = (\mu'/\mu) y$, $\sigma^2 = (\Sigma^2)' - 2(\mu'/\mu)\Sigma^2$
    (Albergo et al., 2303.08797; Kingma et al., 2107.00630). Derivatives at s = 0 are taken as
    limits from the right.

    Args:
        scale_fn: $\mu(s)$, from 1 at s = 0, positive on [0, 1) and not increasing. A plain function
            or a callable module, whose parameters are then differentiable.
        std_fn: $\Sigma(s)$, not negative, with $\mu/\Sigma$ strictly decreasing.

    Raises:
        ValueError: if either is not callable, a value is not finite, the scale does not start at 1
            or increases, or the log-SNR does not fall strictly.
    """

    scale_fn: Callable
    std_fn: Callable
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    ends_in_noise: bool = eqx.field(static=True)

    is_static = False
    is_finite = True

    def __init__(self, scale_fn: Callable, std_fn: Callable):
        self.scale_fn = as_pytree(scale_fn, "scale_fn")
        self.std_fn = as_pytree(std_fn, "std_fn")
        times = jnp.linspace(as_float(0.0), as_float(1.0), 129)
        scale = _sampled(self.scale_fn, times, "scale_fn")
        std = _sampled(self.std_fn, times, "std_fn")
        log_snr = 2 * (jnp.log(scale[1:-1]) - jnp.log(std[1:-1]))
        rules = (
            (jnp.isfinite(scale) & (scale > -1e-6), "`scale_fn` must be finite and not negative"),
            (jnp.isfinite(std) & (std > -1e-6), "`std_fn` must be finite and not negative"),
            (jnp.abs(scale[:1] - 1) < 1e-4, "`scale_fn` must be 1 at s = 0"),
            (jnp.diff(scale) < 1e-6, "`scale_fn` must not increase"),
            (jnp.diff(log_snr) < 0, "`scale_fn` and `std_fn` must have a strictly falling ratio"),
        )
        end = times[-1]
        for valid, rule in rules:
            if not is_concrete(valid):
                end = eqx.error_if(end, ~jnp.all(valid), f"{rule} on [0, 1].")
            elif not np.all(valid):
                first = float(times[int(np.argmin(valid))])
                raise ValueError(f"{rule} on [0, 1], got a violation near s = {first:.3f}.")
        self.t0 = times[0]
        self.t1 = end
        # A zero of the scale to rounding; where values are not known, the safe answer.
        self.ends_in_noise = not is_concrete(scale) or float(scale[-1]) < 1e-6

    def _inside(self, s: RealLike) -> Array:
        """Time, with the data end moved a tiny step inside: ratios of rates have a limit there."""
        s = as_float(s)
        step = jnp.sqrt(jnp.asarray(jnp.finfo(s.dtype).tiny, s.dtype))
        return s + jax.lax.stop_gradient(jnp.where(s > self.t0, 0, step))

    def _evaluate(self, fn: Callable[[Array], Array], s: RealLike) -> Array:
        """`fn(s)`, with the derivatives it has just inside, where that of sqrt is finite."""
        s = as_float(s)
        near = fn(self._inside(s))
        return near + jax.lax.stop_gradient(fn(s) - near)

    def _scale(self, s: Array) -> Array:
        scale = jnp.broadcast_to(as_float(self.scale_fn(s)), s.shape)
        rounding = jnp.minimum(scale, 0.0)  # cos(pi/2) is -4e-8 in float32
        return scale - jax.lax.stop_gradient(rounding)

    def _std(self, s: Array) -> Array:
        return jnp.broadcast_to(as_float(self.std_fn(s)), s.shape)

    def _rate(self, fn: Callable[[Array], Array], s: RealLike) -> Array:
        s = as_float(s)
        return jax.jvp(fn, (s,), (jnp.ones_like(s),))[1]

    def scale(self, s: RealLike) -> Array:
        return self._evaluate(self._scale, s)

    def log_scale(self, s: RealLike) -> Array:
        return jnp.log(self.scale(s))

    def scale_rate(self, s: RealLike) -> Array:
        return self._rate(self.scale, s)

    def std(self, s: RealLike) -> Array:
        return self._evaluate(self._std, s)

    def var(self, s: RealLike) -> Array:
        return self._evaluate(lambda r: self._std(r) ** 2, s)

    def var_rate(self, s: RealLike) -> Array:
        return self._rate(self.var, s)

    def log_snr(self, s: RealLike) -> Array:
        return 2 * (self.log_scale(s) - jnp.log(self.std(s)))

    def time_of_log_snr(self, value: RealLike) -> Array:
        value = as_float(value)
        return invert_log_snr(self, value.astype(jnp.result_type(value, self.t1)))

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
