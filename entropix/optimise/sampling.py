r"""Objectives that are errors of a sampler of few steps.

The steps are uniform in the time of the process, $s_i = t_1 - i\,(t_1 - s_\epsilon)/n$, down to the
time $s_\epsilon$ at which the noise has a standard deviation `cutoff`: a schedule is a choice of
where a sampler puts its steps.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix.estimators import log_snr_of_std
from entropix.interfaces import AbstractGaussianProcess
from entropix.optimise.posterior import AbstractPosterior, posterior_curve
from entropix.optimise.speeds import gaussian


def step_times(
    process: AbstractGaussianProcess, num_steps: int, cutoff: Array
) -> Float[Array, " n"]:
    """The `num_steps + 1` times of a sampler's grid, from `t1` down to that of the cut-off."""
    last = process.time_of_log_snr(log_snr_of_std(process, cutoff))
    fraction = jnp.arange(num_steps + 1, dtype=process.t1.dtype) / num_steps
    return process.t1 + (last - process.t1) * fraction


class SamplerError(eqx.Module):
    r"""The Girsanov bound on the error of a sampler that freezes its denoiser over each step.

    The path KL between the reverse SDE and its discretisation by exponential steps,

    $$\frac12\sum_i\int_{\lambda_i}^{\lambda_{i+1}} e^\lambda\,
      E\|\hat x(\lambda) - \hat x(\lambda_i)\|^2\,d\lambda = \frac12\sum_i\int e^\lambda\,
      [\mathrm{mmse}(\lambda_i) - \mathrm{mmse}(\lambda)]\,d\lambda$$

    ("Align your steps", Sabour et al., 2404.14507). Posterior means are a martingale in
    $\lambda$, which gives the second form: the bound follows from the MMSE curve, without
    simulation. The start $p_T$ is taken as exact and the last step, to the data, is left out. For
    Gaussian data of variance v the best grid is uniform in $\log(1 + v\,e^\lambda)$.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`; of a model, its
            denoising error stands for the MMSE.
        num_steps: n.
        cutoff: the noise standard deviation at which the grid ends, positive.
        data: samples, shape (N, *shape): required for a model, drawn from a distribution.
        key: PRNG key; not needed for a `Gaussian`, which is exact, or a curve.
        num_samples: data points, each with two opposite draws of the noise.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior
    cutoff: Float[Array, ""]
    num_steps: int = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        num_steps: int,
        cutoff: Any,
        data: Any = None,
        *,
        key: Key | None = None,
        num_samples: int = 2048,
        condition: Any = None,
        chunk_size: int = 4096,
    ):
        self.num_steps = positive_integer(num_steps, "num_steps")
        self.cutoff = positive(cutoff, "cutoff", shape=())
        self.source = posterior_curve(
            source,
            data,
            key=key,
            num_samples=num_samples,
            condition=condition,
            chunk_size=chunk_size,
        )

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """The bound in nats."""
        times = step_times(gaussian(process), self.num_steps, self.cutoff)
        # In g = log(1 + c exp(lambda)) both ends are finite, and the integrand is smooth; with
        # exp(lambda) d lambda = exp(g) dg / c.
        c = self.source.variance
        scale_squared = process.scale(times) ** 2
        g = jnp.log1p(c * scale_squared / process.var(times))
        nodes, weights = np.polynomial.legendre.leggauss(12)
        steps = jnp.diff(g)[:, None]
        inner = g[:-1, None] + steps * jnp.asarray((nodes + 1) / 2, g.dtype)
        saved = self._error(g)[:-1, None] - self._error(inner)
        return jnp.sum(steps * jnp.asarray(weights / 4, g.dtype) * jnp.exp(inner) / c * saved)

    def _error(self, g: Array) -> Array:
        """The MMSE, with tau = exp(-g)."""
        growth = jnp.expm1(g)
        some = growth > 0
        level = jnp.log(jnp.where(some, growth, 1.0))
        log_snr = jnp.where(some, level, -100.0) - jnp.log(self.source.variance)
        return jnp.exp(-g) * self.source.moments(log_snr).error


class EulerKL(eqx.Module):
    r"""The output error of Euler steps of the probability flow, for Gaussian data, in closed form.

    In the ratio $t = \Sigma/\mu$ (the noise itself, where the variance explodes) the flow of data
    $N(0, c^2)$ is $dx/dt = t\,x/(c^2 + t^2)$. With $\theta = \arctan(t/c)$ an Euler step multiplies
    x by $\cos(\theta_i - \theta_{i+1})\cos\theta_i/\cos\theta_{i+1}$, so that the variance of the
    output is the right one times $\prod_i\cos^2(\theta_i - \theta_{i+1})$. Best are equal steps of
    $\theta$: $t_i = c\tan\theta_i$ with $\theta_i$ linear in i (Sabour et al., 2404.14507).

    Args:
        std: c, positive.
        num_steps: number of Euler steps.
        cutoff: the noise standard deviation at which the grid ends, positive.

    Raises:
        ValueError: if an argument is out of range; when called, if the process ends in pure noise.
    """

    std: Float[Array, ""]
    cutoff: Float[Array, ""]
    num_steps: int = eqx.field(static=True)

    def __init__(self, std: Any, num_steps: int, cutoff: Any):
        self.std = positive(std, "std", shape=())
        self.num_steps = positive_integer(num_steps, "num_steps")
        self.cutoff = positive(cutoff, "cutoff", shape=())

    @eqx.filter_jit
    def ratios(self, process: AbstractGaussianProcess) -> Float[Array, " n"]:
        r"""$t = \Sigma/\mu$ on the grid, falling."""
        if gaussian(process).ends_in_noise:
            raise ValueError(
                "`process` must keep some of the signal at t1: Euler steps cannot start from an "
                f"infinite ratio, got {type(process).__name__}."
            )
        times = step_times(process, self.num_steps, self.cutoff)
        return process.std(times) / process.scale(times)

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """KL of the output from the density at the last step, in nats per dimension."""
        steps = -jnp.diff(jnp.arctan(self.ratios(process) / self.std))
        log_ratio = 2 * jnp.sum(jnp.log(jnp.cos(steps)))
        return (jnp.expm1(log_ratio) - log_ratio) / 2
