r"""Canonical coordinates: white variables that are correlated in pairs.

With the covariances $C_x$, $C_y$ and $C_{xy}$, and the singular value decomposition
$C_x^{-1/2} C_{xy} C_y^{-1/2} = U \operatorname{diag}(\rho)\,V^\top$,

$$x' = U^\top C_x^{-1/2}(x - m_x), \qquad y' = V^\top C_y^{-1/2}(y - m_y)$$

have unit covariance, and $x'_i$ is correlated with $y'_i$ alone, by $\rho_i$ (Hotelling, 1936). For
a Gaussian pair $I(X; Y) = -\frac12\sum_i\log(1 - \rho_i^2)$. Affine maps do not change information.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, as_float
from entropix._core.checks import is_concrete, samples
from entropix._core.precision import matmul


# Directions whose variance is below this fraction of the largest are taken as constant.
FLAT = 1e-10


class CanonicalCoordinates(eqx.Module):
    r"""Affine maps of a pair of variables to canonical coordinates.

    Attributes:
        mean_x: shape (d_x,).
        map_x: shape (d_x, d_x), columns are the directions of the new coordinates.
        mean_y: shape (d_y,).
        map_y: shape (d_y, d_y).
        correlations: $\rho_i$ of the coordinates of x, shape (d_x,), in decreasing order; zero
            beyond $\min(d_x, d_y)$ and below the noise edge of `from_samples`; one where x and y
            determine each other.

    References:
        Hotelling, *Relations between two sets of variates*, Biometrika 28 (1936).

    Example:
        >>> import jax, entropix as ex
        >>> joint = ex.Gaussian([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]])
        >>> pair = joint.sample(10_000, key=jax.random.key(0))
        >>> canonical = ex.information.CanonicalCoordinates.from_samples(pair[:, :1], pair[:, 1:])
        >>> bool(abs(canonical.correlations[0] - 0.6) < 0.03)
        True
        >>> bool(abs(canonical.gaussian_information - 0.223) < 0.03)  # nats
        True
    """

    mean_x: Float[Array, " dx"]
    map_x: Float[Array, "dx dx"]
    mean_y: Float[Array, " dy"]
    map_y: Float[Array, "dy dy"]
    correlations: Float[Array, " dx"]

    @staticmethod
    def from_samples(x: DataLike, y: DataLike, *, edge: bool = True) -> "CanonicalCoordinates":
        r"""The canonical coordinates of a sample, computed on the host in float64.

        Args:
            x: shape (N, d_x).
            y: shape (N, d_y).
            edge: set correlations below $\sqrt{d_x/N} + \sqrt{d_y/N}$ to zero: independent
                variables have sample correlations up to this size.

        Raises:
            ValueError: if x and y do not have equally many samples, or one of them is constant.
        """
        host_x, host_y = _host(x, "x"), _host(y, "y")
        n = host_x.shape[0]
        if host_y.shape[0] != n:
            raise ValueError(f"`y` must have one row for each of x, {n}, got {host_y.shape[0]}.")
        mean_x, white_x = whitening(host_x, "x")
        mean_y, white_y = whitening(host_y, "y")
        cross = ((host_x - mean_x) @ white_x).T @ ((host_y - mean_y) @ white_y) / n
        u, found, v = np.linalg.svd(cross)
        if edge:
            lowest = np.sqrt(host_x.shape[1] / n) + np.sqrt(host_y.shape[1] / n)
            found = np.where(found < lowest, 0, found)
        rho = np.zeros(host_x.shape[1])
        rho[: len(found)] = np.minimum(found, 1)
        parts = (mean_x, white_x @ u, mean_y, white_y @ v.T, rho)
        return CanonicalCoordinates(*(as_float(part) for part in parts))

    def x(self, x: DataLike) -> Float[Array, "*batch dx"]:
        """The canonical coordinates of x, shape (..., d_x)."""
        return matmul(as_float(x, "x") - self.mean_x, self.map_x)

    def y(self, y: DataLike) -> Float[Array, "*batch dy"]:
        """The canonical coordinates of y, shape (..., d_y)."""
        return matmul(as_float(y, "y") - self.mean_y, self.map_y)

    @property
    def gaussian_information(self) -> Float[Array, ""]:
        r"""$-\frac12\sum_i\log(1 - \rho_i^2)$, in nats."""
        rho = self.correlations
        return -0.5 * jnp.sum(jnp.log(1 - rho) + jnp.log1p(rho))


def _host(data: Any, name: str) -> np.ndarray:
    array = samples(data, name)
    if array.ndim != 2 or not is_concrete(array):
        raise ValueError(f"`{name}` must be a concrete array of shape (N, d), got {array.shape}.")
    return np.asarray(array, np.float64)


def dependence(x: np.ndarray, y: np.ndarray) -> float:
    """The largest canonical correlation, zero if it is below the noise edge."""
    return float(np.asarray(CanonicalCoordinates.from_samples(x, y).correlations)[0])


def thinness(points: np.ndarray) -> float:
    """The least variance of a combination of columns, as a part of the largest."""
    values = np.linalg.eigvalsh(np.cov(points.T).reshape(points.shape[1], -1))
    return max(float(values[0] / values[-1]), 0.0)


def whitening(points: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The mean of points of shape (N, d), and a map to unit covariance, on the host.

    Directions of almost no variance are divided by a floor.
    """
    mean = points.mean(axis=0)
    values, vectors = np.linalg.eigh((points - mean).T @ (points - mean) / len(points))
    if not values[-1] > 0:
        raise ValueError(f"`{name}` must vary, got {len(points)} equal samples.")
    return mean, vectors / np.sqrt(np.maximum(values, FLAT * values[-1]))
