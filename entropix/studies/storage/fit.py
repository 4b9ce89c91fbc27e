r"""The fit of a logarithm to storage: $S = a + b\log N$.

With the mean $\bar S_N$ over seeds of each cell and its standard error $e_N = s_N/\sqrt{n}$ from
the scatter $s_N$ over n seeds, (a, b) minimise

$$\chi^2 = \sum_N \frac{(\bar S_N - a - b\log N)^2}{e_N^2},$$

and the usual variances are multiplied by $\max(1, \chi^2/\nu)$, $\nu$ = cells - 2, so that
points far from a line increase the error of its slope. The interval of b is that of Student's t
with $\nu$ degrees of freedom. As the scatter of few seeds is poorly known, each $s_N^2$ is averaged
with the mean of all: a cell whose seeds agree by chance must not dominate the fit.
"""

import dataclasses

import numpy as np


@dataclasses.dataclass(frozen=True)
class LogFit:
    r"""A line in log N.

    Attributes:
        intercept: a, in nats.
        slope: b, in nats per e-fold of N.
        slope_stderr: standard error of b.
        slope_low: lower end of the interval of b.
        slope_high: upper end of the interval of b.
        chi_squared: $\chi^2/\nu$; NaN for one seed, which leaves the errors unknown.
    """

    intercept: float
    slope: float
    slope_stderr: float
    slope_low: float
    slope_high: float
    chi_squared: float


def fit_logarithm(sizes: np.ndarray, values: np.ndarray, level: float = 0.95) -> LogFit | None:
    """Fit a line in log N.

    Args:
        sizes: N of each cell, shape (C,).
        values: S, shape (C, seeds); cells with NaN are left out.
        level: probability that the interval of the slope contains the truth.

    Returns:
        The fit, or None for fewer than three cells.
    """
    from scipy.stats import t as student

    there = np.isfinite(values).all(axis=1)
    x, y = np.log(np.asarray(sizes, float)[there]), np.asarray(values, float)[there]
    cells, seeds = y.shape
    if cells < 3:
        return None
    errors = np.ones(cells)
    known = seeds > 1
    if known:
        scatter = y.var(axis=1, ddof=1)
        errors = np.sqrt((scatter + scatter.mean()) / 2 / seeds)
        known = bool((errors > 0).all())
    errors = errors if known else np.ones(cells)
    design = np.stack([np.ones(cells), x], axis=1) / errors[:, None]
    covariance = np.linalg.inv(design.T @ design)
    target = y.mean(axis=1) / errors
    intercept, slope = covariance @ design.T @ target
    freedom = cells - 2
    chi_squared = float(np.sum((target - design @ np.array([intercept, slope])) ** 2) / freedom)
    # For one seed, the residuals are the only measure of the errors.
    factor = max(1.0, chi_squared) if known else chi_squared
    stderr = float(np.sqrt(covariance[1, 1] * factor))
    reach = float(student.ppf((1 + level) / 2, freedom)) * stderr
    return LogFit(
        float(intercept),
        float(slope),
        stderr,
        float(slope) - reach,
        float(slope) + reach,
        chi_squared if known else float("nan"),
    )
