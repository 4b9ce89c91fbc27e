"""The objective is one integral, whatever the proposal, and it is that of the theory."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training import LogisticTimes, UniformTimes
from entropix.training.losses import weight_per_log_snr
from entropix.training.objective import batch_loss, draws, mean_loss
from entropix.training.times import time_per_log_snr
from tests.helpers import PROCESSES, all_finite, quick_rows
from tests.mixtures import TOTAL_ENTROPY, mixture
from tests.training.common import Linear, gaussian_data, parameters, small_model


PROPOSALS = {
    "uniform": UniformTimes,
    "noise fraction": lambda: LogisticTimes.noise_fraction(0.5),
    "logistic": lambda: LogisticTimes(0.8, 2.0),
    "off centre": lambda: LogisticTimes(-2.0, 2.0),
}


@eqx.filter_jit
def evaluate(loss, model, x, keys):
    """Independent evaluations of the objective: their mean, and its standard error."""
    values = jax.vmap(lambda key: batch_loss(loss, model, x, key=key))(keys)
    return jnp.mean(values), jnp.std(values) / jnp.sqrt(len(keys))


def test_likelihood_loss_is_path_kl_minus_total_entropy():
    """e = -y/2 under VP on the D = 3 mixture: L = 5.5960533604, S_tot = 1.0976671954."""
    model = ex.EntropyMatching(Linear(-0.5), PROCESSES["vp"]())
    x = mixture(3).sample(4096, key=jax.random.key(1))
    expected = 5.5960533604 - TOTAL_ENTROPY[3, "VP"]
    # Independent batches: the samples' own error is part of the standard error.
    loss = ex.Denoising(2, True, "likelihood", LogisticTimes(0.8, 2.0))
    keys = jax.random.split(jax.random.key(2), 64)
    values = jax.jit(jax.vmap(lambda x, key: batch_loss(loss, model, x, key=key)))(
        x.reshape(64, 64, 3), keys
    )
    assert abs(jnp.mean(values) - expected) < 4 * jnp.std(values) / 8
    assert jnp.std(values) / 8 < 0.2


def closed_form(process, a, v, weighting):
    """Data N(0, v) per dimension, field a y: the objective by quadrature in log-SNR."""
    upper = min(float(process.log_snr(process.t0)), 30.0)
    lower = max(float(process.log_snr(process.t1)), -30.0)
    nodes, weights = np.polynomial.legendre.leggauss(200)
    s = process.time_of_log_snr(jnp.asarray(lower + (upper - lower) * (nodes + 1) / 2))
    var, precision = process.var(s), process.equilibrium_precision(s)
    total = process.scale(s) ** 2 * v + var
    loss = 2 * ((a - precision) ** 2 * var * total + 2 * (a - precision) * var + 1)
    if weighting == "likelihood":  # relative to e = 0
        loss = loss - 2 * (precision**2 * var * total - 2 * precision * var + 1)
    weight = jax.vmap(lambda s: weight_per_log_snr(weighting, process, s))(s)
    return float(jnp.sum(weights * weight * loss) * (upper - lower) / 2)


def quadratic(process, s):
    return s**2


CASES = [("vp", "likelihood")]
CASES += [
    pytest.param(*case, marks=pytest.mark.slow)
    for case in (
        ("vp", "uniform"),
        ("vp", quadratic),
        ("vpx", "likelihood"),
        ("rf", "uniform"),
        ("path-trig", quadratic),
    )
]


@pytest.mark.parametrize(("name", "weighting"), CASES)
def test_expected_loss_is_the_integral_whatever_the_proposal(name, weighting, x64):
    process, v = PROCESSES[name](), 0.6
    # Two points have the moments of N(0, v) exactly, and the loss is quadratic.
    x = jnp.sqrt(v) * jnp.array([[1.0, 1.0], [-1.0, 1.0], [1.0, -1.0], [-1.0, -1.0]])
    model = ex.EntropyMatching(Linear(-0.3), process)
    expected = closed_form(process, -0.3, v, weighting)
    keys = jax.random.split(jax.random.key(0), 400)
    for label, times in PROPOSALS.items():
        variants = [(4, True)] if label != "logistic" else [(4, True), (3, False)]
        for count, antithetic in variants:
            loss = ex.Denoising(count, antithetic, weighting, times())
            value, error = evaluate(loss, model, x, keys)
            assert abs(value - expected) < 4 * error, (label, count, antithetic)
            assert error < 0.3 * (1 + abs(expected)), label


def test_likelihood_weight_is_the_function_of_the_theory(x64):
    """sigma^2 / (2 Sigma^2) ds = d(-lambda) / 2."""
    process, s = PROCESSES["vpx"](), jnp.linspace(0.1, 0.9, 5)
    weight = process.sigma_squared(s) / (2 * process.var(s))
    slope = jax.vmap(jax.grad(process.log_snr))(s)
    assert jnp.allclose(weight, -slope / 2, rtol=1e-9)
    assert jnp.allclose(weight * time_per_log_snr(process, s), 0.5, rtol=1e-9)
    uniform = weight_per_log_snr("uniform", process, s[2])
    assert jnp.allclose(uniform, weight_per_log_snr(lambda p, s: 1.0, process, s[2]))


@eqx.filter_jit
def gradients(objective, model, u, x, z):
    def loss(network, u, x, z):
        full = eqx.tree_at(lambda m: m.network, model, eqx.combine(network, model.network))
        return objective.one(full, x, None, u, z, None)

    slopes = jax.vmap(jax.value_and_grad(loss), in_axes=(None, 0, 0, 0))
    return slopes(parameters(model), u, x, z)


NAMES = ("vp", "vpx", "sl", "ve", "subvp-cosine", "rf", "path-trig", "path-sqrt")
# Each kind of end with one of the weightings.
ENDS = [
    *((name, "likelihood") for name in ("vp", "ve", "subvp-cosine")),
    *((name, "uniform") for name in ("sl", "rf")),
]
OTHERS = [(name, w) for name in NAMES for w in ("likelihood", "uniform") if (name, w) not in ENDS]


@pytest.mark.parametrize(("name", "weighting"), quick_rows(ENDS, OTHERS))
def test_loss_and_gradient_are_finite_at_both_ends(name, weighting):
    """The first and last quantiles of a very large batch, in float32."""
    process = PROCESSES[name]()
    model = small_model(process, widths=(4,), num_features=2)
    # A head that is not zero: gradients reach every layer.
    model = eqx.tree_at(lambda m: m.network.head.weight, model, replace_fn=lambda w: w + 0.1)
    u = jnp.array([6e-12, 1e-9, 1e-5, 1 - 2.0**-20, 1 - 2.0**-24], jnp.float32)
    x, z = jax.random.normal(jax.random.key(0), (2, len(u), 2))

    uniform, matched = UniformTimes(), LogisticTimes.matched(process, model.scaling)
    for times in (uniform, matched) if name in ("vp", "subvp-cosine") else (matched,):
        assert all_finite(gradients(ex.Denoising(1, False, weighting, times), model, u, x, z))


def test_antithetic_pairs_share_their_time():
    u, z = draws(ex.Denoising(6), gaussian_data(6), *jax.random.split(jax.random.key(0)))
    assert u.shape == (6, 6)
    assert z.shape == (6, 6, 2)
    assert jnp.array_equal(u[:, :3], u[:, 3:])
    assert jnp.array_equal(z[:, :3], -z[:, 3:])
    assert len(np.unique(u)) == 18


@pytest.mark.slow(reason="a program of its own")
def test_mean_over_is_the_mean_of_the_examples():
    """Batches of any size, also one that leaves a remainder."""
    model, x = small_model(), gaussian_data(10)
    model = eqx.tree_at(lambda m: m.network.head.weight, model, replace_fn=lambda w: w + 0.1)
    loss = ex.Denoising(4, True, "uniform", UniformTimes())

    @jax.jit
    def means(key):
        sizes = (1, 3, 64)
        return [mean_loss(loss, model, x, key=key, batch_size=size) for size in sizes]

    values = means(jax.random.key(0))
    assert np.allclose(values, values[0], rtol=1e-5)
