"""The speed-accuracy relation: closed forms of Gaussians, tight and loose cases, errors."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.transport import speed_accuracy
from entropix.transport.speed_accuracy import _chi_squared
from tests.helpers import PROCESSES, quick_jit, small_mixture


V = 0.4


def geodesic(variance=V):
    """The straight path from N(0, v) to N(0, 1): the standard deviation is linear in time."""

    def std(s):
        return jnp.sqrt(s**2 + 2 * s * (1 - s) * variance**0.5)

    return ex.GaussianPath(lambda s: 1 - s, std)


def run(process, dim, sizes, **counts):
    """Centred isotropic data with exact moments: everything is deterministic."""
    data = ex.Gaussian(jnp.zeros(dim), V * jnp.eye(dim))
    x = jnp.sqrt(V * dim) * jnp.concatenate([jnp.eye(dim), -jnp.eye(dim)])
    model = ex.ExactModel(data, process)
    counts = {"num_samples": 16, "num_steps": 32, "num_speeds": 8, "num_times": 48} | counts

    def at(shift):
        return speed_accuracy(model, x, shift=shift / dim**0.5, key=jax.random.key(0), **counts)

    return [quick_jit(at)(jnp.asarray(size)) for size in sizes]


@pytest.mark.slow(reason="a program of its own")
@pytest.mark.parametrize("dim", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_tight_on_the_geodesic(x64, dim):
    """Ratio delta^2 / (e^(delta^2) - 1) / D: one for D = 1 and small shifts."""
    sizes = (0.01, 1.0)
    for size, result in zip(sizes, run(geodesic(), dim, sizes), strict=True):
        assert float(result.chi_squared) == pytest.approx(np.expm1(size**2))
        assert float(result.w1_noise) == pytest.approx(size)
        assert float(result.w1_data) == pytest.approx(V**0.5 * size, rel=1e-6)
        assert float(result.speed) == pytest.approx(dim * (1 - V**0.5) ** 2, rel=1e-6)
        ratio = size**2 / np.expm1(size**2) / dim
        assert float(result.ratio) == pytest.approx(ratio, rel=1e-5)
        assert bool(result.holds)
    assert "relation                 holds" in str(result)


@pytest.mark.slow
def test_loose_off_the_geodesic(x64):
    """The same shift amplified alike, at a higher price; actions of section 4 in closed form."""
    cosine = np.pi**2 / 8 * (1 - V**0.5) ** 2
    flow = 1 + V - np.pi / 2 * V**0.5
    for name, speed in (("cosine", cosine), ("rf", flow), ("vp", None)):
        (result,) = run(PROCESSES[name](), 1, (0.1,))
        assert bool(result.holds)
        assert float(result.ratio) < 0.82
        if speed is not None:
            assert float(result.speed) == pytest.approx(speed, rel=1e-6)
            left = (1 - V**0.5) ** 2 * 0.01 / np.expm1(0.01)
            assert float(result.ratio) == pytest.approx(left / speed, rel=1e-4)


def test_chi_squared_by_sampling(x64):
    """A mixture of one component is a Gaussian, but does not say so: value and error."""
    mixture = ex.GaussianMixture([1.0], [[0.2, -0.1]], [[0.5, 0.8]])
    shift = jnp.asarray([0.3, 0.4])
    exact = np.expm1(float(jnp.sum((shift / jnp.asarray([0.5, 0.8])) ** 2)))

    @quick_jit
    @jax.vmap
    def estimate(key):
        value, influence = _chi_squared(mixture, mixture.sample(100, key=key), shift)
        return value, jnp.std(influence) / 10

    values, errors = estimate(jax.random.split(jax.random.key(0), 300))
    assert abs(float(jnp.mean(values)) - exact) < 4 * float(jnp.std(values)) / 300**0.5
    assert 0.8 < float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values)) < 1.25


@pytest.mark.slow
def test_a_mixture(x64):
    """Holds, and W1 and the ratio scatter by their errors over draws of noise."""
    mixture = ex.GaussianMixture([0.3, 0.7], [[-1.5], [0.8]], [[0.3], [0.5]])
    model = ex.ExactModel(mixture, PROCESSES["vp"]())
    data = mixture.sample(400, key=jax.random.key(0))

    def at(key):
        counts = {"num_samples": 200, "num_steps": 24, "num_speeds": 800, "num_times": 16}
        result = speed_accuracy(model, data, shift=-0.5, key=key, **counts)
        return [(e.value, e.mc_stderr) for e in (result.w1_data, result.ratio)], result.holds

    estimates, holds = jax.jit(jax.vmap(at))(jax.random.split(jax.random.key(1), 100))
    assert np.all(holds)
    for values, errors in estimates:
        assert 0.75 < float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values)) < 1.35


@pytest.mark.slow
def test_two_dimensions_and_gradient():
    """The relation of the small mixture; a derivative in the process, against a difference."""
    mixture = small_mixture()
    data = mixture.sample(500, key=jax.random.key(0))

    @jax.jit
    @jax.value_and_grad
    def ratio(kappa):
        process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=kappa)
        counts = {"num_samples": 60, "num_steps": 24, "num_speeds": 200, "num_times": 16}
        result = speed_accuracy(
            ex.ExactModel(mixture, process),
            data,
            shift=jnp.asarray([0.5, 0.0]),
            key=jax.random.key(1),
            **counts,
        )
        return result.ratio.value

    value, slope = ratio(jnp.asarray(0.8))
    assert 0 < float(value) < 1
    difference = (ratio(jnp.asarray(0.82))[0] - ratio(jnp.asarray(0.78))[0]) / 0.04
    assert float(slope) == pytest.approx(float(difference), rel=0.05)


def test_refusals():
    model = ex.ExactModel(ex.Gaussian([0.0, 0.0], jnp.eye(2)), PROCESSES["vp"]())
    data, key = jnp.ones((5, 2)), jax.random.key(0)
    with pytest.raises(ValueError, match="`shift` must be a number or have the shape"):
        speed_accuracy(model, data, shift=jnp.ones(3), key=key)
    with pytest.raises(ValueError, match="`shift` must not be zero"):
        speed_accuracy(model, data, shift=0.0, key=key)
    with pytest.raises(ValueError, match="`num_samples`"):
        speed_accuracy(model, data, shift=1.0, key=key, num_samples=1)
