r"""The Bures-Wasserstein distance between Gaussians.

$$W_2^2 = |m_1 - m_2|^2 + \mathrm{tr}\left[C_1 + C_2 -
  2\left(C_1^{1/2} C_2 C_1^{1/2}\right)^{1/2}\right] = |m_1 - m_2|^2 +
  \min_{Q\ \mathrm{orthogonal}}\left\|C_1^{1/2} - C_2^{1/2} Q\right\|^2$$

(Dowson and Landau, 1982; Bhatia, Jain and Lim, 1712.01504). The second form is computed: nothing
cancels in it where the Gaussians are close, and as a minimum it may be differentiated at fixed Q.
Between any two densities with these moments $W_2$ is at least as large (Gelbrich, 1990). The
geodesic is a straight line of aligned roots (Takatsu, 0801.2250),

$$m_t = (1 - t)m_1 + t m_2, \qquad C_t = A_t A_t^T, \qquad A_t = (1 - t)C_1^{1/2} + t C_2^{1/2}Q .$$
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.checks import checked, finite, is_concrete
from entropix._core.precision import full_precision
from entropix.transport.couplings import power_root
from entropix.transport.points import power_of_two, representable


@jax.custom_jvp
def sqrtm_psd(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Square root of a symmetric positive semi-definite matrix, differentiable to every order.

    Its derivative solves R X + X R = dA, in terms of R itself: no difference of eigenvalues
    appears, so that equal ones are no special case. In directions where the matrix is singular to
    rounding the derivative is infinite, and is set to zero.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T


@sqrtm_psd.defjvp
def _sqrtm_psd_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    root = sqrtm_psd(primals[0])
    return root, sylvester_psd(root, (tangents[0] + tangents[0].T) / 2)


@jax.custom_jvp
def sylvester_psd(root: Float[Array, "d d"], right: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """X with R X + X R = `right` for symmetric positive semi-definite R; zero where R is."""
    values, vectors = jnp.linalg.eigh(root)
    sums = values[:, None] + values[None, :]
    # R is known to the square root of the rounding of R^2.
    least = jnp.sqrt(jnp.finfo(root.dtype).eps * root.shape[0]) * jnp.maximum(values[-1], 0.0)
    regular = sums > 2 * least
    rotated = vectors.T @ right @ vectors
    solved = jnp.where(regular, rotated / jnp.where(regular, sums, 1.0), 0.0)
    return vectors @ solved @ vectors.T


@sylvester_psd.defjvp
def _sylvester_psd_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    root, right = primals
    root_dot, right_dot = tangents
    x = sylvester_psd(root, right)
    return x, sylvester_psd(root, right_dot - root_dot @ x - x @ root_dot)


@jax.custom_jvp
def polar(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The orthogonal factor of a square matrix, the Q nearest to it.

    Its derivative needs sums of singular values, never differences; in directions where these
    vanish Q is not unique, and is held.
    """
    left, _, right = jnp.linalg.svd(matrix)
    return left @ right


@polar.defjvp
def _polar_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    left, values, right = jnp.linalg.svd(primals[0])
    turned = left.T @ tangents[0] @ right.T
    sums = values[:, None] + values[None, :]
    regular = sums > jnp.finfo(values.dtype).eps * values.shape[0] * values[0]
    turn = jnp.where(regular, (turned - turned.T) / jnp.where(regular, sums, 1.0), 0.0)
    return left @ right, left @ turn @ right


@full_precision
def bures_wasserstein(m1: Any, C1: Any, m2: Any, C2: Any) -> Float[Array, ""]:
    r"""$W_2$ between $N(m_1, C_1)$ and $N(m_2, C_2)$: a distance, not its square.

    Differentiable, with finite gradients also where the Gaussians coincide (there the distance has
    a kink, and the gradient is zero) and where a covariance is singular (there the distance grows
    like a square root, and the infinite part of the gradient is left out).

    Args:
        m1: mean, shape (D,).
        C1: covariance, shape (D, D), symmetric positive semi-definite.
        m2: mean, shape (D,).
        C2: covariance, shape (D, D).

    Returns:
        The distance, in units of the data.

    Raises:
        ValueError: on a wrong shape, numbers that are not finite, a matrix that is no covariance,
            or a distance too large for the precision of the numbers.
    """
    return representable(_bures(*_gaussians(m1, C1, m2, C2)), "m1", "m2")


@jax.jit
def _bures(m1: Array, C1: Array, m2: Array, C2: Array) -> Array:
    # In units of the larger of distance and standard deviations no square overflows.
    shift = m1 - m2
    unit = jnp.maximum(
        jnp.sqrt(jnp.maximum(jnp.max(jnp.abs(C1)), jnp.max(jnp.abs(C2)))), jnp.max(jnp.abs(shift))
    )
    unit = power_of_two(jax.lax.stop_gradient(unit))
    first, second = (sqrtm_psd(C) / unit for C in (C1, C2))
    gap = first - second @ polar(jax.lax.stop_gradient(second @ first))
    return unit * power_root(jnp.sum((shift / unit) ** 2) + jnp.sum(gap**2), 2)


@full_precision
def bures_geodesic(
    m1: Any, C1: Any, m2: Any, C2: Any, t: Any
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    r"""Mean and covariance at t on the geodesic from $N(m_1, C_1)$ to $N(m_2, C_2)$.

    $W_2$ to the start is t times that between the ends: McCann's interpolation (1997) of Gaussians
    stays Gaussian. Differentiable in everything.

    Args:
        m1: mean, shape (D,).
        C1: covariance, shape (D, D), symmetric positive semi-definite.
        m2: mean, shape (D,).
        C2: covariance, shape (D, D).
        t: a number, 0 at the first Gaussian and 1 at the second.

    Returns:
        The mean, shape (D,), and the covariance, shape (D, D).

    Raises:
        ValueError: as `bures_wasserstein`.
    """
    m1, C1, m2, C2 = _gaussians(m1, C1, m2, C2)
    return _between(m1, C1, m2, C2, finite(t, "t", shape=()))


@jax.jit
def _between(m1: Array, C1: Array, m2: Array, C2: Array, t: Array) -> tuple[Array, Array]:
    first, second = sqrtm_psd(C1), sqrtm_psd(C2)
    root = (1 - t) * first + t * second @ polar(second @ first)
    return (1 - t) * m1 + t * m2, root @ root.T


def _gaussians(m1: Any, C1: Any, m2: Any, C2: Any) -> tuple[Array, Array, Array, Array]:
    m1, m2 = finite(m1, "m1"), finite(m2, "m2")
    C1, C2 = finite(C1, "C1"), finite(C2, "C2")
    if m1.ndim != 1 or m2.shape != m1.shape:
        raise ValueError(f"`m1` and `m2` must have one shape (D,), got {m1.shape} and {m2.shape}.")
    return m1, _covariance(C1, "C1", m1.size), m2, _covariance(C2, "C2", m1.size)


def _covariance(matrix: Array, name: str, size: int) -> Array:
    if matrix.shape != (size, size):
        raise ValueError(f"`{name}` must have shape ({size}, {size}), got {matrix.shape}.")
    if is_concrete(matrix):
        host = np.asarray(matrix)
        gap = np.max(np.abs(host - host.T))
        if gap > 1e-5 * np.max(np.abs(host)):
            raise ValueError(f"`{name}` must be symmetric, got an asymmetry of {gap:.3g}.")
    symmetric, values = _spectrum(matrix)
    allowed = "positive semi-definite (no negative eigenvalues)"
    checked(values, name, lambda v: v >= -1e-5 * abs(v).max(), allowed)
    return symmetric


@jax.jit
def _spectrum(matrix: Array) -> tuple[Array, Array]:
    """The symmetric part, and its eigenvalues."""
    return (matrix + matrix.T) / 2, jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix))
