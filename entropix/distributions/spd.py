"""Symmetric positive-definite operators kept as eigenvalues and eigenvectors computed once.

A linear solve inside a mapped loop stalls on CPU, so the spectrum is a cache. Differentiating an
eigendecomposition is singular where eigenvalues meet; these two functions are instead
differentiated in the matrix itself, by rules stated in terms of the functions themselves, so that
every order and mode of derivative is right whatever the spectrum. The solve needs a rule for its
transpose too: a backward pass written in eigenvectors would no longer depend on the matrix.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.precision import matmul


def spd_solve(
    matrix: Float[Array, "d d"],
    eigenvalues: Float[Array, " d"],
    eigenvectors: Float[Array, "d d"],
    b: Float[Array, "d n"],
) -> Float[Array, "d n"]:
    """`matrix^-1 b`, by the cached spectrum."""

    def solve(_, right: Array) -> Array:
        return matmul(eigenvectors, matmul(eigenvectors.T, right) / eigenvalues[:, None])

    return jax.lax.custom_linear_solve(lambda x: matmul(matrix, x), b, solve, symmetric=True)


@jax.custom_jvp
def spd_log_det(
    matrix: Float[Array, "d d"],
    eigenvalues: Float[Array, " d"],
    eigenvectors: Float[Array, "d d"],
) -> Float[Array, ""]:
    """`log det matrix`, by the cached spectrum."""
    del matrix, eigenvectors
    return jnp.sum(jnp.log(eigenvalues))


@spd_log_det.defjvp
def _spd_log_det_jvp(primals, tangents):
    matrix, eigenvalues, eigenvectors = primals
    value = spd_log_det(matrix, eigenvalues, eigenvectors)
    return value, jnp.trace(spd_solve(matrix, eigenvalues, eigenvectors, tangents[0]))
