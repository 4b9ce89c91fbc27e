"""Guided models of Gaussian conditionals: affine fields, whose flow and SDE are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.integrate import solve_ivp

import entropix as ex
from tests.helpers import (
    FEW,
    KINDS,
    PROCESSES,
    all_finite,
    as_shipped,
    inner_times,
    quick,
    quick_jit,
)
from tests.models.conditional import ConditionalGaussian


MEAN, VARIANCE, MARGINAL, WEIGHT = 0.6, 0.3, 0.8, 2.5


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def conditional(process, dim=1):
    return ConditionalGaussian(process, VARIANCE, MARGINAL, dim)


def affine(s):
    """beta, and slope and offset of the guided score of one dimension, under VP."""
    beta, mu = 0.1 + 15.9 * s, np.exp(-(0.1 * s + 15.9 * s**2 / 2) / 2)
    given, marginal = (mu**2 * v + 1 - mu**2 for v in (VARIANCE, MARGINAL))
    return beta, -WEIGHT / given - (1 - WEIGHT) / marginal, WEIGHT * mu * MEAN / given


def flow_log_prob(x):
    """log p of the guided flow, by SciPy."""

    def rate(s, state):
        beta, slope, offset = affine(s)
        y = state[: len(x)]
        moved = -beta / 2 * (y + slope * y + offset)
        return np.concatenate([moved, np.full(len(x), -beta / 2 * (1 + slope))])

    end = solve_ivp(rate, (0, 1), np.concatenate([x, 0 * x]), rtol=1e-11, atol=1e-12).y[:, -1]
    return -(end[: len(x)] ** 2) / 2 - np.log(2 * np.pi) / 2 + end[len(x) :]


def sde_moments():
    """Mean and variance of the samples of the guided reverse SDE started in N(0, 1)."""

    def rate(t, state):
        beta, slope, offset = affine(1 - t)
        pull = beta * (0.5 + slope)
        return [pull * state[0] + beta * offset, 2 * pull * state[1] + beta]

    return solve_ivp(rate, (0, 1), [0.0, 1.0], rtol=1e-11, atol=1e-12).y[:, -1]


@pytest.mark.parametrize("name", quick(FEW, KINDS[:-1]))  # a general path is slow to compile
def test_fields_agree(name, x64, getkey):
    """Weights 0 and 1 are the two models; score, entropy field and velocity agree."""
    process = PROCESSES[name]()
    model, condition = conditional(process, 2), jnp.asarray([MEAN, -1.0])

    @quick_jit
    def fields(weight, s, y):
        guided = ex.models.Guided(model, weight)
        score, flow = guided.score(s, y, condition), guided.velocity(s, y, condition)
        entropy = guided.entropy_field(s, y, condition)
        same = entropy + process.equilibrium_score(s, y)
        flows = flow, process.drift(s, y), process.sigma_squared(s) / 2
        return score, same, flows, (model.score(s, y), model.score(s, y, condition))

    for s in inner_times(process, 3):
        y = jax.random.normal(getkey(), (2,))
        score, same, (flow, drift, half), ends = fields(WEIGHT, s, y)
        for weight, expected in enumerate(ends):
            np.testing.assert_allclose(fields(float(weight), s, y)[0], expected, rtol=1e-9)
        np.testing.assert_allclose(score, same, rtol=1e-8, atol=1e-8)
        np.testing.assert_allclose(flow, drift - half * score, rtol=1e-7, atol=1e-8 * half)

    def total(weight):
        return jnp.sum(ex.models.Guided(model, weight).score(s, y, condition))

    slope = quick_jit(jax.grad(total))(WEIGHT)
    np.testing.assert_allclose(slope, jnp.sum(ends[1] - ends[0]), rtol=1e-9)


@pytest.mark.parametrize("name", ["vp", "sl", "cosine"])
def test_finite_at_both_ends(name):
    model = ex.models.Guided(conditional(PROCESSES[name]()), WEIGHT)
    for s in (model.process.t0, model.process.t1):
        fields = (model.entropy_field, model.velocity)
        assert all_finite([field(s, jnp.ones(1), jnp.ones(1)) for field in fields])


@pytest.mark.slow  # two flows
def test_density_of_the_flow(x64):
    """The density agrees with an independent integrator, and integrates to one."""
    line = np.linspace(-2.0, 4.0, 121)
    result = ex.log_prob(
        ex.models.Guided(conditional(vp()), WEIGHT),
        line[:, None],
        method=ex.ProbabilityFlow(rtol=1e-8, atol=1e-8),
        condition=jnp.full((121, 1), MEAN),
        prior=ex.Gaussian([0.0], [[1.0]]),
    )
    np.testing.assert_allclose(result.value, flow_log_prob(line), atol=1e-6)
    assert float(np.trapezoid(np.exp(result.value), line)) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.slow
def test_density_of_the_reverse_sde_and_its_samples():
    """Jarzynski gives the density, the path bound is below it, samples have its moments."""
    mean, variance = sde_moments()
    x = mean + np.sqrt(variance) * np.linspace(-1.5, 1.5, 4)[:, None]
    truth = -((x[:, 0] - mean) ** 2) / 2 / variance - np.log(2 * np.pi * variance) / 2
    model, condition = ex.models.Guided(conditional(vp()), WEIGHT), jnp.full((4, 1), MEAN)
    prior = ex.Gaussian([0.0], [[1.0]])
    options = {"key": jax.random.key(0), "condition": condition, "prior": prior}
    result = ex.log_prob(model, x, method=ex.density.Jarzynski(1000, 96), **options)
    assert np.all(np.abs(result.value - truth) < 4 * result.stderr + 0.02)
    bound = ex.log_prob(model, x, method=ex.PathBound(1024), **options)
    assert np.all(bound.value < truth + 4 * bound.stderr)
    assert np.all(bound.value > truth - 1.0)
    y = ex.sample(
        model,
        key=jax.random.key(1),
        num_samples=4000,
        num_steps=100,
        condition=jnp.full((4000, 1), MEAN),
    )
    assert abs(float(jnp.mean(y)) - mean) < 4 * np.sqrt(variance / 4000) + 0.01
    assert float(jnp.var(y)) == pytest.approx(variance, rel=4 * np.sqrt(2 / 4000) + 0.02)


@pytest.mark.slow
def test_neural_entropy_of_an_affine_field():
    """S_NN = int beta/2 E e^2 over data N(m, v), by quadrature."""
    s = np.linspace(0, 1, 20_001)
    beta, slope, offset = affine(s)
    mu = np.exp(-(0.1 * s + 15.9 * s**2 / 2) / 2)
    var, centre = mu**2 * VARIANCE + 1 - mu**2, mu * MEAN
    rate = beta / 2 * ((1 + slope) ** 2 * var + ((1 + slope) * centre + offset) ** 2)
    data = MEAN + jnp.sqrt(VARIANCE) * jax.random.normal(jax.random.key(0), (20_000, 1))
    found = ex.neural_entropy(
        ex.models.Guided(conditional(vp()), WEIGHT),
        data,
        key=jax.random.key(1),
        condition=jnp.full((20_000, 1), MEAN),
        num_evaluations=4096,
    )
    assert abs(float(found.value) - np.trapezoid(rate, s)) < 4 * float(found.stderr)
    assert float(found.stderr) < 0.05 * float(found.value)


def test_two_models_and_another_process():
    """A good model guided away from a poor one; both move to a new process."""
    good = ex.ExactModel(ex.Gaussian([0.5], [[0.3]]), vp())
    poor = ex.ExactModel(ex.Gaussian([0.2], [[0.6]]), vp())
    guided = ex.models.Guided(good, 2.0, poor).with_process(ex.CosinePath())
    y = jnp.ones(1)
    expected = 2 * guided.model.score(0.3, y) - guided.marginal_model.score(0.3, y)
    np.testing.assert_allclose(guided.score(0.3, y), expected, rtol=1e-6)
    assert guided.process == guided.marginal_model.process == ex.CosinePath()


@pytest.mark.parametrize(
    ("make", "match"),
    [
        (lambda m: ex.models.Guided(3.0, 1.0), "`model` must be a model"),
        (lambda m: ex.models.Guided(m, jnp.nan), "`weight` must be finite"),
        (lambda m: ex.models.Guided(m, 1.0, "none"), "`marginal_model` must be a model or None"),
        (
            lambda m: ex.models.Guided(m, 1.0, m.with_process(ex.CosinePath())),
            "`marginal_model` must run",
        ),
        (lambda m: ex.models.Guided(m, 1.0).score(0.5, jnp.ones(1)), "`condition` must be given"),
    ],
)
def test_bad_arguments(make, match):
    with as_shipped(), pytest.raises(ValueError, match=match):
        make(conditional(vp()))
