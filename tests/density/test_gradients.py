"""Gradients of log densities: in the samples, and in the parameters of a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

import entropix as ex
from entropix.networks import trainable
from tests.helpers import finite_difference
from tests.mixtures import mixture


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


METHODS = {
    "bound": ex.PathBound(256),
    "denoising": ex.DenoisingError(256),
    "jarzynski": ex.density.Jarzynski(num_paths=128, num_steps=64),
    "hutchinson": ex.ProbabilityFlow("hutchinson", num_probes=4, max_steps=128),
}


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_in_the_samples_it_is_the_score(method):
    """Of the exact model, in the mean over 40 keys; the flow's own is tested to its tolerance."""
    distribution = mixture(2)
    model = ex.ExactModel(distribution, vp())
    x = distribution.sample(6, key=jax.random.key(0))
    run = jax.jit(
        jax.grad(lambda x, k: jnp.sum(ex.log_prob(model, x, key=k, method=METHODS[method]).value))
    )
    found = jax.lax.map(lambda k: run(x, k), jax.random.split(jax.random.key(1), 40))
    error = np.asarray(jnp.mean(found, axis=0) - distribution.score(x))
    spread = np.asarray(jnp.std(found, axis=0)) / np.sqrt(40)
    # Steps of paths, and what DenoisingError leaves out at the noise end.
    slack = {"jarzynski": 0.03, "denoising": 5e-3}.get(method, 1e-3)
    assert np.all(np.abs(error) < 4.5 * spread + slack), error / spread
    assert np.max(spread) < 0.1


class Shrink(eqx.Module):
    rate: jax.Array

    def __call__(self, log_snr, y, condition=None):
        return -self.rate * y


@pytest.mark.slow
def test_of_the_bound_in_a_parameter():
    """e = -c y under VP: the bound is quadratic in c, with known coefficients."""
    process, x = vp(), jnp.asarray([[1.0, -2.0], [0.3, 0.5]])
    kept, length = 1 - np.exp(-8.05), 8.05
    square = np.sum(np.asarray(x) ** 2, axis=1)
    exact = -0.5 * (kept * square + 2 * (length - kept)) - kept * (square - 2)

    def value(c, key):
        model = ex.EntropyMatching(Shrink(c), process, shape=(2,))
        return ex.log_prob(model, x, key=key, method=ex.PathBound(256)).value

    run = jax.jit(jax.jacrev(value))
    c = jnp.asarray(0.5)
    found = jax.lax.map(lambda k: run(c, k), jax.random.split(jax.random.key(0), 50))
    spread = np.asarray(jnp.std(found, axis=0)) / np.sqrt(50)
    assert np.all(np.abs(np.mean(found, axis=0) - exact) < 4 * spread)
    assert np.all(spread < 0.03 * np.abs(exact))


@pytest.mark.slow
def test_of_the_flow_in_the_parameters_of_a_network(x64):
    """Against finite differences in random directions, for a network of trained size."""
    process = vp()
    x = mixture(2).sample(2, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(mixture(2).sample(500, key=jax.random.key(1)), process)
    network = ex.FourierMLP(2, key=jax.random.key(2), widths=(16, 16))
    arrays, static = eqx.partition(network, trainable(network))  # frequencies are fixed
    flat, back = ravel_pytree(arrays)
    # A fresh network may start at zero: move away from it.
    flat = flat + 0.3 * jax.random.normal(jax.random.key(3), flat.shape)
    directions = jax.random.normal(jax.random.key(4), (3, flat.size)) / np.sqrt(flat.size)
    method = ex.ProbabilityFlow(rtol=1e-9, atol=1e-9, max_steps=512)

    def value(steps):
        net = eqx.combine(back(flat + steps @ directions), static)
        model = ex.EntropyMatching(net, process, scaling)
        return jnp.mean(ex.log_prob(model, x, method=method).value)

    found = jax.jit(jax.grad(value))(jnp.zeros(3))
    expected = finite_difference(jax.jit(jax.vmap(value)), np.zeros(3))
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)
    assert float(jnp.max(jnp.abs(found))) > 1e-3
