"""The chain rule in random orders."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import as_shipped, quick_jit
from tests.tokens.systems import entropy


def chain(length, process):
    rows = np.array([[0.7, 0.2, 0.1], [0.1, 0.6, 0.3], [0.3, 0.1, 0.6]])
    return ex.models.ExactChain.markov([0.2, 0.3, 0.5], rows, process, length=length)


def test_any_order_of_an_exact_model_is_its_probability():
    """Bits per token are -log p, whose mean is known from the entropies of the rows."""
    model = chain(16, ex.Masking(3, ex.LinearSchedule()))
    rows = np.exp(model.log_couplings)
    law, expected = np.array([0.2, 0.3, 0.5]), entropy(np.log([0.2, 0.3, 0.5]))
    for _ in range(15):
        expected += law @ [entropy(np.log(row)) for row in rows]
        law = law @ rows
    assert abs(model.entropy() - expected) < 1e-4
    x = model.sample(16, key=jax.random.key(0))
    method, key = ex.density.AnyOrder(2), jax.random.key(1)
    found = ex.log_prob(model, x, key=key, method=method)
    assert np.allclose(found.value, model.log_prob(x), atol=2e-5)
    assert np.all(np.abs(found.value - model.log_prob(x)) < 4 * found.stderr)
    assert float(jnp.max(found.stderr)) < 1e-4
    bits = ex.density.bits_per_dimension(model, x, key=key, method=method)
    assert np.allclose(bits.value, -model.log_prob(x) / (16 * np.log(2)), atol=1e-5)


class Inconsistent(eqx.Module):
    """Conditional laws of no joint law: they depend on how many tokens are masked."""

    strength: jax.Array

    def __call__(self, log_snr, rows, condition=None):
        masked = jnp.sum(rows[:, -1])
        pull = self.strength * (jnp.arange(rows.shape[0]) + condition) * jnp.sin(masked)
        return rows.at[:, 0].set(pull).at[:, 1].set(rows[:, 0].sum())


def by_enumeration(strength, x, condition):
    """The mean of log p over all orders."""

    def of_order(order):
        total = 0.0
        for t, site in enumerate(order):
            rows = jax.nn.one_hot(jnp.where(jnp.isin(jnp.arange(4), order[:t]), x, 2), 3)
            logits = Inconsistent(strength)(0.0, rows, condition)[site, :2]
            total += jax.nn.log_softmax(logits)[x[site]]
        return total

    return jnp.mean(jax.lax.map(of_order, jnp.array(list(itertools.permutations(range(4))))))


def test_any_order_of_an_inconsistent_network():
    """The mean over orders, its gradient, and an honest error for each sequence."""
    process = ex.Masking(2, ex.LinearSchedule())
    x, condition = jnp.array([[0.0, 1.0, 1.0, 0.0]] * 256), jnp.arange(256) % 2 * 1.0

    def found(strength):
        model = ex.MaskedDenoiser(Inconsistent(strength), process, shape=(4,))
        result = ex.log_prob(
            model, x, key=jax.random.key(0), method=ex.density.AnyOrder(24), condition=condition
        )
        return result.value, result.stderr

    def truth(strength):
        each = [by_enumeration(strength, x[0].astype(int), c) for c in (0.0, 1.0)]
        return jnp.array(each)[condition.astype(int)]

    @quick_jit
    def both(strength):
        ones = jnp.ones(())
        return [jax.jvp(fn, (strength,), (ones,)) for fn in (found, truth)]

    ((value, stderr), (slopes, _)), (expected, true_slopes) = both(jnp.asarray(0.7))
    standard = (value - expected) / stderr
    assert abs(float(jnp.mean(standard))) < 4 / 16
    assert 0.8 < float(jnp.sqrt(jnp.mean(standard**2))) < 1.25
    gap = slopes - true_slopes
    assert abs(float(jnp.mean(gap))) < 4 * float(jnp.std(gap)) / 16
    assert float(jnp.std(gap)) / 16 < 0.03 * abs(float(jnp.mean(true_slopes)))


def test_what_is_refused():
    key, x = jax.random.key(0), jnp.zeros((2, 16))
    masking = ex.Masking(2, ex.LinearSchedule())
    uniform = chain(16, ex.processes.UniformJumps(3, ex.LinearSchedule()))
    with as_shipped():
        with pytest.raises(ValueError, match="`num_orders` must be an integer of at least 2"):
            ex.density.AnyOrder(1)
        with pytest.raises(ValueError, match="`model` must be one under Masking for AnyOrder"):
            ex.log_prob(uniform, x, key=key, method=ex.density.AnyOrder())
        with pytest.raises(ValueError, match="`transform` must be None for models of tokens"):
            ex.density.bits_per_dimension(uniform, x, key=key, transform=(0.0, 1.0))
        with pytest.raises(ValueError, match="`process` must be one of 3 tokens"):
            uniform.with_process(masking)
        with pytest.raises(ValueError, match="`transition` must be probabilities"):
            ex.models.ExactChain.markov([0.5, 0.5], np.ones((2, 2)), masking, length=3)
        with pytest.raises(ValueError, match="`log_fields` must be such that"):
            ex.models.ExactChain([[0.0, -np.inf]] * 2, [[-np.inf, 0.0], [0.0, 0.0]], masking)
        with pytest.raises(ValueError, match="`points` must be integers from 0 to 1"):
            ex.models.ExactEmpirical([[0.5, 1.0]], masking)
