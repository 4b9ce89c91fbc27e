"""Standardisation: its Jacobian, its moments, and what it refuses."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix.datasets import Standardisation, load
from entropix.distributions import Gaussian


MEAN, COVARIANCE = jnp.array([0.5, -1.0]), jnp.array([[0.6, 0.35], [0.35, 0.9]])


def points(key, n=200):
    return np.asarray(Gaussian(MEAN, COVARIANCE).sample(n, key=key)) * [2.0, 30.0] + [0, 5]


@pytest.mark.parametrize("make", ["per_feature", "global_scale", "identity"])
def test_jacobian_and_inverse(make, getkey):
    data = points(getkey())
    map_ = (
        Standardisation.identity(2) if make == "identity" else getattr(Standardisation, make)(data)
    )
    x = jnp.asarray(data[0])
    jacobian = jax.jacobian(map_.forward)(x)
    np.testing.assert_allclose(map_.log_det, jnp.linalg.slogdet(jacobian)[1], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(map_.inverse(map_.forward(data)), data, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(
        jax.jit(jax.vmap(map_.forward))(jnp.asarray(data)), map_.forward(data), rtol=1e-5, atol=1e-6
    )


def test_log_density_changes_by_log_det(getkey):
    """log p(x) = log p_std(x_std) + log_det, for a Gaussian in both units."""
    map_ = Standardisation.per_feature(points(getkey()))
    truth = Gaussian(MEAN, COVARIANCE)
    standardised = Gaussian(
        map_.forward(MEAN), COVARIANCE / (map_.std[:, None] * map_.std[None, :])
    )
    x = truth.sample(20, key=getkey())
    np.testing.assert_allclose(
        standardised.log_prob(map_.forward(x)) + map_.log_det,
        truth.log_prob(x),
        rtol=1e-4,
        atol=1e-4,
    )


def test_moments(getkey):
    data = points(getkey())
    map_ = Standardisation.per_feature(data)
    x = np.asarray(map_.forward(data))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.std(axis=0), 1, rtol=1e-5)
    map_ = Standardisation.global_scale(data)
    x = np.asarray(map_.forward(data))
    np.testing.assert_allclose(x.mean(axis=0), 0, atol=1e-5)
    np.testing.assert_allclose(x.var(axis=0).mean(), 1, rtol=1e-5)
    assert jnp.all(map_.std == map_.std[0])


def test_digits():
    """Pixels that are always black become 0; a table of them is refused."""
    data = load("digits").points
    map_ = Standardisation.global_scale(data)
    x = map_.forward(data)
    assert (x[:, data.std(axis=0) == 0] == 0).all()
    np.testing.assert_allclose(np.asarray(map_.inverse(x)), data, atol=1e-5)
    with pytest.raises(ValueError, match="vary in every column, got a constant column 0"):
        Standardisation.per_feature(data)


def test_is_an_immutable_module():
    map_ = Standardisation(jnp.zeros(2), [1.0, 4.0])
    with pytest.raises(AttributeError):
        map_.std = jnp.ones(2)
    slope = jax.grad(lambda m: m.log_det)(map_).std
    np.testing.assert_allclose(slope, [-1.0, -0.25])


@pytest.mark.parametrize(
    ("run", "message"),
    [
        (lambda: Standardisation([0.0], [1.0, 2.0]), r"must both have shape \(D,\), got \(1,\)"),
        (lambda: Standardisation([0.0], [0.0]), "`std` must be positive"),
        (lambda: Standardisation([np.nan], [1.0]), "`mean` must be finite"),
        (lambda: Standardisation.identity(0), "`dim` must be an integer of at least 1"),
        (lambda: Standardisation.per_feature(np.zeros((3, 2, 2))), r"shape \(N, D\)"),
        (lambda: Standardisation.per_feature([[1.0, np.nan], [2, 3]]), "`points` must be finite"),
        (lambda: Standardisation.global_scale(np.ones((3, 2))), "vary in every column"),
        (
            lambda: Standardisation.identity(2).forward(jnp.zeros(3)),
            r"`x` .*2\), got \(3,\)",
        ),
        (
            lambda: jax.jit(Standardisation.per_feature)(jnp.ones((3, 2))),
            "`points` must be concrete",
        ),
    ],
)
def test_refusals(run, message):
    with pytest.raises(ValueError, match=message):
        run()


LARGE_OFFSET = np.array([[1e9, 1.0], [1e9 + 100, 2.0]])


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (LARGE_OFFSET, "spread that float32 resolves, got a standard deviation of .* in column 0"),
        (
            np.array([[1e300, 1.0], [0.0, 2.0]]),
            "`points` must be at most .* in float32, got 1e.300.*jax_enable_x64",
        ),
    ],
)
def test_beyond_float32(data, message):
    if jax.config.jax_enable_x64:
        pytest.skip("float64 holds these")
    with pytest.raises(ValueError, match=message):
        Standardisation.per_feature(data)


@pytest.mark.usefixtures("x64")
def test_large_offsets_in_float64():
    x = Standardisation.per_feature(LARGE_OFFSET).forward(LARGE_OFFSET)
    np.testing.assert_allclose(x, [[-1, -1], [1, 1]])
