"""Conditions given or omitted, as a whole or block by block."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


def test_condition_dropout():
    """Given or omitted; omitted at random only with a key."""

    class Echo(eqx.Module):
        def __call__(self, log_snr, y, condition):
            return jnp.stack([condition[0], condition[1]])

    network = ex.networks.ConditionDropout(Echo(), condition_dim=1, rate=0.25)
    y = jnp.zeros(2)
    np.testing.assert_array_equal(network(0.0, y), [0.0, 0.0])
    np.testing.assert_array_equal(network(0.0, y, jnp.array([5.0])), [5.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    outputs = jax.vmap(lambda k: network(0.0, y, jnp.array([5.0]), key=k))(keys)
    assert float(jnp.mean(outputs[:, 1])) == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(outputs[:, 0], 5 * outputs[:, 1])
    with pytest.raises(ValueError, match="`condition` must hold 1 numbers"):
        network(0.0, y, jnp.zeros(2))
    with pytest.raises(ValueError, match="`rate` must be between 0 and 1"):
        ex.networks.ConditionDropout(Echo(), condition_dim=1, rate=1.0)


class ReturnsCondition(eqx.Module):
    """A network that returns its condition."""

    def __call__(self, log_snr, y, condition):
        return condition


def test_blocks_are_omitted_independently():
    network = ex.networks.ConditionDropout(
        ReturnsCondition(), condition_dim=(2, 1), rate=(0.25, 0.5)
    )
    y, blocks = jnp.zeros(5), (jnp.array([5.0, 6.0]), jnp.array([7.0]))
    np.testing.assert_array_equal(network(0.0, y, blocks), [5.0, 6.0, 7.0, 1.0, 1.0])
    np.testing.assert_array_equal(network(0.0, y, (None, blocks[1])), [0.0, 0.0, 7.0, 0.0, 1.0])
    np.testing.assert_array_equal(network(0.0, y), np.zeros(5))
    keys = jax.random.split(jax.random.key(0), 4000)
    outputs = jax.vmap(lambda k: network(0.0, y, blocks, key=k))(keys)
    np.testing.assert_allclose(outputs[:, 0], 5 * outputs[:, 3])
    np.testing.assert_allclose(outputs[:, 2], 7 * outputs[:, 4])
    flags = np.asarray(outputs[:, 3:])
    np.testing.assert_allclose(flags.mean(0), [0.75, 0.5], atol=0.03)
    assert abs(np.corrcoef(flags.T)[0, 1]) < 0.06
    # Omitted conditions stay omitted in training.
    half = jax.vmap(lambda k: network(0.0, y, (blocks[0], None), key=k))(keys)
    assert not np.any(half[:, 4])


def test_bad_blocks():
    with pytest.raises(ValueError, match="`rate` must be a number or have shape"):
        ex.networks.ConditionDropout(ReturnsCondition(), condition_dim=(2, 1), rate=(0.1, 0.1, 0.1))
    with pytest.raises(ValueError, match="`condition_dim` must hold"):
        ex.networks.ConditionDropout(ReturnsCondition(), condition_dim=())
    network = ex.networks.ConditionDropout(ReturnsCondition(), condition_dim=(2, 1))
    with pytest.raises(ValueError, match="`condition` must be a tuple of 2 blocks"):
        network(0.0, jnp.zeros(5), jnp.zeros(2))
    with pytest.raises(ValueError, match="`condition` must hold 1 numbers, got 2"):
        network(0.0, jnp.zeros(5), (jnp.zeros(2), jnp.zeros(2)))


@pytest.mark.slow(reason="a training")
def test_a_network_with_dropout_gets_a_key():
    y, key = jnp.array([0.3, -0.2]), jax.random.key(0)

    class Dropout(eqx.Module):
        def __call__(self, log_snr, y, condition=None, *, key=None):
            return y if key is None else y * jax.random.uniform(key)

    network = ex.networks.ConditionDropout(
        ex.networks.LinearSkip(Dropout(), 2, condition_dim=3, key=key), 2
    )
    condition = jnp.ones(2)
    still = network(0.0, y, condition)
    assert jnp.array_equal(still, network(0.0, y, condition))
    assert not jnp.array_equal(still, network(0.0, y, condition, key=key))
