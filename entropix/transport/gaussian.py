r"""Transport between Gaussians in closed form: optimal, and entropic.

**Optimal.** The Bures-Wasserstein distance is

$$W_2^2 = |m_1 - m_2|^2 + \mathrm{tr}\left[C_1 + C_2 -
  2\left(C_1^{1/2} C_2 C_1^{1/2}\right)^{1/2}\right] = |m_1 - m_2|^2 +
  \min_{Q\ \mathrm{orthogonal}}\left\|C_1^{1/2} - C_2^{1/2} Q\right\|^2$$

(Dowson and Landau, 1982; Bhatia, Jain and Lim, 1712.01504). The second form is computed: nothing
cancels in it where the Gaussians are close, and as a minimum it may be differentiated at fixed Q.
Between any two densities with these moments $W_2$ is at least as large (Gelbrich, 1990). The
geodesic is a straight line of aligned roots (Takatsu, 0801.2250),

$$m_t = (1 - t)m_1 + t m_2, \qquad C_t = A_t A_t^T, \qquad A_t = (1 - t)C_1^{1/2} + t C_2^{1/2}Q .$$

**Entropic.** The Schrödinger bridge between $p_0 = N(m_0, A)$ and $p_1 = N(m_1, B)$ is, of all
processes with unit time and these ends, the closest in path KL to Brownian motion of variance
$\epsilon$. Its pairs $(X_0, X_1)$ are the entropic plan for the cost $|x - y|^2/(2\epsilon)$:
jointly Gaussian with the cross-covariance

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

from entropix._core.arrays import DataLike, Key, RealScalarLike, as_float, safe_sqrt
from entropix._core.checks import checked, finite, is_concrete, positive
from entropix._core.precision import full_precision
from entropix.distributions import Gaussian
from entropix.transport.frame import power_of_two, representable


_STEPS = 512  # of the logarithm in `entropy_production`; the nearest singularity lies pi away


@jax.custom_jvp
def sqrtm_psd(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """Square root of a symmetric positive semi-definite matrix, differentiable to every order.

    Its derivative solves R X + X R = dA, in terms of R itself: no difference of eigenvalues
    appears, so that equal ones are no special case. In directions where the matrix is singular to
    rounding the derivative is infinite, and is set to zero.
    """
    values, vectors = jnp.linalg.eigh(matrix)
    return (vectors * jnp.sqrt(jnp.maximum(values, 0.0))) @ vectors.T


@sqrtm_psd.defjvp
def _sqrtm_psd_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    root = sqrtm_psd(primals[0])
    return root, sylvester_psd(root, (tangents[0] + tangents[0].T) / 2)


def sylvester_psd(
    root: Float[Array, "d d"], right: Float[Array, "d d"], *, of_square: bool = True
) -> Float[Array, "d d"]:
    """X with R X + X R = `right` for symmetric positive semi-definite R; zero where R is.

    A root that was computed from its square (`of_square`) is known to the square root of rounding.
    Differentiable to every order, in both modes: as a linear equation, not as an eigenproblem.
    """

    def solve(_: Any, right: Array) -> Array:
        values, vectors = jnp.linalg.eigh(root)
        sums = values[:, None] + values[None, :]
        rounding = jnp.finfo(root.dtype).eps * root.shape[0]
        least = 2 * jnp.sqrt(rounding) if of_square else rounding
        regular = sums > least * jnp.maximum(values[-1], 0.0)
        rotated = vectors.T @ right @ vectors
        solved = jnp.where(regular, rotated / jnp.where(regular, sums, 1.0), 0.0)
        return vectors @ solved @ vectors.T

    return jax.lax.custom_linear_solve(lambda x: root @ x + x @ root, right, solve, symmetric=True)


@jax.custom_jvp
def polar(matrix: Float[Array, "d d"]) -> Float[Array, "d d"]:
    """The orthogonal factor of a square matrix, the Q nearest to it.

    Its derivative needs sums of singular values, never differences, and is differentiable in turn;
    in directions where these vanish Q is not unique, and is held.
    """
    left, _, right = jnp.linalg.svd(matrix)
    return left @ right


@polar.defjvp
def _polar_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    turn = polar(primals[0])
    stretch = turn.T @ primals[0]
    turned = turn.T @ tangents[0]
    # Q dQ^T + dQ Q^T = 0: the derivative is Q times an antisymmetric matrix.
    skew = sylvester_psd((stretch + stretch.T) / 2, turned - turned.T, of_square=False)
    return turn, turn @ skew


@jax.custom_jvp
def log_det_1p(matrix: Float[Array, "d d"]) -> Float[Array, ""]:
    r"""$\log\det(I + X)$ for symmetric positive semi-definite X, which may be much less than I."""
    return jnp.sum(jnp.log1p(jnp.maximum(jnp.linalg.eigvalsh(matrix), 0.0)))


@log_det_1p.defjvp
def _log_det_1p_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    whole = jnp.eye(primals[0].shape[0], dtype=primals[0].dtype) + primals[0]
    return log_det_1p(primals[0]), jnp.trace(jnp.linalg.solve(whole, tangents[0]))


@full_precision
def bures_wasserstein(m1: DataLike, C1: DataLike, m2: DataLike, C2: DataLike) -> Float[Array, ""]:
    r"""$W_2$ between $N(m_1, C_1)$ and $N(m_2, C_2)$: a distance, not its square.

    Differentiable, with finite gradients also where the Gaussians coincide (there the distance has
    a kink, and the gradient is zero) and where a covariance is singular (there the distance grows
    like a square root, and the infinite part of the gradient is left out).

    Args:
        m1: mean, shape (D,).
        C1: covariance, shape (D, D), symmetric positive semi-definite.
        m2: mean, shape (D,).
        C2: covariance, shape (D, D).

    Returns:
        The distance, in units of the data.

    Raises:
        ValueError: on a wrong shape, numbers that are not finite, a matrix that is no covariance,
            or a distance too large for the precision of the numbers.

    References:
        Bhatia, Jain and Lim, 1712.01504.

    Example:
        >>> import entropix as ex, numpy as np
        >>> distance = ex.bures_wasserstein([0.0, 0.0], np.eye(2), [3.0, 0.0], 4 * np.eye(2))
        >>> print(f"{float(distance) ** 2:.3f}")  # 3^2 + 2 (2 - 1)^2
        11.000
    """
    return representable(_bures(*_gaussians(m1, C1, m2, C2)), "m1", "m2")


@jax.jit
def _bures(m1: Array, C1: Array, m2: Array, C2: Array) -> Array:
    # In units of the larger of distance and standard deviations no square overflows.
    shift = m1 - m2
    unit = jnp.maximum(
        jnp.sqrt(jnp.maximum(jnp.max(jnp.abs(C1)), jnp.max(jnp.abs(C2)))), jnp.max(jnp.abs(shift))
    )
    unit = power_of_two(jax.lax.stop_gradient(unit))
    first, second = (sqrtm_psd(C) / unit for C in (C1, C2))
    gap = first - second @ polar(jax.lax.stop_gradient(second @ first))
    return unit * safe_sqrt(jnp.sum((shift / unit) ** 2) + jnp.sum(gap**2))


@full_precision
def bures_geodesic(
    m1: DataLike, C1: DataLike, m2: DataLike, C2: DataLike, t: DataLike
) -> tuple[Float[Array, " d"], Float[Array, "d d"]]:
    r"""Mean and covariance at t on the geodesic from $N(m_1, C_1)$ to $N(m_2, C_2)$.

    $W_2$ to the start is t times that between the ends: McCann's interpolation (1997) of Gaussians
    stays Gaussian. Differentiable in everything.

    Args:
        m1: mean, shape (D,).
        C1: covariance, shape (D, D), symmetric positive semi-definite.
        m2: mean, shape (D,).
        C2: covariance, shape (D, D).
        t: a number, 0 at the first Gaussian and 1 at the second.

    Returns:
        The mean, shape (D,), and the covariance, shape (D, D).

    Raises:
        ValueError: as `bures_wasserstein`.
    """
    m1, C1, m2, C2 = _gaussians(m1, C1, m2, C2)
    return _between(m1, C1, m2, C2, finite(t, "t", shape=()))


@jax.jit
def _between(m1: Array, C1: Array, m2: Array, C2: Array, t: Array) -> tuple[Array, Array]:
    first, second = sqrtm_psd(C1), sqrtm_psd(C2)
    root = (1 - t) * first + t * second @ polar(second @ first)
    return (1 - t) * m1 + t * m2, root @ root.T


def _gaussians(
    m1: DataLike, C1: DataLike, m2: DataLike, C2: DataLike
) -> tuple[Array, Array, Array, Array]:
    m1, m2, C1, C2 = finite(m1, "m1"), finite(m2, "m2"), finite(C1, "C1"), finite(C2, "C2")
    if m1.ndim != 1 or m2.shape != m1.shape:
        raise ValueError(f"`m1` and `m2` must have one shape (D,), got {m1.shape} and {m2.shape}.")
    return m1, _covariance(C1, "C1", m1.size), m2, _covariance(C2, "C2", m1.size)


def _covariance(matrix: Array, name: str, size: int) -> Array:
    if matrix.shape != (size, size):
        raise ValueError(f"`{name}` must have shape ({size}, {size}), got {matrix.shape}.")
    if is_concrete(matrix):
        host = np.asarray(matrix)
        gap = np.max(np.abs(host - host.T))
        if gap > 1e-5 * np.max(np.abs(host)):
            raise ValueError(f"`{name}` must be symmetric, got an asymmetry of {gap:.3g}.")
    symmetric, values = _spectrum(matrix)
    allowed = "positive semi-definite (no negative eigenvalues)"
    checked(values, name, lambda v: v >= -1e-5 * abs(v).max(), allowed)
    return symmetric


@jax.jit
def _spectrum(matrix: Array) -> tuple[Array, Array]:
    """The symmetric part, and its eigenvalues."""
    return (matrix + matrix.T) / 2, jnp.linalg.eigvalsh(jax.lax.stop_gradient(matrix))


class GaussianBridge(eqx.Module):
    r"""The Schrödinger bridge between $N(m_0, A)$ and $N(m_1, B)$; see the module.

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

    def __init__(self, start: Gaussian, end: Gaussian, *, epsilon: RealScalarLike):
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

    def _covariance_at(self, s: RealScalarLike, rest: Array | None = None) -> Array:
        """C_s; `rest` is 1 - s where that would lose digits."""
        s = as_float(s)
        rest = 1 - s if rest is None else rest
        mixed = self.cross + self.cross.T + self.epsilon * self._identity
        return rest**2 * self.start.covariance + s**2 * self.end.covariance + s * rest * mixed

    def _slope(
        self, s: RealScalarLike, isotropic: RealScalarLike, rest: Array | None = None
    ) -> Array:
        """The matrix before $C_s^{-1}$, with `isotropic` times the identity in it."""
        s = as_float(s)
        early = (1 - s if rest is None else rest) * (self.cross.T - self.start.covariance)
        return early + s * (self.end.covariance - self.cross) + as_float(isotropic) * self._identity

    def _affine(self, s: RealScalarLike, slope: Array, x: Array) -> Array:
        centred = x - (1 - s) * self.start.mean - s * self.end.mean
        pulled = slope @ jnp.linalg.solve(self._covariance_at(s), centred)
        return self.end.mean - self.start.mean + pulled

    def drift(self, s: RealScalarLike, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The drift $u$ of the bridge."""
        return self._affine(s, self._slope(s, -self.epsilon * s), x)

    def velocity(self, s: RealScalarLike, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """The current velocity $v$."""
        return self._affine(s, self._slope(s, self.epsilon * (0.5 - s)), x)

    @property
    def path_kl(self) -> Float[Array, ""]:
        r"""KL to Brownian motion from $p_0$, $\int\frac{1}{2\epsilon}E\|u\|^2ds$, in nats.

        $$\frac{W_2^2}{2\epsilon} - \frac\epsilon2\mathrm{tr}(D + 2M)^{-1}
          + \frac12\log\det\frac{D + \epsilon I}{2M} + \frac14\log\frac{\det A}{\det B}, \qquad
          M = \left(A^{1/2} B A^{1/2}\right)^{1/2},$$

        in which nothing cancels for small $\epsilon$.
        """
        first, second = (sqrtm_psd(end.covariance) for end in (self.start, self.end))
        turn = polar(second @ first)
        moved = jnp.sum((self.end.mean - self.start.mean) ** 2)
        moved = moved + jnp.sum((first - second @ turn) ** 2)
        mean = turn.T @ second @ first
        twice = mean + mean.T
        square = twice @ twice + self.epsilon**2 * self._identity
        inverse = jnp.linalg.inv(twice + sqrtm_psd((square + square.T) / 2))
        inverse = self.epsilon * (inverse + inverse.T) / 2
        growth = self.epsilon * jnp.linalg.solve(twice, self._identity + inverse)
        start, end = (jnp.linalg.slogdet(end.covariance)[1] for end in (self.start, self.end))
        return (
            moved / (2 * self.epsilon)
            - jnp.trace(inverse) / 2
            + log_det_1p((growth + growth.T) / 2) / 2
            + (start - end) / 4
        )

    @property
    def entropy_production(self) -> Float[Array, ""]:
        r"""$\int\frac{2}{\epsilon}E\|v\|^2ds$ in nats.

        By equal steps of $\log\frac{s}{1-s}$, which resolve covariances far smaller than epsilon.
        """
        dtype = self.cross.dtype
        reach = min(-np.log(float(jnp.finfo(dtype).tiny)) / 3, 80.0)
        places = jnp.linspace(-reach, reach, _STEPS, dtype=dtype)
        times, rests = jax.nn.sigmoid(places), jax.nn.sigmoid(-places)
        shift = jnp.sum((self.end.mean - self.start.mean) ** 2)

        def rate(s: Array, rest: Array) -> Array:
            slope = self._slope(s, self.epsilon / 2 * (rest - s), rest)
            spread = jnp.linalg.solve(self._covariance_at(s, rest), slope.T)
            return s * rest * (shift + jnp.trace(slope @ spread))

        step = 2 * reach / (_STEPS - 1)
        return 2 / self.epsilon * step * jnp.sum(jax.vmap(rate)(times, rests))
