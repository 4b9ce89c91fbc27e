"""Small models and their data."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

import entropix as ex
from entropix.networks import trainable
from tests.helpers import PROCESSES


MODELS = {
    "entropy": ex.EntropyMatching,
    "score": ex.ScoreMatching,
    "noise": ex.NoisePrediction,
    "velocity": ex.VelocityPrediction,
}


class Linear(eqx.Module):
    """`network(log_snr, y) = a y`."""

    a: jax.Array

    def __init__(self, a=0.0):
        self.a = jnp.asarray(a, float)

    def __call__(self, log_snr, y, condition=None):
        return self.a * y


def small_network(dim=2, seed=0, **kwargs):
    options = {"widths": (16,), "num_features": 4} | kwargs
    return ex.FourierMLP(dim, key=jax.random.key(seed), **options)


def gaussian_data(n=64, dim=2, seed=3):
    scale = jnp.arange(1, dim + 1) / dim
    return 0.3 + scale * jax.random.normal(jax.random.key(seed), (n, dim))


def small_model(process=None, dim=2, seed=0, data=None, **kwargs):
    process = PROCESSES["vp"]() if process is None else process
    data = gaussian_data(dim=dim) if data is None else data
    scaling = ex.GaussianScaling.from_data(data, process)
    return ex.EntropyMatching(small_network(dim, seed, **kwargs), process, scaling)


def parameters(model):
    return eqx.filter(model.network, trainable(model.network))


def assert_same(one, other):
    """Equal structure, dtypes and bits."""
    assert jax.tree.structure(one) == jax.tree.structure(other)
    for a, b in zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True):
        if eqx.is_array(a):
            if jnp.issubdtype(a.dtype, jax.dtypes.prng_key):
                a, b = jax.random.key_data(a), jax.random.key_data(b)
            assert a.dtype == b.dtype
            assert np.asarray(a).tobytes() == np.asarray(b).tobytes()
        else:
            assert a == b or a is b


def largest_difference(one, other):
    pairs = zip(jax.tree.leaves(one), jax.tree.leaves(other), strict=True)
    return max(float(jnp.max(jnp.abs(a - b))) for a, b in pairs)
