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

**Parts.** The same holds for the components of the field in a part, with their shares of A and R. A
component may be off because of the others: its error is at most the larger of $\delta\sqrt{A_i}$
and of the next term of the expansion, A with $g_1C(m + g\,Cu)$ in place of $m + g\,Cu$. Parts that
are not those of a field may hold all of the bound each.

**Samples.** For a given x the mean of $u$ is x: $m + g\,C(x - m)$ takes the place of m. An
integrand that contains the noise is a difference of squares of $s + z/\Sigma$, whose share for a
given x is $\frac{g_1}{2}\|x - m\|^2$ and is added to $\sqrt A + \sqrt R$. In the mean over samples
this contribution vanishes to first order, because $E[D - x|u] = 0$.

**Intervals.** Of one that begins at $\lambda_a < \lambda_1$, A and R are those below $\lambda_a$.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.compiled import lightly_compiled
from entropix.estimators.axis import std_of_log_snr
from entropix.estimators.reference import GaussianReference
from entropix.estimators.transforms import Partition
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
    allowance = _allowance(process, reference, limits, None, None, False, None)
    return eqx.tree_at(
        lambda e: (e.stderr, e.largest_noise),
        total,
        (jnp.hypot(total.stderr, allowance), _largest_noise(process, limits)),
        is_leaf=lambda leaf: leaf is None,
    )


def noise_end_of_parts(
    functional: PyTree,
    process: PyTree,
    reference: GaussianReference,
    *,
    partition: Partition | None = None,
    samples: Float[Array, "n *shape"] | None = None,
    residual: bool = False,
    start: Array | None = None,
) -> Float[Array, "..."] | None:
    """How far each part may be off because of the continuation of its models; None if not at all.

    Args:
        functional: of models, some of which may have been moved to `process`.
        process: along which the integral is taken.
        reference: the moments of the data.
        partition: how a field is divided into the parts, or None for the whole.
        samples: None for the population, or samples that have an integral each.
        residual: whether the integrand contains the noise.
        start: the log-SNR at which the integral begins; None for the data end.

    Returns:
        The bounds, in nats, of the shape of the parts, samples first.
    """
    limits = noise_limits(functional)
    if limits is None or not isinstance(process, AbstractGaussianProcess):
        return None
    return _allowance(process, reference, limits, partition, samples, residual, start)


@eqx.filter_jit
def _allowance(
    process: AbstractGaussianProcess,
    reference: GaussianReference,
    limits: Array,
    partition: Partition | None,
    samples: Array | None,
    residual: bool,
    start: Array | None,
) -> Float[Array, "..."]:
    """The bound; `limits` are the smallest log-SNRs of the models."""
    mean, variances = reference.mean, reference.variances
    passed = process.log_snr(process.t1) < limits
    matrix = None if partition is None else partition.turn(reference.basis)
    group = jnp.sum if partition is None else partition.group

    def turn(vector: Array, power: int = 1) -> Array:
        """From the eigenbasis to that of the parts; with a power of 2, of variances."""
        return vector if matrix is None else matrix**power @ vector

    def one(limit: Array, gap: Array | None) -> tuple[Array, Array, Array]:
        """The size of a continued field, its error, and the share of the equilibrium."""
        first = limit if start is None else jnp.minimum(limit, start)
        g, h = jnp.exp(limit), jnp.exp(first)
        centre, pulled = jnp.abs(turn(mean)), jnp.abs(turn(variances * mean))
        if gap is not None:
            centre = centre + h * jnp.abs(turn(variances * gap))
            pulled = pulled + h * jnp.abs(turn(variances**2 * gap))
        spread = h**2 / 4 * turn(variances**2, 2)
        size = jnp.sqrt(group(h / 2 * centre**2 + spread))
        spread = h**2 / 4 * turn(variances**4, 2)
        off = g * jnp.sqrt(group(h / 2 * pulled**2 + spread))
        s = process.time_of_log_snr(first)
        if gap is None:
            square = turn(mean) ** 2 + turn(variances, 2)
        else:
            square = turn(mean + gap) ** 2
        square = group(process.scale(s) ** 2 * square + process.var(s))
        pull = process.equilibrium_gain(s) ** 2 * h / 2 * square
        return size, jnp.maximum(g * jnp.max(variances) * size, off), pull

    def bound(gap: Array | None) -> Array:
        size, off, pull = jax.vmap(lambda limit: one(limit, gap))(limits)
        used = passed.reshape(-1, *[1] * (size.ndim - 1))
        size, off, pull = (jnp.where(used, v, 0.0) for v in (size, off, pull))
        known = jnp.sum(size, axis=0) + jnp.sqrt(jnp.max(pull, axis=0))
        if residual and gap is not None:
            h = jnp.exp(jnp.max(limits) if start is None else jnp.minimum(jnp.max(limits), start))
            known = known + jnp.sqrt(group(h / 2 * turn(gap) ** 2))
        off = jnp.sum(off, axis=0)
        return off * (2 * known + off)

    if samples is None:
        return jax.lax.stop_gradient(bound(None))
    gaps = jax.vmap(reference.deviation)(samples)
    return jax.lax.stop_gradient(jax.lax.map(bound, gaps, batch_size=256))


@lightly_compiled
def _largest_noise(process: AbstractGaussianProcess, limits: Array) -> Array:
    """The largest noise for which all models are defined; infinite if not exceeded."""
    passed = process.log_snr(process.t1) < limits
    return jnp.min(jnp.where(passed, std_of_log_snr(process, limits), jnp.inf))
