"""The line in log N: exact points, honest intervals, and points that lie on no line."""

import numpy as np
import pytest

from entropix.studies.storage import fit_logarithm


SIZES = np.array([50, 100, 200, 400, 800, 1500])


def test_points_on_a_line_give_the_line():
    values = 3.0 + 2.0 * np.log(SIZES)[:, None] + np.array([-0.1, 0.1])
    fit = fit_logarithm(SIZES, values)
    np.testing.assert_allclose([fit.intercept, fit.slope], [3.0, 2.0], rtol=1e-10)
    # All scatter alike: the textbook's error of a slope, s^2 = 0.02 over two seeds.
    expected = np.sqrt(0.01 / np.sum((np.log(SIZES) - np.log(SIZES).mean()) ** 2))
    np.testing.assert_allclose(fit.slope_stderr, expected, rtol=1e-10)
    np.testing.assert_allclose(fit.slope_high - fit.slope, 2.776445 * fit.slope_stderr, rtol=1e-6)


@pytest.mark.parametrize("widening", [False, True])
def test_intervals_hold_the_truth(widening):
    """At least as often as they say, and with the scatter of the slope as reported or above."""
    rng = np.random.default_rng(0)
    spread = np.geomspace(0.5, 4.0, len(SIZES)) if widening else np.ones(len(SIZES))
    fits = [
        fit_logarithm(
            SIZES,
            3 + 2 * np.log(SIZES)[:, None] + spread[:, None] * rng.normal(size=(len(SIZES), 4)),
        )
        for _ in range(1000)
    ]
    held = np.mean([fit.slope_low <= 2 <= fit.slope_high for fit in fits])
    assert held > 0.95
    reported = np.sqrt(np.mean([fit.slope_stderr**2 for fit in fits]))
    assert 0.8 < np.std([fit.slope for fit in fits]) / reported < 1.25


def test_points_on_no_line_widen_the_interval():
    """Seeds that agree perfectly on a curve: its bend is what the error tells."""
    x = np.log(SIZES)
    curve = (x - x.mean()) ** 2
    values = curve[:, None] + np.array([-1e-3, 1e-3])
    fit = fit_logarithm(SIZES, values)
    left = curve - np.polyval(np.polyfit(x, curve, 1), x)
    expected = np.sqrt(np.sum(left**2) / 4 / np.sum((x - x.mean()) ** 2))
    np.testing.assert_allclose(fit.slope_stderr, expected, rtol=1e-6)
    one = fit_logarithm(SIZES, curve[:, None])
    np.testing.assert_allclose(one.slope_stderr, expected, rtol=1e-6)
    assert np.isnan(one.chi_squared)


def test_cells_that_are_missing_are_left_out():
    values = 3.0 + 2.0 * np.log(SIZES)[:, None] + np.array([-0.1, 0.1])
    values[1] = np.nan
    np.testing.assert_allclose(fit_logarithm(SIZES, values).slope, 2.0, rtol=1e-10)
    values[:4] = np.nan
    assert fit_logarithm(SIZES, values) is None
