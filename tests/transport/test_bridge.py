"""Schrödinger bridges from samples, against the closed form, the static problem and themselves."""

from typing import ClassVar

import chex
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training.objective import batch_loss
from entropix.transport.bridge import _first_pairs
from entropix.transport.bridge_costs import measure_bridge
from entropix.transport.bridge_process import (
    BridgeObjective,
    BridgeProcess,
    BrownianMotion,
    end_clock,
)
from tests.helpers import as_shipped
from tests.training.common import assert_same
from tests.transport.test_gaussian_bridge import entropy, pair


DELTA_RANGE = (1e-5, 0.03)


class Exact(eqx.Module):
    """The network that gives a `BridgeProcess` the drift of a Gaussian bridge, but for `off`."""

    bridge: ex.transport.GaussianBridge
    mean: jax.Array
    variance: jax.Array
    off: jax.Array

    def __init__(self, bridge, off):
        ends = (bridge.start, bridge.end)
        self.bridge, self.off = bridge, jnp.asarray(off)
        self.mean = jnp.stack([g.mean for g in ends])
        self.variance = jnp.stack([jnp.mean(jnp.diagonal(g.covariance)) for g in ends])

    def __call__(self, level, y, condition=None):
        epsilon = self.bridge.epsilon
        delta = jnp.clip(1e-3 * self.variance[1] / epsilon, *DELTA_RANGE)
        s = (1 + delta - delta * jnp.exp(level)) / (1 + jnp.exp(level))  # inverts the level
        centre = (1 - s) * self.mean[0] + s * self.mean[1]
        variance = (1 - s) ** 2 * self.variance[0] + s**2 * self.variance[1]
        width = jnp.sqrt(variance + epsilon * s * (1 - s))
        drift = self.bridge.drift(s, centre + width * y)
        drift = drift + self.off * jnp.sin(4 * y)
        size = jnp.sqrt(jnp.sum(self.variance) + epsilon * s / (1 + delta - s))
        return (drift - self.mean[1] + self.mean[0]) / size


def exact_processes(bridge, off=0.0):
    """Both directions of a Gaussian bridge, as if they had been learnt; `off`, with a misfit."""
    back = ex.transport.GaussianBridge(bridge.end, bridge.start, epsilon=bridge.epsilon)

    def process(bridge):
        network = Exact(bridge, off)
        blank = jnp.zeros((2, bridge.start.dim))
        built = BridgeProcess(network, BrownianMotion(bridge.epsilon), blank, blank)
        return eqx.tree_at(lambda p: (p.mean, p.variance), built, (network.mean, network.variance))

    return process(bridge), process(back)


def test_clock():
    """It runs from the end of the time to its start, and its rate is its derivative."""
    v = jnp.linspace(0.0, 1.0, 9)
    for delta in jnp.asarray([1e-4, 0.03]):
        rest, rate, steep = end_clock(v, delta)
        assert float(rest[0]) == 0
        assert float(rest[-1]) == pytest.approx(1, abs=1e-6)
        inner = v[1:-1]
        slope = jax.vmap(jax.grad(lambda v, d=delta: end_clock(v, d)[0]))(inner)
        np.testing.assert_allclose(rate[1:-1], slope, rtol=1e-4)
        np.testing.assert_allclose(rate, steep * jnp.sqrt(rest), rtol=1e-5)


@pytest.mark.slow(reason="a sequence of step sizes")
def test_costs_are_right_to_second_order():
    """Drifts that are off, about an offset of 1000: less than by E|u|^2, and within the error."""
    start, end = (ex.Gaussian(g.mean + 1000, g.covariance) for g in pair(1))
    bridge = ex.transport.GaussianBridge(start, end, epsilon=0.5)
    x, y = (g.sample(512, key=jax.random.key(i)) for i, g in enumerate((start, end)))

    def costs(off):
        processes = exact_processes(bridge, off)
        return measure_bridge(*processes, x, y, key=jax.random.key(2), num_steps=16)

    exact, off = costs(0.0), costs(0.5)
    for a, b, truth in zip(exact, off, (bridge.path_kl, bridge.entropy_production), strict=True):
        assert abs(float(a.value - truth)) < 3 * float(a.stderr)
        assert abs(float(b.value - a.value)) < 2 * float(b.stderr)
        assert float(a.stderr) < 0.1 * float(truth)
    # int |off sin 4y|^2 / 2 epsilon ds = off^2 / 4 epsilon = 0.125: found, and stated.
    assert float(off[0].stderr) > float(exact[0].stderr)


@pytest.mark.slow
def test_costs_and_their_errors():
    """Path KL and entropy production of the exact drifts: values, and scatter over keys."""
    bridge = ex.transport.GaussianBridge(*pair(1), epsilon=0.5)
    forward, backward = exact_processes(bridge)

    def run(keys):
        x_key, y_key, path_key = keys
        x, y = bridge.start.sample(64, key=x_key), bridge.end.sample(64, key=y_key)
        return measure_bridge(forward, backward, x, y, key=path_key, num_steps=16)

    keys = jax.random.split(jax.random.key(0), (3, 100))
    fixed = jnp.broadcast_to(keys[:2, :1], (2, 100))
    run_all = jax.jit(lambda keys: jax.lax.map(run, keys))  # compiled once
    fresh, same = run_all(tuple(keys)), run_all((*fixed, keys[2]))
    for found, exact in zip(fresh, (bridge.path_kl, bridge.entropy_production), strict=True):
        scatter = float(jnp.std(found.value))
        assert abs(float(jnp.mean(found.value)) - float(exact)) < 4 * scatter / 100**0.5 + (
            2e-3 * float(exact)
        )
        assert 0.77 < scatter / float(jnp.mean(found.stderr)) < 1.3
    for found in same:
        ratio = jnp.std(found.value) / jnp.sqrt(jnp.mean(found.mc_stderr**2))
        assert 0.77 < float(ratio) < 1.3


@pytest.mark.slow
def test_result_of_the_exact_drifts():
    bridge = ex.transport.GaussianBridge(*pair(2), epsilon=0.5)
    found = ex.transport.SchroedingerBridge(*exact_processes(bridge), None, None, None)
    x = jnp.asarray([0.2, -0.4])
    np.testing.assert_allclose(found.velocity(0.3, x), bridge.velocity(0.3, x), rtol=2e-4)
    np.testing.assert_allclose(found.score(0.3, x), bridge.marginal(0.3).score(x), rtol=2e-4)
    # A process like any other: its equilibrium score is twice the drift over epsilon.
    np.testing.assert_allclose(
        found.forward.equilibrium_score(0.3, x), 4 * bridge.drift(0.3, x), rtol=2e-4
    )
    y = bridge.end.sample(4096, key=jax.random.key(0))
    first, last = found.sample_pairs(y, key=jax.random.key(1), direction="backward", num_steps=32)
    assert last is y
    cross = np.cov(np.concatenate([first, last], axis=1).T)[:2, 2:]
    np.testing.assert_allclose(cross, bridge.cross, atol=5 / 64)


@pytest.mark.slow
def test_regression_is_least_at_the_exact_drift():
    """The objective's gradient vanishes at the projection of the entropic plan's bridges."""
    bridge = ex.transport.GaussianBridge(*pair(1), epsilon=0.5)
    forward, _ = exact_processes(bridge)
    pairs = jnp.stack(bridge.sample_pairs(20_000, key=jax.random.key(0)), axis=1)
    objective = BridgeObjective(num_draws=2, antithetic=True)

    def loss(off, key):
        other = eqx.tree_at(
            lambda p: p.network,
            forward,
            lambda level, y, condition: forward.network(level, y) + off[0] + off[1] * y,
        )
        return batch_loss(objective, other, pairs, key=key)

    slope = jax.jit(jax.vmap(jax.grad(loss), in_axes=(None, 0)))
    slopes = slope(jnp.zeros(2), jax.random.split(jax.random.key(1), 8))
    assert float(jnp.max(jnp.abs(jnp.mean(slopes, axis=0)))) < 0.06
    curved = slope(jnp.full(2, 0.2), jax.random.split(jax.random.key(1), 8))
    assert float(jnp.min(jnp.mean(curved, axis=0))) > 0.3
    # In nats: minus the path KL of the bridge.
    least = jax.jit(jax.vmap(lambda k: batch_loss(objective, forward, pairs, key=k)))(
        jax.random.split(jax.random.key(2), 8)
    )
    assert float(jnp.mean(least)) == pytest.approx(-float(bridge.path_kl), rel=0.02)


SMALL = {
    "epsilon": 0.5,
    "steps": 6,
    "batch_size": 16,
    "num_iterations": 2,
    "num_steps": 4,
}


class Counted(eqx.Module):
    """A network that notes how often it is traced."""

    inner: ex.FourierMLP
    traced: ClassVar[list] = []

    def __call__(self, level, y, condition=None):
        self.traced.append(level)
        return self.inner(level, y)


def small_bridge(key=0, **options):
    network = Counted(ex.FourierMLP(2, key=jax.random.key(7), widths=(8,), num_features=4))
    start, end = pair(2)
    x = start.sample(40, key=jax.random.key(1))
    y = end.sample(24, key=jax.random.key(2))
    options = {"network": network} | SMALL | options
    return ex.transport.schroedinger_bridge(x, y, key=jax.random.key(key), **options)


@pytest.mark.slow
def test_one_program_and_one_result(tmp_path):
    """Nothing is traced again, whatever the iteration and direction; the key decides."""
    seen = []
    one = small_bridge(callback=lambda i, bridge: seen.append((i, bridge)))
    count = len(Counted.traced)
    # Numbers are arguments of the compiled programs, not constants in them.
    two = small_bridge(epsilon=0.7, num_iterations=3)
    same = small_bridge()
    assert len(Counted.traced) == count
    assert_same(one, same)
    assert_same(small_bridge(batch_size=None), small_bridge(batch_size=40))  # as many as there are
    assert [i for i, _ in seen] == [1, 2]
    assert_same(seen[1][1].forward, one.forward)
    assert one.loss.shape == (2, 2, 6)
    assert two.loss.shape == (2, 3, 6)
    assert not np.allclose(one.loss, small_bridge(key=1).loss)
    networks = lambda bridge: (bridge.forward.network, bridge.backward.network)  # noqa: E731
    plain = eqx.tree_at(networks, one, tuple(n.inner for n in networks(one)))
    ex.save(tmp_path / "bridge", plain)
    assert_same(ex.load(tmp_path / "bridge"), plain)
    chex.assert_tree_all_finite(eqx.filter(one, eqx.is_inexact_array))
    # One iteration does not show whether another would change anything.
    assert float(small_bridge(num_iterations=1).cost.stderr) == float("inf")


def test_first_pairs_may_be_coupled():
    """Batches are coupled; what is left over, and the points themselves, stay as they are."""
    start, end = pair(2)
    x, y = start.sample(40, key=jax.random.key(1)), end.sample(40, key=jax.random.key(2))
    free, coupled = (
        _first_pairs(x, y, coupling, 16, jax.random.key(3))
        for coupling in (None, ex.transport.MinibatchCoupling())
    )
    assert_same(free[:, 0], coupled[:, 0])
    assert_same(free[32:], coupled[32:])
    for part in (slice(0, 16), slice(16, 32)):
        assert_same(*(jnp.sort(pairs[part, 1], axis=0) for pairs in (free, coupled)))
        cost = [float(jnp.sum((p[part, 0] - p[part, 1]) ** 2)) for p in (free, coupled)]
        assert cost[1] < cost[0]


@pytest.mark.slow
def test_mistakes():
    points = jnp.ones((16, 2)) * jnp.arange(16.0)[:, None]
    options = {"key": jax.random.key(0), "epsilon": 1.0, "batch_size": 4}

    def raises(match, x=points, y=points, **changed):
        with as_shipped(), pytest.raises(ValueError, match=match):
            ex.transport.schroedinger_bridge(x, y, **(options | changed))

    raises("`y`", y=points[:, :1])
    raises("`x`", x=points.at[0, 0].set(jnp.nan))
    raises("at least 10", x=points[:9])
    raises("`x` must vary", x=jnp.ones((16, 2)))
    raises("`y` must vary", y=jnp.ones((16, 2)))
    raises("`epsilon`", epsilon=0.0)
    raises("`batch_size`", batch_size=17)
    raises("`num_iterations`", num_iterations=0)
    raises("`coupling`", coupling=1.0)
    raises("`callback`", callback=1.0)
    raises("`ema_decay`", ema_decay=1.0)
    raises("`network`", network=lambda level, y, condition=None: y)
    raises("`network`", x=points[..., None], y=points[..., None])
    with pytest.raises(FloatingPointError, match="finite"):
        small_bridge(learning_rate=1e30)
    with pytest.raises(ValueError, match="direction"):
        small_bridge().transport(points, key=jax.random.key(0), direction="sideways")


@pytest.mark.slow  # trains a bridge
def test_bridge_between_gaussians():
    """Learnt from independent pairs: plan within 3%, costs against closed form and OTT."""
    dim = 2
    start, end = pair(dim)
    data_key, other_key, key, pair_key = jax.random.split(jax.random.key(0), 4)
    x, y = start.sample(8192, key=data_key), end.sample(8192, key=other_key)

    def moments(points):
        return ex.Gaussian(jnp.mean(points, axis=0), jnp.atleast_2d(jnp.cov(points.T)))

    exact = ex.transport.GaussianBridge(
        moments(x), moments(y), epsilon=0.5
    )  # of these very samples
    network = ex.FourierMLP(dim, key=jax.random.key(9), widths=(64, 64), num_features=8)
    options = {"num_iterations": 4, "steps": 600, "learning_rate": 4e-3, "num_steps": 32}
    found = ex.transport.schroedinger_bridge(x, y, key=key, epsilon=0.5, network=network, **options)
    # Two paths from each point: the noise of pairs is below a third of the tolerance.
    before, after = found.sample_pairs(jnp.tile(x, (2, 1)), key=pair_key, num_steps=32)
    joint = jnp.cov(jnp.concatenate([before, after], axis=1).T)
    spread = float(jnp.max(jnp.linalg.eigvalsh(exact.end.covariance)))
    scale = float(jnp.sqrt(spread * jnp.max(jnp.linalg.eigvalsh(exact.start.covariance))))
    errors = {
        "mean": jnp.linalg.norm(jnp.mean(after, axis=0) - exact.end.mean) / spread**0.5,
        "covariance": jnp.linalg.norm(joint[dim:, dim:] - exact.end.covariance, 2) / spread,
        "cross": jnp.linalg.norm(joint[:dim, dim:] - exact.cross, 2) / scale,
        "cost": abs(found.cost.value / exact.path_kl - 1),
        "production": abs(found.entropy_production.value / exact.entropy_production - 1),
    }
    print({name: f"{float(e):.4f}" for name, e in errors.items()})
    assert all(float(e) < 0.04 for e in errors.values()), errors
    few = 1500
    sample = ex.transport.GaussianBridge(moments(x[:few]), moments(y[:few]), epsilon=0.5)
    static = ex.transport.static_bridge(x[:few], y[:few], epsilon=0.5).path_kl(entropy(sample.end))
    print("cost", found.cost, float(exact.path_kl), "static", static, float(sample.path_kl))
    assert float(static.value) == pytest.approx(float(sample.path_kl), rel=0.03)


def grid_path_kl(first, second, epsilon):
    """The path KL between densities of the plane, by Sinkhorn on a grid, in NumPy."""
    t = np.linspace(-4.2, 4.2, 169)
    points = jnp.asarray(np.stack(np.meshgrid(t, t, indexing="ij"), axis=-1)).reshape(-1, 2)
    p, q = (
        np.maximum(np.exp(np.asarray(d.log_prob(points), np.float64)), 1e-300).reshape(t.size, -1)
        for d in (first, second)
    )
    cell = (t[1] - t[0]) ** 2
    kernel = (
        np.exp(-((t[:, None] - t) ** 2) / (2 * epsilon)) * (cell / (2 * np.pi * epsilon)) ** 0.5
    )
    b, value, before = np.ones_like(q), 0.0, np.inf
    while abs(value - before) > 1e-6:
        before = value
        for _ in range(10):
            a = p / (kernel @ b @ kernel.T)
            b = q / (kernel @ a @ kernel.T)
        value = cell * (np.sum(q * np.log(b)) - np.sum(p * np.log(kernel @ b @ kernel.T)))
    return value


@pytest.mark.slow  # trains two bridges
def test_bridge_between_moons_and_a_ring():
    """Not Gaussian, far from the origin: path KL against entropic transport of the densities."""
    first, second = (
        ex.datasets.load(name, num_samples=2000, key=jax.random.key(seed))
        for seed, name in enumerate(("moons", "eight-gaussians"))
    )
    x, y = jnp.asarray(first.points) + 1000, jnp.asarray(second.points) + 1000
    options = {"num_iterations": 3, "steps": 200, "learning_rate": 4e-3, "num_steps": 32}
    for epsilon in (0.2, 5.0):
        found = ex.transport.schroedinger_bridge(
            x, y, key=jax.random.key(2), epsilon=epsilon, **options
        )
        exact = grid_path_kl(first.distribution, second.distribution, epsilon)
        print(epsilon, found.cost, exact, found.entropy_production)
        assert abs(float(found.cost.value) - exact) < 3 * float(found.cost.stderr)
        assert float(found.cost.stderr) < 0.06 * exact
        reached = found.transport(x, key=jax.random.key(3), num_steps=32)
        assert float(ex.wasserstein(reached[:1000], y[:1000]).value) < 0.4
