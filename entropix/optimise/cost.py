r"""The cost of a schedule: the action of its path, and the Monte Carlo error of its entropy.

A model enters through its denoiser D at a log-SNR and the noise $\epsilon = (y - \mu D)/\Sigma$,
the schedule through $\mu(s)$ and $\Sigma(s)$. With

$$v = \mu' D + \Sigma'\epsilon, \qquad
  \mathrm{action} = (t_1 - t_0)\int E\|v\|^2\,ds, \qquad
  \mathrm{length} = \int\sqrt{E\|v\|^2}\,ds, \qquad
  S = \int\frac{2}{\sigma^2}\,E\|v\|^2\,ds$$

(Benamou and Brenier, 2000; Ikeda et al., 2407.04495). Estimates of S from N draws of one time,
uniform in s, one datum and one noise have the error $\sqrt{\mathrm{Var} f/N}$ with

$$f = (t_1 - t_0)\,\frac{2}{\sigma^2}\,\|v\|^2 .$$

S may be infinite. The path KL to the moment-matched Gaussian r is finite and the same for every
process; it has $f = (t_1 - t_0)\frac{\sigma^2}{2}\|s - s_r\|^2$ with
$s - s_r = \frac{\mu}{\Sigma^2}(D - D_r)$, and $\mu(s - s_r)$ depends on the log-SNR only, not on
the process.
"""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.compiled import compiled
from entropix.distributions import Gaussian
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import ExactModel
from entropix.transport import time_rule, wasserstein


_NODES = 48


@dataclasses.dataclass(frozen=True)
class ScheduleCost:
    r"""The cost of one schedule.

    Attributes:
        action: kinetic action, and its standard error for the population.
        length: of the path.
        entropy: S in nats; infinite for processes for which that is known.
        efficiency: $W_2^2/(S\int\sigma^2/2\,ds)$ with the W2 of samples; 0 if S or the noise
            budget is infinite.
        entropy_error: the Monte Carlo error of S; infinite if S is.
        path_kl_error: the Monte Carlo error of the path KL to the moment-matched Gaussian.
    """

    action: tuple[float, float]
    length: float
    entropy: float
    efficiency: float
    entropy_error: float
    path_kl_error: float


def schedule_cost(
    model: AbstractModel,
    process: AbstractGaussianProcess,
    x: Float[Array, "n dim"],
    z: Float[Array, "n dim"],
    *,
    evaluations: int,
    max_pairs: int = 1000,
) -> ScheduleCost:
    """The cost of a schedule for a model: action, length, efficiency, Monte Carlo errors.

    Args:
        model: any model, under a process that covers all log-SNRs of `process`.
        process: a Gaussian process with the schedule.
        x: samples of the data, shape (n, dim).
        z: standard normal noise, shape (n, dim).
        evaluations: the number N of draws of the estimates whose Monte Carlo error is returned.
        max_pairs: the largest number of points for W2.

    Returns:
        A `ScheduleCost`.

    References:
        Benamou and Brenier (2000); Ikeda et al., arXiv 2407.04495.
    """
    variance = jnp.mean(jnp.var(x, axis=0))
    times, weights = time_rule(process, variance, _NODES)
    denoised, noise, gap = _fields(model, process.log_snr(times), x, z)
    rates = _rates(process, times)
    squared, entropy, kl = (
        np.asarray(a, np.float64) for a in _integrands(rates, denoised, noise, gap)
    )
    weights, duration = np.asarray(weights, np.float64), float(process.t1 - process.t0)

    of_points = duration * weights @ squared
    total, error = _monte_carlo(entropy, weights, duration, evaluations)
    if not process.is_finite:
        total = error = np.inf
    count = min(len(x), max_pairs)
    end = process.scale(process.t1) * x[:count] + process.std(process.t1) * z[:count]
    cost = total * float(process.noise_budget())
    distance = float(wasserstein(x[:count], end)) if np.isfinite(cost) else 0.0
    return ScheduleCost(
        action=(float(of_points.mean()), float(of_points.std(ddof=1) / np.sqrt(len(x)))),
        length=float(weights @ np.sqrt(squared.mean(axis=1))),
        entropy=total,
        efficiency=distance**2 / cost,
        entropy_error=error,
        path_kl_error=_monte_carlo(kl, weights, duration, evaluations)[1],
    )


def _monte_carlo(
    density: np.ndarray, weights: np.ndarray, duration: float, evaluations: int
) -> tuple[float, float]:
    """An integral over time, and its error; `density` has shape (times, points)."""
    total = weights @ density.mean(axis=1)
    second = duration * weights @ (density**2).mean(axis=1)
    return float(total), float(np.sqrt(max(second - total**2, 0.0) / evaluations))


@compiled
def _fields(
    model: AbstractModel, levels: Float[Array, " k"], x: Array, z: Array
) -> tuple[Array, Array, Array]:
    r"""D, epsilon and $\|\mu(s - s_r)\|^2$ of every point at every log-SNR, for any process."""
    process = model.process
    mean = jnp.mean(x, axis=0)
    covariance = jnp.atleast_2d(jnp.cov(x, rowvar=False))
    reference = ExactModel(Gaussian(mean, covariance), process)

    def at(level: Array) -> tuple[Array, Array, Array]:
        s = process.time_of_log_snr(level)
        scale, var = process.scale(s), process.var(s)
        y = scale * x + jnp.sqrt(var) * z

        def field(fields: AbstractModel) -> Array:
            return jax.vmap(fields.entropy_field, in_axes=(None, 0))(s, y)

        own = field(model)
        # This form loses no digits where there is little noise.
        denoised = process.equilibrium_gain(s) * y + var / scale * own
        noise = (y - scale * denoised) / jnp.sqrt(var)
        return denoised, noise, jnp.sum((scale * (own - field(reference))) ** 2, axis=-1)

    return jax.lax.map(at, levels)


def _rates(process: AbstractGaussianProcess, times: Array) -> tuple[Array, ...]:
    r"""$\mu'$, $\Sigma'$, $2/\sigma^2$ and $\sigma^2/(2\mu^2)$."""
    var = process.var(times)
    half = process.sigma_squared(times) / 2
    return (
        process.scale_rate(times),
        process.var_rate(times) / (2 * jnp.sqrt(var)),
        1 / half,
        half / process.scale(times) ** 2,
    )


@eqx.filter_jit
def _integrands(
    rates: tuple[Array, ...], denoised: Array, noise: Array, gap: Array
) -> tuple[Array, Array, Array]:
    scale_rate, std_rate, inverse, weight = (r[:, None] for r in rates)
    velocity = scale_rate[..., None] * denoised + std_rate[..., None] * noise
    squared = jnp.sum(velocity**2, axis=-1)
    return squared, inverse * squared, weight * gap
