r"""Standardisation: an invertible affine change of units, and what it does to densities.

$$x_{std} = \frac{x - m}{c}, \qquad
\log p(x) = \log p_{std}(x_{std}) + \log\det, \qquad \log\det = -\sum_i \log c_i .$$

KL divergences between data sets standardised alike are those of the original data; differential
entropies shift by -log det; entropy production belongs to the units in which it was computed,
because the equilibrium does not change with them.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, as_float, real_array
from entropix._core.checks import finite, is_concrete, positive, positive_integer, samples


class Standardisation(eqx.Module):
    """The map x -> (x - mean) / std, per coordinate.

    Args:
        mean: shape (D,).
        std: shape (D,), positive.
        name: its name in records.

    Raises:
        ValueError: on a wrong shape, or a `std` that is not positive.
    """

    mean: Float[Array, " d"]
    std: Float[Array, " d"]
    name: str = eqx.field(static=True)

    def __init__(self, mean: DataLike, std: DataLike, name: str = "custom"):
        self.mean = finite(mean, "mean")
        self.std = positive(std, "std")
        self.name = name
        if self.mean.ndim != 1 or self.std.shape != self.mean.shape:
            raise ValueError(
                f"`mean` and `std` must both have shape (D,), "
                f"got {self.mean.shape} and {self.std.shape}."
            )

    @staticmethod
    def per_feature(points: DataLike) -> "Standardisation":
        """Every column to mean 0 and standard deviation 1: for tables.

        Args:
            points: shape (N, D), concrete (this runs on the host, in float64).

        Raises:
            ValueError: on a column that is constant, or whose spread is lost in the working
                precision beside its mean.
        """
        points, dtype = host_points(points)
        mean, std = moments(points)
        check_columns(mean, std, dtype)
        return Standardisation(mean.astype(dtype), std.astype(dtype), "per-feature")

    @staticmethod
    def global_scale(points: DataLike) -> "Standardisation":
        """Every column to mean 0, all divided by one number: for images and points of one unit.

        The number is the root of the mean variance of the columns, so the standardised data have
        a mean variance of 1 per dimension; distances keep their ratios, and constant columns
        (pixels that are always black) become 0.

        Args:
            points: shape (N, D), concrete (this runs on the host, in float64).

        Raises:
            ValueError: if all points are the same, or their spread is lost in the working
                precision beside their mean.
        """
        points, dtype = host_points(points)
        mean, std = moments(points)
        std = np.full_like(mean, np.sqrt((std**2).mean()))
        check_columns(mean, std, dtype)
        return Standardisation(mean.astype(dtype), std.astype(dtype), "global")

    @staticmethod
    def identity(dim: int) -> "Standardisation":
        """No change, for data whose units have a meaning."""
        positive_integer(dim, "dim")
        return Standardisation(jnp.zeros(dim), jnp.ones(dim), "identity")

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.mean.shape[0]

    def forward(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch d"]:
        """To standardised units; any leading axes."""
        return _forward(self._checked(x), self.mean, self.std)

    def inverse(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch d"]:
        """Back to the units of the data; any leading axes."""
        return _inverse(self._checked(x), self.mean, self.std)

    @property
    def log_det(self) -> Float[Array, ""]:
        r"""$\log|\det \partial x_{std}/\partial x| = -\sum_i \log c_i$.

        A log density in the units of the data is the standardised one plus this.
        """
        return _log_det(self.std)

    def log_jacobian(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch"]:
        """`log_det` at each of some points; `NormalScores` has the same method."""
        return jnp.full(self._checked(x).shape[:-1], self.log_det)

    def _checked(self, x: DataLike) -> Array:
        x = as_float(x, "x")
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"`x` must have shape (..., {self.dim}), got {x.shape}.")
        return x


@jax.jit
def _forward(x: Array, mean: Array, std: Array) -> Array:
    return (x - mean) / std


@jax.jit
def _inverse(x: Array, mean: Array, std: Array) -> Array:
    return x * std + mean


@jax.jit
def _log_det(std: Array) -> Array:
    return -jnp.sum(jnp.log(std))


def host_points(points: DataLike) -> tuple[np.ndarray, np.dtype]:
    """Points in float64 on the host, and their dtype in programs."""
    seen = samples(points, "points")
    if seen.ndim != 2:
        raise ValueError(f"`points` must have shape (N, D), got {seen.shape}.")
    if not is_concrete(seen):
        raise ValueError("`points` must be concrete, got an array traced by jit, vmap or grad.")
    return real_array(points, "`points`").astype(np.float64), np.dtype(seen.dtype)


def moments(points: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of each column."""
    return points.mean(axis=0), points.std(axis=0)


def check_columns(mean: np.ndarray, std: np.ndarray, dtype: np.dtype) -> None:
    """Refuse a spread of fewer than a hundred steps of the numbers around the mean."""
    if (std == 0).any():
        raise ValueError(
            f"`points` must vary in every column, got a constant column "
            f"{int(np.flatnonzero(std == 0)[0])}: drop it, or use `Standardisation.global_scale`."
        )
    step = np.finfo(dtype).eps * np.abs(mean)
    lost = np.flatnonzero(step > 0.01 * std)
    if len(lost):
        i = int(lost[0])
        raise ValueError(
            f"`points` must have a spread that {dtype} resolves, got a standard deviation of "
            f"{std[i]:.3g} around {mean[i]:.6g} in column {i}: subtract an offset, or enable "
            f"float64 (JAX_ENABLE_X64=1)."
        )
