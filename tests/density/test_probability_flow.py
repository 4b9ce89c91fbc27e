"""The flow's density and the denoising error against exact densities, for every process."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.dynamics.divergence import stderr_of_probes
from tests.helpers import (
    KINDS,
    PROCESSES,
    finite_difference,
    numbers,
    quick,
    quick_jit,
    small_gaussian,
)
from tests.mixtures import mixture


QUICK = ("vp",)


class Shrink(eqx.Module):
    """An entropy field that fits nothing."""

    rate: jax.Array

    def __call__(self, log_snr, y, condition=None):
        return -self.rate * y if condition is None else -condition * y


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


@pytest.mark.parametrize("name", quick(QUICK))
def test_exact_in_float32(x32, name):
    distribution = mixture(3)
    x = distribution.sample(256, key=jax.random.key(0))
    model = ex.ExactModel(distribution, PROCESSES[name]())
    result = ex.log_prob(model, x, method=ex.ProbabilityFlow())
    # The times of a warped clock are rounded twice, where the path is steep.
    limit = 2e-3 if name == "sl-warped" else 1e-3
    assert float(jnp.mean(jnp.abs(result.value - distribution.log_prob(x)))) < limit
    assert not np.any(result.stderr)


@pytest.mark.parametrize("name", ["sl", "vpx", "rf", "path-module"])
@pytest.mark.slow(reason="adaptive steps in float64")
def test_exact_in_float64(name, x64):
    distribution = mixture(3)
    x = distribution.sample(64, key=jax.random.key(0))
    model = ex.ExactModel(distribution, PROCESSES[name]())
    result = ex.log_prob(model, x, method=ex.ProbabilityFlow(rtol=1e-8, atol=1e-8))
    assert float(jnp.mean(jnp.abs(result.value - distribution.log_prob(x)))) < 1e-6


def test_closed_forms(x64):
    """A field that fits nothing, and another prior than the exact one."""
    method = ex.ProbabilityFlow(rtol=1e-9, atol=1e-9)
    wrong = ex.EntropyMatching(Shrink(jnp.asarray(0.5)), vp(), shape=(2,))
    value = ex.log_prob(wrong, jnp.array([[1.0, -2.0]]), method=method).value
    np.testing.assert_allclose(value, -137.76364902052, rtol=1e-8)
    exact = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), vp())
    x = jnp.array([[-0.3]])
    np.testing.assert_allclose(
        ex.log_prob(exact, x, method=method).value, -1.7107931672676, rtol=1e-8
    )
    normal = ex.Gaussian([0.0], [[1.0]])
    np.testing.assert_allclose(
        ex.log_prob(exact, x, method=method, prior=normal).value, -1.6909584658398, rtol=1e-8
    )


def strong_gaussian(dim):
    """Correlations close to one: the Jacobian of the field is far from diagonal."""
    root = np.random.default_rng(dim).normal(size=(dim, dim))
    return ex.Gaussian(np.zeros(dim), root @ root.T / dim + 0.05 * np.eye(dim))


@pytest.mark.slow(reason="a solve for each kind of probe")
def test_as_many_probes_as_dimensions_are_exact():
    """In two dimensions two independent sign probes agree in half of all draws."""
    distribution = strong_gaussian(2)
    model = ex.ExactModel(distribution, vp())
    x = distribution.sample(64, key=jax.random.key(0))
    for num_probes in (2, 8):
        method = ex.ProbabilityFlow("hutchinson", num_probes=num_probes)
        result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
        np.testing.assert_allclose(result.value, distribution.log_prob(x), atol=1e-3)
        assert not np.any(result.stderr)


@pytest.mark.slow(reason="repeated estimates")
@pytest.mark.parametrize("probe", ["orthogonal", "gaussian"])
def test_few_probes_know_their_error(probe):
    """Of 2,000 samples less than one in a hundred lies beyond three standard errors."""
    count = 2000
    rng = np.random.default_rng(0)
    for dim, num_probes in ((3, 2), (4, 3), (8, 2), (16, 2), (16, 4), (16, 15)):
        roots = rng.normal(size=(count, dim, dim)) * np.exp(rng.normal(size=(count, 1, 1)) / 2)
        jacobians = jnp.asarray(roots + np.swapaxes(roots, 1, 2))
        method = ex.ProbabilityFlow("hutchinson", num_probes=num_probes, probe=probe)
        sample, key = jnp.zeros(dim, jacobians.dtype), jax.random.key(dim)

        @quick_jit
        def errors(jacobians, method=method, sample=sample, key=key):
            index = jnp.arange(count)
            probes = jax.vmap(lambda i: method.divergence.probes(sample, key, i))(index)
            gains = jnp.einsum("nki,nij,nkj->nk", probes, jacobians, probes)
            trace = jnp.trace(jacobians, axis1=1, axis2=2)
            return jnp.mean(gains, axis=1) - trace, gains, probes

        error, gains, probes = errors(jacobians)
        if probe == "orthogonal":
            gram = jnp.einsum("nki,nli->nkl", probes, probes)
            np.testing.assert_allclose(
                gram / dim, np.tile(np.eye(num_probes), (count, 1, 1)), atol=2e-5
            )
        left_out = 1 - num_probes / dim if probe == "orthogonal" else 1.0
        stderr = stderr_of_probes(gains, left_out)
        assert np.mean(np.abs(error) > 3 * stderr) < 0.01
        assert 0.65 < jnp.sqrt(jnp.mean(error**2) / jnp.mean(stderr**2)) < 1.15
        assert abs(jnp.mean(error)) < 4 * jnp.std(error) / count**0.5


def test_one_sample_alone_is_given_a_wide_error():
    """Two probes of one sample have one degree of freedom: the quantile of its t distribution."""
    gains = jnp.asarray([[0.0, 1.0]])
    assert stderr_of_probes(gains, 1.0) == pytest.approx([0.5 * 63.66 / 2.576], rel=1e-3)
    many = stderr_of_probes(jnp.tile(gains, (4000, 1)), 1.0)
    np.testing.assert_allclose(many, 0.5, rtol=1e-3)


@pytest.mark.slow
def test_hutchinson_is_unbiased_and_honest():
    distribution = strong_gaussian(6)
    model = ex.ExactModel(distribution, vp())
    x = jnp.tile(distribution.sample(4, key=jax.random.key(0)), (100, 1))
    for probe in ("orthogonal", "rademacher", "gaussian"):
        method = ex.ProbabilityFlow("hutchinson", num_probes=4, probe=probe)
        result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
        error = (result.value - distribution.log_prob(x)).reshape(100, 4)
        spread = jnp.std(error, axis=0)
        mean_stderr = jnp.sqrt(jnp.mean(result.stderr.reshape(100, 4) ** 2, axis=0))
        np.testing.assert_array_less(jnp.abs(jnp.mean(error, axis=0)), 4 * spread / 10)
        ratio = np.asarray(spread / mean_stderr)
        assert np.all((ratio > 0.65) & (ratio < 1.3)), ratio
        # Samples that are alike lend one another their errors.
        assert np.mean(np.abs(error) > 3 * result.stderr.reshape(100, 4)) < 0.01


@pytest.mark.slow
def test_gradient_in_the_samples_is_the_score(x64):
    distribution = mixture(2)
    model = ex.ExactModel(distribution, vp())
    x = distribution.sample(8, key=jax.random.key(0))
    method = ex.ProbabilityFlow(rtol=1e-8, atol=1e-8, max_steps=256)
    value = lambda x: jnp.sum(ex.log_prob(model, x, method=method).value)  # noqa: E731
    np.testing.assert_allclose(quick_jit(jax.grad(value))(x), distribution.score(x), atol=1e-5)


@pytest.mark.slow
def test_gradient_in_the_parameters(x64):
    """Of a model that is not exact, in the process and in the network, against differences."""
    model = ex.EntropyMatching(Shrink(jnp.asarray(-0.1)), vp(), shape=(2,))
    x = jnp.array([[0.4, -0.7]])
    prior = ex.Gaussian(jnp.zeros(2), jnp.eye(2))
    method = ex.ProbabilityFlow(rtol=1e-9, atol=1e-9, max_steps=256)
    flat, back = numbers((model.process, model.network))

    def value(v):
        process, network = back(v)
        here = ex.EntropyMatching(network, process, shape=(2,))
        return ex.log_prob(here, x, method=method, prior=prior).value[0]

    found = jax.jit(jax.grad(value))(flat)
    expected = finite_difference(jax.jit(jax.vmap(value)), flat)
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_parametrisations_agree():
    """Noise and velocity predictions have infinite scores at the data end, the flow has not."""
    distribution = small_gaussian()
    exact = ex.ExactModel(distribution, vp())
    process = exact.process

    def score(log_snr, y, condition=None):
        return exact.score(process.time_of_log_snr(log_snr), y)

    def noise(log_snr, y, condition=None):
        s = process.time_of_log_snr(log_snr)
        return -process.std(s) * exact.score(s, y)

    x = distribution.sample(32, key=jax.random.key(0))
    want = distribution.log_prob(x)
    for model in (
        ex.ScoreMatching(score, process, shape=(2,)),
        ex.NoisePrediction(noise, process, shape=(2,)),
    ):
        value = ex.log_prob(model, x, method=ex.ProbabilityFlow(), prior=exact.prior).value
        np.testing.assert_allclose(value, want, atol=5e-3)


@pytest.mark.slow
def test_conditions_shapes_and_chunks():
    process = vp()
    model = ex.EntropyMatching(Shrink(jnp.asarray(0.1)), process, shape=(2, 3))
    x = jax.random.normal(jax.random.key(0), (5, 2, 3))
    condition = jnp.linspace(-0.2, 0.2, 5)
    whole = ex.log_prob(model, x, method=ex.ProbabilityFlow(), condition=condition)
    parts = ex.log_prob(model, x, method=ex.ProbabilityFlow(), condition=condition, chunk_size=12)
    np.testing.assert_allclose(whole.value, parts.value, rtol=1e-5)
    alone = ex.EntropyMatching(Shrink(condition[3]), process, shape=(2, 3))
    np.testing.assert_allclose(
        whole.value[3], ex.log_prob(alone, x[3:4], method=ex.ProbabilityFlow()).value[0], rtol=1e-5
    )


@pytest.mark.slow
def test_a_trained_model_integrates_to_one():
    distribution = mixture(2)
    data = distribution.sample(4096, key=jax.random.key(0))
    process = vp()
    scaling = ex.GaussianScaling.from_data(data, process)
    network = ex.FourierMLP(2, widths=(32, 32), key=jax.random.key(1))
    model = ex.EntropyMatching(network, process, scaling)
    model = ex.fit(model, data, key=jax.random.key(2), steps=400).model
    line = jnp.linspace(-6.0, 6.0, 61)
    grid = jnp.stack(jnp.meshgrid(line, line), axis=-1).reshape(-1, 2)
    density = jnp.exp(ex.log_prob(model, grid, method=ex.ProbabilityFlow()).value)
    assert float(jnp.sum(density) * (line[1] - line[0]) ** 2) == pytest.approx(1.0, abs=0.01)


@pytest.mark.slow
@pytest.mark.parametrize("name", KINDS)
def test_denoising_error_of_exact_models(name):
    """Exact for the optimal denoiser, with honest errors."""
    distribution = mixture(3)
    x = distribution.sample(1000, key=jax.random.key(0))
    model = ex.ExactModel(distribution, PROCESSES[name]())
    result = ex.log_prob(model, x, key=jax.random.key(1), method=ex.DenoisingError(128))
    error = result.value - distribution.log_prob(x)
    assert 0.8 < float(jnp.std(error / result.stderr)) < 1.3
    assert abs(float(jnp.mean(error))) < 4 * float(result.mean.mc_stderr)


@pytest.mark.slow
def test_standard_errors_of_denoising_errors_are_honest():
    """Over 200 keys, sample by sample."""
    x = mixture(3).sample(20, key=jax.random.key(0))
    model = ex.ExactModel(mixture(3), vp())
    run = jax.jit(lambda k: ex.log_prob(model, x, key=k, method=ex.DenoisingError(64)))
    results = jax.lax.map(run, jax.random.split(jax.random.key(1), 200))
    ratio = jnp.std(results.value, axis=0) / jnp.mean(results.stderr, axis=0)
    assert 0.8 < float(jnp.mean(ratio)) < 1.25


@pytest.mark.slow(reason="an estimate in float64")
def test_denoising_error_of_a_gaussian_is_that_of_its_reference():
    """The errors of the optimal denoiser of Gaussian data cancel those of the reference."""
    x = jax.random.normal(jax.random.key(0), (64, 2)) * 0.7
    centred = x - jnp.mean(x, axis=0)
    gaussian = ex.Gaussian(jnp.mean(x, axis=0), centred.T @ centred / 64)
    method = ex.DenoisingError(64, reference=x)
    result = ex.log_prob(ex.ExactModel(gaussian, vp()), x, key=jax.random.key(1), method=method)
    np.testing.assert_allclose(result.value, gaussian.log_prob(x), atol=1e-3)


def test_bad_arguments():
    model = ex.ExactModel(small_gaussian(), vp())
    x = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match="`divergence` must be one of"):
        ex.ProbabilityFlow("skilling")
    with pytest.raises(ValueError, match="`num_probes` must be"):
        ex.ProbabilityFlow("hutchinson", num_probes=1)
    signs = ex.ProbabilityFlow("hutchinson", num_probes=2, probe="rademacher")
    three = ex.ExactModel(mixture(3), vp())
    with pytest.raises(ValueError, match="`probe` must be 'orthogonal' or 'gaussian'"):
        ex.log_prob(three, jnp.zeros((15, 3)), key=jax.random.key(0), method=signs)
    with pytest.raises(ValueError, match="`rtol` must be positive"):
        ex.ProbabilityFlow(rtol=0.0)
    with pytest.raises(ValueError, match="`key` must be given"):
        ex.log_prob(model, x, method=ex.ProbabilityFlow("hutchinson"))
    with pytest.raises(ValueError, match="`key` must be given"):
        ex.log_prob(model, x, method=ex.DenoisingError())
