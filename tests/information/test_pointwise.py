"""Mutual information by coordinate, band and sample, of normal pairs."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.models.conditional import AbstractConditional


RHO = np.array([0.9, 0.5, 0.0], np.float32)
INFORMATION = -np.log1p(-(RHO**2)) / 2


class Conditional(AbstractConditional):
    """X given C, with a correlation for each coordinate."""

    process: ex.VariancePreserving
    rho: jax.Array
    shape = None
    divergence = None

    def inner(self, condition):
        gaussian = ex.Gaussian(self.rho * condition, jnp.diag(1 - self.rho**2))
        return ex.ExactModel(gaussian, self.process)

    @property
    def prior(self):
        raise NotImplementedError

    def with_process(self, process):
        raise NotImplementedError


@pytest.fixture(scope="module")
def setting():
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    c, noise = jax.random.normal(jax.random.key(0), (2, 512, 3))
    x = RHO * c + jnp.sqrt(1 - RHO**2) * noise
    marginal = ex.ExactModel(ex.Gaussian(jnp.zeros(3), jnp.eye(3)), process)
    return Conditional(process, jnp.asarray(RHO)), marginal, x, c


def information(setting, count=None, **options):
    model, marginal, x, c = setting
    return ex.mutual_information(
        model, x[:count], c[:count], key=jax.random.key(1), marginal_model=marginal, **options
    )


@pytest.mark.slow(reason="a program for each form")
@pytest.mark.parametrize(
    "form",
    [pytest.param("score", marks=pytest.mark.slow(reason="several programs")), "denoising"],
)
def test_coordinates(setting, form):
    curve = information(setting, form=form, per_coordinate=True, num_times=5)
    assert np.all(np.abs(curve.value - INFORMATION) < 4 * curve.stderr + 1e-6)
    assert np.all(curve.stderr < 0.1)
    assert curve.intervals.shape == (4, 3)
    np.testing.assert_allclose(curve.intervals.sum(0), curve.value, atol=1e-5)
    np.testing.assert_allclose(curve.value.sum(), curve.total.value, rtol=1e-6)
    scalar = information(setting, form=form)
    error = np.hypot(curve.total.mc_stderr, scalar.mc_stderr)
    assert abs(curve.total.value - curve.total.bias - scalar.value) < 4 * error


@pytest.mark.slow(reason="repeated estimates")
def test_coordinates_of_a_divergence():
    """Between diagonal Gaussians, in means and in variances."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    mean, variance = np.array([0.5, 0.0, 1.0]), np.array([1.0, 0.5, 2.0])
    first = ex.ExactModel(ex.Gaussian(mean, np.diag(variance)), process)
    second = ex.ExactModel(ex.Gaussian(np.zeros(3), np.eye(3)), process)
    data = first.distribution.sample(512, key=jax.random.key(0))
    options = {"per_coordinate": True, "num_times": 5}
    curve = ex.kl_divergence(first, second, data, key=jax.random.key(1), **options)
    expected = (variance + mean**2 - 1 - np.log(variance)) / 2
    assert np.all(np.abs(curve.value - expected) < 4 * curve.stderr + 1e-6)
    np.testing.assert_allclose(curve.value.sum(), curve.total.value, rtol=1e-6)
    assert curve.total.bias == 0


class Given(AbstractConditional):
    """X given C and what tells nothing."""

    conditional: Conditional
    marginal: ex.ExactModel
    process: ex.VariancePreserving
    shape = None
    divergence = None

    def inner(self, condition):
        given = condition[0]
        return self.marginal if given is None else self.conditional.inner(given)

    @property
    def prior(self):
        raise NotImplementedError

    def with_process(self, process):
        raise NotImplementedError


@pytest.mark.slow(reason="two programs")
def test_coordinates_of_a_conditional_information(setting):
    """Of a third variable that tells nothing: the information itself."""
    model, marginal, x, c = setting
    curve = ex.information.conditional_mutual_information(
        Given(model, marginal, model.process),
        x,
        c,
        jnp.zeros(len(x)),
        key=jax.random.key(1),
        per_coordinate=True,
        num_times=5,
    )
    assert np.all(np.abs(curve.value - INFORMATION) < 4 * curve.stderr + 1e-6)
    np.testing.assert_allclose(curve.intervals.sum(0), curve.value, atol=1e-5)


@pytest.mark.slow(reason="two programs")
def test_bands_sum_to_the_same(setting):
    options = {"pointwise": True, "num_evaluations": 4096, "num_times": 2}
    haar = ex.estimators.HaarTransform(bands=True)
    bands = information(setting, 64, per_coordinate=haar, **options)
    whole = information(setting, 64, **options)
    assert bands.value.shape == (64, 3)
    assert whole.value.shape == (64,)
    np.testing.assert_allclose(bands.value.sum(1), whole.value, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(bands.total.value, whole.total.value, rtol=1e-4)


@pytest.mark.slow(reason="repeated estimates")
def test_samples_have_their_log_ratios(setting):
    r"""In the denoising form, each sample's integral is $\log p(x|c)/p(x)$, by coordinate."""
    curve = information(
        setting, 48, pointwise=True, per_coordinate=True, num_evaluations=24_576, num_times=2
    )
    _, _, x, c = (part[:48] if i > 1 else part for i, part in enumerate(setting))
    expected = INFORMATION + x**2 / 2 - (x - RHO * c) ** 2 / (2 * (1 - RHO**2))
    z = ((curve.value - expected) / curve.stderr)[:, :2]
    assert 0.8 < np.sqrt(np.mean(z**2)) < 1.25
    assert np.mean(curve.stderr) < 0.3
    np.testing.assert_allclose(curve.value.sum(1).mean(), curve.total.value, rtol=1e-5)


def test_too_few_evaluations(setting):
    with pytest.raises(ValueError, match="`num_evaluations` must be at least 32 for each"):
        information(setting, pointwise=True, num_evaluations=1024)
