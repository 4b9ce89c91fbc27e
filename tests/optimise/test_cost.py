"""The cost of a schedule against closed forms, and its Monte Carlo errors against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.optimise import schedule_cost
from tests.helpers import quick_jit


MEAN, VARIANCE, NOISE_MAX = 0.7, 0.4, 80.0


def _draws(count):
    """Data and noise with exactly the first two moments that they are drawn with."""
    raw = np.random.default_rng(0).normal(size=(count, 2))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / count)).T
    x, z = whitened.T[..., None]
    return jnp.asarray(MEAN + np.sqrt(VARIANCE) * x, float), jnp.asarray(z, float)


@pytest.fixture
def line():
    """The exact model of N(0.7, 0.4) on the whole axis of log-SNR, and common schedules."""
    gaussian = ex.Gaussian(jnp.array([MEAN]), jnp.array([[VARIANCE]]))
    processes = {
        "linear": ex.VariancePreserving(ex.LinearSchedule(), 1.0),
        "cosine": ex.VariancePreserving(ex.processes.CosineSchedule(), 1.0),
        "straight-line": ex.StraightLine(1.0),
        "rectified-flow": ex.RectifiedFlow(),
        "edm": ex.GaussianPath(jnp.ones_like, lambda s: NOISE_MAX * s**7),
    }
    return ex.ExactModel(gaussian, ex.StraightLine(1.0)), processes


@pytest.mark.slow(reason="a program for each cost")
def test_costs_of_gaussian_data_are_the_closed_forms(x64, line):
    """Values of the closed forms for N(0.7, 0.4), target N(0, 1)."""
    model, processes = line
    x, z = _draws(64)
    found = {name: schedule_cost(model, p, x, z, evaluations=100) for name, p in processes.items()}
    np.testing.assert_allclose(found["linear"].length, 0.80792529493179, rtol=1e-6)
    np.testing.assert_allclose(found["linear"].entropy, 0.40306717680056, rtol=1e-6)
    np.testing.assert_allclose(found["cosine"].action[0], 0.77117256414414, rtol=1e-6)
    np.testing.assert_allclose(found["rectified-flow"].action[0], 0.89654117342039, rtol=1e-6)
    for name in ("cosine", "straight-line"):
        assert found[name].efficiency == 0  # an infinite budget
    assert found["rectified-flow"].entropy == found["rectified-flow"].entropy_error == np.inf
    # Variance exploding from N(m, v): S = log(1 + Sigma(1)^2 / v) / 2.
    exploding = np.log1p(NOISE_MAX**2 / VARIANCE) / 2
    np.testing.assert_allclose(found["edm"].entropy, exploding, rtol=1e-3)


@pytest.mark.slow(reason="repeats")
def test_monte_carlo_errors_are_those_of_monte_carlo(x64, line):
    """The standard error of S_NN at uniform times, against the scatter of its summands."""
    model, processes = line
    keys = jax.random.split(jax.random.key(0), 4)
    dist, count = model.distribution, 200_000
    x = dist.sample(4096, key=keys[0])
    z = jax.random.normal(keys[1], x.shape)
    process = processes["linear"]
    predicted = schedule_cost(model, process, x, z, evaluations=count).entropy_error
    times = jax.random.uniform(keys[2], (count,))
    draws = dist.sample(count, key=keys[3])
    noise = jax.random.normal(jax.random.key(1), draws.shape)
    exact = model.with_process(process)

    def summand(s, x, z):
        field = exact.entropy_field(s, process.perturb(s, x, z))
        return process.sigma_squared(s) / 2 * jnp.sum(field**2)

    scatter = jnp.std(quick_jit(jax.vmap(summand))(times, draws, noise)) / np.sqrt(count)
    np.testing.assert_allclose(predicted, scatter, rtol=0.1)
