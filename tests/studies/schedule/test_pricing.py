"""The price of a schedule against closed forms, and its Monte Carlo errors against Monte Carlo."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.studies.schedule.candidates import NOISE_MAX, RHO, made_by_hand
from entropix.studies.schedule.pricing import price


MEAN, VARIANCE = 0.7, 0.4


def _draws(count):
    """Data and noise with exactly the first two moments that they are drawn with."""
    raw = np.random.default_rng(0).normal(size=(count, 2))
    raw -= raw.mean(axis=0)
    whitened = raw @ np.linalg.inv(np.linalg.cholesky(raw.T @ raw / count)).T
    x, z = whitened.T[..., None]
    return jnp.asarray(MEAN + np.sqrt(VARIANCE) * x, float), jnp.asarray(z, float)


@pytest.fixture
def line():
    """The exact model of N(0.7, 0.4) on the whole axis of log-SNR, and the schedules by hand."""
    gaussian = ex.Gaussian(jnp.array([MEAN]), jnp.array([[VARIANCE]]))
    candidates = {c.name: c for c in made_by_hand(ex.LinearSchedule(), 1.0)}
    return ex.ExactModel(gaussian, ex.StraightLine(1.0)), candidates


def test_prices_of_gaussian_data_are_the_closed_forms(x64, line):
    """Values of the closed forms for N(0.7, 0.4), target N(0, 1)."""
    model, candidates = line
    x, z = _draws(64)
    found = {name: price(model, c.process, x, z, evaluations=100) for name, c in candidates.items()}
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


def test_monte_carlo_errors_are_those_of_monte_carlo(x64, line):
    """The standard error of S_NN at uniform times, against the scatter of its summands."""
    model, candidates = line
    keys = jax.random.split(jax.random.key(0), 4)
    dist, count = model.distribution, 200_000
    x = dist.sample(4096, key=keys[0])
    z = jax.random.normal(keys[1], x.shape)
    process = candidates["linear"].process
    predicted = price(model, process, x, z, evaluations=count).entropy_error
    times = jax.random.uniform(keys[2], (count,))
    draws = dist.sample(count, key=keys[3])
    noise = jax.random.normal(jax.random.key(1), draws.shape)
    exact = model.with_process(process)

    def summand(s, x, z):
        field = exact.entropy_field(s, process.perturb(s, x, z))
        return process.sigma_squared(s) / 2 * jnp.sum(field**2)

    scatter = jnp.std(jax.vmap(summand)(times, draws, noise)) / np.sqrt(count)
    np.testing.assert_allclose(predicted, scatter, rtol=0.1)


def test_levels_are_those_of_karras_or_uniform_in_time(x64):
    candidates = {c.name: c for c in made_by_hand(ex.LinearSchedule(), 1.0)}
    levels = np.asarray(candidates["edm"].levels(6))
    noise = np.exp(-levels / 2)
    np.testing.assert_allclose(noise[[0, -2, -1]], [80.0, 0.002, 0.0], rtol=1e-12)
    np.testing.assert_allclose(np.diff(noise[:-1] ** (1 / RHO), 2), 0, atol=1e-12)
    for name in ("linear", "cosine", "straight-line", "rectified-flow"):
        process = candidates[name].process
        levels = candidates[name].levels(4)
        assert levels[-1] == jnp.inf
        times = process.time_of_log_snr(levels)
        np.testing.assert_allclose(times, [1, 0.75, 0.5, 0.25, 0], atol=1e-9)
