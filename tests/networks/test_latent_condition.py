"""The condition acts on a latent class by Bayes' rule."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


class Probabilities(eqx.Module):
    """The probabilities given to the wrapped network."""

    def __call__(self, log_snr, y, probabilities):
        return probabilities


def guess(log_snr, y):
    return log_snr * y


def wrapped():
    return ex.networks.LatentCondition(Probabilities(), guess, condition_dim=2, num_classes=3)


def test_evidence_multiplies_the_guess():
    network, y = wrapped(), jnp.array([0.3, -1.0, 0.7])
    condition = jnp.array([0.0, 1.0, 1.0])  # with the mark of ConditionDropout
    likelihood = np.exp(network.evidence[:, 1])
    expected = np.exp(2.0 * np.asarray(y)) * likelihood
    np.testing.assert_allclose(network(2.0, y, condition), expected / expected.sum(), rtol=1e-5)
    alone = network(2.0, y, jnp.zeros(3))
    np.testing.assert_allclose(alone, jax.nn.softmax(2.0 * y), rtol=1e-5)


@pytest.mark.slow
def test_in_a_model_that_is_trained_and_stored(tmp_path):
    x = jax.random.normal(jax.random.key(1), (64, 3))
    label = jax.nn.one_hot((x[:, 0] > 0).astype(int), 2)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    keys = jax.random.split(jax.random.key(2))
    network = ex.networks.LatentCondition(
        ex.FourierMLP(3, widths=(8,), condition_dim=4, key=keys[0]),
        ex.FourierMLP(3, widths=(8,), out_dim=4, key=keys[1]),
        condition_dim=2,
        num_classes=4,
    )
    model = ex.EntropyMatching(ex.networks.ConditionDropout(network, 2, 0.5), process)
    fit = ex.fit(model, x, condition=label, key=keys[0], steps=20, loss=ex.Denoising(2))
    moved = jax.tree.map(lambda a, b: jnp.any(a != b), model.network, fit.model.network)
    assert moved.network.evidence
    assert moved.network.guess.head.weight
    ex.save(tmp_path / "model", fit.model)
    back = ex.load(tmp_path / "model")
    s, y = jnp.asarray(0.4), jnp.ones(3)
    for condition in (None, label[0]):
        np.testing.assert_array_equal(
            back.entropy_field(s, y, condition), fit.model.entropy_field(s, y, condition)
        )


def test_static_mistakes():
    with pytest.raises(ValueError, match="`guess` must have the shape"):
        wrapped()(0.0, jnp.zeros(4), jnp.zeros(2))
    with pytest.raises(ValueError, match="`num_classes` must be an integer of at least 3"):
        ex.networks.LatentCondition(guess, guess, condition_dim=3, num_classes=2)
