r"""The Gaussian part of an entropy field, which a network then need not learn.

Data with mean m and covariance $C = V\Lambda V^T$ have, to the extent that they are Gaussian,
the entropy field of N(m, C), with the precision $\pi$ and the gain r of the equilibrium,

$$\frac{e_g(y, s)}{\mu}
  = \pi m - V\,\frac{r - \mu\pi\Lambda}{\mu^2\Lambda + \Sigma^2}\,V^T(y - \mu m),$$

which has a limit at both ends. For large D a network learns such a linear map slowly, one direction
after the other; with this part added, a network whose output is zero already has the density
N(m, C). `networks.LinearSkip` learns the linear map instead, for conditions as well, and
`networks.GaussianPlusResidual` is the exact field of a Gaussian pair in canonical coordinates.

The covariance is that of the samples, shrunk to a multiple of the identity as much as their number
requires, $C \to (1 - a) C + a \bar\lambda I$ (Ledoit and Wolf, J. Multivariate Anal. 88, 2004).
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealScalarLike, State
from entropix._core.checks import exact_shape, samples
from entropix._core.chunks import centred_chunks
from entropix.interfaces import AbstractGaussianProcess


# Eigenvalues relative to their mean, below which they are rounding.
_LEAST = 1e-8


class GaussianPart(eqx.Module):
    """The field of a Gaussian with full covariance, divided by the scale of the process.

    Attributes:
        mean: m, shape (D,).
        eigenvalues: of the covariance, shape (D,).
        eigenvectors: in columns, shape (D, D).
        shape: of one example.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> data = jax.random.normal(jax.random.key(0), (1000, 2)) * jnp.array([2.0, 0.5])
        >>> part = ex.models.GaussianPart.from_data(data)
        >>> process = ex.CosinePath()
        >>> network = ex.FourierMLP(2, key=jax.random.key(1), widths=(8,))  # zero before training
        >>> model = ex.EntropyMatching(network, process, gaussian=part)
        >>> model.entropy_field(0.5, jnp.ones(2)).shape
        (2,)
    """

    mean: Float[Array, " dim"]
    eigenvalues: Float[Array, " dim"]
    eigenvectors: Float[Array, "dim dim"]
    shape: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def from_data(cls, data: DataLike) -> "GaussianPart":
        """The moments of samples, computed in float64.

        Args:
            data: shape (N, *shape), at least two samples.

        Raises:
            ValueError: if `data` has no samples, is not finite, or is constant.
        """
        given = samples(data)
        x = np.asarray(given).reshape(len(given), -1)
        count, dim = x.shape
        mean = x.mean(axis=0, dtype=np.float64)
        total, fourth = np.zeros((dim, dim)), 0.0
        for part in centred_chunks(x, mean):
            total += part.T @ part
            fourth += float((np.sum(part**2, axis=1) ** 2).sum())
        covariance = total / count
        spread = float(np.trace(covariance)) / dim
        if spread == 0:
            raise ValueError("`data` must vary, got samples that are all the same.")
        size = float((covariance**2).sum())
        apart = size - dim * spread**2
        noise = (fourth / count - size) / count
        shrinkage = 1.0 if apart <= noise else noise / apart
        values, vectors = np.linalg.eigh(covariance)
        values = (1 - shrinkage) * np.maximum(values, _LEAST * spread) + shrinkage * spread
        dtype = given.dtype
        return cls(
            jnp.asarray(mean, dtype),
            jnp.asarray(values, dtype),
            jnp.asarray(vectors, dtype),
            tuple(given.shape[1:]),
        )

    def over_scale(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: State
    ) -> Float[Array, "*shape"]:
        r"""$e_g(y, s)/\mu$.

        Args:
            process: the forward process, with an entropy that is finite at the data end.
            s: time.
            y: state, of the shape of an example.
        """
        exact_shape(y, self.shape, "y")
        rotated = self.eigenvectors.T @ (y.ravel() - process.scale(s) * self.mean)
        solved = self.eigenvectors @ (self.slopes(process, s) * rotated)
        return (process.equilibrium_precision(s) * self.mean + solved).reshape(y.shape)

    def slopes(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, " dim"]:
        r"""The derivatives of $e_g/\mu$ along the eigenvectors."""
        spread = process.scale(s) * process.equilibrium_precision(s) * self.eigenvalues
        return (spread - process.equilibrium_gain(s)) / self._total(process, s)

    def _total(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Array:
        return process.scale(s) ** 2 * self.eigenvalues + process.var(s)
