r"""The Gaussian reference of a data set: a control variate whose integrals are known.

$N(m, C)$ has the moments of the very array that is sampled. Under diffusion its entropy field is
affine, $e_r(y) = \mu\pi m - \mu P^{-1}(r - \pi\mu C)(y - \mu m)$ with $P = \mu^2 C + \Sigma^2$ and
the precision $\pi$ and gain $r$ of the equilibrium. The squared norm of an affine function of
$y = \mu x + \Sigma z$ and z, averaged over the noise and the data, depends on the first two moments
of the array only:

$$E\sum_j(\alpha_j + \beta_j(y_j - \mu m_j) + \gamma_jz_j)^2 =
\sum_j\left[\alpha_j^2 + (\beta_j\mu)^2v_j + (\beta_j\Sigma + \gamma_j)^2\right]$$

in the eigenbasis of the sample covariance, with $v_j$ its eigenvalues. Those of $C$ are $v_j$
bounded away from zero, because a reference must have a density; the identity does not need them to
be equal.

The mean is subtracted before anything is rotated. The rounding error of a product such as $V^Ty$ is
about a unit in the last place of y, and depends on y systematically. Where the data lie far from
the origin, squares of deviations would be wrong in proportion to that unit, not to its square.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike
from entropix._core.compiled import lightly_compiled
from entropix._core.precision import matmul
from entropix.distributions import Gaussian
from entropix.estimators.axis import LogSNRAxis
from entropix.interfaces import AbstractControlVariate, AbstractGaussianProcess


_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(12)


class EntropyControl(AbstractControlVariate):
    r"""$\|e_r\|^2$: a control variate of entropy production."""

    def coefficients(
        self,
        process: AbstractGaussianProcess,
        s: RealScalarLike,
        mean: Float[Array, " dim"],
        variance: Float[Array, " dim"],
    ) -> tuple[Float[Array, " dim"], Float[Array, " dim"], Float[Array, " dim"]]:
        scale, precision = process.scale(s), process.equilibrium_precision(s) * process.scale(s)
        gain = scale / (scale**2 * variance + process.var(s))
        slope = -gain * (process.equilibrium_gain(s) - precision * variance)
        return precision * mean, slope, jnp.zeros_like(gain)


class DenoisingControl(AbstractControlVariate):
    r"""$\|\nabla\log r_s + z/\Sigma\|^2$: a control variate of denoising errors."""

    def coefficients(
        self,
        process: AbstractGaussianProcess,
        s: RealScalarLike,
        mean: Float[Array, " dim"],
        variance: Float[Array, " dim"],
    ) -> tuple[Float[Array, " dim"], Float[Array, " dim"], Float[Array, " dim"]]:
        total = process.scale(s) ** 2 * variance + process.var(s)
        return jnp.zeros_like(mean), -1 / total, jnp.full_like(total, 1 / process.std(s))


class GaussianReference(eqx.Module):
    """First two moments of an array of samples, as a Gaussian in its eigenbasis.

    Attributes:
        centre: the mean in the coordinates of the data, shape (D,).
        variances: eigenvalues of the sample covariance, shape (D,).
        spread: eigenvalues of the reference covariance, at least 1e-6 of their mean.
        basis: eigenvectors in columns, shape (D, D).
        num_samples: how many samples the moments were taken from; 0 for moments that were given.
    """

    centre: Float[Array, " dim"]
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
        rough = jnp.mean(flat, axis=0)
        centre = rough + jnp.mean(flat - rough, axis=0)
        centred = flat - centre
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
        return cls(centre, variances, spread, basis, flat.shape[0])

    @classmethod
    def from_gaussian(cls, gaussian: Gaussian) -> "GaussianReference":
        """A Gaussian as it is, treated as a constant by differentiation."""
        gaussian = jax.lax.stop_gradient(gaussian)
        variances, basis = gaussian.eigenvalues, gaussian.eigenvectors
        return cls(gaussian.mean, variances, variances, basis, 0)

    @property
    def mean(self) -> Float[Array, " dim"]:
        """The mean in the eigenbasis."""
        return self.centre @ self.basis

    @property
    def mean_variance(self) -> Array:
        """The mean variance per dimension."""
        return jnp.mean(self.spread)

    def rotate(self, x: Float[Array, "*shape"]) -> Float[Array, " dim"]:
        """One example in the eigenbasis."""
        return x.reshape(-1) @ self.basis

    def deviation(
        self, y: Float[Array, "*shape"], scale: RealScalarLike = 1.0
    ) -> Float[Array, " dim"]:
        r"""$y - \mu m$ for one example, in the eigenbasis."""
        return (y.reshape(-1) - scale * self.centre) @ self.basis

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$e_r(y, s)$ for one example."""
        constant, slope, _ = EntropyControl().coefficients(process, s, self.mean, self.spread)
        away = self.deviation(y, process.scale(s))
        return (self.basis @ (constant + slope * away)).reshape(y.shape)

    def entropy_divergence(
        self, process: AbstractGaussianProcess, s: RealScalarLike
    ) -> Float[Array, ""]:
        r"""$\nabla\cdot e_r$, which is the same for every y."""
        return jnp.sum(EntropyControl().coefficients(process, s, self.mean, self.spread)[1])

    def log_prob(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$\log r_s(y)$ for one example, in nats."""
        scale = process.scale(s)
        return self._log_density(y, scale, scale**2 * self.spread + process.var(s))

    def log_prob_undiffused(self, x: Float[Array, "*shape"]) -> Float[Array, ""]:
        r"""$\log r(x)$ for one example, in nats."""
        return self._log_density(x, 1.0, self.spread)

    def _log_density(self, y: Array, scale: RealScalarLike, variances: Array) -> Array:
        quadratic = jnp.sum(self.deviation(y, scale) ** 2 / variances)
        return -(quadratic + jnp.sum(jnp.log(2 * jnp.pi * variances))) / 2

    def control(
        self,
        variate: AbstractControlVariate,
        process: AbstractGaussianProcess,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        z: Float[Array, "*shape"],
    ) -> Float[Array, ""]:
        """A control variate at one state."""
        constant, slope, noise = variate.coefficients(process, s, self.mean, self.spread)
        away = self.deviation(y, process.scale(s))
        return jnp.sum((constant + slope * away + noise * self.rotate(z)) ** 2)

    def integrals(
        self,
        variate: AbstractControlVariate,
        process: AbstractGaussianProcess,
        axis: LogSNRAxis,
        edges: Float[Array, " edges"],
        keep: Float[Array, " bins"],
    ) -> tuple[Array, Array, Array]:
        r"""Cumulative mean of a control variate between the data end and each edge.

        Args:
            variate: the control variate.
            process: the process.
            axis: the integration axis.
            edges: fractions of the axis.
            keep: weights of equal bins of the axis with which the variate enters, shape (bins,).

        Returns:
            The cumulative value at each edge, shape (edges,), averaged over the data; and the
            coefficients (edges, D) of $\xi$ and of $\xi^2 - v$ in each data point's own value, with
            $\xi$ its coordinates about the mean.
        """
        # Two panels a bin: an integrand whose scales lie far from the centre of the axis has few
        # bins to itself. Then, for each edge, the part of its panel that lies before it.
        panels = 2 * keep.shape[0]
        last = jnp.clip(jnp.floor(edges * panels), 0, panels - 1)
        left = jnp.concatenate([jnp.arange(panels, dtype=edges.dtype), last]) / panels
        length = jnp.concatenate([jnp.full(panels, 1 / panels, edges.dtype), edges - last / panels])
        index = last.astype(int)

        def panel(args: tuple[Array, Array]) -> Array:
            left, length = args

            def at(node: Array, weight: Array) -> Array:
                point = left + length * node
                s = process.time_of_log_snr(axis.log_snr(point))
                constant, slope, noise = variate.coefficients(process, s, self.mean, self.spread)
                noise = noise + slope * process.std(s)
                slope = slope * process.scale(s)
                factor = weight * length * axis.jacobian(point) * process.measure(s)
                mean = jnp.sum(constant**2 + noise**2 + slope**2 * self.variances)
                return factor * jnp.append(jnp.stack([2 * constant * slope, slope**2]), mean)

            nodes = jnp.asarray((_NODES + 1) / 2, edges.dtype)
            weights = jnp.asarray(_WEIGHTS / 2, edges.dtype)
            return jnp.sum(jax.vmap(at)(nodes, weights), axis=0)

        # In many dimensions a loop saves memory; in few, all at once compiles faster.
        small = left.size * _NODES.size * self.centre.size < 2**18
        each = jax.vmap(panel) if small else lambda cell: jax.lax.map(panel, cell)
        cells = each((left, length))
        kept = jnp.where(jnp.arange(panels) < last[:, None], jnp.repeat(keep, 2), 0.0)
        sums = matmul(kept, cells[:panels]) + keep[index // 2][:, None] * cells[panels:]
        linear, quadratic = jnp.split(sums[:, :-1], 2, axis=1)
        return sums[:, -1], linear, quadratic


@lightly_compiled
def reference_of(x: Float[Array, "n *shape"]) -> GaussianReference:
    """The reference for log densities of a few samples, or of many."""
    count, size = x.shape[0], x[0].size
    if count < 16:
        # The variance of so few samples is not known: take a centred reference of their size.
        x = jnp.concatenate([x, -x])
    return GaussianReference.from_data(x, shrinkage=min(1.0, (size / count) ** 2))
