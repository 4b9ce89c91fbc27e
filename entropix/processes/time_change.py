r"""Another clock for any process.

With an increasing map $s = w(u)$ of the time axis onto itself, $\tilde Y_u = Y_{w(u)}$ obeys

$$d\tilde Y_u = w'(u)\,b(\tilde Y_u, w(u))\,du + \sqrt{w'(u)}\,\sigma(w(u))\,d\tilde B_u :$$

the same densities in the same order, at other times. Whatever is an integral over the densities
alone, such as $S_{tot}$ or the length of the path, is unchanged.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealLike, RealScalarLike, as_float
from entropix._core.checks import positive_integer
from entropix.interfaces import (
    AbstractGaussianProcess,
    AbstractLearnable,
    AbstractProcess,
    AbstractWarp,
)
from entropix.processes.curves import UnitCurve


class MonotoneWarp(AbstractWarp, AbstractLearnable):
    r"""A learnable increasing map of [0, 1] onto itself, by default the identity.

    $\log w'$ is linear between knots at $\sin^2(\pi i/2(K-1))$: see `entropix.processes.curves`.

    Args:
        log_rates: $\log w'$ at the knots, shape (K,), K >= 2, up to a common constant; or K itself,
            for the identity.

    Raises:
        ValueError: on a wrong shape or an entry that is not finite.
    """

    curve: UnitCurve

    def __init__(self, log_rates: DataLike = 32):
        if isinstance(log_rates, int) and not isinstance(log_rates, bool):
            log_rates = jnp.zeros(positive_integer(log_rates, "log_rates", 2))
        self.curve = UnitCurve(log_rates)

    @property
    def knots(self) -> Array:
        """The places between which the log-rate is linear."""
        return jnp.asarray(self.curve.places)

    def learnable(self) -> tuple[Any, ...]:
        return (self.curve.log_rates,)

    def __call__(self, u: RealLike) -> Array:
        u = as_float(u)
        value = self.curve.value(u)
        return jnp.where(value < 0.5, value, 1 - self.curve.rest(u))

    def rate(self, u: RealLike) -> Array:
        return self.curve.rate(u)

    def inverse(self, value: RealLike) -> Array:
        # A process that ends in noise is evaluated at the end itself, which must be exact.
        value = as_float(value)
        return jnp.where(value >= 1, 1.0, self.curve.inverse(jnp.minimum(value, 1.0)))


def _time(process: AbstractProcess, warp: AbstractWarp, u: RealLike) -> Array:
    """The time of the process at a time of the new clock."""
    length = process.t1 - process.t0
    fraction = warp((as_float(u) - process.t0) / length)
    # Not t0 + length fraction at the end: that may miss t1 by rounding.
    return jnp.where(fraction >= 1, process.t1, process.t0 + length * fraction)


def _pace(process: AbstractProcess, warp: AbstractWarp, u: RealLike) -> Array:
    """The rate of the process's time in the new one, $ds/du$."""
    return warp.rate((as_float(u) - process.t0) / (process.t1 - process.t0))


class TimeChangedProcess(AbstractProcess):
    """A process that is not Gaussian by another clock; made by `TimeChanged`."""

    process: AbstractProcess
    warp: AbstractWarp
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    def __init__(self, process: AbstractProcess, warp: AbstractWarp):
        self.process, self.warp = process, warp
        self.t0, self.t1 = process.t0, process.t1

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        time = _time(self.process, self.warp, s)
        return _pace(self.process, self.warp, s) * self.process.drift(time, y)

    def sigma_squared(self, s: RealLike) -> Array:
        time = _time(self.process, self.warp, s)
        return _pace(self.process, self.warp, s) * self.process.sigma_squared(time)

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return self.process.equilibrium_score(_time(self.process, self.warp, s), y)


class TimeChangedGaussian(AbstractGaussianProcess):
    """A Gaussian process by another clock; made by `TimeChanged`."""

    process: AbstractGaussianProcess
    warp: AbstractWarp
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    is_static: bool = eqx.field(static=True)
    is_finite: bool = eqx.field(static=True)

    def __init__(self, process: AbstractGaussianProcess, warp: AbstractWarp):
        self.process, self.warp = process, warp
        self.t0, self.t1 = process.t0, process.t1
        self.is_static, self.is_finite = process.is_static, process.is_finite

    @property
    def ends_in_noise(self) -> bool:
        return self.process.ends_in_noise

    def _time(self, s: RealLike) -> Array:
        return _time(self.process, self.warp, s)

    def _pace(self, s: RealLike) -> Array:
        return _pace(self.process, self.warp, s)

    def scale(self, s: RealLike) -> Array:
        return self.process.scale(self._time(s))

    def log_scale(self, s: RealLike) -> Array:
        return self.process.log_scale(self._time(s))

    def scale_rate(self, s: RealLike) -> Array:
        return self._pace(s) * self.process.scale_rate(self._time(s))

    def std(self, s: RealLike) -> Array:
        return self.process.std(self._time(s))

    def var(self, s: RealLike) -> Array:
        return self.process.var(self._time(s))

    def var_rate(self, s: RealLike) -> Array:
        return self._pace(s) * self.process.var_rate(self._time(s))

    def log_snr(self, s: RealLike) -> Array:
        return self.process.log_snr(self._time(s))

    def time_of_log_snr(self, value: RealLike) -> Array:
        length = self.t1 - self.t0
        fraction = (self.process.time_of_log_snr(value) - self.t0) / length
        return self.t0 + length * self.warp.inverse(fraction)

    def equilibrium_precision(self, s: RealLike) -> Array:
        return self.process.equilibrium_precision(self._time(s))

    def equilibrium_gain(self, s: RealLike) -> Array:
        return self.process.equilibrium_gain(self._time(s))

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return self._pace(s) * self.process.scaled_sigma_squared(self._time(s))

    def noise_budget(self) -> Array:
        return self.process.noise_budget()


def TimeChanged(
    process: AbstractProcess, warp: AbstractWarp | None = None
) -> TimeChangedGaussian | TimeChangedProcess:
    r"""Another clock for any process: $\tilde Y_u = Y_{w(u)}$ on the same `[t0, t1]`.

    Every coefficient follows by the chain rule: $\tilde b = w' b$, $\tilde\sigma^2 = w'\sigma^2$,
    while $\mu$, $\Sigma$, log-SNR and $p_{eq}$ are those at $w(u)$. This is how a process without
    a schedule of its own (straight line, cosine, rectified flow) is given one.

    Args:
        process: any process; a Gaussian one stays Gaussian.
        warp: an increasing map of [0, 1] (fractions of the time axis) onto itself, such as
            `MonotoneWarp`; None starts from the identity.

    Returns:
        The process in its new time.

    Raises:
        ValueError: if `process` is not a process or `warp` not a warp.
    """
    warp = MonotoneWarp() if warp is None else warp
    if not isinstance(warp, AbstractWarp):
        raise ValueError(f"`warp` must be a warp such as MonotoneWarp, got {type(warp).__name__}.")
    if isinstance(process, AbstractGaussianProcess):
        return TimeChangedGaussian(process, warp)
    if isinstance(process, AbstractProcess):
        return TimeChangedProcess(process, warp)
    raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
