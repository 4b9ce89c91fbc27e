"""Symmetric positive-definite operators kept as eigenvalues and eigenvectors computed once.

A linear solve inside a mapped loop stalls on CPU, so the spectrum is a cache. Differentiating an
eigendecomposition is singular where eigenvalues meet; these two functions are instead
differentiated in the matrix itself, by rules stated in terms of the functions themselves, so that
every order of derivative is right whatever the spectrum.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float


@jax.custom_jvp
def spd_solve(
    matrix: Float[Array, "d d"],
    eigenvalues: Float[Array, " d"],
    eigenvectors: Float[Array, "d d"],
    b: Float[Array, "d n"],
) -> Float[Array, "d n"]:
    """`matrix^-1 b`, by the cached spectrum."""
    del matrix
    return eigenvectors @ ((eigenvectors.T @ b) / eigenvalues[:, None])


@spd_solve.defjvp
def _spd_solve_jvp(primals, tangents):  # noqa: ANN001, ANN202
    matrix, eigenvalues, eigenvectors, b = primals
    matrix_dot, _, _, b_dot = tangents
    x = spd_solve(matrix, eigenvalues, eigenvectors, b)
    return x, spd_solve(matrix, eigenvalues, eigenvectors, b_dot - matrix_dot @ x)


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
def _spd_log_det_jvp(primals, tangents):  # noqa: ANN001, ANN202
    matrix, eigenvalues, eigenvectors = primals
    value = spd_log_det(matrix, eigenvalues, eigenvectors)
    return value, jnp.trace(spd_solve(matrix, eigenvalues, eigenvectors, tangents[0]))
