"""Linear maps around a network."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped


def skip(**options):
    inner = ex.FourierMLP(3, condition_dim=3, widths=(8,), key=jax.random.key(0))
    return ex.networks.LinearSkip(inner, 3, condition_dim=3, key=jax.random.key(1), **options)


def opened(network):
    """With weights as after training."""
    last = network.gate.layers[-1]
    weight = jax.random.normal(jax.random.key(2), last.weight.shape)
    return eqx.tree_at(lambda n: n.gate.layers[-1].weight, network, weight)


@pytest.mark.slow(reason="a training")
def test_zero_when_new_and_linear_when_trained():
    y, c = jnp.array([1.0, -2.0, 0.5]), jnp.array([0.3, 0.7, 1.0])
    assert not np.any(skip()(0.0, y, c))
    network = opened(skip())
    once, twice = network(1.0, y, c), network(1.0, 2 * y, 2 * c)
    assert np.any(once)
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-5)
    assert np.all(np.isfinite(network(jnp.inf, y, c)))
    assert np.all(np.isfinite(network(-jnp.inf, y, c)))


def test_flags_choose_the_map():
    """Without flags the map of y does not depend on the condition; with one it does."""
    y, one_hot, zero = jnp.ones(3), jnp.array([0.0, 0.0, 1.0]), jnp.zeros(3)

    def of_y(network, c):
        return network(1.0, y, c) - network(1.0, jnp.zeros(3), c)

    plain, flagged = opened(skip()), opened(skip(num_flags=1))
    np.testing.assert_allclose(of_y(plain, one_hot), of_y(plain, zero), atol=1e-5)
    assert np.max(np.abs(of_y(flagged, one_hot) - of_y(flagged, zero))) > 1e-3


def test_bad_sizes():
    with pytest.raises(ValueError, match="`num_flags` must be at most `condition_dim`"):
        skip(num_flags=4)
    with pytest.raises(ValueError, match="`num_maps` must be an integer"):
        skip(num_maps=0)
    with as_shipped(), pytest.raises(ValueError, match="`network` must be callable"):
        ex.networks.LinearSkip(None, 3, key=jax.random.key(0))  # pyright: ignore[reportArgumentType]
