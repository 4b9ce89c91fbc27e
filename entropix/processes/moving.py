"""Processes whose quasi-invariant density is flat or moves with time."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, RealLike, as_float, safe_sqrt
from entropix._core.checks import checked, on_host, positive
from entropix.interfaces import AbstractGaussianProcess, AbstractSchedule
from entropix.processes.schedules import check_schedule, time_of_integral


class VarianceExploding(AbstractGaussianProcess):
    r"""Variance-exploding diffusion: noise is added and the data never shrink.

    $\mu = 1$ and $\Sigma(s)^2 = \sigma_{min}^2[(\sigma_{max}/\sigma_{min})^{2s} - 1]$ (Song et al.,
    2011.13456), so that $\Sigma(0) = 0$ exactly and $\Sigma(1)^2 = \sigma_{max}^2 -
    \sigma_{min}^2$. The drift is zero, $p_{eq}$ is flat, and the total entropy production is the
    growth of differential entropy, $S_{tot} = h(p_T) - h(p_d)$.

    Args:
        sigma_min: scale at which the noise begins to grow geometrically, positive.
        sigma_max: scale of the noise at s = 1, above `sigma_min`.

    Raises:
        ValueError: if either is not positive and finite, or `sigma_max <= sigma_min`.
    """

    sigma_min: Float[Array, ""]
    sigma_max: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = False
    is_finite = True

    def __init__(self, sigma_min: ArrayLike = 0.01, sigma_max: ArrayLike = 50.0):
        self.sigma_min = positive(sigma_min, "sigma_min", shape=())
        lower = on_host(self.sigma_min)
        self.sigma_max = checked(
            positive(sigma_max, "sigma_max", shape=()),
            "sigma_max",
            lambda v: v > lower,
            "above `sigma_min`",
        )
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def ends_in_noise(self) -> bool:
        return False

    def _log_growth(self) -> Array:
        return 2 * (jnp.log(self.sigma_max) - jnp.log(self.sigma_min))

    def scale(self, s: RealLike) -> Array:
        return jnp.ones_like(as_float(s), dtype=self.t1.dtype)

    def log_scale(self, s: RealLike) -> Array:
        return jnp.zeros_like(as_float(s), dtype=self.t1.dtype)

    def scale_rate(self, s: RealLike) -> Array:
        return jnp.zeros_like(as_float(s), dtype=self.t1.dtype)

    def std(self, s: RealLike) -> Array:
        return self.sigma_min * safe_sqrt(jnp.expm1(self._log_growth() * s))

    def var(self, s: RealLike) -> Array:
        return self.sigma_min**2 * jnp.expm1(self._log_growth() * s)

    def var_rate(self, s: RealLike) -> Array:
        growth = self._log_growth()
        return self.sigma_min**2 * growth * jnp.exp(growth * s)

    def log_snr(self, s: RealLike) -> Array:
        return -jnp.log(self.var(s))

    def time_of_log_snr(self, value: RealLike) -> Array:
        # 1 + Sigma^2 / sigma_min^2 = exp(growth s), and softplus(x) = log(1 + exp(x)).
        log_ratio = -as_float(value) - 2 * jnp.log(self.sigma_min)
        growth = self._log_growth()
        time = jnp.minimum(jax.nn.softplus(log_ratio), growth) / growth
        return jnp.clip(time, self.t0, self.t1)

    def equilibrium_precision(self, s: RealLike) -> Array:
        return self.scale_rate(s)

    def equilibrium_gain(self, s: RealLike) -> Array:
        return self.scale(s)

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return self.var_rate(s)

    def noise_budget(self) -> Array:
        return self.var(self.t1) / 2


class SubVariancePreserving(AbstractGaussianProcess):
    r"""The sub-VP process of Song et al. (2011.13456).

    $\mu = e^{-B/2}$, $\Sigma = 1 - e^{-B}$, $\sigma^2 = \beta(1 - e^{-2B})$, with the moving
    quasi-invariant density $N(0, 1 - e^{-2B})$, which collapses at s = 0: the total entropy
    diverges there even for smooth data, and is reported from a stated cut-off.

    Args:
        schedule: $\beta(s)$.
    """

    schedule: AbstractSchedule
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = False
    is_finite = False

    def __init__(self, schedule: AbstractSchedule):
        self.schedule = check_schedule(schedule)
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def ends_in_noise(self) -> bool:
        return self.schedule.diverges

    def scale(self, s: RealLike) -> Array:
        return self.schedule.decay(s)

    def log_scale(self, s: RealLike) -> Array:
        return -self.schedule.integral(s) / 2

    def scale_rate(self, s: RealLike) -> Array:
        return self.schedule.decay_rate(s)

    def std(self, s: RealLike) -> Array:
        return self.schedule.absorbed(s)

    def var(self, s: RealLike) -> Array:
        return self.schedule.absorbed(s) ** 2

    def var_rate(self, s: RealLike) -> Array:
        return -4 * self.schedule.absorbed(s) * self.scale(s) * self.scale_rate(s)

    def log_snr(self, s: RealLike) -> Array:
        return 2 * (self.log_scale(s) - jnp.log(self.schedule.absorbed(s)))

    def time_of_log_snr(self, value: RealLike) -> Array:
        # mu / (1 - mu^2) = 1 / p with p = exp(-lambda / 2), hence 1 - mu^2 = p mu and
        # mu = 2 / (p + sqrt(p^2 + 4)); on the noise side in q = 1 / p, which does not overflow.
        value = as_float(value)
        near_data = value >= 0
        p = jnp.exp(-jnp.where(near_data, value, 0.0) / 2)
        q = jnp.exp(jnp.where(near_data, 0.0, value) / 2)
        absorbed = 2 * p / (p + jnp.sqrt(p**2 + 4))
        log_scale = value / 2 - jnp.log1p((jnp.sqrt(1 + 4 * q**2) - 1) / 2)
        integral = jnp.where(near_data, -jnp.log1p(-absorbed), -2 * log_scale)
        return time_of_integral(self.schedule, integral, self.t0, self.t1)

    def equilibrium_precision(self, s: RealLike) -> Array:
        return 1 / (self.schedule.absorbed(s) * (1 + self.scale(s) ** 2))

    def equilibrium_gain(self, s: RealLike) -> Array:
        scale = self.scale(s)
        return 2 * scale / (1 + scale**2)

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return -2 * self.scale_rate(s) * self.schedule.absorbed(s) * (1 + self.scale(s) ** 2)

    def noise_budget(self) -> Array:
        integral = self.schedule.integral(self.t1)
        return (integral + jnp.expm1(-2 * integral) / 2) / 2


class RectifiedFlow(AbstractGaussianProcess):
    r"""The straight interpolation $\mu = 1 - s$, $\Sigma = s$ of rectified flow.

    Liu et al. (2209.03003) and conditional optimal transport (Lipman et al., 2210.02747), read as
    an SDE: $\sigma^2 = 2s/(1-s)$ with the moving quasi-invariant density $N(0, s)$. That density
    collapses at s = 0, so the total entropy diverges there and is reported from a stated cut-off;
    path KL, mutual information and action are finite. It has no parameters.
    """

    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = False
    is_finite = False

    def __init__(self):
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def ends_in_noise(self) -> bool:
        return True

    def scale(self, s: RealLike) -> Array:
        return 1 - as_float(s)

    def log_scale(self, s: RealLike) -> Array:
        return jnp.log1p(-as_float(s))

    def scale_rate(self, s: RealLike) -> Array:
        return -jnp.ones_like(as_float(s))

    def std(self, s: RealLike) -> Array:
        return as_float(s)

    def var(self, s: RealLike) -> Array:
        return as_float(s) ** 2

    def var_rate(self, s: RealLike) -> Array:
        return 2 * as_float(s)

    def log_snr(self, s: RealLike) -> Array:
        return 2 * (self.log_scale(s) - jnp.log(as_float(s)))

    def time_of_log_snr(self, value: RealLike) -> Array:
        return jax.nn.sigmoid(-as_float(value) / 2)

    def equilibrium_precision(self, s: RealLike) -> Array:
        return 1 / as_float(s)

    def equilibrium_gain(self, s: RealLike) -> Array:
        return jnp.ones_like(as_float(s))

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return 2 * as_float(s)

    def noise_budget(self) -> Array:
        return jnp.full_like(self.t1, np.inf)
