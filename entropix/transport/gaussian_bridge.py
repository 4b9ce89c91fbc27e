r"""The Schroedinger bridge between two Gaussians, in closed form.

Of all processes with unit time, $p_0 = N(m_0, A)$ and $p_1 = N(m_1, B)$ it is the one closest, in
path KL, to Brownian motion of variance $\epsilon$. Its pairs $(X_0, X_1)$ are the entropic plan for
the cost $|x - y|^2/(2\epsilon)$: jointly Gaussian with the cross-covariance

$$C = \tfrac12\left(A^{1/2} D A^{-1/2} - \epsilon I\right) =
  2 A^{1/2}(D + \epsilon I)^{-1} A^{1/2} B, \qquad
  D = \left(4 A^{1/2} B A^{1/2} + \epsilon^2 I\right)^{1/2}$$

(Janati et al., 2006.02572; Mallasto et al., 2006.03416; the second form, which is computed, needs
no inverse and does not cancel). Between its ends it is the mixture of Brownian bridges over that
plan, a Gaussian process (Bunne et al., 2202.05722): $X_s \sim N(m_s, C_s)$ with

$$m_s = (1-s) m_0 + s m_1, \qquad C_s = (1-s)^2 A + s^2 B + s(1-s)(C + C^T + \epsilon I),$$

the drift $u = m_1 - m_0 + [(1-s)(C^T - A) + s(B - C) - \epsilon s I]\,C_s^{-1}(x - m_s)$, the same
with the ends exchanged for the drift of the reversed process, and half their difference for the
current velocity,

$$v = m_1 - m_0 + [(1-s)(C^T - A) + s(B - C) + \epsilon(\tfrac12 - s) I]\,C_s^{-1}(x - m_s).$$
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike, as_float
from entropix._core.checks import positive
from entropix.distributions import Gaussian
from entropix.transport.bridge_process import end_clock
from entropix.transport.gaussian import sqrtm_psd


class GaussianBridge(eqx.Module):
    r"""The Schroedinger bridge between $N(m_0, A)$ and $N(m_1, B)$; see the module.

    Differentiable in every number.

    Args:
        start: $N(m_0, A)$, a `Gaussian`.
        end: $N(m_1, B)$, a `Gaussian` of the same dimension.
        epsilon: $\epsilon = \sigma^2$, the variance that the reference gains in unit time.

    Attributes:
        cross: $C = \mathrm{Cov}(X_0, X_1)$, shape (D, D).

    Raises:
        ValueError: if an end is no Gaussian or of another dimension, or `epsilon` is not positive.

    References:
        Janati et al., arXiv 2006.02572; Mallasto et al., 2006.03416; Bunne et al., 2202.05722.
    """

    start: Gaussian
    end: Gaussian
    epsilon: Float[Array, ""]
    cross: Float[Array, "dim dim"]

    def __init__(self, start: Gaussian, end: Gaussian, *, epsilon: Any):
        for name, given in (("start", start), ("end", end)):
            if not isinstance(given, Gaussian):
                raise ValueError(f"`{name}` must be a Gaussian, got {type(given).__name__}.")
        if start.dim != end.dim:
            raise ValueError(
                f"`end` must have the dimension of `start`, {start.dim}, got {end.dim}."
            )
        self.start, self.end = start, end
        self.epsilon = positive(epsilon, "epsilon", shape=())
        root, sums = self._roots()
        self.cross = 2 * root @ jnp.linalg.solve(sums, root @ end.covariance)

    @property
    def _identity(self) -> Array:
        return jnp.eye(self.start.dim, dtype=self.epsilon.dtype)

    @property
    def _shift(self) -> Array:
        return self.end.mean - self.start.mean

    def _roots(self) -> tuple[Array, Array]:
        r"""$A^{1/2}$ and $D + \epsilon I$."""
        root = sqrtm_psd(self.start.covariance)
        inner = 4 * root @ self.end.covariance @ root + self.epsilon**2 * self._identity
        return root, sqrtm_psd((inner + inner.T) / 2) + self.epsilon * self._identity

    def sample_pairs(self, n: int, *, key: Key) -> tuple[Array, Array]:
        """Draw pairs $(X_0, X_1)$ of the entropic plan, each of shape (n, D)."""
        joint = jnp.block(
            [[self.start.covariance, self.cross], [self.cross.T, self.end.covariance]]
        )
        mean = jnp.concatenate([self.start.mean, self.end.mean])
        z = jax.random.normal(key, (n, mean.size), mean.dtype)
        pairs = mean + z @ sqrtm_psd(joint)
        return pairs[:, : self.start.dim], pairs[:, self.start.dim :]

    def marginal(self, s: RealScalarLike) -> Gaussian:
        r"""The density of $X_s$, $N(m_s, C_s)$."""
        return Gaussian((1 - s) * self.start.mean + s * self.end.mean, self._covariance_at(s))

    def _covariance_at(self, s: RealScalarLike) -> Array:
        s = as_float(s)
        mixed = self.cross + self.cross.T + self.epsilon * self._identity
        return (
            (1 - s) ** 2 * self.start.covariance + s**2 * self.end.covariance + s * (1 - s) * mixed
        )

    def _slope(self, s: RealScalarLike, isotropic: RealScalarLike) -> Array:
        """The matrix before $C_s^{-1}$, with `isotropic` times the identity in it."""
        s = as_float(s)
        early = (1 - s) * (self.cross.T - self.start.covariance)
        return early + s * (self.end.covariance - self.cross) + as_float(isotropic) * self._identity

    def _affine(self, s: RealScalarLike, slope: Array, x: Array) -> Array:
        centred = x - (1 - s) * self.start.mean - s * self.end.mean
        return slope @ jnp.linalg.solve(self._covariance_at(s), centred)

    def drift(self, s: RealScalarLike, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The drift $u$ of the bridge."""
        slope = self._slope(s, -self.epsilon * s)
        return self._shift + self._affine(s, slope, x)

    def velocity(self, s: RealScalarLike, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The current velocity $v$."""
        slope = self._slope(s, self.epsilon * (0.5 - s))
        return self._shift + self._affine(s, slope, x)

    @property
    def path_kl(self) -> Float[Array, ""]:
        r"""KL to Brownian motion from $p_0$, $\int\frac{1}{2\epsilon}E\|u\|^2ds$, in nats.

        $$\frac{|m_1-m_0|^2 + \mathrm{tr}(A + B - 2C)}{2\epsilon} + \frac12\log\det(D + \epsilon I)
          - \frac12\log\det B - \frac D2(1 + \log 2)$$
        """
        size = self.start.dim
        moved = jnp.sum((self._shift) ** 2) + jnp.trace(
            self.start.covariance + self.end.covariance - 2 * self.cross
        )
        growth = (
            jnp.linalg.slogdet(self._roots()[1])[1] - jnp.linalg.slogdet(self.end.covariance)[1]
        )
        return moved / (2 * self.epsilon) + growth / 2 - size / 2 * (1 + jnp.log(2.0))

    @property
    def entropy_production(self) -> Float[Array, ""]:
        r"""$\int\frac{2}{\epsilon}E\|v\|^2ds$ in nats.

        By 64 Gauss-Legendre nodes for each half of the time, in the clock of `bridge_process`: the
        rate changes within the times $\lambda/\epsilon$ of the ends, $\lambda$ the eigenvalues of
        their covariances.
        """
        nodes, weights = np.polynomial.legendre.leggauss(64)
        dtype = self.cross.dtype
        nodes, weights = (jnp.asarray(part / 2, dtype) for part in (nodes + 1, weights))

        def rate(s: Array) -> Array:
            slope = self._slope(s, self.epsilon * (0.5 - s))
            spread = jnp.linalg.solve(self._covariance_at(s), slope.T)
            return jnp.sum((self._shift) ** 2) + jnp.trace(slope @ spread)

        total = jnp.zeros((), dtype)
        for end, last in ((self.start, False), (self.end, True)):
            # Of the nodes alone, which no derivative needs to follow.
            least = jnp.min(jnp.linalg.eigvalsh(jax.lax.stop_gradient(end.covariance)))
            delta = jnp.clip(least / jax.lax.stop_gradient(self.epsilon), 1e-6, 1.0)
            half = jnp.arcsinh(jnp.sqrt(0.5 / delta)) / jnp.arcsinh(jnp.sqrt(1 / delta))
            rest, slope, _ = end_clock(half * nodes, delta)
            rates = jax.vmap(rate)(1 - rest if last else rest)
            total += half * jnp.sum(weights * slope * rates)
        return 2 / self.epsilon * total
