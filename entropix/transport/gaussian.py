r"""The Bures-Wasserstein distance between Gaussians.

$$W_2^2 = |m_1 - m_2|^2 + \mathrm{tr}\,C_1 + \mathrm{tr}\,C_2 - 2\,\mathrm{tr}\,(C_1^{1/2} C_2
C_1^{1/2})^{1/2}$$

(Gelbrich, 1990). It also bounds $W_2$ from below for any two distributions with these moments.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import safe_sqrt
from entropix._core.checks import checked, finite


@jax.custom_jvp
def _fidelity(c1: Array, c2: Array) -> Array:
    r"""$\mathrm{tr}(C_1^{1/2} C_2 C_1^{1/2})^{1/2}$."""
    return jnp.sum(jnp.sqrt(_spectrum(c1, c2)[0]))


def _spectrum(c1: Array, c2: Array) -> tuple[Array, Array, Array]:
    """Eigenvalues and eigenvectors of L^T C2 L, and L, the Cholesky factor of C1."""
    factor = jnp.linalg.cholesky(c1)
    values, vectors = jnp.linalg.eigh(factor.T @ c2 @ factor)
    return jnp.maximum(values, 0.0), vectors, factor


@_fidelity.defjvp
def _fidelity_jvp(primals, tangents):
    # d tr = (tr T dC1 + tr T^-1 dC2) / 2 with T the optimal map from N(0, C1) to N(0, C2), which is
    # smooth where eigenvalues meet; differentiating the eigendecomposition would not be.
    c1, c2 = primals
    values, vectors, factor = _spectrum(c1, c2)
    tiny = jnp.finfo(c1.dtype).tiny
    roots = jnp.sqrt(jnp.maximum(values, tiny))
    inverse = jax.scipy.linalg.solve_triangular(factor, vectors, lower=True, trans=1)
    forward = (inverse * roots) @ inverse.T
    spread = factor @ vectors
    backward = (spread / roots) @ spread.T
    change = jnp.sum(forward * tangents[0]) + jnp.sum(backward * tangents[1])
    return jnp.sum(jnp.sqrt(values)), change / 2


def bures_wasserstein(m1: Any, c1: Any, m2: Any, c2: Any) -> Float[Array, ""]:
    r"""The distance $W_2$ between $N(m_1, C_1)$ and $N(m_2, C_2)$, in units of the data.

    Differentiable once in everything, at equal covariances and repeated eigenvalues too; where the
    distance is zero its gradient is taken as zero.

    Args:
        m1: mean, shape (D,).
        c1: covariance, shape (D, D), positive definite.
        m2: mean, shape (D,).
        c2: covariance, shape (D, D), positive definite.

    Raises:
        ValueError: on shapes that do not fit, or a covariance that is not positive definite.

    References:
        Gelbrich (1990); Bhatia, Jain and Lim (1712.01504).
    """
    m1, m2 = finite(m1, "m1"), finite(m2, "m2")
    c1, c2 = finite(c1, "c1"), finite(c2, "c2")
    if m1.ndim != 1 or m2.shape != m1.shape:
        raise ValueError(f"`m1` and `m2` must have one shape (D,), got {m1.shape}, {m2.shape}.")
    for name, c in (("c1", c1), ("c2", c2)):
        if c.shape != 2 * m1.shape:
            raise ValueError(f"`{name}` must have shape {2 * m1.shape}, got {c.shape}.")
        checked(
            jnp.linalg.eigvalsh(jax.lax.stop_gradient(c)),
            name,
            lambda v: v > 0,
            "positive definite (eigenvalues above zero)",
        )
    squared = jnp.sum((m1 - m2) ** 2) + jnp.trace(c1) + jnp.trace(c2) - 2 * _fidelity(c1, c2)
    return safe_sqrt(squared)
