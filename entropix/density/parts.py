r"""Log densities by coordinate, or by the coefficients of an orthogonal transform.

The identity of `entropix.density.path_bound` holds for any Gaussian reference r. With one that is
diagonal in the basis of the parts every term of it is a sum over them:

$$\log p_\theta(x) \ge \sum_i\left[\log r_i(x_i) + E\log\frac{prior_i}{r_{T,i}} -
\int\frac{\Sigma^2}{2}E\left[(s_i - s_{r,i})(s_i + s_{r,i} +
\tfrac{2z_i}{\Sigma})\right](-d\lambda)\right],$$

$x_i$ the coefficients. The expectation at the end is in closed form, for an isotropic prior.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix.estimators import (
    GaussianReference,
    Partition,
    PointwiseCurve,
    error_difference,
    integrate_parts,
    log_snr_of_std,
    reference_of,
    with_noise_end,
)
from entropix.interfaces import AbstractFunctional, AbstractGaussianProcess, AbstractModel


class _Integrand(AbstractFunctional):
    """The integrand of the path bound, by parts."""

    model: AbstractModel
    reference: GaussianReference
    partition: Partition
    start: Float[Array, ""] | None  # the log-SNR of a cut-off
    uses_noise = True
    control = None

    @property
    def process(self) -> AbstractGaussianProcess:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, "..."]:
        process = self.process
        kept = _kept(process, s, self.start)
        y = y - (1 - kept) * process.std(s) * z
        field = self.model.entropy_field(s, y, condition)
        known = self.reference.entropy_field(process, s, y)
        return error_difference(process, s, y, z / kept, field, known, self.partition)


def _kept(process: AbstractGaussianProcess, s: RealScalarLike, start: Array | None) -> Array:
    """$k$: what is left of the noise of the process where it starts at a cut-off."""
    if start is None:
        return jnp.ones(())
    # Closer to the cut-off than this, rounding would pull a pair of states apart or together.
    return jnp.sqrt(-jnp.expm1(-jnp.maximum(start - process.log_snr(s), 1e-5)))


def log_prob_parts(
    model: AbstractModel,
    x: Float[Array, "n *shape"],
    *,
    partition: Partition,
    reference: GaussianReference | None,
    num_evaluations: int,
    prior_std: Array | None,
    condition: PyTree,
    cutoff: Array | None,
    key: Key,
    chunk_size: int,
    num_times: int,
) -> PointwiseCurve:
    """Log densities by parts, shape (n, *parts).

    Args:
        model: any model.
        x: samples.
        partition: how they are divided.
        reference: a Gaussian reference, of which only the moments of each part are used, or None
            for that of the samples.
        num_evaluations: for each sample.
        prior_std: the standard deviation of the prior, or None for the diffused reference.
        condition: None, or a pytree of arrays with leading axis n.
        cutoff: the smallest noise standard deviation included, or None.
        key: a PRNG key.
        chunk_size: evaluations held in memory at once.
        num_times: edges of the intervals.
    """
    moments = reference_of(x)
    reference = _in_basis(moments if reference is None else reference, partition)
    start = None if cutoff is None else log_snr_of_std(model.process, cutoff)
    curve = integrate_parts(
        _Integrand(model, reference, partition, start),
        x,
        key=key,
        num_evaluations=num_evaluations * x.shape[0],
        per_sample=True,
        condition=condition,
        cutoff=cutoff,
        num_times=num_times,
        chunk_size=chunk_size,
        partition=partition,
    )
    curve = _completed(curve, model.process, reference, partition, x, prior_std, start)
    total = with_noise_end(curve.total, model, model.process, moments)
    return eqx.tree_at(lambda c: c.total, curve, total)


@eqx.filter_jit
def _in_basis(reference: GaussianReference, partition: Partition) -> GaussianReference:
    """The moments of a reference along each axis of the basis of the parts."""
    basis = partition.matrix
    basis = jnp.eye(reference.centre.size, dtype=reference.centre.dtype) if basis is None else basis
    turn = basis.T @ reference.basis
    spread = turn**2 @ reference.spread
    return GaussianReference(reference.centre, spread, spread, basis, 0)


@eqx.filter_jit
def _completed(
    curve: PointwiseCurve,
    process: AbstractGaussianProcess,
    reference: GaussianReference,
    partition: Partition,
    x: Array,
    prior_std: Array | None,
    start: Array | None,
) -> PointwiseCurve:
    """The log density from the integral, whose sign it changes."""
    spread = reference.spread

    def log_normal(square: Array, variance: Array) -> Array:
        return -(square / variance + jnp.log(2 * jnp.pi * variance)) / 2

    def known(sample: Array) -> Array:
        gap = reference.deviation(sample) ** 2
        if start is None:
            value = log_normal(gap, spread)
        else:
            s = process.time_of_log_snr(start)
            square = process.scale(s) ** 2
            value = log_normal(square * gap, square * spread + process.var(s))
            value = value + process.log_scale(s)
        if prior_std is not None:
            square = process.scale(process.t1) ** 2
            noise = process.var(process.t1) * _kept(process, process.t1, start) ** 2
            there = square * reference.rotate(sample) ** 2 + noise
            value = value + log_normal(there, prior_std**2)
            left = square * spread + process.var(process.t1)
            value = value - log_normal(square * gap + noise, left)
        return partition.group(value)

    value = jax.vmap(known)(x) - curve.value
    each = value.reshape(x.shape[0], -1).sum(1)
    # The spread of the values holds the Monte Carlo noise of each already.
    spread_of = jnp.std(each, ddof=1) / jnp.sqrt(each.shape[0])
    return eqx.tree_at(
        lambda c: (c.value, c.intervals, c.total.value, c.total.stderr, c.total.slope),
        curve,
        (value, -curve.intervals, jnp.mean(each), jax.lax.stop_gradient(spread_of), None),
        is_leaf=lambda leaf: leaf is None,
    )
