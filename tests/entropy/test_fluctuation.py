"""The integral fluctuation theorem: value, second moment, and when a sample cannot show it."""

import diffrax
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.entropy.fluctuation import tail_index
from entropix.interfaces import AbstractProcess
from tests.helpers import as_shipped
from tests.mixtures import mixture


PATHS = 100_000


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def wide():
    return ex.Gaussian([0.0], [[1.5]])


def check(result):
    """The mean is one within 4 standard errors, which are small and mean something."""
    assert abs(float(result.deviation)) < 4
    assert float(result.estimate.stderr) <= 0.02
    assert bool(result.has_variance)


@pytest.mark.parametrize("name", ["VP", pytest.param("SL", marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    "data",
    [wide, pytest.param(lambda: mixture(3), marks=pytest.mark.slow)],
    ids=["gaussian", "mixture"],
)
def test_exponential_average_is_one(data, name):
    model = ex.ExactModel(data(), vp() if name == "VP" else ex.StraightLine(1.0))
    x = model.distribution.sample(PATHS, key=jax.random.key(0))
    result = ex.entropy.fluctuation_theorem(model, x, key=jax.random.key(1), num_steps=4)
    check(result)
    assert 100 < float(result.effective_sample_size) <= PATHS
    if data is wide:
        # (sum w)^2 / sum w^2 is n E[w]^2 / E[w^2].
        ratio = float(result.effective_sample_size) / PATHS * float(result.second_moment.value)
        assert ratio == pytest.approx(1.0, abs=0.02)
        if name == "VP":
            error = float(result.second_moment.value) - 1.0606601717777
            assert abs(error) < 4 * float(result.second_moment.stderr)
            assert float(result.second_moment.stderr) < 2e-3


@pytest.mark.slow
@pytest.mark.parametrize("force", [None, 0.3], ids=["gradient", "rotation"])
def test_langevin(force):
    """With and without detailed balance; the midpoint rule adds an error of order of the step."""
    rotation = None if force is None else ex.processes.RotatingForce(force)
    path = ex.Langevin(ex.processes.Harmonic(1.0), 1.0, rotation)
    start = ex.Gaussian(jnp.zeros(2), 1.5 * jnp.eye(2))
    end = ex.Gaussian(jnp.zeros(2), (1 + 0.5 * np.exp(-2)) * jnp.eye(2))
    x = start.sample(20_000, key=jax.random.key(0))
    result = ex.entropy.fluctuation_theorem(
        path,
        x,
        key=jax.random.key(1),
        log_p0=start.log_prob,
        log_pT=end.log_prob,
        num_steps=32,
    )
    check(result)


# ---------------------------------------------------------------------------- no variance


@pytest.mark.slow(reason="long paths")
def test_a_narrow_component_is_found_out():
    """The D = 2 mixture under VP: E[w^2] is infinite, whatever the sample looks like."""
    model = ex.ExactModel(mixture(2), vp())
    for seed in range(3):
        data_key, path_key = jax.random.split(jax.random.key(seed))
        x = mixture(2).sample(30_000, key=data_key)
        with pytest.warns(UserWarning, match="has no variance: its tail index over conjugate"):
            result = ex.entropy.fluctuation_theorem(model, x, key=path_key, num_steps=4)
        assert not bool(result.has_variance)


@pytest.mark.slow
def test_under_jit_the_verdict_is_read(recwarn):
    model = ex.ExactModel(mixture(2), vp())
    x = mixture(2).sample(30_000, key=jax.random.key(0))
    run = jax.jit(lambda k: ex.entropy.fluctuation_theorem(model, x, key=k, num_steps=4))
    result = run(jax.random.key(1))
    assert not bool(result.has_variance)
    assert not recwarn.list


@pytest.mark.slow
def test_values_in_place_of_functions_judge_by_the_forward_tail():
    """Densities known at the states only: no conjugate paths, and a tail that must be below 1/2."""
    path, data = vp(), wide()
    x = data.sample(2000, key=jax.random.key(0))
    after = data.diffused(path, 1.0).log_prob
    options = {"key": jax.random.key(1), "num_steps": 2}
    result = ex.entropy.fluctuation_theorem(
        path, x, log_p0=data.log_prob(x), log_pT=after, **options
    )
    assert result.second_moment is None
    assert result.conjugate_tail_index is None
    assert bool(result.has_variance == (result.tail_index < 0.5))
    assert abs(float(result.deviation)) < 4
    # Weights that are Pareto of shape 0.8: a mean, but no variance.
    heavy = -0.8 * jnp.log((jnp.arange(2000) + 0.5) / 2000)
    with pytest.warns(UserWarning, match="the tail index of exp"):
        ex.entropy.fluctuation_theorem(path, x, log_p0=-heavy, log_pT=after, **options)


class Shrinking(AbstractProcess):
    """An Ornstein-Uhlenbeck process that says no more of itself than it must."""

    t0: jax.Array
    t1: jax.Array

    def drift(self, s, y):
        return -y

    def sigma_squared(self, s):
        return jnp.full(jnp.shape(s), 2.0)

    def equilibrium_score(self, s, y):
        return -y


def test_a_process_of_ones_own():
    """Nothing is known of its equilibrium in time: no conjugate paths."""
    path = Shrinking(jnp.asarray(0.0), jnp.asarray(1.0))
    start, end = ex.Gaussian([0.0], [[1.5]]), ex.Gaussian([0.0], [[1 + 0.5 * np.exp(-2)]])
    x = start.sample(4000, key=jax.random.key(0))
    result = ex.entropy.fluctuation_theorem(
        path, x, key=jax.random.key(1), log_p0=start.log_prob, log_pT=end.log_prob, num_steps=16
    )
    assert result.second_moment is None
    assert abs(float(result.deviation)) < 4


@pytest.mark.slow
def test_conjugate_paths_have_noise_of_their_own():
    """A Brownian path that is given drives the forward paths only."""
    path = ex.Langevin(ex.processes.Harmonic(1.0), 1.0)
    start, end = ex.Gaussian([0.0], [[1.5]]), ex.Gaussian([0.0], [[1 + 0.5 * np.exp(-2)]])
    x = start.sample(10_000, key=jax.random.key(0))
    brownian = diffrax.VirtualBrownianTree(
        0.0,
        1.0,
        0.05,
        jax.ShapeDtypeStruct(x.shape, x.dtype),
        jax.random.key(1),
        diffrax.SpaceTimeLevyArea,
    )
    result = ex.entropy.fluctuation_theorem(
        path,
        x,
        key=jax.random.key(2),
        log_p0=start.log_prob,
        log_pT=end.log_prob,
        num_steps=8,
        path=brownian,
    )
    # Under the conjugate process w averages to E[w^2], which the forward sample estimates too.
    forward = 10_000 / float(result.effective_sample_size)
    second = result.second_moment
    assert abs(float(second.value) - forward) < 6 * float(second.stderr)


@pytest.mark.parametrize("shape", [0.2, 0.5, 0.9, 1.5])
def test_tail_index_of_known_tails(shape):
    """Pareto weights of known shape: over 50 samples, unbiased within the error of the fit."""
    uniform = jax.random.uniform(jax.random.key(0), (50, 20_000), minval=1e-7)
    found = jax.jit(jax.vmap(tail_index))(-shape * jnp.log(uniform))
    # The largest 424 are fitted: the maximum-likelihood error of k is (1 + k) / sqrt(424).
    expected = (1 + shape) / 424**0.5
    assert 0.7 < float(jnp.std(found)) / expected < 1.3
    assert abs(float(jnp.mean(found)) - shape) < 4 * expected / 50**0.5 + 0.01


def test_tail_index_of_a_bounded_weight():
    """Uniform weights end at a maximum: k = -1."""
    uniform = jax.random.uniform(jax.random.key(1), (20_000,), minval=1e-7)
    assert float(tail_index(jnp.log(uniform))) == pytest.approx(-1.0, abs=0.2)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"x": jnp.ones((99, 1))}, "at least 100 samples"),
        ({"model": 3}, "`model` must be a model or a process"),
        ({"model": ex.Langevin(ex.processes.Harmonic())}, "`log_p0` must be given"),
    ],
)
def test_bad_arguments(arguments, match):
    arguments = {"model": ex.ExactModel(wide(), vp()), "x": jnp.ones((100, 1)), **arguments}
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.entropy.fluctuation_theorem(key=jax.random.key(0), **arguments)
