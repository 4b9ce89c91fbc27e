r"""Gaussians with the moments of the training data, on held-out data.

With mean m and covariance C of the training data, in the coordinates of the model,

| density | covariance |
|---|---|
| isotropic | $\frac{\mathrm{tr}\,C}{D}\,I$ |
| diagonal | the diagonal of C |
| full | C |

A model of data that are not Gaussian should reach a smaller $-E\log p$ than all three. Its
advantage over the full one is what it has learnt beyond mean and covariance; a network that is
worse has not learnt these.
"""

import numpy as np
from scipy.linalg import solve_triangular

from entropix._core.chunks import centred_chunks
from entropix.studies.data import PreparedData
from entropix.studies.study import Found


# The names of the densities, in records and in words.
GAUSSIANS = {
    "isotropic": "isotropic Gaussian",
    "diagonal": "diagonal Gaussian",
    "gaussian": "Gaussian with full covariance",
}
# Smaller standard deviations than this, relative to the largest, are rounding.
_ROUNDING = 1e-5
# Columns up to which a covariance is computed.
_LARGEST = 4096


def measure_gaussians(data: PreparedData, count: int) -> Found:
    r"""-E log g on held-out data of the Gaussians of the training data, in nats and data units.

    Args:
        data: in the coordinates of the model.
        count: the number of held-out and of training samples that are evaluated, the first ones.

    Returns:
        For each name of `GAUSSIANS`, `log_prob_NAME` and `log_prob_NAME_train` of single samples,
        and `negative_log_likelihood_NAME` with its standard error; for integer levels also
        `bits_per_dim_NAME`. A Gaussian without a density is left out.
    """
    mean, covariance = _moments(data.train)
    parts = {"": data.held_out[:count], "_train": data.train[:count]}
    centred = {k: np.asarray(part, np.float64) - mean for k, part in parts.items()}
    found: Found = {}
    in_data_units = {k: np.asarray(data.log_jacobian(part)) for k, part in parts.items()}
    for name in GAUSSIANS:
        rated = _log_probs(name, covariance, centred)
        if rated is None:
            continue
        for suffix, values in rated.items():
            found[f"log_prob_{name}{suffix}"] = values + in_data_units[suffix]
        surprise = -found[f"log_prob_{name}"]
        errors = {"": surprise.mean(), "_stderr": surprise.std(ddof=1) / np.sqrt(len(surprise))}
        for suffix, value in errors.items():
            found[f"negative_log_likelihood_{name}{suffix}"] = value
            if data.dequantised and data.projection is None:
                found[f"bits_per_dim_{name}{suffix}"] = value / (data.dim * np.log(2))
    return found


def _moments(train: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and covariance in float64; of many columns the variances alone, shape (D,)."""
    count, dim = train.shape
    mean = train.mean(axis=0, dtype=np.float64)
    full = dim <= _LARGEST
    total = np.zeros((dim, dim) if full else dim)
    for part in centred_chunks(train, mean):
        total += part.T @ part if full else (part**2).sum(axis=0)
    return mean, total / (count - 1)


def _log_probs(
    name: str, covariance: np.ndarray, centred: dict[str, np.ndarray]
) -> dict[str, np.ndarray] | None:
    """The log densities of the centred samples; None if the Gaussian has no density."""
    variances = covariance if covariance.ndim == 1 else np.diag(covariance)
    if name == "gaussian":
        if covariance.ndim == 1:
            return None
        try:
            factor = np.linalg.cholesky(covariance)
        except np.linalg.LinAlgError:
            return None
        stds = np.diag(factor)
        whitened = {
            k: solve_triangular(factor, part.T, lower=True).T for k, part in centred.items()
        }
    else:
        stds = np.sqrt(variances)
        if name == "isotropic":
            stds = np.full_like(stds, np.sqrt(variances.mean()))
        if stds.min() == 0:
            return None
        whitened = {k: part / stds for k, part in centred.items()}
    if stds.min() < _ROUNDING * stds.max():
        return None
    constant = np.log(stds).sum() + len(stds) * np.log(2 * np.pi) / 2
    return {k: -(part**2).sum(axis=1) / 2 - constant for k, part in whitened.items()}
