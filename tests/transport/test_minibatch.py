"""Couplings of batches: optimal, on the device, and the flows they straighten."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment

import entropix as ex
from tests.helpers import as_shipped
from tests.training.common import assert_same


def batch(n, seed, shape=(2,)):
    one, other = jax.random.split(jax.random.key(seed))
    return 1 + 2 * jax.random.normal(one, (n, *shape)), jax.random.normal(other, (n, *shape))


def cost(x, z):
    return float(jnp.sum((x - z) ** 2))


def test_exact_assignment():
    couple = ex.transport.MinibatchCoupling()
    pairs = [batch(24, seed, (2, 3)) for seed in range(6)]
    x, z = (jnp.stack(part) for part in zip(*pairs, strict=True))
    coupled = jax.jit(jax.vmap(lambda x, z: couple(x, z, key=jax.random.key(0))))(x, z)
    for a, b, c in zip(x, z, coupled, strict=True):
        matrix = np.sum(np.asarray(a[:, None] - b) ** 2, axis=(2, 3))
        assert cost(a, c) == pytest.approx(matrix[linear_sum_assignment(matrix)].sum(), rel=1e-5)
        assert_same(jnp.sort(c.ravel()), jnp.sort(b.ravel()))  # a permutation


@pytest.mark.slow
def test_entropic_plan():
    """Partners are drawn from the plan: mean cost over keys against OTT's."""
    x, z = batch(48, 0)
    coupling = ex.transport.MinibatchCoupling(epsilon=1.0)
    draws = jax.jit(jax.vmap(lambda k: coupling(x, z, key=k)))(
        jax.random.split(jax.random.key(0), 400)
    )
    costs = jnp.mean(jnp.sum((draws - x) ** 2, axis=-1), axis=-1) / 2
    exact = ex.transport.static_bridge(x, z, epsilon=1.0).displacement
    error = float(jnp.std(costs)) / 20
    assert abs(float(jnp.mean(costs)) - float(exact)) < 4 * error + 1e-3 * float(exact)


def small_flow(key=0):
    network = ex.FourierMLP(2, key=jax.random.key(key), widths=(8,), num_features=4)
    return ex.FlowMatching(network, ex.RectifiedFlow())


OPTIONS = {
    "steps": 4,
    "batch_size": 8,
    "loss": ex.FlowLoss(ex.transport.MinibatchCoupling(), num_draws=2),
}


@pytest.mark.slow
def test_training_with_a_coupling():
    """The same key gives the same flow; coupled pairs are closer than independent ones."""
    data = batch(32, 1)[0]
    one = ex.fit(small_flow(), data, key=jax.random.key(0), **OPTIONS)
    assert_same(one, ex.fit(small_flow(), data, key=jax.random.key(0), **OPTIONS))
    options = OPTIONS | {"loss": ex.FlowLoss(num_draws=2, antithetic=False)}
    free = ex.fit(small_flow(), data, key=jax.random.key(0), **options)
    assert np.all(np.asarray(one.history.loss) < np.asarray(free.history.loss))


@pytest.mark.slow
def test_ensemble_with_a_coupling():
    data, keys = batch(32, 1)[0], jax.random.split(jax.random.key(0), 2)
    many = ex.fit_ensemble(lambda _: small_flow(), data, keys=keys, **OPTIONS)
    for key, loss in zip(keys, many.history.loss, strict=True):
        alone = ex.fit(small_flow(), data, key=key, **OPTIONS)
        np.testing.assert_allclose(loss, alone.history.loss, rtol=1e-4)


def test_mistakes():
    data = batch(32, 1)[0]
    coupling = ex.transport.MinibatchCoupling()
    options = {"key": jax.random.key(0), "steps": 2, "batch_size": 8}

    def raises(match, model, **changed):
        with as_shipped(), pytest.raises(ValueError, match=match):
            ex.fit(model, data, **(options | changed))

    network = small_flow().network
    score = ex.VelocityPrediction(network, ex.RectifiedFlow())
    raises("`loss` must be None or another than FlowLoss", score, loss=ex.FlowLoss(coupling))
    raises("`coupling`", small_flow(), loss=ex.FlowLoss(lambda x, z, *, key: z[:1], 2))
    raises("`holdout`", small_flow(), loss=ex.FlowLoss(coupling), holdout=data)
    for loss in (ex.Denoising(), ex.training.LocalDenoising()):
        raises(r"`loss` must be None or FlowLoss\(...\) for FlowMatching", small_flow(), loss=loss)
    with as_shipped(), pytest.raises(ValueError, match="`coupling` must be a function"):
        ex.FlowLoss(3.0)
    with pytest.raises(ValueError, match="`antithetic` must be False"):
        ex.FlowLoss(coupling, antithetic=True)
    with pytest.raises(ValueError, match="epsilon"):
        ex.transport.MinibatchCoupling(epsilon=0.0)


@pytest.mark.slow  # trains two flows
def test_coupled_flows_are_straight_and_short():
    """Two moons: action near W2^2, and one Euler step where others need many."""
    data = ex.datasets.load("moons", num_samples=4096, key=jax.random.key(1)).points
    test = ex.datasets.load("moons", num_samples=400, key=jax.random.key(2)).points
    z = jax.random.normal(jax.random.key(3), (400, 2))
    squared = float(ex.wasserstein(test, z)) ** 2
    found = {}
    for coupling in (None, ex.transport.MinibatchCoupling()):
        network = ex.FourierMLP(2, key=jax.random.key(4), widths=(64, 64), num_features=16)
        model = ex.fit(
            ex.FlowMatching(network, ex.RectifiedFlow()),
            data,
            key=jax.random.key(0),
            steps=400,
            batch_size=128,
            loss=ex.FlowLoss(coupling, num_draws=1),
            learning_rate=5e-3,
        ).model
        path = ex.transport.flow_action(model, z, direction="reverse", num_steps=16)
        row = [float(path.action.value), float(path.bending.value)]
        for steps in (1, 4):
            options = {"direction": "reverse", "num_steps": steps, "solver": diffrax.Euler()}
            row += [float(ex.wasserstein(ex.solve_flow(model, z, **options).final, test))]
        found[coupling is not None] = row
    (free, bent, *far), (action, bending, *near) = found[False], found[True]
    print(f"W2^2 {squared:.3f}; {found}")
    assert abs(action - squared) < 0.2 * squared
    assert free > 1.3 * squared
    assert bending < 0.15 * bent
    assert near[0] < far[1]  # one step against four
    assert near[0] < 0.4 * far[0]
