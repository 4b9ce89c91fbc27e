"""Score learning along simulated paths: exact for the simulated chain, and trained by `fit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training import LogisticTimes, fit, fit_ensemble
from entropix.training.objective import batch_loss, mean_loss
from entropix.training.path_losses import path_means
from tests.helpers import PROCESSES, as_shipped, quick_jit
from tests.training.common import Linear, assert_same, gaussian_data, small_network


KEY = jax.random.key(0)
LOSSES = {
    "denoising": lambda n, *draws: ex.training.LocalDenoising(n, *draws),
    "sliced": lambda n, *draws: ex.training.SlicedScoreMatching(n, 1, *draws),
    "two probes": lambda n, *draws: ex.training.SlicedScoreMatching(n, 2, *draws),
}


# ---------------------------------------------------------------------------- the exact chain

K, T, M, V, STEPS = 1.4, 0.6, 0.8, 0.3, 16  # stiffness, temperature; data N(M, V); t1 = 1


def chain():
    """Means and variances of Euler-Maruyama in a harmonic well, at steps 0, ..., STEPS."""
    h = 1 / STEPS
    mean, var = [M], [V]
    for _ in range(STEPS):
        mean.append((1 - K * h) * mean[-1])
        var.append((1 - K * h) ** 2 * var[-1] + 2 * T * h)
    return np.array(mean), np.array(var)


class NearExact(eqx.Module):
    """`c` times the score of the chain, plus `d tanh(y)`."""

    c: jax.Array
    d: jax.Array

    def __call__(self, s, y, condition=None):
        mean, var = (jnp.asarray(a, y.dtype) for a in chain())
        k = jnp.round(s * STEPS).astype(int)
        return -self.c * (y - mean[k]) / var[k] + self.d * jnp.tanh(y)


@pytest.mark.parametrize(
    ("name", "antithetic"),
    [
        ("denoising", True),
        ("sliced", True),
        pytest.param("denoising", False, marks=pytest.mark.slow),
        pytest.param("two probes", True, marks=pytest.mark.slow),
    ],
)
def test_least_at_the_exact_score(name, antithetic):
    process = ex.Langevin(ex.processes.Harmonic(K), T)
    loss = LOSSES[name](STEPS, 4, antithetic)
    # The exact score, and four others around it.
    points = jnp.array([[1.0, 0.0], [0.8, 0.0], [1.2, 0.0], [1.0, 0.2], [1.0, -0.2]])

    @quick_jit
    @jax.vmap
    def evaluate(key):
        # Fresh data in each batch: the standard error is that of everything.
        x = M + jnp.sqrt(V) * jax.random.normal(jax.random.fold_in(key, 1), (256, 2))

        def at(point):
            model = ex.ScoreMatching(NearExact(*point), process)
            return batch_loss(loss, model, x, key=key)

        return jax.vmap(jax.value_and_grad(at))(points)

    def mean_and_error(a):
        return np.mean(a), np.std(a) / np.sqrt(len(a))

    values, gradients = evaluate(jax.random.split(KEY, 200))
    for i in range(2):
        mean, error = mean_and_error(gradients[:, 0, i])
        assert abs(mean) < 4 * error
        assert error < 0.05
    for i in range(1, 5):
        mean, error = mean_and_error(values[:, i] - values[:, 0])
        assert mean > 4 * error
    # The minimum itself, sum over steps of h sigma^2/2 E|e*|^2 with two dimensions.
    means, variances = (a[1:] for a in chain())
    slope, offset = K / T - 1 / variances, K / T * means
    expected = -2 * np.mean(T * (slope**2 * variances + offset**2))
    mean, error = mean_and_error(values[:, 0])
    assert abs(mean - expected) < 4 * error
    assert error < 0.01 * abs(expected)


@pytest.mark.parametrize("name", ["denoising", pytest.param("sliced", marks=pytest.mark.slow)])
def test_agrees_with_denoising_from_the_data(name):
    """A Gaussian process has both: the same objective, L - S_tot, up to O(h)."""
    process = ex.VariancePreserving(ex.LinearSchedule(3.0, 3.0))
    model = ex.EntropyMatching(Linear(-0.6), process)
    data = gaussian_data(500)
    closed = ex.Denoising(4, True, "likelihood", LogisticTimes(0.0, 2.0))
    paths = LOSSES[name](64, 8, True)

    @eqx.filter_jit
    def evaluate(loss):
        keys = jax.random.split(KEY, 12)
        values = jax.vmap(lambda key: batch_loss(loss, model, data, key=key))(keys)
        return jnp.mean(values), jnp.std(values) / jnp.sqrt(len(values))

    (one, error), (other, other_error) = evaluate(closed), evaluate(paths)
    assert abs(one - other) < 4 * jnp.hypot(error, other_error) + 0.03 * abs(one)
    assert jnp.hypot(error, other_error) < 0.08 * abs(one)


@pytest.mark.slow(reason="repeated estimates")
def test_antithetic_pairs_keep_the_variance_bounded():
    """The noise of the target is 1/sqrt(h): with pairs the gradient's does not grow with it."""
    model = ex.EntropyMatching(Linear(-0.3), ex.Langevin(ex.processes.Harmonic(), 0.5))
    data = gaussian_data(64)

    def spread(num_steps, antithetic):
        objective = ex.training.LocalDenoising(num_steps, 2, antithetic)

        @quick_jit
        @jax.vmap
        def gradient(key):
            def loss(a):
                changed = eqx.tree_at(lambda m: m.network.a, model, a)
                return batch_loss(objective, changed, data, key=key)

            return jax.grad(loss)(jnp.asarray(-0.3))

        return float(jnp.std(gradient(jax.random.split(KEY, 100))))

    coarse, fine, alone = spread(32, True), spread(512, True), spread(512, False)
    assert fine < 1.3 * coarse
    assert alone > 3 * fine


def test_paths_are_those_of_the_process():
    """Moments at the end of the paths; no gradient goes through them."""
    x = M + jnp.sqrt(V) * jax.random.normal(KEY, (20_000, 1))
    last = jnp.full((20_000, 1), 0.999)

    @jax.jit
    def ends(stiffness):
        process = ex.Langevin(ex.processes.Harmonic(stiffness), T)
        keys = jax.random.split(jax.random.key(1), len(x))
        return jax.vmap(path_means, (None, 0, 0, None, 0))(process, x, last, STEPS, keys)[:, 0, 0]

    means, variances = chain()
    end = ends(jnp.asarray(K))
    np.testing.assert_allclose(jnp.mean(end), means[-1], atol=4 * np.sqrt(V / 20_000))
    np.testing.assert_allclose(jnp.var(end), variances[-1] - 2 * T / STEPS, rtol=0.04)
    assert jax.grad(lambda k: jnp.sum(ends(k)))(jnp.asarray(K)) == 0.0


# ---------------------------------------------------------------------------- training

OPTIONS = {"steps": 11, "batch_size": 12, "ema_decay": 0.9}
LOSS = ex.training.LocalDenoising(8, 2)


def small_langevin_model(seed=0):
    return ex.ScoreMatching(small_network(2, seed), ex.Langevin(ex.processes.DoubleWell(), 0.5))


def density_at_the_end(height, temperature, mean, var, t1):
    """The Fokker-Planck equation of a double well in one dimension, by finite volumes.

    Returns grid, density and score at t1; second order in the cells.
    """
    edges = np.linspace(-3.0, 3.0, 601)
    y = (edges[1:] + edges[:-1]) / 2
    cell = y[1] - y[0]
    potential = height * (y**2 - 1) ** 2
    # Scharfetter-Gummel: rates between neighbours in detailed balance with exp(-U/T).
    up = temperature / cell**2 * np.exp(-np.diff(potential) / (2 * temperature))
    down = temperature / cell**2 * np.exp(np.diff(potential) / (2 * temperature))
    generator = np.diag(up, -1) + np.diag(down, 1)
    generator -= np.diag(generator.sum(axis=0))
    p = np.exp(-((y - mean) ** 2) / (2 * var))
    steps = 400
    half = t1 / steps / 2 * generator
    one = np.linalg.solve(np.eye(y.size) - half, np.eye(y.size) + half)
    p = np.linalg.matrix_power(one, steps) @ (p / p.sum())
    return y, p, np.gradient(np.log(np.maximum(p, 1e-300)), y)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["denoising", "sliced"])
def test_learns_the_score_of_a_double_well(name):
    """Data N(0.3, 0.25) at temperature 0.5 until t1 = 0.2: the relative mean square error there.

    Untrained, the model has the score of the equilibrium, with an error of 0.44; trained, 0.04 to
    0.07 for different seeds, by either loss.
    """
    process = ex.Langevin(ex.processes.DoubleWell(), 0.5, t1=0.2)
    network = ex.FourierMLP(
        1, key=jax.random.key(5), widths=(32, 32), num_features=8, log_snr_scale=0.5
    )
    data = 0.3 + 0.5 * jax.random.normal(jax.random.key(2), (4096, 1))
    model = ex.EntropyMatching(network, process)
    trained = fit(model, data, key=KEY, steps=400, batch_size=64, loss=LOSSES[name](16, 4)).model
    y, p, score = density_at_the_end(1.0, 0.5, 0.3, 0.25, 0.2)

    def relative_error(model):
        got = np.asarray(jax.vmap(lambda y: model.score(process.t1, y[None]))(jnp.asarray(y)))
        return np.sum(p * (got[:, 0] - score) ** 2) / np.sum(p * score**2)

    assert relative_error(trained) < 0.25 * relative_error(model)


def near_the_wells():
    """Data for which eight steps are enough: a cubic drift throws far points out."""
    return 0.4 * gaussian_data()


@pytest.fixture(scope="module")
def whole():
    data = near_the_wells()
    holdout = ex.Holdout(data[:9], every=3)
    return fit(small_langevin_model(), data, key=KEY, loss=LOSS, holdout=holdout, **OPTIONS)


@pytest.mark.slow
def test_resumed_equals_uninterrupted(tmp_path, whole):
    data = near_the_wells()
    options = OPTIONS | {"key": KEY, "loss": LOSS, "holdout": ex.Holdout(data[:9], every=3)}
    options |= {"checkpoint": ex.Checkpoint(tmp_path, resume=True)}
    assert np.all(np.isfinite(whole.history.holdout_loss))

    def interrupt(step, metrics):
        if step >= 6:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit(small_langevin_model(), data, callback=interrupt, **options)
    resumed = fit(small_langevin_model(), data, **options)
    assert_same(resumed, whole)
    for other, message in (
        (ex.training.LocalDenoising(9, 2), r"`num_steps` \(8 there, 9 here\)"),
        (ex.training.SlicedScoreMatching(8), r"`loss` \(LocalDen.* there, SlicedScore.* here\)"),
    ):
        with pytest.raises(ValueError, match=message):
            fit(small_langevin_model(), data, **options | {"loss": other})


@pytest.mark.slow(reason="two training programs")
def test_ensembles(whole):
    options = OPTIONS | {"loss": LOSS}
    keys = jnp.stack([KEY, jax.random.key(1)])
    data = near_the_wells()
    ensemble = fit_ensemble(lambda key: small_langevin_model(), data, keys=keys, **options)
    np.testing.assert_allclose(ensemble.history.loss[0], whole.history.loss, rtol=1e-3, atol=1e-3)
    assert not np.allclose(ensemble.history.loss[1], whole.history.loss, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("name", ["denoising", "sliced"])
def test_conditions_and_shapes(name):
    """Each condition with its example, whatever the shapes; alone and as a whole set."""

    class Network(eqx.Module):
        def __call__(self, s, y, condition=None):
            return jnp.full_like(y, jnp.sum(condition))  # an entropy field c_i, free of divergence

    # Far from zero and almost without noise: equilibrium score -y / T, y the example itself.
    process = ex.Langevin(ex.processes.Harmonic(1e-3), 1e-6)
    model = ex.EntropyMatching(Network(), process, shape=(3, 4))
    x = jnp.arange(1.0, 6.0)[:, None, None] * jnp.ones((5, 3, 4))
    condition = jnp.arange(5.0)[:, None] * jnp.array([0.25, 0.75])
    loss = LOSSES[name](2, 4, True)
    # Weight sigma^2/2 = T times |c|^2 - 2 c y k / T, twelve numbers each.
    expected = -np.mean(12 * 2 * 1e-3 * np.arange(5) * np.arange(1, 6))

    @quick_jit
    def both(key):
        whole = mean_loss(loss, model, x, condition, key=key, batch_size=2)
        return batch_loss(loss, model, x, condition, key=key), whole

    np.testing.assert_allclose(jnp.stack(both(KEY)), expected, rtol=0.05)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, r"`loss` must be LocalDenoising.*\(Langevin\), got Denoising"),
        ({"loss": "sliced"}, "`loss` must be None or a loss such as .*got str"),
        ({"loss": ex.training.LocalDenoising}, "`loss` must be None or a loss such as"),
    ],
)
def test_bad_arguments(kwargs, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        fit(small_langevin_model(), gaussian_data(), key=KEY, **kwargs)


def test_more_bad_arguments():
    for make in (ex.training.LocalDenoising, ex.training.SlicedScoreMatching):
        for bad in (1, 2.5, True):
            with as_shipped(), pytest.raises(ValueError, match="`num_steps` must be an integer"):
                make(bad)
    with pytest.raises(ValueError, match="`num_probes` must be an integer of at least 1, got 0"):
        ex.training.SlicedScoreMatching(4, num_probes=0)
    model = ex.ScoreMatching(small_network(), PROCESSES["cosine"]())
    with pytest.raises(
        ValueError, match=r"`loss` must be None or Denoising\(...\) for CosinePath, whose"
    ):
        fit(model, gaussian_data(), key=KEY, loss=ex.training.LocalDenoising(4))
