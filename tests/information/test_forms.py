"""The two forms of a divergence: equal for exact models, different for wrong ones."""

import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.information.forms import DenoisingForm, ModelPair, ScoreForm, in_form
from tests.information.test_measures import ConditionalGaussian, LinearGaussian, close, pair, vp


def normal(mean, variance, process):
    return ex.ExactModel(ex.Gaussian([mean], [[variance]]), process)


@pytest.mark.slow(reason="programs of both forms")
def test_forms_agree_on_exact_models():
    process, rho = vp(), 0.8
    x, c = pair(rho, 1, 20_000, jax.random.key(0))
    model = ConditionalGaussian(process, jnp.asarray(rho))
    for form in ("score", "denoising"):
        estimate = ex.mutual_information(
            model,
            x,
            c,
            key=jax.random.key(1),
            marginal_model=normal(0.0, 1.0, process),
            form=form,
            num_evaluations=65_536,
        )
        close(estimate, 0.51082562376599)
        assert float(estimate.bias) == 0.0


@pytest.mark.slow
def test_denoising_form_of_wrong_models_is_a_difference_of_cross_entropies():
    """KL(p||q) - KL(p||r) for data from p, models of r and q: minus KL(p||r) with q = p."""
    process = vp()
    data = ex.Gaussian([0.0], [[1.0]]).sample(20_000, key=jax.random.key(0))
    truth, wrong = normal(0.0, 1.0, process), normal(0.6, 1.0, process)
    estimate = ex.kl_divergence(wrong, truth, data, key=jax.random.key(1), form="denoising")
    assert abs(float(estimate.value) + 0.18) < 4 * float(estimate.stderr)
    assert float(estimate.stderr) < 0.015
    inflated = ex.kl_divergence(wrong, truth, data, key=jax.random.key(1))  # of exact models
    assert float(inflated.value) == pytest.approx(0.18, rel=0.03)


@pytest.mark.slow
def test_gradient_of_the_denoising_form(x64):
    """d/dm of E log(p / q_m) = m^2 / 2, through the model and not through the data."""
    process = vp()
    data = ex.Gaussian([0.0], [[1.0]]).sample(20_000, key=jax.random.key(0))

    def value(mean):
        reference = ex.ExactModel(ex.Gaussian(mean, jnp.eye(1)), process)
        estimate = ex.kl_divergence(
            normal(0.0, 1.0, process), reference, data, key=jax.random.key(1), form="denoising"
        )
        return estimate.value

    gradient = jax.jit(jax.grad(value))(jnp.array([0.6]))
    np.testing.assert_allclose(gradient, [0.6 - float(jnp.mean(data))], rtol=0.03)


@pytest.mark.slow  # 100 estimates
@pytest.mark.parametrize(("form", "count"), [("denoising", 100), ("score", 5000)])
def test_errors_are_honest(form, count):
    """With few samples the data speak, with many the noise."""
    process, rho = vp(), 0.8
    model = ConditionalGaussian(process, jnp.asarray(rho))
    marginal = normal(0.0, 1.0, process)

    @eqx.filter_jit
    def run(key):
        data_key, key = jax.random.split(key)
        x, c = pair(rho, 1, count, data_key)
        e = ex.mutual_information(
            model, x, c, key=key, marginal_model=marginal, form=form, num_evaluations=2048
        )
        return e.value, e.stderr, e.mc_stderr

    values, errors, mc = jax.lax.map(run, jax.random.split(jax.random.key(0), 100))
    reported = float(jnp.sqrt(jnp.mean(errors**2)))
    assert 0.8 < float(jnp.std(values)) / reported < 1.25
    assert abs(float(jnp.mean(values)) - 0.5108) < 4 * reported / np.sqrt(100)
    if count == 100:
        assert reported > 1.5 * float(jnp.sqrt(jnp.mean(mc**2)))


def test_the_default_is_the_form_that_the_documentation_advises():
    process = vp()
    exact = ModelPair(normal(0.0, 1.0, process), normal(0.6, 1.0, process))
    other = ModelPair(exact.model, LinearGaussian(process, jnp.ones(1), jnp.asarray(1.0)))
    assert isinstance(in_form(exact, None), ScoreForm)
    assert isinstance(in_form(other, None), DenoisingForm)
    for function in (ex.mutual_information, ex.information.conditional_mutual_information):
        assert inspect.signature(function).parameters["form"].default == "denoising"


def test_bad_form():
    model = normal(0.0, 1.0, vp())
    with pytest.raises(ValueError, match="`form` must be one of 'score', 'denoising'"):
        ex.kl_divergence(model, model, jnp.ones((4, 1)), key=jax.random.key(0), form="mmse")
