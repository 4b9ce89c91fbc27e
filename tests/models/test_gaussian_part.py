import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.models import GaussianPart


DIM = 3


def nothing(log_snr, y, condition=None):
    return jnp.zeros_like(y)


@pytest.fixture(scope="module")
def points():
    x = np.random.default_rng(0).normal(size=(50_000, DIM))
    return x @ np.array([[2.0, 0.3, 0.0], [0.0, 1.0, 0.4], [0.0, 0.0, 0.2]]) + [1.0, 0.0, -2.0]


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize(
    "process",
    [
        ex.VariancePreserving(ex.LinearSchedule()),
        ex.VariancePreserving(ex.LinearSchedule(), kappa=0.1),
        ex.StraightLine(),
        ex.CosinePath(),
    ],
    ids=lambda p: type(p).__name__,
)
def test_without_a_network_it_is_the_model_of_that_gaussian(points, process, scaled):
    part = GaussianPart.from_data(points)
    scaling = ex.GaussianScaling.from_data(points, process) if scaled else None
    model = ex.EntropyMatching(nothing, process, scaling, gaussian=part)
    covariance = np.asarray(part.eigenvectors, np.float64) * np.asarray(part.eigenvalues)
    covariance = covariance @ np.asarray(part.eigenvectors, np.float64).T
    exact = ex.ExactModel(ex.Gaussian(part.mean, (covariance + covariance.T) / 2), process)
    assert model.shape == (DIM,)
    for share in (0.001, 0.3, 0.9, 1.0):
        s = process.t0 + share * (process.t1 - process.t0)
        y = process.scale(s) * jnp.asarray(points[0]) + process.std(s) * jnp.ones(DIM)
        # Without a scaling, the infinite noise rate at an end meets a network of zero.
        for name in ("score", "entropy_field", *(["velocity"] if scaled else [])):
            ours, expected = getattr(model, name)(s, y), getattr(exact, name)(s, y)
            size = float(jnp.linalg.norm(expected)) + 1e-5
            np.testing.assert_allclose(ours, expected, atol=2e-3 * size, err_msg=name)


def test_the_moments_are_those_of_the_samples(points):
    part = GaussianPart.from_data(points)
    covariance = part.eigenvectors * part.eigenvalues @ part.eigenvectors.T
    np.testing.assert_allclose(part.mean, points.mean(axis=0), atol=1e-5)
    np.testing.assert_allclose(covariance, np.cov(points, rowvar=False), atol=2e-3)


def test_few_samples_are_shrunk_to_a_multiple_of_the_identity():
    """Of white noise nothing but the mean variance is known; fewer samples than dimensions."""
    x = np.random.default_rng(0).normal(size=(20, 40))
    values = GaussianPart.from_data(x).eigenvalues
    assert values.min() > 0.4 * values.max()


def test_it_is_saved_and_images_keep_their_shape(tmp_path):
    images = np.random.default_rng(0).normal(size=(100, 4, 2))
    part = GaussianPart.from_data(images)
    model = ex.EntropyMatching(nothing, ex.CosinePath(), gaussian=part)
    assert model.shape == (4, 2)
    ex.save(tmp_path / "part", part)
    y = jnp.ones((4, 2))
    process = ex.CosinePath()
    again = ex.load(tmp_path / "part").over_scale(process, 0.5, y)
    np.testing.assert_array_equal(again, part.over_scale(process, 0.5, y))


def test_gradients_reach_the_network_alone(points):
    part = GaussianPart.from_data(points)
    model = ex.EntropyMatching(nothing, ex.CosinePath(), gaussian=part)
    gradient = jax.grad(lambda y: model.score(0.5, y)[0])(jnp.ones(DIM))
    assert jnp.isfinite(gradient).all()


def test_what_does_not_fit_is_refused(points):
    part = GaussianPart.from_data(points)
    with pytest.raises(ValueError, match="`gaussian` must be None for a process"):
        ex.EntropyMatching(nothing, ex.RectifiedFlow(), gaussian=part)
    with pytest.raises(ValueError, match="`shape` must be that of `gaussian`"):
        ex.EntropyMatching(nothing, ex.CosinePath(), shape=(2,), gaussian=part)
    with pytest.raises(ValueError, match="`data` must vary"):
        GaussianPart.from_data(np.ones((5, 2)))
