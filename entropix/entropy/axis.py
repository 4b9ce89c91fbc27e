r"""The integration axis: log-SNR, mapped to the unit interval.

Every functional of this room is an integral over log-SNR, because
$\frac{\sigma^2}{2}ds = -\frac{\Sigma^2}{2}d\lambda$ makes it the same integral for every process.
The axis runs over all of it, infinite ends included, through a Cauchy map

$$\lambda(q) = \lambda_c + w\cot(\pi q), \qquad q \in (0, 1),$$

whose heavy tails leave room for structure far from the scale of the data's variance, where an
exponential map would place no points. For smooth densities the integrands fall off exponentially at
both ends, so nothing is cut off.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike
from entropix.interfaces import AbstractGaussianProcess


def _end_log_snr(process: AbstractGaussianProcess, time: Array) -> Array:
    """log-SNR at an end of the axis; an infinite one is a constant, with a zero gradient.

    An infinite end is put where squares of the noise (or the signal) come close to underflow, 65
    in float32 and 531 in float64: what lies beyond is smaller than any number that can be held.
    """
    frozen = jax.lax.stop_gradient(process.log_snr(time))
    is_finite = jnp.isfinite(frozen)
    inside = jnp.where(is_finite, time, (process.t0 + process.t1) / 2)
    limit = -0.75 * jnp.log(jnp.finfo(frozen.dtype).tiny)
    return jnp.where(is_finite, process.log_snr(inside), jnp.clip(frozen, -limit, limit))


@eqx.filter_jit
def log_snr_of_std(process: AbstractGaussianProcess, std: Array) -> Array:
    r"""The log-SNR at which $\Sigma$ equals `std`: the fixed point of $2\log(\mu(\lambda)/std)$.

    The map contracts by $d\log\mu^2/d\lambda < 1$; 64 steps converge for any `std` that is not
    close to the end of the axis, and carry derivatives with them.
    """

    def step(value: Array, _: None) -> tuple[Array, None]:
        return 2 * (process.log_scale(process.time_of_log_snr(value)) - jnp.log(std)), None

    return jax.lax.scan(step, -2 * jnp.log(std), None, length=64)[0]


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

    @classmethod
    def of(
        cls,
        process: AbstractGaussianProcess,
        variance: Array,
        cutoff: Array | None = None,
        width: float = 4.0,
    ) -> "LogSNRAxis":
        """The whole axis of `process`, or the part with noise std at least `cutoff`."""
        centre, scale, start, stop = _ends(process, variance, cutoff, width)
        return cls(centre, scale, start, stop, cutoff is not None)

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

    def times(self, process: AbstractGaussianProcess, fraction: Array) -> Array:
        """Times at fractions of the axis, exact at both ends."""
        inside = (fraction > 0) & (fraction < 1)
        values = process.time_of_log_snr(self.log_snr(jnp.where(inside, fraction, 0.5)))
        return jnp.where(
            inside, values, jnp.where(fraction <= 0, self.start_time(process), process.t1)
        )

    def start_time(self, process: AbstractGaussianProcess) -> Array:
        """The time of the data end: `t0`, or that of the cut-off."""
        if not self.has_cutoff:
            return process.t0
        return process.time_of_log_snr(self.log_snr(0.0))


@eqx.filter_jit
def _ends(
    process: AbstractGaussianProcess, variance: Array, cutoff: Array | None, width: float
) -> tuple[Array, ...]:
    """Centre, width and the Cauchy coordinates of both ends of a `LogSNRAxis`."""
    centre = -jnp.log(variance)
    scale = jnp.asarray(width, centre.dtype)
    if cutoff is None:
        start = _end_log_snr(process, process.t0)
    else:
        start = log_snr_of_std(process, cutoff)
    stop = _end_log_snr(process, process.t1)

    def coordinate(value: Array) -> Array:
        return 0.5 - jnp.arctan((value - centre) / scale) / jnp.pi

    return centre, scale, coordinate(start), coordinate(stop)
