r"""Gaussian processes given by $\mu(s)$ and $\Sigma(s)$: any pair of functions, or learned ones.

The coefficients follow from both and their rates: $b = (\mu'/\mu) y$,
$\sigma^2 = (\Sigma^2)' - 2(\mu'/\mu)\Sigma^2$ (Albergo et al., 2303.08797; Kingma et al.,
2107.00630).
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, RealLike, as_float, safe_sqrt
from entropix._core.checks import (
    as_pytree,
    checked,
    finite,
    is_concrete,
    positive,
    positive_integer,
)
from entropix._core.compiled import error_if
from entropix._core.inversion import invert_log_snr
from entropix.interfaces import AbstractGaussianProcess, AbstractLearnable
from entropix.processes.curves import UnitCurve


class AbstractPath(AbstractGaussianProcess):
    r"""What follows from $\mu$, $\Sigma$ and their rates."""

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

    is_static = False
    is_finite = True

    @abc.abstractmethod
    def _quadrature(self) -> tuple[Array, Array]:
        """Nodes and weights on the time axis, for integrands as smooth as the path."""

    @abc.abstractmethod
    def _ends_at_zero(self) -> Array:
        r"""Whether $\mu(t_1) = 0$, for the numbers that the path has now."""

    def _inside(self, s: RealLike) -> Array:
        """Time, with the data end moved a tiny step inside: ratios of rates have a limit there."""
        s = as_float(s)
        step = jnp.sqrt(jnp.asarray(jnp.finfo(s.dtype).tiny, s.dtype))
        return s + jax.lax.stop_gradient(jnp.where(s > self.t0, 0, step))

    def log_scale(self, s: RealLike) -> Array:
        return jnp.log(self.scale(s))

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
        times, weights = self._quadrature()
        erosion = -self.scale_rate(times) / self.scale(times) * self.var(times)
        total = (self.var(self.t1) - self.var(self.t0)) / 2 + jnp.sum(weights * erosion)
        return jnp.where(self._ends_at_zero(), jnp.inf, total)


class GaussianPath(AbstractPath):
    r"""The linear process with given $\mu(s)$ and $\Sigma(s)$ on [0, 1].

    Rates are derived by forward-mode differentiation of $\mu$ and $\Sigma^2$ (so that
    `std_fn = jnp.sqrt` works). Derivatives at s = 0 are taken as limits from the right.

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
    _vanishes: bool = eqx.field(static=True)

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
                end = error_if(end, ~jnp.all(valid), f"{rule} on [0, 1].")
            elif not np.all(valid):
                first = float(times[int(np.argmin(valid))])
                raise ValueError(f"{rule} on [0, 1], got a violation near s = {first:.3f}.")
        self.t0 = times[0]
        self.t1 = end
        # A zero of the scale to rounding; where values are not known, the safe answer.
        self._vanishes = not is_concrete(scale) or float(scale[-1]) < 1e-6

    @property
    def ends_in_noise(self) -> bool:
        return self._vanishes

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

    def scale_rate(self, s: RealLike) -> Array:
        return self._rate(self.scale, s)

    def std(self, s: RealLike) -> Array:
        return self._evaluate(self._std, s)

    def var(self, s: RealLike) -> Array:
        return self._evaluate(lambda r: self._std(r) ** 2, s)

    def var_rate(self, s: RealLike) -> Array:
        return self._rate(self.var, s)

    def _quadrature(self) -> tuple[Array, Array]:
        nodes, weights = np.polynomial.legendre.leggauss(64)
        length = self.t1 - self.t0
        return self.t0 + length * (as_float(nodes) + 1) / 2, as_float(weights) * length / 2

    def _ends_at_zero(self) -> Array:
        # cos(pi/2) is 6e-17 in float64: a zero of mu within rounding of t1 is a zero at t1.
        rounding = jnp.finfo(self.t1.dtype).eps * jnp.abs(self.scale_rate(self.t1))
        return self.scale(self.t1) <= rounding


def _sampled(fn: Callable, times: Array, name: str) -> Array:
    try:
        return jnp.broadcast_to(as_float(fn(times)), times.shape)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must map times to an array of their shape, with jax.numpy: {error}"
        ) from error


class LearnablePath(AbstractPath, AbstractLearnable):
    r"""A learnable Gaussian process from $(\mu, \Sigma) = (1, 0)$ to $(\mu_T, \Sigma_T)$.

    $\mu(s) = 1 - (1 - \mu_T)F(s)$ and $\Sigma(s)^2 = \Sigma_T^2\,G(s)$ with two monotone curves
    $F$ and $G$ on [0, 1] (see `entropix.processes.curves`). The scale falls and the noise rises
    whatever the parameters, so that the log-SNR falls strictly; the ends are fixed. Initially $\mu$
    and $\Sigma^2$ are linear in time. The variance rises at a positive rate from s = 0 on, so that
    the equilibrium has a width there and the entropy of smooth data is finite.

    Args:
        final_scale: $\mu_T$, from 0 to below 1; at exactly 0 the diffusion coefficient is infinite
            at s = 1.
        final_std: $\Sigma_T$, positive.
        num_knots: knots of each curve.

    Raises:
        ValueError: if an end is out of range.
    """

    scale_curve: UnitCurve
    var_curve: UnitCurve
    final_scale: Float[Array, ""]
    final_std: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    _vanishes: bool = eqx.field(static=True)

    def __init__(
        self, final_scale: ArrayLike = 0.0, final_std: ArrayLike = 1.0, *, num_knots: int = 16
    ):
        positive_integer(num_knots, "num_knots", 2)
        scale = finite(final_scale, "final_scale", shape=())
        scale = checked(scale, "final_scale", lambda v: (v >= 0) & (v < 1), "from 0 to below 1")
        self.scale_curve = UnitCurve(np.zeros(num_knots))
        self.var_curve = UnitCurve(np.zeros(num_knots))
        self.final_scale = scale
        self.final_std = positive(final_std, "final_std", shape=())
        self.t0, self.t1 = as_float(0.0), as_float(1.0)
        self._vanishes = not is_concrete(scale) or float(scale) == 0

    @classmethod
    def from_process(cls, process: AbstractGaussianProcess, num_knots: int = 16) -> "LearnablePath":
        """The path with the rates of another process at the knots, and its ends."""
        if not isinstance(process, AbstractGaussianProcess):
            raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
        ends, logs = _ends_and_log_rates(process, num_knots)
        return eqx.tree_at(lambda p: p.learnable(), cls(*ends, num_knots=num_knots), logs)

    @property
    def ends_in_noise(self) -> bool:
        return self._vanishes

    def learnable(self) -> tuple[Any, ...]:
        return self.scale_curve.log_rates, self.var_curve.log_rates

    def scale(self, s: RealLike) -> Array:
        fallen = (1 - self.final_scale) * self.scale_curve.value(s)
        left = (1 - self.final_scale) * self.scale_curve.rest(s)
        return jnp.where(left > fallen, 1 - fallen, self.final_scale + left)  # exact at both ends

    def scale_rate(self, s: RealLike) -> Array:
        return -(1 - self.final_scale) * self.scale_curve.rate(s)

    def std(self, s: RealLike) -> Array:
        return self.final_std * safe_sqrt(self.var_curve.value(s))

    def var(self, s: RealLike) -> Array:
        return self.final_std**2 * self.var_curve.value(s)

    def var_rate(self, s: RealLike) -> Array:
        return self.final_std**2 * self.var_curve.rate(s)

    def _quadrature(self) -> tuple[Array, Array]:
        # The rates have kinks at the knots.
        nodes, weights = np.polynomial.legendre.leggauss(16)
        knots = np.unique([*self.scale_curve.places, *self.var_curve.places])
        width = np.diff(knots)[:, None]
        times = (knots[:-1, None] + width * (nodes + 1) / 2).reshape(-1)
        return as_float(times), as_float((width * weights / 2).reshape(-1))

    def _ends_at_zero(self) -> Array:
        return self.final_scale <= 0


@eqx.filter_jit
def _ends_and_log_rates(
    process: AbstractGaussianProcess, num_knots: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Scale and noise at the end of a process, and the log-rates of both at the knots."""
    places = as_float(UnitCurve.knots(num_knots))
    times = process.t0 + (process.t1 - process.t0) * places
    logs = (
        UnitCurve.log_rates_through(places, 1 - process.scale(times), -process.scale_rate(times)),
        UnitCurve.log_rates_through(places, process.var(times), process.var_rate(times)),
    )
    return (process.scale(process.t1), process.std(process.t1)), logs
