"""Speed limits against closed forms, and the inequalities on processes and data."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.transport.speed_limit import _knots
from tests.mixtures import mixture


def processes():
    schedule = ex.LinearSchedule(0.1, 16.0)
    return {
        "VP": ex.VariancePreserving(schedule),
        "VPx": ex.VariancePreserving(schedule, kappa=0.1),
        "SL": ex.StraightLine(0.1),
        "VE": ex.VarianceExploding(0.01, 20.0),
        "sub-VP": ex.SubVariancePreserving(schedule),
        "rectified flow": ex.RectifiedFlow(),
        "cosine": ex.CosinePath(),
    }


def mean_square_speed(process, mean, variance, s):
    """E|v|^2 of a Gaussian: its mean moves at mu' m, its width P^1/2 at P'/(2 P^1/2)."""
    scale, rate = process.scale(s), process.scale_rate(s)
    total = scale**2 * variance + process.var(s)
    total_rate = 2 * scale * rate * variance + process.var_rate(s)
    return (rate * mean) ** 2 + total_rate**2 / (4 * total)


@pytest.mark.parametrize(
    ("name", "what", "expected"),
    [
        ("VP", "length", 0.80792529493179),
        ("cosine", "action", 0.77117256414414),
        ("rectified flow", "action", 0.89654117342039),
    ],
)
def test_quadrature_over_time(x64, name, what, expected):
    """The knots that the estimates use integrate the closed-form speed of N(.7, .4)."""
    process = processes()[name]
    model = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), process)
    times, weights = _knots(model, jnp.asarray(0.4), 48)
    squared = mean_square_speed(process, 0.7, 0.4, times)
    value = jnp.sum(weights * (jnp.sqrt(squared) if what == "length" else squared))
    assert float(value) == pytest.approx(expected, rel=1e-6)


def test_gaussian_under_variance_preserving():
    distribution = ex.Gaussian([0.7], [[0.4]])
    data = distribution.sample(40_000, key=jax.random.key(0))
    model = ex.ExactModel(distribution, processes()["VP"])
    limit = ex.speed_limit(model, data, key=jax.random.key(1), num_samples=8192)
    expected = {
        "length": 0.80792529493179,
        "efficiency": 0.37456190310893,
        "w2": 0.60766877551322**0.5,
        "total_entropy": 0.40306717680056,
    }
    for name, value in expected.items():
        estimate = getattr(limit, name)
        assert abs(float(estimate.value) - value) < 4 * float(estimate.stderr), name
        assert float(estimate.stderr) < 0.05 * value, name
    np.testing.assert_allclose(limit.w2_lower, expected["w2"], rtol=0.03)
    np.testing.assert_allclose(limit.budget, (1 - 1e-9) * 8.05 / 2, rtol=1e-5)
    assert bool(jnp.all(limit.holds))


@pytest.mark.parametrize("name", list(processes()))
def test_inequalities_hold_for_a_mixture(name):
    model = ex.ExactModel(mixture(2), processes()[name])
    data = mixture(2).sample(4000, key=jax.random.key(0))
    limit = ex.speed_limit(
        model,
        data,
        key=jax.random.key(1),
        num_samples=1024,
        num_pairs=512,
        num_times=24,
        num_evaluations=2048,
    )
    length, action = limit.length, limit.action
    assert float(limit.w2_lower) <= float(length.value) + 4 * float(length.stderr)
    assert float(length.value) ** 2 <= float(action.value) + 4 * float(action.stderr)
    infinite = name in ("SL", "rectified flow", "cosine")
    assert bool(jnp.isinf(limit.budget)) == infinite
    if infinite or name == "sub-VP":
        assert float(limit.efficiency.value) == 0.0
    else:
        assert 0 < float(limit.efficiency.value) < 1
    assert bool(jnp.all(limit.holds))


def test_time_change_leaves_the_length(x64):
    """VP, SL and cosine differ in their clock only once they share kappa: one length."""
    data = jnp.asarray([[0.7 - 0.4**0.5], [0.7 + 0.4**0.5]])
    lengths = []
    for process in (ex.StraightLine(1.0), ex.CosinePath()):
        model = ex.ExactModel(ex.Gaussian([0.7], [[0.4]]), process)
        limit = ex.speed_limit(model, data, key=jax.random.key(0), num_samples=2048)
        lengths.append(float(limit.length.value))
    assert lengths[0] == pytest.approx(lengths[1], rel=1e-3)


def test_bad_arguments():
    model = ex.ExactModel(mixture(2), ex.CosinePath())
    for change, match in (({"num_samples": 3}, "`num_samples`"), ({"num_times": 1}, "`num_times`")):
        with pytest.raises(ValueError, match=match):
            ex.speed_limit(model, jnp.ones((4, 2)), key=jax.random.key(0), **change)
