r"""Noise beyond the range of a model, in integrals along a process that erases more than its own.

Below the smallest log-SNR $\lambda_1$ of its range a denoiser is continued as linear
(`entropix.models.moved`). With $g = e^\lambda$, m and C the mean and covariance of the data, it is
$m + g\,C(u - m)$ to first order, whose share of any integral is at most

$$A = \int_{-\infty}^{\lambda_1}\frac{g}{2}E\|m + g\,Cu\|^2d\lambda \approx
\frac{g_1}{2}\|m\|^2 + \frac{g_1^2}{4}\mathrm{tr}\,C^2,$$

and the relative error of the continuation is at most $\delta = g_1\max c$, with c the eigenvalues
of C. With $R$ the share of the equilibrium, the error of the integral of the squared norm of n such
fields is at most

$$\left(n(1 + \delta)\sqrt A + \sqrt R\right)^2 - \left(n\sqrt A + \sqrt R\right)^2,$$

by the triangle inequality. This bound is part of the standard error.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix.estimators.axis import std_of_log_snr
from entropix.estimators.reference import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, Estimate
from entropix.models import noise_limits


def with_noise_end(
    total: Estimate, functional: PyTree, process: PyTree, reference: GaussianReference
) -> Estimate:
    """An estimate whose errors include that of the continuation of its models at the noise end.

    Args:
        total: the estimate.
        functional: of models, some of which may have been moved to `process`.
        process: along which the integral is taken.
        reference: the moments of the data.
    """
    limits = noise_limits(functional)
    if limits is None or not isinstance(process, AbstractGaussianProcess):
        return total
    allowance, largest = _noise_end(process, reference, limits)
    return eqx.tree_at(
        lambda e: (e.stderr, e.largest_noise),
        total,
        (jnp.hypot(total.stderr, allowance), largest),
        is_leaf=lambda leaf: leaf is None,
    )


@eqx.filter_jit
def _noise_end(
    process: AbstractGaussianProcess, reference: GaussianReference, limits: Array
) -> tuple[Array, Array]:
    """The bound, and the largest noise for which all models are defined; infinite if not exceeded.

    `limits` are the smallest log-SNRs of the models.
    """
    passed = process.log_snr(process.t1) < limits
    signal, variances = jnp.exp(limits), reference.variances
    mean, dim = jnp.sum(reference.mean**2), variances.size
    size = jnp.sqrt(signal * mean / 2 + signal**2 * jnp.sum(variances**2) / 4)
    s = process.time_of_log_snr(limits)
    square = process.scale(s) ** 2 * (mean + jnp.sum(variances)) + process.var(s) * dim
    pull = jnp.max(jnp.where(passed, process.equilibrium_gain(s) ** 2 * signal * square / 2, 0.0))
    known = jnp.sum(jnp.where(passed, size, 0.0)) + jnp.sqrt(pull)
    off = jnp.sum(jnp.where(passed, signal * jnp.max(variances) * size, 0.0))
    largest = jnp.min(jnp.where(passed, std_of_log_snr(process, limits), jnp.inf))
    return jax.lax.stop_gradient(((known + off) ** 2 - known**2, largest))
