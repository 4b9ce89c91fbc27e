"""Distances between samples and between Gaussians, against closed forms and SciPy."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
import scipy.optimize
import scipy.stats

import entropix as ex


def test_one_dimension_equals_scipy(x64):
    x = jax.random.normal(jax.random.key(0), (40, 1))
    y = 0.3 + jax.random.gamma(jax.random.key(1), 2.0, (25, 1))
    result = ex.wasserstein(x, y, p=1)
    expected = scipy.stats.wasserstein_distance(np.ravel(x), np.ravel(y))
    np.testing.assert_allclose(float(result), expected, rtol=1e-10)
    assert result.method == "sorted"
    # p = 2 by repeating every sample until the sizes agree.
    long = np.sort(np.repeat(x[:, 0], 25)), np.sort(np.repeat(y[:, 0], 40))
    expected = np.sqrt(np.mean((long[0] - long[1]) ** 2))
    np.testing.assert_allclose(float(ex.wasserstein(x, y)), expected, rtol=1e-10)


@pytest.mark.parametrize("p", [1, 2])
def test_assignment_is_exact_and_differentiable(x64, p):
    x = jax.random.normal(jax.random.key(0), (60, 2, 2)) + 100.0
    y = 1.5 * jax.random.normal(jax.random.key(1), (60, 2, 2)) + 100.3
    cost = np.linalg.norm(np.reshape(x, (60, 1, 4)) - np.reshape(y, (1, 60, 4)), axis=-1) ** p
    best = cost[scipy.optimize.linear_sum_assignment(cost)].mean() ** (1 / p)
    result = ex.wasserstein(x, y, p=p)
    assert result.method == "assignment"
    np.testing.assert_allclose(float(result), best, rtol=1e-10)

    def value(x):
        return ex.wasserstein(x, y, p=p).value

    np.testing.assert_allclose(jax.jit(value)(x), best, rtol=1e-10)
    direction = jax.random.normal(jax.random.key(2), x.shape)
    slope = jnp.sum(jax.grad(value)(x) * direction)
    step = 1e-5
    expected = (value(x + step * direction) - value(x - step * direction)) / (2 * step)
    np.testing.assert_allclose(slope, expected, rtol=1e-6)


def test_sinkhorn_of_a_shift():
    """Without its bias the entropic distance of a shifted sample is the shift."""
    x = jax.random.normal(jax.random.key(0), (300, 2))
    shift = jnp.asarray([0.6, -0.8])
    assert float(ex.sinkhorn_divergence(x, x)) == pytest.approx(0.0, abs=1e-4)
    assert float(ex.sinkhorn_divergence(x, x + shift)) == pytest.approx(1.0, rel=0.01)
    result = ex.wasserstein(x, x + shift, max_exact=100)
    assert result.method == "sinkhorn"
    assert float(result) == pytest.approx(1.0, rel=0.01)


def test_bures_against_matrix_roots_with_gradients(x64):
    roots = jax.random.normal(jax.random.key(0), (2, 4, 4))
    c1, c2 = (np.asarray(r @ r.T + 0.3 * np.eye(4)) for r in roots)
    m1, m2 = np.asarray(jax.random.normal(jax.random.key(1), (2, 4)))
    root = scipy.linalg.sqrtm(c1)
    cross = scipy.linalg.sqrtm(root @ c2 @ root)
    expected = np.sum((m1 - m2) ** 2) + np.trace(c1 + c2 - 2 * cross)
    np.testing.assert_allclose(ex.bures_wasserstein(m1, c1, m2, c2) ** 2, expected, rtol=1e-10)

    def along(t):
        return ex.bures_wasserstein(m1, c1 + t * c2, m2 + t, c2 + t * np.eye(4))

    expected = (along(1e-5) - along(-1e-5)) / 2e-5
    np.testing.assert_allclose(jax.grad(along)(0.0), expected, rtol=1e-7)


def test_bures_where_eigenvalues_meet(x64):
    """Isotropic covariances: W2^2 = |m|^2 + D (a - b)^2, with its gradient; and no NaN at zero."""
    eye = jnp.eye(3)

    def distance(a, b):
        return ex.bures_wasserstein(jnp.ones(3), a**2 * eye, jnp.zeros(3), b**2 * eye)

    value, slopes = jax.value_and_grad(distance, argnums=(0, 1))(2.0, 0.5)
    expected = np.sqrt(3 + 3 * 1.5**2)
    np.testing.assert_allclose(value, expected)
    np.testing.assert_allclose(slopes, (3 * 1.5 / expected, -3 * 1.5 / expected))
    same = jax.grad(lambda c: ex.bures_wasserstein(jnp.zeros(3), c, jnp.zeros(3), c))(eye)
    assert bool(jnp.all(jnp.isfinite(same)))


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda x: ex.wasserstein(x, x[:, :1]), "`y` must hold examples of x's shape"),
        (lambda x: ex.wasserstein(x, x, p=3), "`p` must be 1 or 2"),
        (lambda x: ex.wasserstein(x, x * jnp.nan), "`y` must be finite"),
        (lambda x: ex.sinkhorn_divergence(x, x, epsilon=-1.0), "`epsilon` must be positive"),
        (
            lambda x: ex.bures_wasserstein(x[0], jnp.eye(2), x[1], jnp.eye(3)),
            r"`c2` must have shape",
        ),
        (
            lambda x: ex.bures_wasserstein(x[0], jnp.eye(2), x[1], -jnp.eye(2)),
            "`c2` must be positive definite",
        ),
    ],
)
def test_bad_arguments(call, match):
    with pytest.raises(ValueError, match=match):
        call(jnp.arange(8.0).reshape(4, 2))
