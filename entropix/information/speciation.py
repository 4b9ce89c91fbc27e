r"""Speciation: the largest eigenvalue of the covariance, and its time $t_S = \frac12\ln\Lambda$."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.compiled import lightly_compiled
from entropix.estimators import (
    GaussianReference,
)
from entropix.information.crossing import CriticalTime, on_clocks
from entropix.interfaces import AbstractGaussianProcess, Estimate


@lightly_compiled
def speciation_of(
    process: AbstractGaussianProcess | None, data: Array
) -> tuple[CriticalTime, Estimate]:
    r"""The speciation, and $\Lambda$."""
    flat = data.reshape(data.shape[0], -1)
    centred = flat - jnp.mean(flat, axis=0)
    # Data may be sorted, by class for example: the halves are drawn at random.
    mixed = centred[jax.random.permutation(jax.random.key(0), flat.shape[0])]
    one, other = mixed[: flat.shape[0] // 2], mixed[flat.shape[0] // 2 :]

    def direction(rows: Array) -> Array:
        basis = GaussianReference.from_data(rows)
        return basis.basis[:, jnp.argmax(basis.variances)]

    def along(rows: Array, vector: Array) -> Array:
        rows = rows - jnp.mean(rows, axis=0)
        return (rows @ vector) ** 2

    # The derivative of an eigenvalue is that of the quotient with its vector fixed.
    squares = along(centred, direction(centred))
    largest = jnp.mean(squares)
    crossed = jnp.mean(along(one, direction(other))) + jnp.mean(along(other, direction(one)))
    # The sample eigenvalue is too large; across halves it is too small, by twice as much to first
    # order, and unbiased where the eigenvalue is degenerate.
    gap = jax.lax.stop_gradient(jnp.maximum(largest - crossed / 2, 0.0))
    value = largest - gap / 3
    spread = jnp.std(squares) / jnp.sqrt(flat.shape[0])
    stderr = jax.lax.stop_gradient(jnp.sqrt(spread**2 + (2 * gap / 3) ** 2))
    zero = jnp.zeros_like(value)
    ou_time = Estimate(jnp.log(value) / 2, stderr / (2 * value), zero)
    # mu^2 Lambda = 1, with Sigma^2 = 1 - mu^2.
    inside = value > 1
    excess = jnp.where(inside, value - 1, 1.0)
    log_snr = -jnp.log(excess)
    end = -jnp.log(jnp.finfo(value.dtype).tiny)
    found = on_clocks(process, log_snr, stderr / excess, zero, inside, end)
    found = eqx.tree_at(lambda f: f.ou_time, found, ou_time)
    return found, Estimate(value, stderr, zero)
