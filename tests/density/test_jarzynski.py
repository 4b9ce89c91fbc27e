"""The Jarzynski estimator of log densities against the density of a linear reverse SDE."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import entropix as ex
from tests.helpers import as_shipped
from tests.mixtures import mixture


class Shrink(eqx.Module):
    """`e = -rate y`, or `-condition y`."""

    rate: float = 0.2

    def __call__(self, log_snr, y, condition=None):
        return -self.rate * y if condition is None else -condition * y


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def exact(rate, x):
    """log p of the reverse SDE with e = -rate y from N(0, I): its variance obeys a linear ODE."""

    def growth(t, v):
        return (0.1 + 15.9 * (1 - t)) * (1 - (1 + 2 * rate) * v)

    variance = solve_ivp(growth, (0.0, 1.0), [1.0], rtol=1e-10, atol=1e-12).y[0, -1]
    x = np.asarray(x).reshape(x.shape[0], -1)
    return -np.sum(x**2, axis=1) / 2 / variance - x.shape[1] / 2 * np.log(2 * np.pi * variance)


@pytest.mark.slow
def test_a_wrong_model():
    """The bound lies below the density of the reverse SDE, the exponential average on it."""
    model = ex.EntropyMatching(Shrink(), vp(), shape=(2,))
    x = jax.random.normal(jax.random.key(0), (6, 2))
    method = ex.density.Jarzynski(num_paths=1000, num_steps=96)
    result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
    truth = exact(0.2, x)
    bound = ex.log_prob(model, x, key=jax.random.key(2), method=ex.PathBound(2048))
    error = np.asarray(result.value) - truth
    assert np.all(np.abs(error) < 4 * np.asarray(result.stderr) + 0.01)  # steps
    assert float(jnp.max(result.stderr)) < 0.05
    assert np.all(np.asarray(bound.value) < truth - 4 * np.asarray(bound.stderr))
    assert result.num_evaluations == 1000 * 96


@pytest.mark.slow
@pytest.mark.parametrize("rate", [0.0, 0.2], ids=["exact", "wrong"])
def test_the_standard_error_is_honest(rate):
    """Over 60 keys, sample by sample, for the mixture and for a wrong model."""
    if rate:
        model = ex.EntropyMatching(Shrink(rate), vp(), shape=(3,))
    else:
        model = ex.ExactModel(mixture(3), vp())
    x = mixture(3).sample(4, key=jax.random.key(0))
    method = ex.density.Jarzynski(num_paths=128, num_steps=96)
    run = jax.jit(lambda k: ex.log_prob(model, x, key=k, method=method))
    results = jax.lax.map(run, jax.random.split(jax.random.key(1), 60))
    ratio = jnp.std(results.value, axis=0) / jnp.mean(results.stderr, axis=0)
    assert 0.75 < float(jnp.mean(ratio)) < 1.3
    truth = exact(rate, x) if rate else np.asarray(mixture(3).log_prob(x))
    bias = np.mean(np.asarray(results.value), axis=0) - truth
    spread = np.std(np.asarray(results.value), axis=0)
    # The logarithm of a mean is low by half its variance.
    assert np.all(np.abs(bias + spread**2 / 2) < 5 * spread / 60**0.5 + 0.012)


@pytest.mark.slow
def test_conditions_images_and_priors():
    """Each image with its own rate; a prior times a constant; nothing to gain at rate zero."""
    model = ex.EntropyMatching(Shrink(), vp(), shape=(1, 2))
    x = jax.random.normal(jax.random.key(0), (3, 1, 2))
    condition = jnp.asarray([0.0, 0.1, 0.2])
    method = ex.density.Jarzynski(num_paths=400, num_steps=96)

    class Shifted(eqx.Module):
        """The model's own prior times a constant."""

        def log_prob(self, y):
            return model.prior.log_prob(y) + 1.5

    result = ex.log_prob(
        model,
        x,
        key=jax.random.key(1),
        method=method,
        condition=condition,
        prior=Shifted(),
        chunk_size=400,
    )
    truth = [exact(float(c), x[i : i + 1])[0] for i, c in enumerate(condition)]
    error = np.abs(np.asarray(result.value) - 1.5 - truth)
    assert np.all(error < 4 * np.asarray(result.stderr) + 0.01)
    assert float(result.stderr[0]) < 1e-3


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: ex.log_prob(m, x, method=ex.density.Jarzynski()), "`key` must be given"),
        (
            lambda m, x: ex.density.Jarzynski(num_paths=1),
            "`num_paths` must be an integer of at least 2",
        ),
        (
            lambda m, x: ex.density.Jarzynski(num_steps=1),
            "`num_steps` must be an integer of at least 2",
        ),
    ],
)
def test_bad_arguments(call, match):
    model = ex.ExactModel(mixture(3), vp())
    with as_shipped(), pytest.raises(ValueError, match=match):
        call(model, jnp.ones((4, 3)))
