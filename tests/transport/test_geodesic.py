"""Geodesics: of Gaussians, of samples, and how far a diffusion strays from them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.transport import (
    bures_geodesic,
    bures_wasserstein,
    displacement_interpolation,
    geodesic_deviation,
    wasserstein,
)
from entropix.transport.gaussian import polar
from tests.helpers import PROCESSES, finite_difference, quick_jit


def covariance(key, dim):
    root = jax.random.normal(key, (dim, dim))
    return root @ root.T


def test_gaussian_geodesic(x64, getkey):
    """Distances along it add up; commuting roots interpolate; singular ends are allowed."""
    m1, m2 = jax.random.normal(getkey(), (2, 3))
    C1, C2 = covariance(getkey(), 3), covariance(getkey(), 3)
    whole = float(bures_wasserstein(m1, C1, m2, C2))
    m, C = bures_geodesic(m1, C1, m2, C2, 0.3)
    assert float(bures_wasserstein(m1, C1, m, C)) == pytest.approx(0.3 * whole, rel=1e-7)
    assert float(bures_wasserstein(m, C, m2, C2)) == pytest.approx(0.7 * whole, rel=1e-7)
    np.testing.assert_allclose(bures_geodesic(m1, C1, m2, C2, 1.0)[1], C2, atol=1e-10)
    a, b = jnp.asarray([4.0, 0.0]), jnp.asarray([1.0, 9.0])
    _, C = bures_geodesic(jnp.zeros(2), jnp.diag(a), jnp.zeros(2), jnp.diag(b), 0.5)
    np.testing.assert_allclose(C, jnp.diag((0.5 * a**0.5 + 0.5 * b**0.5) ** 2), atol=1e-12)


def test_gaussian_geodesic_gradient(x64, getkey):
    """Also where the covariances are multiples of one another, and singular values meet."""
    C1 = covariance(getkey(), 2) + jnp.eye(2)
    weight = jax.random.normal(getkey(), (2, 2))

    @quick_jit
    @jax.value_and_grad
    def entry(v):
        A, B = v[:4].reshape(2, 2), v[4:8].reshape(2, 2)
        A, B = (A + A.T) / 2, (B + B.T) / 2
        mean, C = bures_geodesic(jnp.zeros(2), A, jnp.ones(2), B, v[8])
        return jnp.sum(weight * C) + mean[0]

    for C2 in (covariance(getkey(), 2) + jnp.eye(2), 3 * C1, jnp.linalg.inv(C1)):
        at = jnp.concatenate([C1.ravel(), C2.ravel(), jnp.asarray([0.4])])
        expected = finite_difference(
            lambda batch: jnp.stack([entry(v)[0] for v in batch]), at, 1e-4
        )
        np.testing.assert_allclose(entry(at)[1], expected, rtol=1e-6, atol=1e-8)
    Q = polar(C1 @ weight)
    np.testing.assert_allclose(Q @ Q.T, jnp.eye(2), atol=1e-12)


@pytest.mark.parametrize("dim", [1, 2])
def test_displacement_interpolation(x64, getkey, dim):
    """W2 to the start is t W2, and between times |t - t'| W2."""
    x = jax.random.normal(getkey(), (30, dim))
    y = 0.5 * jax.random.normal(getkey(), (30, dim)) + 1
    whole = float(wasserstein(x, y))
    points = displacement_interpolation(x, y, jnp.asarray([0.0, 0.3, 1.0]))
    assert points.shape == (3, 30, dim)
    np.testing.assert_array_equal(points[0], x)
    assert float(wasserstein(points[2], y)) < 1e-12
    assert float(wasserstein(x, points[1])) == pytest.approx(0.3 * whole)
    assert float(wasserstein(points[1], y)) == pytest.approx(0.7 * whole)
    shaped = displacement_interpolation(x.reshape(30, dim, 1), y.reshape(30, dim, 1), 0.3)
    np.testing.assert_allclose(shaped[..., 0], points[1])
    slope = jax.grad(lambda t: jnp.sum(displacement_interpolation(x, y, t)))(0.3)
    assert float(slope) == pytest.approx(float(jnp.sum(y) - jnp.sum(x)))


@pytest.mark.slow
def test_barycentric_interpolation_of_gaussians(x64):
    """Of unequal sizes: moments of the closed form, but for what the regularisation takes."""
    C1, C2 = jnp.asarray([[1.0, 0.4], [0.4, 0.5]]), jnp.asarray([[0.3, 0.0], [0.0, 1.5]])
    z = jax.random.normal(jax.random.key(0), (900, 2))
    x = z[:400] @ jnp.linalg.cholesky(C1).T
    y = 2.0 + z[400:] @ jnp.linalg.cholesky(C2).T
    points = displacement_interpolation(x, y, 0.5)
    mean, C = bures_geodesic(jnp.zeros(2), C1, 2 * jnp.ones(2), C2, 0.5)
    np.testing.assert_allclose(jnp.mean(points, axis=0), mean, atol=0.15)
    np.testing.assert_allclose(jnp.cov(points.T), C, atol=0.15)


@pytest.mark.slow
def test_deviation_of_a_gaussian(x64):
    """Against the Bures distance of the process from the geodesic, at the same length."""
    m, C = jnp.asarray([1.0, -1.0]), jnp.asarray([[2.0, 0.3], [0.3, 0.1]])
    data, process = ex.Gaussian(m, C), PROCESSES["rf"]()
    found = geodesic_deviation(
        ex.ExactModel(data, process),
        data.sample(1800, key=jax.random.key(0)),
        key=jax.random.key(1),
        num_samples=600,
        num_speeds=400,
        times=jnp.asarray([0.02, 0.3, 0.6, 0.9]),
    )
    assert np.all(np.diff(found.fraction) > 0)

    def exact(s, t):
        end = bures_geodesic(m, C, jnp.zeros(2), jnp.eye(2), t)
        scale = process.scale(s)
        return bures_wasserstein(*end, scale * m, scale**2 * C + process.var(s) * jnp.eye(2))

    truth = np.asarray(
        [float(exact(s, t)) for s, t in zip(found.times, found.fraction, strict=True)]
    )
    # About two standard deviations of the null on squared distances.
    np.testing.assert_allclose(found.excess**2, truth**2, atol=0.04)
    assert float(found.relative[2]) == pytest.approx(truth[2] / float(found.w2), rel=0.2)


@pytest.mark.slow(reason="several programs")
def test_the_geodesic_does_not_deviate(x64):
    """The path with a linear standard deviation, of an isotropic Gaussian."""
    v = 0.3

    def std(s):
        return jnp.sqrt(s**2 + 2 * s * (1 - s) * v**0.5)

    data = ex.Gaussian([0.5, 0.0], v * jnp.eye(2))
    model = ex.ExactModel(data, ex.GaussianPath(lambda s: 1 - s, std))
    found = geodesic_deviation(
        model,
        data.sample(300, key=jax.random.key(0)),
        key=jax.random.key(1),
        num_samples=100,
        num_times=32,
        num_speeds=64,
        times=jnp.asarray([0.25, 0.75]),
    )
    # Its speed is constant: length goes with time.
    np.testing.assert_allclose(found.fraction, found.times, atol=0.015)
    assert np.all(np.abs(found.distance / found.null - 1) < 0.4)


def test_refusals():
    x, key = jnp.ones((6, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="`method` must be 'sinkhorn' for samples of different"):
        displacement_interpolation(x, x[:3], 0.5, method="assignment")
    with pytest.raises(ValueError, match="`t` must be finite"):
        displacement_interpolation(x, x, jnp.nan)
    with pytest.raises(ValueError, match="`t` must have shape"):
        bures_geodesic(x[0], jnp.eye(2), x[0], jnp.eye(2), jnp.ones(2))
    model = ex.ExactModel(ex.Gaussian([0.0, 0.0], jnp.eye(2)), PROCESSES["vp"]())
    with pytest.raises(ValueError, match="`data` must hold at least 6 samples"):
        geodesic_deviation(model, x[:5], key=key)
    with pytest.raises(ValueError, match="`times` must have shape"):
        geodesic_deviation(model, x, key=key, times=0.5, num_speeds=8, num_times=2)
