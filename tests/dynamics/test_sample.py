"""Samplers: exact moments, orders of convergence, gradients, and what they refuse."""

from collections.abc import Callable

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics import sample
from tests.helpers import (
    DISTINCT,
    PROCESSES,
    double,
    finite_difference,
    numbers,
    paper_mixture,
    quick,
    quick_jit,
    small_gaussian,
    small_mixture,
)


MEAN = (0.5, -1.0)
COVARIANCE = ((0.6, 0.35), (0.35, 0.9))


def draw(model, num_samples, *, key=None, **kwargs):
    """Samples by a program that is compiled to run once."""
    key = jax.random.key(0) if key is None else key
    dynamic, static = eqx.partition((model, kwargs), eqx.is_array)

    def run(dynamic, key):
        model, rest = eqx.combine(dynamic, static)
        return sample(model, key=key, num_samples=num_samples, **rest)

    return quick_jit(run)(dynamic, key)


class SigmaPoints(eqx.Module):
    """A prior whose samples have the mean and covariance of a Gaussian exactly."""

    gaussian: ex.Gaussian

    def sample(self, n: int, *, key):
        root = jnp.sqrt(self.gaussian.dim) * jnp.linalg.cholesky(self.gaussian.covariance).T
        return self.gaussian.mean + jnp.concatenate([root, -root])


class Scripted(eqx.Module):
    """A network that is a given function."""

    fn: Callable
    dim: int = eqx.field(static=True, default=2)

    def __call__(self, log_snr, y, condition=None):
        return self.fn(log_snr, y, condition)


def moments(y):
    centred = y - jnp.mean(y, axis=0)
    return jnp.mean(y, axis=0), centred.T @ centred / y.shape[0]


def standard_errors(y, mean, covariance):
    """How many standard errors the sample mean and covariance are off, at worst."""
    n = y.shape[0]
    sample_mean, sample_cov = moments(y)
    var = jnp.diagonal(covariance)
    outer = (y - sample_mean)[:, :, None] * (y - sample_mean)[:, None, :]
    return max(
        float(jnp.max(jnp.abs(sample_mean - mean) / jnp.sqrt(var / n))),
        float(jnp.max(jnp.abs(sample_cov - covariance) / (jnp.std(outer, axis=0) / jnp.sqrt(n)))),
    )


# ---------------------------------------------------------------------------- values


@pytest.mark.parametrize("name", quick(["rf"]))
def test_flow_carries_the_moments(x64, name):
    """No Monte Carlo: points with the prior's moments arrive with those of the data."""
    model = ex.ExactModel(small_gaussian(), PROCESSES[name]())
    y = draw(
        model,
        4,
        method="ode",
        num_steps=64,
        prior=SigmaPoints(model.prior),
    )
    mean, covariance = moments(y)
    # The flow's start in pure noise is known up to the square root of a negligible signal.
    np.testing.assert_allclose(mean, MEAN, atol=1e-4)
    np.testing.assert_allclose(covariance, COVARIANCE, atol=2e-4)


@pytest.mark.parametrize("name", quick([], ["path-sqrt", *DISTINCT]))
def test_reverse_sde_reaches_the_data(x32, name):
    model = ex.ExactModel(small_gaussian(), PROCESSES[name]())
    y = draw(model, 20_000, key=jax.random.key(0), num_steps=32)
    assert y.shape == (20_000, 2)
    assert y.dtype == jnp.float32
    assert standard_errors(y, jnp.asarray(MEAN), jnp.asarray(COVARIANCE)) < 4


@pytest.mark.slow
@pytest.mark.parametrize("method", quick(["sde"], ["sde", "ode"]))
def test_mixture(method):
    mixture = paper_mixture(3)
    model = ex.ExactModel(mixture, PROCESSES["vpx"]())
    y = draw(model, 40_000, key=jax.random.key(1), method=method, num_steps=32)
    assert standard_errors(y, mixture.mean, mixture.covariance) < 4
    log_prob = mixture.log_prob(y)
    error = jnp.mean(log_prob) + 4.342939960327018  # the mixture's entropy
    assert abs(error) < 4 * jnp.std(log_prob) / 200


@pytest.mark.parametrize("method", quick(["sde"], ["sde", "ode"]))
@pytest.mark.parametrize("name", quick(["rf"], ["rf", "vpx"]))
def test_one_step_is_exact_for_the_reference(name, method):
    mean = jnp.asarray([1.5, -0.2])
    model = ex.ExactModel(ex.Gaussian(mean, 0.3 * jnp.eye(2)), PROCESSES[name]())
    y = draw(model, 40_000, key=jax.random.key(2), method=method, num_steps=1)
    assert standard_errors(y, mean, 0.3 * jnp.eye(2)) < 4


@pytest.mark.parametrize("method", quick(["sde"], ["sde", "ode"]))
def test_finite_data_are_found_again(method):
    points = jnp.asarray([[0.0, 0.0], [3.0, 1.0], [-1.0, 2.0]])
    model = ex.ExactModel(ex.Empirical(points), PROCESSES["cosine"]())
    y = draw(model, 3000, key=jax.random.key(0), method=method, num_steps=64)
    distance = jnp.linalg.norm(y[:, None] - points, axis=-1)
    assert jnp.quantile(jnp.min(distance, axis=1), 0.99) < 0.05
    share = jnp.bincount(jnp.argmin(distance, axis=1), length=3) / 3000
    np.testing.assert_allclose(share, 1 / 3, atol=4 * (2 / 9 / 3000) ** 0.5)


@pytest.mark.slow
def test_no_field_is_equilibrium():
    """A network that outputs nothing generates the equilibrium."""
    model = ex.EntropyMatching(ex.FourierMLP(2, key=jax.random.key(0)), PROCESSES["sl"]())
    y = draw(model, 20_000, key=jax.random.key(0), num_steps=2)
    assert standard_errors(y, jnp.zeros(2), 0.01 * jnp.eye(2)) < 4


def test_times_prior_and_part_of_the_way(x64):
    """Between two times inside, from the exact density at the first to that at the second."""
    process = PROCESSES["vp"]()
    gaussian = small_gaussian()
    model = ex.ExactModel(gaussian, process)
    times = jnp.linspace(0.6, 0.2, 65)
    y = draw(
        model,
        4,
        method="ode",
        times=times,
        prior=SigmaPoints(gaussian.diffused(process, 0.6)),
    )
    mean, covariance = moments(y)
    target = gaussian.diffused(process, 0.2)
    np.testing.assert_allclose(mean, target.mean, atol=1e-5)
    np.testing.assert_allclose(covariance, target.covariance, atol=1e-5)


@pytest.mark.slow
def test_conditions_belong_to_samples():
    """The condition moves the mean of the data: s = -(y - mu c)/P with P = mu^2 + Sigma^2 = 1."""
    process = PROCESSES["vp"]()

    def network(log_snr, y, condition):
        return jnp.sqrt(jax.nn.sigmoid(log_snr)) * condition - y

    model = ex.ScoreMatching(Scripted(network), process)
    centres = jnp.repeat(jnp.asarray([[2.0, 0.0], [-1.0, 5.0]]), 8000, axis=0)
    y = draw(
        model,
        16_000,
        num_steps=4,
        condition=centres,
        chunk_size=4000,
    )
    assert standard_errors(y - centres, jnp.zeros(2), jnp.eye(2)) < 4
    with pytest.raises(ValueError, match="`condition` must have a leading axis of 10"):
        sample(model, num_samples=10, key=jax.random.key(0), condition=centres)


# ---------------------------------------------------------------------------- convergence


@pytest.mark.slow
def test_order_of_the_flow(x64):
    model = ex.ExactModel(small_mixture(), PROCESSES["cosine"]())

    def end(num_steps):
        return draw(model, 20, method="ode", num_steps=num_steps)

    exact = end(512)
    coarse, fine = (float(jnp.sqrt(jnp.mean((end(n) - exact) ** 2))) for n in (16, 32))
    assert 1.6 < np.log2(coarse / fine) < 2.6
    assert fine < 0.01


@pytest.mark.slow
@pytest.mark.parametrize(
    ("method", "solver", "controller"),
    [
        ("ode", diffrax.Tsit5(), diffrax.PIDController(rtol=1e-4, atol=1e-5)),
        ("sde", None, diffrax.PIDController(rtol=0.03, atol=0.03, dtmin=1e-4)),
    ],
)
def test_adaptive_steps(method, solver, controller):
    mixture = small_mixture()
    y = draw(
        ex.ExactModel(mixture, PROCESSES["cosine"]()),
        5000,
        method=method,
        solver=solver,
        stepsize_controller=controller,
        chunk_size=1000,
    )
    assert standard_errors(y, mixture.mean, mixture.covariance) < 4


# ---------------------------------------------------------------------------- reproducibility


@pytest.mark.parametrize("method", quick(["sde"], ["sde", "ode"]))
def test_the_key_decides_and_chunks_do_not(method):
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())

    def run(key, **kwargs):
        return sample(model, key=key, num_samples=50, method=method, num_steps=8, **kwargs)

    one = run(jax.random.key(3))
    np.testing.assert_array_equal(one, run(jax.random.key(3)))
    assert not np.allclose(one, run(jax.random.key(4)))
    np.testing.assert_allclose(one, run(jax.random.key(3), chunk_size=64), atol=1e-5)
    np.testing.assert_allclose(one, run(jax.random.key(3), chunk_size=16), atol=1e-5)
    assert len(np.unique(np.asarray(one)[:, 0])) == 50


@pytest.mark.slow
def test_single_precision_is_enough():
    """Points carried by the flow in float32 and float64 end within rounding of each other."""

    def run():
        model = ex.ExactModel(small_mixture(), PROCESSES["rf"]())
        prior = SigmaPoints(ex.Gaussian(jnp.zeros(2), jnp.eye(2)))
        return np.asarray(draw(model, 4, method="ode", prior=prior))

    with jax.enable_x64(False):
        single = run()
    with double():
        exact = run()
    assert (single.dtype, exact.dtype) == (np.float32, np.float64)
    np.testing.assert_allclose(single, exact, atol=1e-4)


def test_one_compilation_per_shape():
    traces = []

    def network(log_snr, y, condition):
        traces.append(None)
        return -y

    network = Scripted(network)
    counts = []
    for kappa in (1.0, 0.5, 0.2):
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=kappa)
        model = ex.ScoreMatching(network, process)
        sample(model, key=jax.random.key(int(10 * kappa)), num_samples=7, num_steps=3)
        counts.append(len(traces))
    assert counts[0] == counts[1] == counts[2]


# ---------------------------------------------------------------------------- differentiation


def trained_like(dim=2):
    network = ex.FourierMLP(dim, widths=(8,), num_features=4, key=jax.random.key(5))
    weight = 0.5 * jax.random.normal(jax.random.key(6), network.head.weight.shape)
    return eqx.tree_at(lambda n: n.head.weight, network, weight)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "method", "chunk_size"),
    [
        ("vpx", "sde", None),
        ("sl", "ode", 2),
        ("rf", "sde", 3),
    ],
)
def test_gradients(x64, name, method, chunk_size):
    """Of a sample statistic, in every number of the process and in a layer of the network."""
    network = trained_like()
    template = ex.EntropyMatching(network, PROCESSES[name](), variance_scaling())
    flat, rebuild = numbers(template.process)
    at = jnp.concatenate([flat, network.head.bias + 0.1])

    @quick_jit
    @jax.value_and_grad
    def statistic(v):
        parts = (rebuild(v[: flat.size]), v[flat.size :])
        model = eqx.tree_at(lambda m: (m.process, m.network.head.bias), template, parts)
        y = sample(
            model,
            key=jax.random.key(0),
            num_samples=5,
            method=method,
            num_steps=4,
            chunk_size=chunk_size,
        )
        return jnp.mean(jnp.sin(y))

    expected = finite_difference(lambda batch: jnp.stack([statistic(v)[0] for v in batch]), at)
    assert np.all(np.abs(expected) > 1e-6)
    np.testing.assert_allclose(statistic(at)[1], expected, rtol=1e-5, atol=1e-9)


def variance_scaling():
    one = jnp.ones(())
    return ex.GaussianScaling(one / 4, one, one / 2, (2,))


@pytest.mark.slow
def test_adjoints_agree(x64):
    template = ex.EntropyMatching(trained_like(), PROCESSES["vp"](), variance_scaling())

    def statistic(kappa, adjoint):
        model = eqx.tree_at(lambda m: m.process.kappa, template, kappa)
        y = sample(model, key=jax.random.key(0), num_samples=3, num_steps=4, adjoint=adjoint)
        return jnp.mean(y**2)

    one = jnp.ones(())
    reverse = quick_jit(jax.grad(lambda k: statistic(k, None)))(one)
    forward = quick_jit(jax.jacfwd(lambda k: statistic(k, diffrax.ForwardMode())))(one)
    np.testing.assert_allclose(reverse, forward, rtol=1e-10)


@pytest.mark.slow
def test_vmap_over_models():
    template = ex.EntropyMatching(trained_like(), PROCESSES["vp"](), variance_scaling())

    @quick_jit
    def at(kappa):
        model = eqx.tree_at(lambda m: m.process.kappa, template, kappa)
        return sample(model, key=jax.random.key(0), num_samples=6, num_steps=4)

    kappas = jnp.asarray([1.0, 0.5, 0.3])
    together = jax.vmap(at)(kappas)
    assert together.shape == (3, 6, 2)
    np.testing.assert_allclose(together[1], at(kappas[1]), atol=1e-4)


# ---------------------------------------------------------------------------- refusals


def test_refusals():
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    key = jax.random.key(0)
    cases = {
        "method": {"method": "pde"},
        "num_samples": {"num_samples": 0},
        "num_steps": {"num_steps": 0},
        "chunk_size": {"chunk_size": -1},
        "max_steps": {"max_steps": 0},
        "prior": {"prior": 3.0},
        "variance": {"variance": 0.0},
        "times": {"times": [0.0, 1.0]},
    }
    for name, kwargs in cases.items():
        with pytest.raises(ValueError, match=f"`{name}` must"):
            sample(model, **{"key": key, "num_samples": 4, **kwargs})
    for times in ([1.5, 0.0], [1.0], [[1.0, 0.0]], [1.0, float("nan")]):
        with pytest.raises(ValueError, match="`times` must"):
            sample(model, key=key, num_samples=4, times=times)


def test_failures_are_raised():
    """A model evaluated where it is infinite."""
    model = ex.ExactModel(ex.Empirical([[0.0], [1.0]]), PROCESSES["vp"]())
    key = jax.random.key(0)
    with pytest.raises(eqx.EquinoxRuntimeError, match="a sample is not finite"):
        sample(model, key=key, num_samples=4, method="ode", solver=diffrax.Heun(), num_steps=4)


@pytest.mark.slow
def test_too_many_steps_are_raised():
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    controller = diffrax.PIDController(rtol=1e-6, atol=1e-6)
    with pytest.raises(eqx.EquinoxRuntimeError, match="maximum number of solver steps"):
        sample(
            model,
            key=jax.random.key(0),
            num_samples=4,
            method="ode",
            solver=diffrax.Tsit5(),
            stepsize_controller=controller,
            max_steps=3,
        )


@pytest.mark.parametrize("solver", [None, diffrax.Euler()])
def test_adaptive_flow_needs_an_error_estimate(solver):
    model = ex.ExactModel(small_mixture(), PROCESSES["vp"]())
    controller = diffrax.PIDController(rtol=1e-3, atol=1e-3)
    options = {"method": "ode", "solver": solver, "stepsize_controller": controller}
    with pytest.raises(ValueError, match="`solver` must"):
        sample(model, key=jax.random.key(0), num_samples=4, **options)
