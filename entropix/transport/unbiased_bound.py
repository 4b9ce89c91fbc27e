r"""A lower bound on W2 between the ends of a process that is not biased upwards.

For any positive definite A, $2x\cdot y \le x^T A x + y^T A^{-1} y$, so that for every coupling of
$x$ with $y = \mu x' + \Sigma z$, both centred at a point m and its image,

$$W_2^2 \ge (1 - \mu)^2|m|^2 + 2(1 - \mu)^2 m\cdot E\tilde x
  + E\,\tilde x^T(1 - A)\tilde x + E\,\tilde y^T(1 - A^{-1})\tilde y .$$

With the moments of the data for m and A this is Gelbrich's bound (1990). Moments of the same
samples over which the mean is taken make it too large, in many dimensions by far more than its
error. Here m and A come from other samples, so the mean is unbiased for any m and A.
"""

import numpy as np

from entropix.interfaces import AbstractGaussianProcess
from entropix.processes import end_scale_and_std


def unbiased_w2_bound(
    process: AbstractGaussianProcess, points: np.ndarray, others: np.ndarray
) -> tuple[float, float]:
    """A lower bound on W2 between the two ends of a process, and its standard error.

    Args:
        process: a Gaussian process.
        points: samples of the data over which the bound is averaged, shape (N, D).
        others: other samples of the data, from which m and A are taken, shape (M, D).

    Returns:
        The bound and its standard error for the population; zeros if the bound is not positive.
    """
    points, others = (np.asarray(part, np.float64) for part in (points, others))
    scale, std = (float(value) for value in end_scale_and_std(process))
    var = std**2
    count, dim = others.shape
    mean = others.mean(axis=0)
    values, basis = np.linalg.eigh(np.cov(others, rowvar=False).reshape(dim, dim))
    # Shrink towards equal variances, more so for few samples: a direction in which these hardly
    # vary must not get an extreme A, which other samples do not support.
    share = dim / (dim + count)
    values = (1 - share) * np.maximum(values, 0) + share * values.mean()
    a = np.sqrt((scale**2 * values + var) / np.maximum(values, np.finfo(float).tiny))
    centred = points - mean
    squares = (centred @ basis) ** 2
    of_each = squares @ ((1 - a) + scale**2 * (1 - 1 / a)) + var * np.sum(1 - 1 / a)
    of_each += (1 - scale) ** 2 * (mean @ mean + 2 * centred @ mean)
    squared = float(of_each.mean())
    error = float(of_each.std(ddof=1) / np.sqrt(len(points)))
    if squared <= 0:
        return 0.0, 0.0
    return float(np.sqrt(squared)), error / (2 * float(np.sqrt(squared)))
