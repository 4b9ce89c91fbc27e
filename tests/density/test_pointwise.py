"""Log densities by coordinate: those of Gaussians, exact sums, cut-offs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped


VARIANCES = np.array([0.5, 2.0, 0.05], np.float32)
MEANS = np.array([0.3, -1.0, 0.0], np.float32)
REFERENCE = ex.Gaussian(np.zeros(3, np.float32), [[1.0, 0.3, 0.0], [0.3, 1.0, 0.2], [0, 0.2, 0.5]])


@pytest.fixture(scope="module")
def model():
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    return ex.ExactModel(ex.Gaussian(MEANS, jnp.diag(jnp.asarray(VARIANCES))), process)


@pytest.fixture(scope="module")
def x(model):
    return model.distribution.sample(48, key=jax.random.key(0))


def log_normal(x, variances):
    return -((x - MEANS) ** 2 / variances + np.log(2 * np.pi * variances)) / 2


def by_coordinate(model, x, method=None, **options):
    method = ex.DenoisingError(256, REFERENCE) if method is None else method
    return ex.log_prob(model, x, key=jax.random.key(1), method=method, num_times=2, **options)


def consistent(curve, expected):
    z = (np.asarray(curve.value) - expected) / np.asarray(curve.stderr)
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.25
    np.testing.assert_allclose(curve.value.sum(1).mean(), curve.total.value, rtol=1e-5)


@pytest.mark.slow(reason="two methods")
def test_coordinates_of_a_gaussian(model, x):
    """Whatever the reference, the values are those of each coordinate."""
    curve = by_coordinate(model, x, per_coordinate=True)
    consistent(curve, log_normal(np.asarray(x), VARIANCES))
    assert curve.intervals.shape == (1, 48, 3)
    own = by_coordinate(model, x, ex.DenoisingError(32), per_coordinate=True)
    expected = log_normal(np.asarray(x), VARIANCES)
    assert np.mean(own.stderr) < np.mean(curve.stderr)
    assert np.all(np.abs(own.value.mean(0) - expected.mean(0)) < 0.2)


@pytest.mark.slow(reason="one integral for each sample")
def test_path_bound_with_the_prior_of_the_process(model, x):
    prior = ex.distributions.IsotropicGaussian((3,), 1.0)
    curve = by_coordinate(model, x, ex.PathBound(256, REFERENCE), prior=prior, per_coordinate=True)
    consistent(curve, log_normal(np.asarray(x), VARIANCES))


@pytest.mark.slow(reason="repeated estimates")
def test_bands_and_cutoff(model, x):
    """With a cut-off, the density of the data with that noise."""
    noise = 0.01 / (1 - 0.01)  # (Sigma_c / mu_c)^2
    bands = ex.estimators.HaarTransform(bands=True)
    curve = by_coordinate(model, x, per_coordinate=bands, cutoff=0.1)
    assert curve.value.shape == (48, 3)
    expected = log_normal(np.asarray(x), VARIANCES + noise).sum(1)
    z = curve.value.sum(1) - expected
    assert abs(float(z.mean())) < 4 * float(curve.total.mc_stderr)


def test_bad_input(model, x):
    with as_shipped():
        with pytest.raises(ValueError, match="`method` must be DenoisingError"):
            by_coordinate(model, x, ex.PathBound(64), per_coordinate=True)
        with pytest.raises(ValueError, match="`key` must be given"):
            ex.log_prob(model, x, method=ex.DenoisingError(), per_coordinate=True)
