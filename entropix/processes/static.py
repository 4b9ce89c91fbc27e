r"""Processes with a static Gaussian equilibrium: variance preserving, straight line, cosine.

All three are the Ornstein-Uhlenbeck process with equilibrium $N(0, \kappa^2)$ in the clock
$B = -2\log\mu$,

$$\mu = e^{-B/2}, \qquad \Sigma^2 = \kappa^2(1 - \mu^2), \qquad \sigma^2 = \kappa^2 B'(s),$$

and differ only in how fast the clock runs (Neural Entropy, 2409.03817). As functions of the
log-SNR they are one process.
"""

import abc

import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, RealLike, as_float, safe_sqrt
from entropix._core.checks import positive
from entropix.interfaces import AbstractGaussianProcess, AbstractSchedule
from entropix.processes.schedules import (
    CosineSchedule,
    StraightClock,
    check_schedule,
    time_of_integral,
)


class AbstractStaticProcess(AbstractGaussianProcess):
    r"""An Ornstein-Uhlenbeck process with equilibrium $N(0, \kappa^2)$ and any clock."""

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

    is_static = True
    is_finite = True

    @property
    @abc.abstractmethod
    def equilibrium_std(self) -> Array:
        r"""$\kappa$."""

    @property
    @abc.abstractmethod
    def clock(self) -> AbstractSchedule:
        r"""The schedule whose integral is $B(s)$."""

    @property
    def ends_in_noise(self) -> bool:
        return self.clock.diverges

    def scale(self, s: RealLike) -> Array:
        return self.clock.decay(s)

    def log_scale(self, s: RealLike) -> Array:
        return -self.clock.integral(s) / 2

    def scale_rate(self, s: RealLike) -> Array:
        return self.clock.decay_rate(s)

    def std(self, s: RealLike) -> Array:
        return self.equilibrium_std * safe_sqrt(self.clock.absorbed(s))

    def var(self, s: RealLike) -> Array:
        return self.equilibrium_std**2 * self.clock.absorbed(s)

    def var_rate(self, s: RealLike) -> Array:
        return self.scaled_sigma_squared(s) * self.scale(s)

    def log_snr(self, s: RealLike) -> Array:
        absorbed = self.clock.absorbed(s)
        return 2 * self.log_scale(s) - 2 * jnp.log(self.equilibrium_std) - jnp.log(absorbed)

    def time_of_log_snr(self, value: RealLike) -> Array:
        # mu^2 / (1 - mu^2) = kappa^2 exp(lambda), hence B = log(1 + exp(-lambda) / kappa^2).
        integral = jax.nn.softplus(-(as_float(value) + 2 * jnp.log(self.equilibrium_std)))
        return time_of_integral(self.clock, integral, self.t0, self.t1)

    def equilibrium_precision(self, s: RealLike) -> Array:
        return jnp.broadcast_to(1 / self.equilibrium_std**2, jnp.shape(s))

    def equilibrium_gain(self, s: RealLike) -> Array:
        return self.scale(s)

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return -2 * self.equilibrium_std**2 * self.scale_rate(s)

    def noise_budget(self) -> Array:
        return self.equilibrium_std**2 * self.clock.integral(self.t1) / 2


class VariancePreserving(AbstractStaticProcess):
    r"""Variance-preserving diffusion with equilibrium scale $\kappa$.

    $\mu = e^{-B/2}$, $\Sigma^2 = \kappa^2(1 - e^{-B})$, $\sigma^2 = \kappa^2\beta$. The paper
    (Neural Entropy, 2409.03817) calls $\kappa = 1$ "VP" and $\kappa < 1$ "VPx"; $\kappa = 1$ is the
    VP process of Song et al. (2011.13456).

    Args:
        schedule: $\beta(s)$.
        kappa: standard deviation of the equilibrium, positive.

    Raises:
        ValueError: if `kappa` is not positive and finite.

    Example:
        >>> import entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.5)
        >>> print(f"{process.scale(0.5):.3f}, {process.std(0.5):.3f}")
        0.361, 0.466
        >>> print(f"{process.time_of_log_snr(0.0):.3f}")  # where signal and noise are equal
        0.444
    """

    schedule: AbstractSchedule
    kappa: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    def __init__(self, schedule: AbstractSchedule, kappa: ArrayLike = 1.0):
        self.schedule = check_schedule(schedule)
        self.kappa = positive(kappa, "kappa", shape=())
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def equilibrium_std(self) -> Array:
        return self.kappa

    @property
    def clock(self) -> AbstractSchedule:
        return self.schedule


class StraightLine(AbstractStaticProcess):
    r"""The straight-line process: the mean moves to zero at constant speed.

    $\mu = 1 - s$, $\Sigma^2 = \sigma_0^2(1 - (1-s)^2)$, $\sigma^2 = 2\sigma_0^2/(1-s)$, with the
    static equilibrium $N(0, \sigma_0^2)$ reached exactly at s = 1 (Neural Entropy, 2409.03817).

    Args:
        sigma0: standard deviation of the equilibrium, positive.

    Raises:
        ValueError: if `sigma0` is not positive and finite.

    Example:
        >>> import entropix as ex
        >>> process = ex.StraightLine(sigma0=0.1)
        >>> print(f"{process.scale(0.25):.2f}, {process.std(0.25):.4f}")
        0.75, 0.0661
        >>> process.ends_in_noise
        True
    """

    sigma0: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    def __init__(self, sigma0: ArrayLike = 0.1):
        self.sigma0 = positive(sigma0, "sigma0", shape=())
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def equilibrium_std(self) -> Array:
        return self.sigma0

    @property
    def clock(self) -> AbstractSchedule:
        return StraightClock()


class CosinePath(AbstractStaticProcess):
    r"""The cosine path $\mu = \cos(\pi s/2)$, $\Sigma = \sin(\pi s/2)$; equilibrium N(0, 1).

    For unit-variance data it is the constant-speed geodesic of the variance-preserving family
    (Nichol and Dhariwal, 2102.09672; Albergo et al., 2303.08797). It has no parameters.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]

    def __init__(self):
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def equilibrium_std(self) -> Array:
        return jnp.ones_like(self.t1)

    @property
    def clock(self) -> AbstractSchedule:
        return CosineSchedule()
