"""Tempered models: exact for isotropic Gaussians, and for groups far apart."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import FEW, KINDS, PROCESSES, all_finite, as_shipped, inner_times, quick


MEAN, VARIANCE = (0.5, -1.0), 0.4


def gaussian(temperature=1.0):
    return ex.Gaussian(MEAN, temperature * VARIANCE * np.eye(2))


@pytest.mark.parametrize("name", quick(FEW, KINDS))
def test_fields_and_prior_of_a_gaussian(name, x64, getkey):
    """The fields are those of the diffusion of p^(1/T), also at both ends."""
    process = PROCESSES[name]()
    model = ex.models.Tempered(ex.ExactModel(gaussian(), process), 0.3)
    exact = ex.ExactModel(gaussian(0.3), process)
    for s in inner_times(process, 3):
        y = jax.random.normal(getkey(), (2,))
        for field in ("score", "entropy_field", "velocity"):
            got, want = (getattr(m, field)(s, y) for m in (model, exact))
            size = float(jnp.max(jnp.abs(want)))
            np.testing.assert_allclose(got, want, rtol=1e-9, atol=1e-9 * size, err_msg=field)
    for s in (process.t0, process.t1):
        assert all_finite(model.velocity(s, y))
        assert not process.is_finite or all_finite(model.entropy_field(s, y))
    y = jax.random.normal(getkey(), (2,))
    np.testing.assert_allclose(model.prior.log_prob(y), exact.prior.log_prob(y), rtol=1e-9)


@pytest.mark.slow
def test_log_density_and_its_gradient_in_the_temperature(x64):
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    x = jnp.asarray([[0.2, -0.4], [1.0, -1.5], [-0.5, 0.3]])
    method = ex.ProbabilityFlow(rtol=1e-8, atol=1e-8, max_steps=128)

    def value(temperature):
        model = ex.models.Tempered(ex.ExactModel(gaussian(), process), temperature)
        return ex.log_prob(model, x, method=method).value

    def exact(temperature):
        return gaussian(temperature).log_prob(x)

    for f, g in ((value, exact), (jax.jacrev(value), jax.jacrev(exact))):
        np.testing.assert_allclose(f(0.3), g(0.3), atol=1e-6)


@pytest.mark.slow
def test_entropy_and_model_priors():
    """The total entropy of N(m, T v), and the isotropic prior of a network model."""
    process = ex.StraightLine(0.5)
    model = ex.models.Tempered(ex.ExactModel(gaussian(), process), 0.3)
    cold = gaussian(0.3).sample(8192, key=jax.random.key(0))
    options = {"key": jax.random.key(1), "num_evaluations": 2048}
    found = ex.neural_entropy(model, cold, **options)
    exact = np.sum((0.12 + np.square(MEAN)) / 0.25 - 1 - np.log(0.12 / 0.25)) / 2
    assert abs(float(found.value) - exact) < 4 * float(found.stderr)

    def nothing(log_snr, y, condition=None):
        return 0 * y

    process = ex.VarianceExploding(0.01, 2.0)
    wrapped = ex.EntropyMatching(nothing, process, shape=(2, 2))
    prior = ex.models.Tempered(wrapped, 2.0, variance=1.5).prior
    assert prior.shape == (2, 2)
    end = float(process.var(1.0))
    assert float(prior.std) == pytest.approx(np.sqrt(end * (3 + end) / (1.5 + end)), rel=1e-5)


@pytest.mark.slow
def test_groups_keep_their_weights():
    """Each of two distant groups is its own p^(1/T); their weights do not change."""
    weights, means, std = [0.2, 0.8], [[-3.0], [3.0]], 0.3
    mixture = ex.GaussianMixture(weights, means, [[std], [std]])
    model = ex.ExactModel(mixture, ex.CosinePath())
    model = ex.models.Tempered(model, 0.25, variance=std**2)
    cold = ex.GaussianMixture(weights, means, [[std / 2], [std / 2]])
    x = cold.sample(64, key=jax.random.key(0))
    found = ex.log_prob(model, x, method=ex.ProbabilityFlow()).value
    error = np.abs(found - cold.log_prob(x))
    assert np.mean(error) < 0.02
    assert np.max(error) < 0.1


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda m: ex.models.Tempered("model", 1.0), "`model` must be a model"),
        (lambda m: ex.models.Tempered(m, 0.0), "`temperature` must be positive"),
        (lambda m: ex.models.Tempered(m, 1.0, variance=-1.0), "`variance` must be positive"),
    ],
)
def test_bad_arguments(make, match):
    with as_shipped(), pytest.raises(ValueError, match=match):
        make(ex.ExactModel(gaussian(), ex.CosinePath()))
