"""Jumps with any reversible matrix of rates."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg

import entropix as ex
from tests.helpers import as_shipped, quick_jit
from tests.tokens.systems import exact, random_joint, single


K = 4
LAW = np.array([0.4, 0.3, 0.2, 0.1])
NEIGHBOURS = (np.eye(K, k=1) + np.eye(K, k=-1)) * np.sqrt(LAW / LAW[:, None])
UNTIL = ex.LinearSchedule(2.0, 2.0)


def kernel(rates, integral):
    """P(x, k) by the exponential of the generator."""
    rates = rates / rates.sum(1).max()
    return scipy.linalg.expm(integral * (rates - np.diag(rates.sum(1))))


def divergence(p, q):
    return float(np.sum(p * np.log(p / q)))


def test_equal_rates_are_uniform_jumps(x64, getkey):
    """Every method gives the same."""
    general = ex.processes.TokenJumps(np.ones((K, K)), UNTIL)
    uniform = ex.processes.UniformJumps(K, UNTIL)
    x = jnp.arange(4.0)
    z = jax.random.normal(getkey(), (3, K))
    logs = jax.nn.log_softmax(jax.random.normal(getkey(), (K, K)))

    @jax.jit
    def all_of(process, s):
        y = process.perturb(s, x, z)
        field = process.field(s, y, logs)
        return (
            (y, field, process.jumps(y), process.log_kernel(s, y), process.log_states(s, x)),
            (process.backward(s, s / 2, y, field), process.equilibrium_score(s, y)),
            (process.weight(s, x, z), process.prior((K,)).log_prob(y), process.measure(s)),
        )

    for s in (1e-7, 0.3, 1.0):
        found = (jax.tree.leaves(all_of(p, s)) for p in (general, uniform))
        for one, other in zip(*found, strict=True):
            assert np.allclose(one, other, rtol=1e-7, atol=1e-12)


def test_kernel_and_field(x64, getkey):
    """The matrix exponential at all times, ratios of the law, and a step back of one site."""
    process = ex.processes.TokenJumps(NEIGHBOURS, ex.LinearSchedule(30.0, 30.0))
    assert np.allclose(np.exp(process.log_equilibrium), LAW)
    states = jnp.arange(float(K))
    for s in (1e-5, 0.01, 0.1, 1.0):
        expected = kernel(NEIGHBOURS, 30.0 * s)
        found = np.exp(process.log_states(s, states)), np.exp(process.log_kernel(s, states)).T
        assert np.allclose(found, [expected, expected], rtol=1e-9, atol=1e-14)
    p = np.exp(single())
    model = exact(single(), process)
    for s, then in ((0.02, 0.01), (0.2, 0.0)):
        now = p @ kernel(NEIGHBOURS, 30.0 * s)
        fields = np.stack([model.entropy_field(s, y[None])[0] for y in states])
        assert np.allclose(np.exp(fields), np.outer(LAW / now, now / LAW), rtol=1e-8)
        earlier = p @ kernel(NEIGHBOURS, 30.0 * then)
        step = earlier[:, None] * kernel(NEIGHBOURS, 30.0 * (s - then)) / now
        back = process.backward(s, then, states, jnp.asarray(fields))
        assert np.allclose(back, step.T, atol=1e-9)


@pytest.mark.slow(reason="a derivative through the schedule")
def test_entropy_and_its_gradient():
    r"""$KL(p_d\|\pi) - KL(p_T\|\pi)$ of one site, and its derivative in B."""
    data = exact(single(), ex.Masking(K, UNTIL)).sample(4000, key=jax.random.key(0))

    def value(rate, key):
        process = ex.processes.TokenJumps(NEIGHBOURS, ex.LinearSchedule(rate, rate))
        model = exact(jnp.asarray(single(), float), process)
        found = ex.neural_entropy(model, data, key=key, num_evaluations=8192)
        return found.value, found.stderr

    p, rate = np.exp(single()), 1.5
    ends = [divergence(p @ kernel(NEIGHBOURS, b), LAW) for b in (rate, rate + 1e-4, rate - 1e-4)]
    truth, slope = divergence(p, LAW) - ends[0], (ends[2] - ends[1]) / 2e-4
    both = quick_jit(jax.value_and_grad(value, has_aux=True))
    keys = jax.random.split(jax.random.key(1), 9)
    found = np.array([jax.tree.leaves(both(rate, key)) for key in keys])
    assert np.abs(found[0, 0] - truth) < 4 * found[0, 1] < 0.1 * truth
    assert np.abs(found[:, 0].mean() - truth) < 3 * found[0, 1]
    error = found[:, 2].std(ddof=1) / 3
    assert abs(found[:, 2].mean() - slope) < 4 * error < 0.5 * slope


@pytest.mark.slow(reason="a simulation")
def test_samples_have_the_joint_law():
    process = ex.processes.TokenJumps(NEIGHBOURS[:3, :3], ex.processes.CosineSchedule())
    model = exact(random_joint(), process)
    x = np.asarray(ex.sample(model, key=jax.random.key(3), num_samples=6000, num_steps=96), int)
    counts = np.zeros((3, 3, 3))
    np.add.at(counts, tuple(x.T), 1)
    expected = 6000 * np.exp(random_joint())
    often = expected > 5
    assert np.sum((counts - expected)[often] ** 2 / expected[often]) < 60


def test_what_is_refused():
    with as_shipped():
        for rates in (np.ones((2, 3)), -np.eye(3), np.eye(3), np.eye(3, k=1) + np.eye(3, k=-2)):
            with pytest.raises(ValueError, match="`rates` must"):
                ex.processes.TokenJumps(rates, UNTIL)
        one, other = (ex.processes.TokenJumps(r, UNTIL) for r in (NEIGHBOURS, np.ones((K, K))))
        network = ex.FourierMLP(8, key=jax.random.key(0), widths=(4,))
        model = ex.MaskedDenoiser(network, one, shape=(2,))
        with pytest.raises(ValueError, match="`process` must be TokenJumps of 4 tokens"):
            model.with_process(other)
