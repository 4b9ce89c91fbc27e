"""Bures-Wasserstein: closed forms, gradients, and the places where square roots are singular."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

from entropix.transport import bures_wasserstein, wasserstein
from entropix.transport.gaussian import sqrtm_psd
from tests.helpers import finite_difference, quick_jit


def covariance(key, dim, rank=None):
    root = jax.random.normal(key, (dim, dim if rank is None else rank))
    return root @ root.T


def textbook(m1, C1, m2, C2):
    root = scipy.linalg.sqrtm(C1)
    cross = scipy.linalg.sqrtm(root @ C2 @ root)
    return np.sqrt(np.sum((m1 - m2) ** 2) + np.trace(C1 + C2 - 2 * np.real(cross)))


def test_closed_forms(x64, getkey):
    one = bures_wasserstein([0.7], [[0.4]], [0.0], [[1.0]])
    assert float(one) ** 2 == pytest.approx(0.7**2 + (0.4**0.5 - 1) ** 2)
    m1, m2 = jax.random.normal(getkey(), (2, 4))
    C1, C2 = covariance(getkey(), 4), covariance(getkey(), 4)
    expected = textbook(*map(np.asarray, (m1, C1, m2, C2)))
    assert float(bures_wasserstein(m1, C1, m2, C2)) == pytest.approx(expected, rel=1e-9)
    assert float(bures_wasserstein(m2, C2, m1, C1)) == pytest.approx(expected, rel=1e-9)
    a, b = jnp.asarray([1.0, 2.0, 0.0, 3.0]), jnp.asarray([0.5, 2.0, 4.0, 0.0])
    diagonal = bures_wasserstein(m1, jnp.diag(a), m1, jnp.diag(b))
    assert float(diagonal) ** 2 == pytest.approx(float(jnp.sum((a**0.5 - b**0.5) ** 2)))


def test_single_precision_near_coincidence():
    """No cancellation: a distance of 1e-3 of the size is right to three digits in float32."""
    C = covariance(jax.random.key(0), 5)
    distance = bures_wasserstein(jnp.zeros(5), C, jnp.zeros(5), 1.002001 * C)
    assert float(distance) == pytest.approx(1e-3 * float(jnp.trace(C)) ** 0.5, rel=3e-3)
    assert float(bures_wasserstein(jnp.zeros(5), C, jnp.zeros(5), C)) < 1e-5


def test_gradient(x64, getkey):
    # Far from singular: the differences take steps of 1e-4.
    C1, C2 = (covariance(getkey(), 3) + 0.1 * jnp.eye(3) for _ in range(2))
    flat = jnp.concatenate([jax.random.normal(getkey(), (6,)), C1.ravel(), C2.ravel()])

    @quick_jit
    @jax.value_and_grad
    def distance(v):
        A, B = v[6:15].reshape(3, 3), v[15:].reshape(3, 3)
        return bures_wasserstein(v[:3], (A + A.T) / 2, v[3:6], (B + B.T) / 2)

    expected = finite_difference(
        lambda batch: jnp.stack([distance(v)[0] for v in batch]), flat, 1e-4
    )
    np.testing.assert_allclose(distance(flat)[1], expected, rtol=1e-3, atol=1e-6)


def test_gradient_where_eigenvalues_meet_or_vanish(x64):
    eye = jnp.eye(2)
    zero = jnp.zeros(2)

    def gradient(C1, C2):
        return jax.grad(lambda c: bures_wasserstein(zero, c, zero, C2))(C1)

    # dW/dC = (1 - T)/(2W) with the map T = C2^1/2 C1^-1/2 of commuting covariances.
    np.testing.assert_allclose(gradient(4 * eye, eye), eye / 4 / 2**0.5, atol=1e-12)
    np.testing.assert_array_equal(gradient(eye, eye), 0.0)
    flat = jnp.diag(jnp.asarray([4.0, 0.0]))
    # Along the direction that is flat the slope is infinite, and left out.
    expected = jnp.diag(jnp.asarray([0.25, 0.0])) / 2**0.5
    np.testing.assert_allclose(gradient(flat, eye), expected, atol=1e-7)
    assert np.all(np.isfinite(gradient(0 * eye, eye)))
    assert np.all(np.isfinite(gradient(0 * eye, 0 * eye)))


def test_matrix_root_to_second_order(x64, getkey):
    """Equal eigenvalues included: d2 of sqrt(A + tB) by finite differences of the first."""
    for A in (covariance(getkey(), 3) + jnp.eye(3), 2 * jnp.eye(3)):
        B = covariance(getkey(), 3)

        def first(t, A=A, B=B):
            return jax.jvp(sqrtm_psd, (A + t * B,), (B,))[1]

        second = jax.jvp(first, (0.0,), (1.0,))[1]
        expected = (first(1e-5) - first(-1e-5)) / 2e-5
        np.testing.assert_allclose(second, expected, rtol=1e-6, atol=1e-9)
        root = sqrtm_psd(A)
        np.testing.assert_allclose(root @ root, A, atol=1e-12)


@pytest.mark.slow
def test_samples_of_gaussians():
    C1 = jnp.asarray([[1.0, 0.3], [0.3, 0.5]])
    C2 = jnp.asarray([[0.2, -0.1], [-0.1, 0.6]])
    z = jax.random.normal(jax.random.key(0), (2, 900, 2))
    x, y = z[0] @ jnp.linalg.cholesky(C1).T, 2.0 + z[1] @ jnp.linalg.cholesky(C2).T
    exact = bures_wasserstein(jnp.zeros(2), C1, 2 * jnp.ones(2), C2)
    assert float(wasserstein(x, y)) == pytest.approx(float(exact), rel=0.05)


def test_refusals():
    m, C = jnp.zeros(2), jnp.eye(2)
    with pytest.raises(ValueError, match="`m1` and `m2` must have one shape"):
        bures_wasserstein(m, C, jnp.zeros(3), C)
    with pytest.raises(ValueError, match="`C2` must have shape"):
        bures_wasserstein(m, C, m, jnp.eye(3))
    with pytest.raises(ValueError, match="`C1` must be symmetric"):
        bures_wasserstein(m, jnp.asarray([[1.0, 0.5], [0.0, 1.0]]), m, C)
    with pytest.raises(ValueError, match="`C1` must be positive semi-definite"):
        bures_wasserstein(m, -C, m, C)
    with pytest.raises(ValueError, match="`m2` must be finite"):
        bures_wasserstein(m, C, m + jnp.nan, C)
