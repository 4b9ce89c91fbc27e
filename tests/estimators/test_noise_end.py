"""Noise beyond the range of a model: the stated error covers what the continuation gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import GaussianReference
from entropix.estimators.noise_end import with_noise_end


GAUSSIAN = ex.Gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]])
MIXTURE = ex.GaussianMixture([0.5, 0.5], [[-1.5, 0.3], [1.5, 0.3]], np.full((2, 2), 0.3))
KEY = jax.random.key(0)


def known_above(log_snr, distribution, process):
    """An exact denoiser, of which nothing is known below a log-SNR."""
    exact = ex.ExactModel(distribution, ex.RectifiedFlow())

    def denoiser(u, std, condition):
        s = std / (1 + std)
        y = u * (1 - s)
        return (s**2 * exact.score(s, y) + y) / (1 - s)

    range_ = (log_snr, 30.0)
    return ex.models.from_denoiser(denoiser, shape=(2,), log_snr_range=range_, process=process)


def vp():
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


@pytest.mark.slow(reason="a program for each process")
@pytest.mark.parametrize(
    "low", [-3.0, pytest.param(-1.0, marks=pytest.mark.slow(reason="another program"))]
)
@pytest.mark.parametrize(
    ("distribution", "process"),
    [
        pytest.param(GAUSSIAN, ex.RectifiedFlow(), id="flow"),
        *(
            pytest.param(*case, id=name, marks=pytest.mark.slow(reason="more cases"))
            for name, case in {
                "VP": (GAUSSIAN, vp()),
                "narrow": (GAUSSIAN, ex.StraightLine()),
                "mixture": (MIXTURE, ex.RectifiedFlow()),
                "mixture VP": (MIXTURE, vp()),
            }.items()
        ),
    ],
)
def test_the_allowance_covers_the_error(distribution, process, low, x64):
    """The same evaluations with all of the denoiser, and with what is known of it."""
    data = distribution.sample(500, key=KEY)
    options = {"key": KEY, "cutoff": 0.01, "num_evaluations": 2048}
    found = ex.neural_entropy(known_above(low, distribution, process), data, **options)
    truth = ex.neural_entropy(ex.ExactModel(distribution, process), data, **options)
    assert truth.largest_noise is None
    known = ex.Estimate(*jnp.zeros(3))
    reference = GaussianReference.from_data(data)
    allowance = with_noise_end(known, known_above(low, distribution, process), process, reference)
    assert found.stderr >= np.hypot(allowance.stderr, found.mc_stderr)
    off = abs(found.value - truth.value)
    assert off < allowance.stderr + 3 * abs(found.mc_stderr - truth.mc_stderr) + 1e-4 * found.stderr
    if distribution is GAUSSIAN:  # and is not much too large
        assert allowance.stderr < 50 * off
    s = process.time_of_log_snr(jnp.asarray(low))
    assert found.largest_noise is not None
    assert float(found.largest_noise) == pytest.approx(float(process.std(s)), rel=1e-6)
    assert f"model known for noise std <= {float(process.std(s)):.3g}" in str(found)


def test_nothing_is_stated_where_the_range_is_not_left():
    """Of a process of its own, and of one that erases less."""
    reference = GaussianReference.from_data(GAUSSIAN.sample(100, key=KEY))
    total = ex.Estimate(jnp.asarray(1.0), jnp.asarray(0.1), jnp.asarray(0.1))
    own = known_above(-3.0, GAUSSIAN, None)
    assert with_noise_end(total, own, own.process, reference) is total
    less = ex.VariancePreserving(ex.LinearSchedule(1.0, 1.0))
    moved = with_noise_end(total, own.with_process(less), less, reference)
    assert float(moved.stderr) == pytest.approx(0.1)
    assert moved.largest_noise is not None
    assert np.isposinf(float(moved.largest_noise))
    assert "known" not in str(moved)
