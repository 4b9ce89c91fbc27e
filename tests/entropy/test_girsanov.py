"""Girsanov weights of single paths: their means, their exponential average, and their steps.

A linear field under a linear process gives a linear reverse SDE, whose density at the data end is
Gaussian: its moments are integrated here, and the weights must average to it.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import entropix as ex
from entropix.dynamics.forward import forward_times
from entropix.dynamics.solvers import transition
from entropix.entropy.girsanov import _Integrands
from entropix.estimators import GaussianReference
from tests.helpers import as_shipped, quick_jit
from tests.mixtures import mixture


BOUND, DENSITY = -8.2247787503047, -6.1447294785453  # of e = -y/2 at (1, -2) under VP


class Shrink(eqx.Module):
    """`e = -rate y`, or `-condition y`."""

    rate: float = 0.5

    def __call__(self, log_snr, y, condition=None):
        return -self.rate * y if condition is None else -condition * y


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def shrinking(rate=0.5, shape=(2,)):
    return ex.EntropyMatching(Shrink(rate), vp(), shape=shape)


def reverse_log_density(rate, x):
    """log p of the reverse SDE with e = -rate y from N(0, I): its variance obeys a linear ODE."""

    def growth(t, v):
        beta = 0.1 + 15.9 * (1 - t)
        return beta * (1 - (1 + 2 * rate) * v)

    variance = solve_ivp(growth, (0.0, 1.0), [1.0], rtol=1e-10, atol=1e-12).y[0, -1]
    x = np.asarray(x)
    return -np.sum(x**2, axis=-1) / 2 / variance - x.shape[-1] / 2 * np.log(2 * np.pi * variance)


def log_mean_exp(weights):
    """Of weights, shape (paths,), with its standard error."""
    value = jax.nn.logsumexp(weights) - jnp.log(weights.size)
    return float(value), float(jnp.std(jnp.exp(weights - value), ddof=1) / weights.size**0.5)


@pytest.mark.slow(reason="several large programs")
def test_a_wrong_field_at_a_point(x64):
    """Mean: the path bound. Exponential mean: the density of the reverse SDE."""
    x = jnp.asarray([[1.0, -2.0]])
    assert float(reverse_log_density(0.5, x)[0]) == pytest.approx(DENSITY, rel=1e-8)
    weights = ex.entropy.path_log_ratio(
        shrinking(), x, key=jax.random.key(0), num_paths=15_000, num_steps=192
    )[0]
    assert weights.shape == (15_000,)
    error = float(jnp.std(weights)) / weights.size**0.5
    value, relative = log_mean_exp(weights)
    assert (
        abs(float(jnp.mean(weights)) - BOUND) < 4 * error + 2.5e-3
    )  # and what 192 steps add, see the next test
    assert error < 0.03
    assert abs(value - DENSITY) < 4 * relative + 2.5e-3
    assert relative < 0.03


@pytest.mark.slow
def test_the_error_falls_with_the_square_of_the_step(x64):
    """Without chance: the weights are quadratic in the noise, so a cubature of degree two is exact.

    The path is x plus a linear map of independent normal variables, one for each step and
    dimension: the mean of a quadratic function is its mean over plus and minus root-n times each.
    """
    model, x = shrinking(), jnp.asarray([1.0, -2.0])
    reference = GaussianReference.from_data(jnp.asarray([[1.0, -2.0], [-1.0, 2.0]]), shrinkage=1.0)
    integrands = _Integrands(model, reference, None)

    @quick_jit
    def mean(times, noises):
        gains, stds = jax.vmap(lambda s0, s1: transition(model.process, s0, s1))(
            times[:-1], times[1:]
        )

        def weight(noise):
            def step(y, coefficients):
                gain, std, z = coefficients
                y = gain * y + std * z
                return y, y

            end, states = jax.lax.scan(step, x, (gains, stds, noise))
            states = jnp.concatenate([x[None], states])
            prior = model.prior.log_prob(end) - reference.log_prob(model.process, 1.0, end)
            return prior + integrands.along(times, states)

        return reference.log_prob_undiffused(x) + jnp.mean(jax.vmap(weight)(noises))

    steps = [48, 96, 192]
    errors = []
    for n in steps:
        points = np.sqrt(2.0 * n) * np.eye(2 * n).reshape(2 * n, n, 2)
        times = forward_times(model.process, n, reference.mean_variance)
        errors.append(abs(float(mean(times, np.concatenate([points, -points]))) - BOUND))
    slope = -np.polyfit(np.log(steps), np.log(errors), 1)[0]
    assert 1.8 < slope < 2.2
    assert errors[-1] < 2.5e-3


@pytest.mark.slow
def test_gaussian_data_leave_no_variance(x64):
    """The reference of Gaussian data is the model: every path gives log p, whatever the steps."""
    half = jnp.asarray([[1.0, 0.5], [-0.3, 1.2]])
    points = jnp.tile(jnp.concatenate([half, -half]) + jnp.asarray([0.3, -0.2]), (100, 1))
    distribution = ex.Gaussian(jnp.mean(points, axis=0), jnp.cov(points.T, ddof=0))
    model = ex.ExactModel(distribution, vp())
    x = jnp.asarray([[0.7, 0.1], [-1.0, 2.0]])
    reference = GaussianReference.from_data(points)

    def first(x):
        weights = ex.entropy.path_log_ratio(
            model, x, key=jax.random.key(0), num_paths=8, num_steps=5, reference=reference
        )
        return jnp.mean(weights[0]), weights

    (_, found), gradient = quick_jit(jax.value_and_grad(first, has_aux=True))(x)
    expected = jnp.broadcast_to(distribution.log_prob(x)[:, None], found.shape)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    np.testing.assert_allclose(gradient[0], distribution.score(x[0]), rtol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["VP", "SL"])
def test_exact_models_average_to_their_density(name):
    """Exact score, prior p_T: mean and exponential mean are both log p of the mixture."""
    path = vp() if name == "VP" else ex.StraightLine(1.0)
    model = ex.ExactModel(mixture(3), path)
    x = mixture(3).sample(16, key=jax.random.key(0))
    truth = mixture(3).log_prob(x)
    errors = []
    for steps in (32, 64):
        weights = ex.entropy.path_log_ratio(
            model, x, key=jax.random.key(1), num_paths=64, num_steps=steps
        )
        gap = jnp.mean(weights, axis=1) - truth
        noise = jnp.std(weights, axis=1, ddof=1) / 8
        exponential = jax.nn.logsumexp(weights, axis=1) - jnp.log(64) - truth
        assert bool(jnp.all(jnp.abs(exponential - gap) < 64 * noise**2 + 1e-5))
        errors.append(gap)
    # What is left is of the second order in the step, for a field that is not linear too.
    ratio = float(jnp.sqrt(jnp.mean(errors[0] ** 2) / jnp.mean(errors[1] ** 2)))
    extrapolated = (4 * errors[1] - errors[0]) / 3
    assert 3.3 < ratio < 4.7
    assert bool(jnp.all(jnp.abs(extrapolated) < 4.5 * 2 * noise + 2e-4))
    assert float(jnp.max(jnp.abs(gap))) < 5e-3
    assert float(jnp.max(noise)) < 5e-4


@pytest.mark.slow
def test_transformations_and_chunks(x64):
    """jit, chunks and image shapes: the same weights; times of the user's are stepped through."""
    model = shrinking(shape=(2, 2))
    x = jax.random.normal(jax.random.key(0), (5, 2, 2))
    options = {"key": jax.random.key(1), "num_paths": 3, "num_steps": 4}
    whole = ex.entropy.path_log_ratio(model, x, **options)
    assert whole.shape == (5, 3)
    times = forward_times(model.process, 4, GaussianReference.from_data(x).mean_variance)
    assert ex.entropy.path_log_ratio(model, x, times=times, **options).shape == (5, 3)
    parts = eqx.filter_jit(ex.entropy.path_log_ratio)(model, x, chunk_size=6, **options)
    np.testing.assert_allclose(parts, whole, rtol=1e-10)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"model": 1}, "`model` must be a model"),
        ({"x": jnp.ones(3)}, "`x` must have shape"),
        ({"num_paths": 0}, "`num_paths` must be"),
        ({"num_steps": 1}, "`num_steps` must be an integer of at least 2"),
        ({"chunk_size": 0}, "`chunk_size` must be"),
        ({"condition": jnp.ones(3)}, "`condition` must have a leading axis of 4"),
    ],
)
def test_bad_arguments(arguments, match):
    arguments = {"model": shrinking(), "x": jnp.ones((4, 2)), **arguments}
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.entropy.path_log_ratio(key=jax.random.key(0), **arguments)


@pytest.mark.parametrize(
    ("times", "says"),
    [
        (np.linspace(1.0, 0.0, 9), "must be increasing"),
        (np.linspace(0.0, 2.0, 9), "must be increasing and within"),
        (np.linspace(0.5, 1.0, 9), "from t0 to t1"),
        ([0.0, 1.0], "at least three times"),
    ],
)
def test_times_cover_the_process(times, says):
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ExactModel(ex.Gaussian([0.5], [[0.3]]), process)
    with pytest.raises(ValueError, match=says):
        ex.entropy.path_log_ratio(model, jnp.zeros((3, 1)), key=jax.random.key(0), times=times)


def test_keys_priors_and_shapes_are_checked():
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ExactModel(ex.Gaussian([0.5], [[0.3]]), process)
    x, key = jnp.zeros((3, 1)), jax.random.key(0)
    for bad in (0, None, jax.random.split(key, 3)):
        with as_shipped(), pytest.raises(ValueError, match="`key` must be one PRNG key"):
            ex.entropy.path_log_ratio(model, x, key=bad)
    with as_shipped(), pytest.raises(ValueError, match="`prior` must have"):
        ex.entropy.path_log_ratio(model, x, key=key, prior=3)
    with pytest.raises(ValueError, match=r"`x` must have shape \(n, 1\)"):
        ex.log_prob(model, jnp.zeros((3, 2)), key=key)
