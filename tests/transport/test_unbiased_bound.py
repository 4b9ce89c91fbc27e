"""The lower bound on W2 from moments: exact for Gaussians, and not biased upwards."""

import numpy as np
import pytest

import entropix as ex
from entropix.transport import unbiased_w2_bound


@pytest.mark.parametrize("mean", [0.0, 1.5])
def test_the_bound_of_gaussians_is_their_distance(mean):
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    stds = np.array([0.3, 1.0, 2.0])
    x, other = mean + np.random.default_rng(0).normal(size=(2, 20_000, 3)) * stds
    scale, var = (float(part(process.t1)) for part in (process.scale, process.var))
    ends = np.sqrt(scale**2 * stds**2 + var)
    exact = np.sqrt(np.sum((stds - ends) ** 2) + 3 * ((1 - scale) * mean) ** 2)
    value, error = unbiased_w2_bound(process, x, other)
    assert abs(value - exact) < 4 * error < 0.05


@pytest.mark.parametrize(("std", "exact"), [(1.0, 0.0), (0.5, 0.5 * np.sqrt(64))])
def test_few_samples_do_not_bias_the_bound_upwards(std, exact):
    """Data that are noise already, to which moments of the same 300 samples give 1.9, not 0.

    And data of another scale, where few samples make the bound lower, if anything.
    """
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    drawn = std * np.random.default_rng(0).normal(size=(20, 2, 300, 64))
    found = [unbiased_w2_bound(process, x, other) for x, other in drawn]
    z = [(value - exact) / error if error else 0.0 for value, error in found]
    assert max(z) < 4
    assert np.mean(z) < 1
    assert np.mean([value for value, _ in found]) >= 0.95 * exact


def test_degenerate_data_have_a_bound():
    process = ex.StraightLine(0.1)
    x = np.zeros((10, 3)) + [1.0, 2.0, 2.0]
    value, _ = unbiased_w2_bound(process, x, x)
    np.testing.assert_allclose(value, np.sqrt(9 + 3 * 0.01), rtol=1e-6)
    one = np.random.default_rng(0).normal(size=(2, 50, 1))
    assert unbiased_w2_bound(process, *one)[0] > 0.5
