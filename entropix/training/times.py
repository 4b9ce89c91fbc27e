r"""Proposals of noise levels, for the integral over time in the training objective.

A proposal maps $u \in (0, 1)$ to a time and the density of that draw per unit of $-\lambda$, the
measure in which every weighting is bounded (see `losses`). An integral over the whole time axis is
then a mean over u,

$$\int_{t_0}^{t_1} w(s)\,f(s)\,ds = \int_0^1 \frac{w_\lambda(s_u)}{q_\lambda(s_u)} f(s_u)\,du,$$

whatever the proposal; the proposal decides the variance. The gradient of the likelihood objective
has standard deviation near $\Sigma(s)\,c(s)/q_\lambda$ in the outputs of a network with output
scale $c(s)$, and a proposal in proportion to $\Sigma c$, the root of the entropy rate, makes it
constant. $\Sigma c$ falls like $e^{-|\lambda|/2}$ on both sides of its maximum, as does the
logistic density of scale 2: the default.

No end is cut off: proposals are open at both ends, and an infinite log-SNR is never reached.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float

from entropix._core.arrays import RealLike, RealScalarLike, Scalar
from entropix._core.checks import finite, positive
from entropix._core.compiled import lightly_compiled
from entropix._core.inversion import log_snr_at
from entropix.interfaces import AbstractGaussianProcess, AbstractKernel, AbstractTimes
from entropix.models import GaussianScaling


def time_per_log_snr(process: AbstractGaussianProcess, s: RealLike) -> Array:
    """`process.time_per_log_snr(s)`, or a small positive number where that falls to zero."""
    ratio = process.time_per_log_snr(s)
    # Weights and densities divide one another. The floor is met only where Sigma^2 underflows.
    return jnp.maximum(ratio, jnp.sqrt(jnp.finfo(ratio.dtype).tiny))


class UniformTimes(AbstractTimes):
    r"""Uniform in time: $s = t_0 + u\,(t_1 - t_0)$, the proposal of the paper (2409.03817)."""

    def __call__(
        self, process: AbstractGaussianProcess, u: RealScalarLike
    ) -> tuple[Scalar, Scalar]:
        length = process.t1 - process.t0
        s = process.t0 + u * length
        return s, time_per_log_snr(process, s) / length


class LogisticTimes(AbstractTimes):
    r"""Logistic in log-SNR, cut to the log-SNRs of the process.

    $\lambda = a - b\,\mathrm{logit}(\tau)$ with $\tau$ uniform and the density
    $q_\lambda = \tau(1-\tau)/b$. Scale $b = 1$ is uniform in the noise fraction
    $\tau = \Sigma^2/(\Sigma^2 + c\mu^2)$ with $a = -\log c$; scale $b = 2$ is uniform in
    $\Sigma/(\Sigma + \sqrt{c}\,\mu)$ and puts more draws at both ends, $q_\lambda \sim
    e^{-|\lambda|/2}$.

    Args:
        location: $a$, the median log-SNR of the uncut density.
        scale: $b$, positive.

    Raises:
        ValueError: if `location` is not finite or `scale` not positive and finite.

    References:
        Esser et al. (2403.03206) for proposals logistic or normal in log-SNR.
    """

    location: Float[Array, ""]
    scale: Float[Array, ""]

    def __init__(self, location: ArrayLike = 0.0, scale: ArrayLike = 2.0):
        self.location = finite(location, "location")
        self.scale = positive(scale, "scale")

    @classmethod
    def noise_fraction(cls, variance: ArrayLike = 1.0) -> "LogisticTimes":
        r"""Uniform in $\tau = \Sigma^2/(\Sigma^2 + c\mu^2)$, c = `variance`."""
        return cls(-jnp.log(positive(variance, "variance")), 1.0)

    @classmethod
    def matched(cls, process: AbstractGaussianProcess, scaling: GaussianScaling) -> "LogisticTimes":
        r"""Scale 2 about the median of $\Sigma(s)\,c(s)$, the root of the entropy rate.

        Args:
            process: the process of the model.
            scaling: the moments of the data, `GaussianScaling.from_data(data, process)`.
        """
        return cls(_median_log_snr(process, scaling), 2.0)

    def __call__(self, process: AbstractKernel, u: RealScalarLike) -> tuple[Scalar, Scalar]:
        # tau and 1 - tau are formed apart: each keeps its digits where it is small.
        data_end, noise_end = self._place(process, process.t0), self._place(process, process.t1)
        mass = jax.nn.sigmoid(data_end) - jax.nn.sigmoid(noise_end)
        tau = jax.nn.sigmoid(-data_end) + mass * u
        rest = jax.nn.sigmoid(noise_end) + mass * (1 - u)
        log_snr = self.location + self.scale * (jnp.log(rest) - jnp.log(tau))
        return process.time_of_log_snr(log_snr), tau * rest / (self.scale * mass)

    def _place(self, process: AbstractKernel, end: Array) -> Array:
        """An end of the axis in units of the proposal; an infinite one is a constant."""
        log_snr = log_snr_at(process, end)
        known = jnp.isfinite(log_snr)
        place = (jnp.where(known, log_snr, 0.0) - self.location) / self.scale
        return jnp.where(known, place, log_snr)


@lightly_compiled
def _median_log_snr(process: AbstractGaussianProcess, scaling: GaussianScaling) -> Array:
    r"""The median of $\Sigma c$ as a density in log-SNR."""
    # Where the root of the rate does not decay, the median is that of this window.
    log_snr = jnp.linspace(-25.0, 25.0, 1001)
    times = process.time_of_log_snr(log_snr)
    inside = (times > process.t0) & (times < process.t1)
    times = jnp.where(inside, times, (process.t0 + process.t1) / 2)
    roots = process.std(times) * jax.vmap(lambda s: scaling(process, s))(times)
    cumulative = jnp.cumsum(jnp.where(inside & jnp.isfinite(roots), roots, 0.0))
    return log_snr[jnp.searchsorted(cumulative, cumulative[-1] / 2)]
