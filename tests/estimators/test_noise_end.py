"""Noise beyond the range of a model: the stated error covers what the continuation gets wrong."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators import (
    GaussianReference,
    Partition,
    noise_end_of_parts,
    with_noise_end,
)


GAUSSIAN = ex.Gaussian([1.0, 0.0], [[2.0, 0.5], [0.5, 1.0]])
MIXTURE = ex.GaussianMixture([0.5, 0.5], [[-1.5, 0.3], [1.5, 0.3]], np.full((2, 2), 0.3))
KEY = jax.random.key(0)
TURN = np.array([[0.8, -0.6], [0.6, 0.8]])


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


def beyond(*args, **options) -> jax.Array:
    """The bound, of a model whose range is left."""
    bound = noise_end_of_parts(*args, **options)
    assert bound is not None
    return bound


@pytest.mark.slow(reason="a program for each case")
@pytest.mark.parametrize(
    ("distribution", "turned", "per_sample"),
    [
        (GAUSSIAN, False, False),
        (GAUSSIAN, True, True),
        (MIXTURE, False, True),
        (MIXTURE, True, False),
    ],
    ids=["columns", "turned samples", "mixture samples", "mixture turned"],
)
def test_the_allowance_covers_the_error_of_each_part(distribution, turned, per_sample, x64):
    """With all of the denoiser, and with what is known of it; every pair of settings occurs."""
    transform = (lambda y: y @ TURN) if turned else True
    data, process = distribution.sample(100, key=KEY), ex.RectifiedFlow()
    known, exact = known_above(-3.0, distribution, process), ex.ExactModel(distribution, process)
    options = {"key": KEY, "num_evaluations": 4096, "num_times": 9, "cutoff": 0.01}
    options |= {"per_coordinate": transform, "per_sample": per_sample}
    truth = ex.entropy_curve(exact, data, **options)
    found = ex.entropy_curve(known, data, proposal=truth.proposal, **options)
    partition = Partition.of(transform, data[0])
    each = {"partition": partition, "samples": data if per_sample else None}
    reference = GaussianReference.from_data(data)
    bound = beyond(known, process, reference, **each)
    off = np.abs(found.value - truth.value)
    # A sample has a few evaluations there: chance is left.
    assert np.all(off < bound + 0.25 * found.mc_stderr)
    assert np.mean(off) < np.mean(bound)
    assert np.all(found.stderr >= np.hypot(bound, found.mc_stderr) * (1 - 1e-6))
    for k in (0, 5, 7):  # all below one log-SNR
        off = np.abs(found.intervals[k:].sum(0) - truth.intervals[k:].sum(0))
        some = beyond(known, process, reference, start=found.log_snr[k], **each)
        assert np.all(off < some + 0.25 * found.mc_stderr)
        assert np.all(found.intervals_stderr[k] >= some * (1 - 1e-6))
    if not per_sample:  # the parts are no worse than the whole
        assert np.sum(bound) < 2 * beyond(known, process, reference)


@pytest.mark.slow(reason="two programs for each method")
@pytest.mark.parametrize("transform", [False, True], ids=["whole", "columns"])
@pytest.mark.parametrize("distribution", [GAUSSIAN, MIXTURE], ids=["Gaussian", "mixture"])
def test_the_allowance_covers_the_error_of_a_log_density(distribution, transform, x64):
    data, process = distribution.sample(200, key=KEY), ex.RectifiedFlow()
    known, exact = known_above(-3.0, distribution, process), ex.ExactModel(distribution, process)
    options = {"key": KEY, "cutoff": 0.01, "per_coordinate": transform}
    options["method"] = ex.density.DenoisingError()
    truth, found = (ex.log_prob(model, data, **options) for model in (exact, known))
    bound = beyond(
        known,
        process,
        GaussianReference.from_data(data),
        partition=Partition.of(transform, data[0]),
        samples=data,
        residual=True,
    )
    off = np.abs(found.value - truth.value)
    assert np.all(off < bound + 0.2 * truth.stderr)
    assert np.all(found.stderr >= bound)
    assert np.mean(bound) < 0.5
