"""Samples with their log densities from one solve: closed forms, `log_prob`, gradients."""

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import Divergence
from tests.helpers import as_shipped, finite_difference, quick_jit, small_gaussian
from tests.mixtures import mixture


KEY = jax.random.key(0)


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def draw(model, num_samples=32, **options):
    options = {"num_steps": 64, "log_prob": True, **options}
    return ex.sample(model, key=KEY, num_samples=num_samples, method="ode", **options)


def flow(model, x, **options):
    method = ex.ProbabilityFlow(rtol=1e-8, atol=1e-8)
    return ex.log_prob(model, x, method=method, **options).value


@pytest.mark.slow(reason="three programs for each")
@pytest.mark.parametrize("make", [vp, ex.RectifiedFlow])
def test_of_a_gaussian(make, x64):
    """The closed form, and an error that falls with the square of the step."""
    model = ex.ExactModel(small_gaussian(), make())
    errors = []
    for num_steps in (16, 64):
        x, density = draw(model, num_steps=num_steps)
        exact = small_gaussian().log_prob(x)
        errors.append(np.abs(density.value - exact).max())
    # The exact end of the process is not the prior exactly.
    left = np.abs(flow(model, x) - exact).max()
    assert errors[1] < 2e-3 + left
    assert errors[1] < errors[0] / 8 + left
    assert np.all(np.asarray(density.stderr) == 0)


@pytest.mark.slow  # two programs
def test_samples_are_those_without_densities():
    model = ex.ExactModel(small_gaussian(), vp())
    np.testing.assert_allclose(draw(model)[0], draw(model, log_prob=False), atol=1e-5)


class Shrink(eqx.Module):
    """A field that is not a linear function, so that the density is not Gaussian."""

    rate: jax.Array

    def __call__(self, log_snr, y, condition=None):
        return -self.rate * jnp.sin(y) if condition is None else -condition * jnp.sin(y)


@pytest.mark.slow(reason="several programs")
def test_of_an_inexact_model_with_conditions(x64):
    """As `log_prob` finds by a solve in the other direction."""
    model = ex.EntropyMatching(Shrink(jnp.asarray(0.3)), vp(), shape=(2,))
    condition = jnp.linspace(0.1, 0.5, 8)[:, None]
    x, density = draw(model, 8, condition=condition, chunk_size=3)
    expected = flow(model, x, condition=condition)
    np.testing.assert_allclose(density.value, expected, atol=8e-3)
    assert np.std(expected) > 0.1


@pytest.mark.slow(reason="adaptive steps on a mixture")
def test_adaptive_steps_and_a_mixture(x64):
    model = ex.ExactModel(mixture(2), vp())
    controller = diffrax.PIDController(rtol=1e-7, atol=1e-7)
    options = {"solver": diffrax.Ralston(), "stepsize_controller": controller}
    x, density = draw(model, 16, **options)
    np.testing.assert_allclose(density.value, flow(model, x), atol=1e-4)


@pytest.mark.slow(reason="a large program")
def test_of_a_model_without_a_score(x64):
    model = ex.FlowMatching(Shrink(jnp.asarray(0.3)), ex.RectifiedFlow(), shape=(2,))
    x, density = draw(model, 16)
    np.testing.assert_allclose(density.value, flow(model, x), atol=1e-3)


@pytest.mark.slow(reason="repeats")
def test_probes_are_unbiased_and_know_their_error():
    covariance = np.eye(6) + 0.5
    model = ex.ExactModel(ex.Gaussian(np.zeros(6), covariance), vp())
    probes = Divergence("hutchinson", num_probes=2)
    density = draw(model, 512, log_prob=probes, num_steps=16)[1]
    exact = draw(model, 512, num_steps=16)[1].value
    error = np.asarray(density.value - exact)
    assert abs(error.mean()) < 4 * float(density.mean.mc_stderr)
    assert 0.8 < error.std() / np.sqrt(np.mean(density.stderr**2)) < 1.25


def test_times_that_end_before_the_data(x64):
    """The density is then that of the states at the last time."""
    process, distribution = vp(), small_gaussian()
    model = ex.ExactModel(distribution, process)
    times = jnp.linspace(1.0, 0.3, 65)
    x, density = draw(model, times=times)
    scale, covariance = process.scale(times[-1]), distribution.covariance
    noise = process.var(times[-1]) * jnp.eye(distribution.dim)
    state = ex.Gaussian(scale * distribution.mean, scale**2 * covariance + noise)
    np.testing.assert_allclose(density.value, state.log_prob(x), atol=2e-3)


@pytest.mark.slow(reason="a gradient through a solve")
def test_gradient_in_a_parameter(x64):
    def mean(rate):
        model = ex.EntropyMatching(Shrink(rate), vp(), shape=(2,))
        return jnp.mean(draw(model, 4, num_steps=8)[1].value)

    rate = jnp.asarray(0.3)
    found = quick_jit(jax.grad(mean))(rate)
    expected = finite_difference(jax.vmap(lambda x: mean(x[0])), rate[None])
    assert float(found) == pytest.approx(float(expected[0]), rel=1e-5)


class Unknown(eqx.Module):
    """A prior whose density is not known."""

    def sample(self, n, *, key):
        return jax.random.normal(key, (n, 2))


def test_bad_arguments():
    model = ex.ExactModel(small_gaussian(), vp())
    with pytest.raises(ValueError, match="`log_prob` must be False unless `method` is 'ode'"):
        ex.sample(model, key=KEY, num_samples=2, log_prob=True)
    with as_shipped(), pytest.raises(ValueError, match="`log_prob` must be True, False or"):
        draw(model, log_prob="exact")
    with pytest.raises(ValueError, match="`prior` must have `log_prob"):
        draw(model, prior=Unknown())
    signs = Divergence("hutchinson", num_probes=2, probe="rademacher")
    wide = ex.ExactModel(ex.Gaussian(np.zeros(4), np.eye(4)), vp())
    with pytest.raises(ValueError, match="`probe` must be 'orthogonal'"):
        draw(wide, 8, log_prob=signs)
