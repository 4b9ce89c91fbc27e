r"""The integration axis: log-SNR, mapped to the unit interval.

Every functional is an integral over log-SNR, because $\frac{\sigma^2}{2}ds =
-\frac{\Sigma^2}{2}d\lambda$ makes it the same integral for every Gaussian process. The axis covers
all of it, infinite ends included, through a Cauchy map

$$\lambda(q) = \lambda_c + w\cot(\pi q), \qquad q \in (0, 1).$$

Its heavy tails place points far from the scale of the data's variance, where an exponential map
would place none. For smooth densities the integrands fall off exponentially at both ends, so
nothing is cut off.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealLike
from entropix._core.checks import checked, positive
from entropix._core.compiled import lightly_compiled
from entropix._core.inversion import log_snr_at
from entropix.interfaces import AbstractGaussianProcess, AbstractKernel
from entropix.models import highest_log_snr
from entropix.processes import end_scale_and_std


def finite_log_snr(log_snr: Array) -> Array:
    """A log-SNR, infinite ones where squares of the noise (or the signal) come close to underflow.

    That is 65 in float32 and 531 in float64: what lies beyond is smaller than any number that can
    be held.
    """
    limit = -0.75 * jnp.log(jnp.finfo(log_snr.dtype).tiny)
    return jnp.clip(log_snr, -limit, limit)


def _end_log_snr(process: AbstractKernel, time: Array) -> Array:
    """log-SNR at an end of the axis; an infinite one is put where `finite_log_snr` has it."""
    log_snr = log_snr_at(process, time)
    return jnp.where(jnp.isfinite(log_snr), log_snr, finite_log_snr(log_snr))


@lightly_compiled
def std_of_log_snr(process: AbstractGaussianProcess, log_snr: Array) -> Array:
    r"""$\Sigma$ at a log-SNR; at the nearer end outside the range of the process."""
    return process.std(process.time_of_log_snr(log_snr))


@lightly_compiled
def log_snr_of_std(process: AbstractGaussianProcess, std: Array) -> Array:
    r"""The log-SNR at which $\Sigma$ equals `std`: the fixed point of $2\log(\mu(\lambda)/std)$.

    The map contracts by $d\log\mu^2/d\lambda < 1$; 64 steps converge for any `std` that is not
    close to the end of the axis, and carry derivatives with them.
    """

    def step(value: Array, _: None) -> tuple[Array, None]:
        return 2 * (process.log_scale(process.time_of_log_snr(value)) - jnp.log(std)), None

    return jax.lax.scan(step, -2 * jnp.log(std), None, length=64)[0]


def log_snr_per_log_std(process: AbstractGaussianProcess, s: Array) -> Array:
    r"""$d\lambda/d\ln\Sigma$ without its sign, at a time of a process."""
    # -d lambda = (sigma^2 / Sigma^2) ds and d ln Sigma = (Sigma^2)' ds / (2 Sigma^2).
    return 2 * process.sigma_squared(s) / process.var_rate(s)


def check_cutoff(source: Any, cutoff: DataLike | None) -> Array | None:
    """A noise standard deviation above zero and below that of the process at t1, or None.

    A network that is defined down to some noise only (`from_denoiser`) raises the cut-off to it.

    Args:
        source: a model, or a functional of models, with a `process`.
        cutoff: the smallest noise standard deviation to include, or None.
    """
    process, highest = source.process, highest_log_snr(source)
    if cutoff is None and highest is None:
        return None
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError("`cutoff` must be None where the process is not Gaussian.")
    if cutoff is not None:
        _, end = end_scale_and_std(process)
        cutoff = checked(
            positive(cutoff, "cutoff", shape=()),
            "cutoff",
            lambda v: v < end,
            "a noise standard deviation below that of the process at t1",
        )
    if highest is None:
        return cutoff
    least = std_of_log_snr(process, highest)
    return least if cutoff is None else jnp.maximum(cutoff, least)


class LogSNRAxis(eqx.Module):
    r"""Fractions in [0, 1] of the log-SNR axis, from the data end (0) to the noise end (1).

    Attributes:
        centre: $\lambda_c$, the log-SNR at which the noise is as strong as the data vary.
        width: $w$.
        q_start: the Cauchy coordinate of the data end or of the cut-off.
        q_stop: the Cauchy coordinate of the noise end.
        has_cutoff: whether a cut-off was given.
    """

    centre: Float[Array, ""]
    width: Float[Array, ""]
    q_start: Float[Array, ""]
    q_stop: Float[Array, ""]
    has_cutoff: bool = eqx.field(static=True)

    @staticmethod
    @eqx.filter_jit
    def of(process: AbstractKernel, variance: Array, cutoff: Array | None = None) -> "LogSNRAxis":
        """The whole axis of `process`, or the part with noise std at least `cutoff`.

        `variance` is that of the data, per dimension.
        """
        centre = -jnp.log(variance)
        width = jnp.asarray(4.0, centre.dtype)
        if cutoff is None:
            start = _end_log_snr(process, process.t0)
        else:
            assert isinstance(process, AbstractGaussianProcess)  # as `check_cutoff` requires
            start = log_snr_of_std(process, cutoff)

        def coordinate(log_snr: Array) -> Array:
            return 0.5 - jnp.arctan((log_snr - centre) / width) / jnp.pi

        stop = coordinate(_end_log_snr(process, process.t1))
        return LogSNRAxis(centre, width, coordinate(start), stop, cutoff is not None)

    def fraction(self, log_snr: RealLike) -> Array:
        """The fraction of the axis at a log-SNR, clamped to [0, 1]."""
        q = 0.5 - jnp.arctan((log_snr - self.centre) / self.width) / jnp.pi
        return jnp.clip((q - self.q_start) / (self.q_stop - self.q_start), 0.0, 1.0)

    def log_snr(self, fraction: RealLike) -> Array:
        """The log-SNR at a fraction of the axis."""
        q = self.q_start + (self.q_stop - self.q_start) * fraction
        return self.centre + self.width / jnp.tan(jnp.pi * q)

    def jacobian(self, fraction: RealLike) -> Array:
        r"""$-d\lambda/d\,\mathrm{fraction}$, positive."""
        q = self.q_start + (self.q_stop - self.q_start) * fraction
        return self.width * jnp.pi * (self.q_stop - self.q_start) / jnp.sin(jnp.pi * q) ** 2

    def times(self, process: AbstractKernel, fraction: Array) -> Array:
        """Times at fractions of the axis, exact at both ends."""
        inside = (fraction > 0) & (fraction < 1)
        values = process.time_of_log_snr(self.log_snr(jnp.where(inside, fraction, 0.5)))
        return jnp.where(
            inside, values, jnp.where(fraction <= 0, self.start_time(process), process.t1)
        )

    def start_time(self, process: AbstractKernel) -> Array:
        """The time of the data end: `t0`, or that of the cut-off."""
        if not self.has_cutoff:
            return process.t0
        return process.time_of_log_snr(self.log_snr(0.0))

    def slope(self, process: AbstractKernel, rates: Array) -> Array:
        r"""$dI/d(-\ln\Sigma)$ at the cut-off, from rates per unit of $-d\lambda$ there."""
        assert isinstance(process, AbstractGaussianProcess)  # as there is a cut-off
        return log_snr_per_log_std(process, self.start_time(process)) * jnp.mean(rates)
