r"""The Gaussian reference of a data set: a control variate whose integrals are known.

$r = N(m, C)$ with the moments of the very array that is sampled. Under diffusion its entropy field
is affine, $e_r(y) = \mu P^{-1}[m - (r - \pi\mu C)y]$ with $P = \mu^2 C + \Sigma^2$. The mean of
$\|e_r\|^2$ over the data and the noise then depends on the first two moments of the array only, and
is exact for any data:

$$E\|e_r\|^2 = \sum_j \frac{\mu^2}{P_j^2}\left[(1 - \mu a_j)^2 m_j^2 + a_j^2(\mu^2 v_j +
\Sigma^2)\right], \qquad a_j = r - \pi\mu c_j,$$

in the eigenbasis of the sample covariance, with $v_j$ its eigenvalues and $c_j$ those of $C$, which
are $v_j$ bounded away from zero (a reference must have a density; the identity needs no match).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike
from entropix.distributions import Gaussian
from entropix.entropy.axis import LogSNRAxis
from entropix.interfaces import AbstractGaussianProcess


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


class GaussianReference(eqx.Module):
    """First two moments of an array of samples, as a Gaussian in its eigenbasis.

    Attributes:
        mean: in the eigenbasis, shape (D,).
        variances: eigenvalues of the sample covariance, shape (D,).
        spread: eigenvalues of the reference covariance, at least 1e-6 of their mean.
        basis: eigenvectors in columns, shape (D, D).
        num_samples: how many samples the moments were taken from; 0 for moments that were given.
    """

    mean: Float[Array, " dim"]
    variances: Float[Array, " dim"]
    spread: Float[Array, " dim"]
    basis: Float[Array, "dim dim"]
    num_samples: int = eqx.field(static=True)

    @classmethod
    def from_data(
        cls, data: Float[Array, "n *shape"], *, shrinkage: float = 0.0
    ) -> "GaussianReference":
        """Moments of `data` as they are, treated as constants by differentiation.

        `shrinkage` moves the eigenvalues of the reference towards their mean, for samples too few
        to fill the space.
        """
        flat = jax.lax.stop_gradient(data.reshape(data.shape[0], -1))
        mean = jnp.mean(flat, axis=0)
        centred = flat - mean
        covariance = centred.T @ centred / flat.shape[0]
        basis = jnp.linalg.eigh(covariance)[1]
        # Small eigenvalues are lost in the rounding of large ones, the variances along their
        # vectors are not: the integrals below are exact in these, whatever the basis.
        variances = jnp.mean((centred @ basis) ** 2, axis=0)
        average, size = jnp.mean(variances), jnp.mean(flat**2)
        # Samples that are alike to rounding have no variance: take their size, or one.
        alike = average <= (4 * jnp.finfo(flat.dtype).eps) ** 2 * size
        average = jnp.where(alike, jnp.where(size > 0, size, 1.0), average)
        spread = (1 - shrinkage) * variances + shrinkage * average
        spread = jnp.where(alike, average, jnp.maximum(spread, 1e-6 * average))
        return cls(mean @ basis, variances, spread, basis, flat.shape[0])

    @classmethod
    def from_gaussian(cls, gaussian: Gaussian) -> "GaussianReference":
        """A Gaussian as it is, treated as a constant by differentiation."""
        gaussian = jax.lax.stop_gradient(gaussian)
        variances, basis = gaussian.eigenvalues, gaussian.eigenvectors
        return cls(gaussian.mean @ basis, variances, variances, basis, 0)

    @property
    def mean_variance(self) -> Array:
        """The mean variance per dimension."""
        return jnp.mean(self.spread)

    def rotate(self, x: Float[Array, "*shape"]) -> Float[Array, " dim"]:
        """One example in the eigenbasis."""
        return x.reshape(-1) @ self.basis

    def _excess(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Array:
        pull = process.equilibrium_precision(s) * process.scale(s) * self.spread
        return process.equilibrium_gain(s) - pull

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$e_r(y, s)$ for one example."""
        scale = process.scale(s)
        total = scale**2 * self.spread + process.var(s)
        target = self.mean - self._excess(process, s) * self.rotate(y)
        return (self.basis @ (scale / total * target)).reshape(y.shape)

    def score(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$\nabla\log r_s(y)$ for one example."""
        scale = process.scale(s)
        total = scale**2 * self.spread + process.var(s)
        return (self.basis @ ((scale * self.mean - self.rotate(y)) / total)).reshape(y.shape)

    def log_prob(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$\log r_s(y)$ for one example, in nats."""
        scale = process.scale(s)
        total = scale**2 * self.spread + process.var(s)
        quadratic = jnp.sum((self.rotate(y) - scale * self.mean) ** 2 / total)
        return -(quadratic + jnp.sum(jnp.log(2 * jnp.pi * total))) / 2

    def log_prob_undiffused(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        r"""$\log r(x)$ for one example, in nats."""
        quadratic = jnp.sum((self.rotate(x) - self.mean) ** 2 / self.spread)
        return -(quadratic + jnp.sum(jnp.log(2 * jnp.pi * self.spread))) / 2

    def _coefficients(
        self, process: AbstractGaussianProcess, s: RealScalarLike
    ) -> tuple[Array, Array, Array]:
        r"""Coefficients of $\frac{\Sigma^2}{2}E_z e_{r,j}^2 = c_0 + c_1\xi_j + c_2\xi_j^2$.

        $\xi_j$ is the centred coordinate of a data point; shapes (D,).
        """
        scale, var = process.scale(s), process.var(s)
        total = scale**2 * self.spread + var
        excess = self._excess(process, s)
        weight = var / 2 * (scale / total) ** 2
        kept = (1 - scale * excess) * self.mean
        constant = weight * (kept**2 + excess**2 * var)
        return constant, -2 * weight * kept * excess * scale, weight * (excess * scale) ** 2

    def _error_coefficients(
        self, process: AbstractGaussianProcess, s: RealScalarLike
    ) -> tuple[Array, Array, Array]:
        r"""The same of $\frac12E_z(\Sigma s_{r,j} + z_j)^2$.

        The error is $P_j^{-1}(\mu^2c_jz_j - \Sigma\mu\xi_j)$.
        """
        scale, var = process.scale(s), process.var(s)
        total = scale**2 * self.spread + var
        constant = (scale**2 * self.spread / total) ** 2 / 2
        return constant, jnp.zeros_like(constant), var * (scale / total) ** 2 / 2

    def integrals(
        self,
        process: AbstractGaussianProcess,
        axis: LogSNRAxis,
        edges: Float[Array, " edges"],
        keep: Float[Array, " bins"],
        *,
        denoising: bool = False,
    ) -> tuple[Array, Array, Array]:
        r"""Cumulative entropy of the reference between the data end and each edge.

        Args:
            process: the process.
            axis: the integration axis.
            edges: increasing fractions of the axis, the first its data end.
            keep: weights of equal bins of the axis with which the reference enters, shape (bins,).
            denoising: whether to integrate $\frac12E\|\Sigma s_r + z\|^2$, the growth of
                conditional entropy, instead.

        Returns:
            The cumulative value at each edge, shape (edges,), averaged over the data; and the
            coefficients (edges, D) of $\xi$ and of $\xi^2 - v$ in each data point's own value.
        """
        coefficients = self._error_coefficients if denoising else self._coefficients
        bins = keep.shape[0]
        # Two panels a bin: an integrand whose scales lie far from the centre of the axis has few
        # bins to itself.
        cuts = jnp.sort(jnp.concatenate([edges, jnp.linspace(0.0, 1.0, 2 * bins + 1)[1:]]))
        left, length = cuts[:-1], jnp.diff(cuts)
        index = jnp.clip(jnp.floor((left + length / 2) * bins).astype(int), 0, bins - 1)
        nodes = left[:, None] + length[:, None] * jnp.asarray((_NODES + 1) / 2, left.dtype)
        weights = length[:, None] * jnp.asarray(_WEIGHTS / 2, left.dtype)

        def cell(points: Array, point_weights: Array) -> tuple[Array, Array, Array]:
            def at(point: Array, weight: Array) -> tuple[Array, Array, Array]:
                s = process.time_of_log_snr(axis.log_snr(point))
                c0, c1, c2 = coefficients(process, s)
                factor = weight * axis.jacobian(point)
                return factor * jnp.sum(c0 + c2 * self.variances), factor * c1, factor * c2

            return jax.tree.map(lambda x: jnp.sum(x, axis=0), jax.vmap(at)(points, point_weights))

        cells = jax.lax.map(lambda args: cell(*args), (nodes, weights))
        at_edge = jnp.searchsorted(cuts, edges, side="right") - 1

        def accumulate(values: Array) -> Array:
            kept = values * keep[index].reshape((-1,) + (1,) * (values.ndim - 1))
            total = jnp.concatenate([jnp.zeros_like(kept[:1]), jnp.cumsum(kept, axis=0)])
            return total[at_edge]

        constant, linear, quadratic = cells
        return accumulate(constant), accumulate(linear), accumulate(quadratic)


@eqx.filter_jit
def reference_of(x: Float[Array, "n *shape"]) -> GaussianReference:
    """The reference for log densities of a few samples, or of many."""
    count, size = x.shape[0], x[0].size
    if count < 16:
        # So few samples do not know their own variance: a centred reference of their size.
        x = jnp.concatenate([x, -x])
    return GaussianReference.from_data(x, shrinkage=min(1.0, (size / count) ** 2))
