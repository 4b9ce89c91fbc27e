"""Models of tokens with a condition: sequences whose sites are independent given a class."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


LAWS = np.array([[0.8, 0.1, 0.1], [0.2, 0.2, 0.6]])  # of a token, given the class
PROCESS = ex.Masking(3, ex.LinearSchedule())
JOINT = 0.5 * np.einsum("ci,cj->cij", LAWS, LAWS)
NEGENTROPY = float(np.log(3) + (LAWS * np.log(LAWS)).sum(1).mean())  # of a site, given the class


class Bayes(eqx.Module):
    """The exact denoiser: of the class where it is given, else of its posterior."""

    laws: jax.Array

    def __call__(self, log_snr, y, condition):
        classes, tokens = self.laws.shape
        posterior = jax.nn.softmax(jnp.sum(y[:, :tokens] @ jnp.log(self.laws).T, axis=0))
        weights = jnp.where(condition[classes] > 0, condition[:classes], posterior)
        row = jnp.pad(jnp.log(weights @ self.laws), (0, 1))
        return jnp.broadcast_to(row, y.shape)


def information():
    alone = JOINT.sum(0)
    return float(np.sum(JOINT * np.log(JOINT / (0.5 * alone))))


def draw(n):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, n)
    x = (rng.random((n, 2, 1)) > LAWS[labels].cumsum(1)[:, None, :2]).sum(-1)
    return x.astype(np.float32), labels


def model():
    network = ex.networks.ConditionDropout(Bayes(jnp.asarray(LAWS, float)), 2)
    return ex.MaskedDenoiser(network, PROCESS, shape=(2,))


@pytest.mark.slow(reason="two integrals over tokens")
def test_information_of_labels():
    """I(X; C), and S_NN given the labels, which exceeds that without them by it."""
    x, labels = draw(2000)
    given, key = jax.nn.one_hot(labels, 2), jax.random.key(0)
    found = ex.mutual_information(model(), x, given, key=key, num_evaluations=4096)
    assert abs(float(found.sigmas_from(information()))) < 4
    assert float(found.stderr) < 0.1 * information()
    stored = ex.neural_entropy(model(), x, condition=given, key=key, num_evaluations=4096)
    assert abs(float(stored.sigmas_from(2 * NEGENTROPY))) < 4
    assert float(stored.stderr) < 0.1 * NEGENTROPY


@pytest.mark.slow(reason="a sampler, a likelihood and a training, each with a program of its own")
@pytest.mark.parametrize("kind", ["transformer", "ratios"])
def test_one_network_learns_both_laws(kind):
    """With labels and without, and samples of each class."""
    x, labels = draw(6000)
    given, key = np.asarray(jax.nn.one_hot(labels, 2)), jax.random.key(0)
    if kind == "transformer":
        size: dict[str, Any] = {"width": 16, "depth": 1, "heads": 2, "time_dependent": False}
        inner = ex.TokenTransformer((2,), 4, condition_dim=3, key=key, **size)
        process, cls = PROCESS, ex.MaskedDenoiser
    else:
        inner = ex.FourierMLP(6, widths=(32, 32), condition_dim=3, key=key)
        process, cls = (
            ex.processes.UniformJumps(3, ex.processes.CosineSchedule()),
            ex.models.ScoreEntropy,
        )
    untrained = cls(ex.networks.ConditionDropout(inner, 2), process, shape=(2,))
    trained = ex.fit(
        untrained, x[:3000], condition=given[:3000], key=key, steps=400, batch_size=128
    ).model
    x, given, labels = x[3000:], given[3000:], labels[3000:]
    for form in ("denoising", "score"):
        found = ex.mutual_information(trained, x, given, key=key, form=form)
        assert abs(float(found.value) / information() - 1) < 0.2
    bound = ex.log_prob(trained, x[:512], condition=given[:512], key=key).mean
    assert abs(float(bound.value) + 2 * (np.log(3) - NEGENTROPY)) < 4 * float(bound.stderr) + 0.05
    made = ex.sample(trained, key=key, num_samples=3000, condition=given, num_steps=16)
    for k, law in enumerate(LAWS):
        counts = np.bincount(np.asarray(made)[labels == k].astype(int).ravel(), minlength=3)
        np.testing.assert_allclose(counts / counts.sum(), law, atol=0.06)


def test_guidance_under_masking_is_a_law():
    """A masked token has a law for every weight, in which what either model rules out is not."""
    weight, state, given = 2.5, jnp.array([3.0, 0.0]), jnp.array([1.0, 0.0])
    guided = ex.models.Guided(model(), weight)
    marginal = LAWS[:, 0] / LAWS[:, 0].sum() @ LAWS  # the other token tells of the class
    expected = marginal ** (1 - weight) * LAWS[0] ** weight
    field = guided.entropy_field(0.5, state, given)
    np.testing.assert_allclose(jnp.exp(field[0]) / 3, expected / expected.sum(), rtol=1e-5)
    np.testing.assert_array_equal(field[1], 0.0)
    score = guided.score(0.5, state, given)
    np.testing.assert_allclose(score, field + PROCESS.equilibrium_score(0.5, state), rtol=1e-6)

    with np.errstate(divide="ignore"):
        laws = np.log([0.7, 0.3, 0.0]), np.log([0.2, 0.4, 0.4])
    one, other = (ex.models.ExactDiscrete(law, PROCESS) for law in laws)

    def first(weight):
        field = ex.models.Guided(one, weight, other).entropy_field(0.5, state[:1])
        return jnp.exp(field[0]) / 3

    for weight, expected in ((0.0, np.exp(laws[1])), (1.0, np.exp(laws[0]))):
        np.testing.assert_allclose(first(weight), expected, rtol=1e-5)
    ratio = 0.7**2 / 0.2, 0.3**2 / 0.4
    np.testing.assert_allclose(first(2.0), [*(np.array(ratio) / sum(ratio)), 0.0], rtol=1e-5)
    assert np.all(np.isfinite(jax.jacobian(first)(2.0)))


def test_guided_rates_of_jumps():
    """The mixture of the logarithms, whose rates need no normalisation."""
    process = ex.processes.UniformJumps(3, ex.LinearSchedule())
    one, other = (ex.models.ExactDiscrete(np.log(law), process) for law in LAWS)
    state = jnp.array([2.0])
    expected = 2 * one.entropy_field(0.1, state) - other.entropy_field(0.1, state)
    found = ex.models.Guided(one, 2.0, other).entropy_field(0.1, state)
    np.testing.assert_allclose(found, expected, rtol=1e-6)
