r"""Gaussians read from fields: what continues a density beyond the last noise of its process.

With $u = \Sigma s$, the field of a Gaussian is $u = -Q(y - m)/\Sigma$, where $Q = \Sigma^2P^{-1}$.
Linear regression of u on $y/\Sigma$ gives Q and m. For the field of the very density that y is
drawn from, whatever it is, $E[s\,(y - m)^T] = -1$ makes this the Gaussian with its moments. A
density that depends on a condition has a Gaussian for each class, if classes are few. Otherwise it
has a common Q, from the difference of the fields at $\mu x \pm \Sigma z$, and an m for each sample,
from their mean. Then

$$KL(N_p\|N_q) = \tfrac12\left[\mathrm{tr}(Q_qQ_p^{-1}) - D - \log\det Q_qQ_p^{-1} +
\Sigma^{-2}E\,(m_p - m_q)^TQ_q(m_p - m_q)\right]$$

("score"), or the difference of the mean log densities of the two Gaussians on the diffused data
("denoising"). Where q is the mean of p over classes, it is the mixture of their Gaussians.

A density that is not Gaussian has a divergence $KL(p_T\|N_p)$ besides. The logarithmic Sobolev
inequality of a Gaussian bounds it by the field at $t_1$,

$$0 \le KL(p_T\|N_p) \le \tfrac12 E\,(u_p - u_{N_p})^TQ_p^{-1}(u_p - u_{N_p}).$$
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from entropix._core.checks import is_concrete


# More classes than this count as a continuous condition.
_CLASSES = 64
# Up to here Q is a full matrix. Beyond, it is taken to be diagonal, and counts as not Gaussian.
_DENSE = 64


class Groups(eqx.Module):
    """Which samples have one density in common: classes, or (no index) every one its own."""

    index: Int[Array, " n"] | None
    count: int = eqx.field(static=True)


def is_dense(count: int, dim: int) -> bool:
    """Whether Q is a full matrix: of few dimensions, and enough pairs to fit it."""
    return dim <= min(_DENSE, count // 8)


def groups_of(condition: Any, count: int, dim: int) -> Groups:
    """The classes of a condition, if it has few and each enough samples to fit a Gaussian."""
    leaves = jax.tree.leaves(condition)
    if not leaves:
        return Groups(None, 1)
    if not is_concrete(leaves):
        return Groups(None, 0)
    samples = leaves[0].shape[0]

    def rows(stop: int) -> np.ndarray:
        # NumPy takes the slice: JAX would stage it out inside a transformation.
        parts = [np.asarray(v)[:stop].reshape(min(stop, samples), -1) for v in leaves]
        return np.concatenate([part.astype(float) for part in parts], axis=1)

    # A few samples suffice to see that a condition is continuous.
    if len(np.unique(rows(1000), axis=0)) > _CLASSES:
        return Groups(None, 0)
    _, index, sizes = np.unique(rows(samples), axis=0, return_inverse=True, return_counts=True)
    fewest = 8 * ((dim if is_dense(count, dim) else 1) + 1)
    if len(sizes) > _CLASSES or sizes.min() * count < fewest * samples:
        return Groups(None, 0)
    return Groups(jnp.asarray(index.reshape(-1)), len(sizes))


class Normals(eqx.Module):
    r"""Gaussians in units of $\Sigma$, one or one for each sample drawn.

    Attributes:
        precision: Q, or its diagonal, shape (k, D, D) or (k, D).
        mean: shape (m, D).
        which: the Q of each sample drawn, shape (m,).
    """

    precision: Array
    mean: Float[Array, "m dim"]
    which: Int[Array, " m"]

    def times(self, v: Float[Array, "m dim"]) -> Float[Array, "m dim"]:
        """Q v."""
        return _each(self.precision, self.which, v)

    def over(self, v: Float[Array, "m dim"]) -> Float[Array, "m dim"]:
        """The inverse of Q times v."""
        return _each(_inverse(self.precision), self.which, v)

    def square(self, v: Float[Array, "m dim"]) -> Float[Array, " m"]:
        return jnp.sum(v * self.times(v), axis=1)

    def trace(self) -> Float[Array, " m"]:
        return jnp.sum(_diagonal(self.precision), axis=1)[self.which]

    def log_det(self) -> Float[Array, " m"]:
        if self.precision.ndim == 2:
            return jnp.sum(jnp.log(self.precision), axis=1)[self.which]
        factors = jnp.linalg.cholesky(self.precision)
        return 2 * jnp.sum(jnp.log(_diagonal(factors)), axis=1)[self.which]

    def per(self, other: "Normals") -> Float[Array, " m"]:
        """The trace of Q times the inverse of the other's."""
        inverse = _inverse(other.precision)
        axes = tuple(range(1, inverse.ndim))
        pairs = jnp.sum(self.precision[:, None] * inverse[None], axis=tuple(a + 1 for a in axes))
        return pairs[self.which, other.which]


def _diagonal(q: Array) -> Array:
    return q if q.ndim == 2 else jnp.diagonal(q, axis1=1, axis2=2)


def _inverse(q: Array) -> Array:
    return 1 / q if q.ndim == 2 else jnp.linalg.inv(q)


def _each(q: Array, which: Array, v: Array) -> Array:
    if q.ndim == 2:
        return q[which] * v
    return v @ q[0] if q.shape[0] == 1 else jnp.einsum("mij,mj->mi", q[which], v)


def _made_positive(q: Array) -> Array:
    """Symmetric, with eigenvalues above zero; derivatives are those of what was given."""
    least = 8 * jnp.finfo(q.dtype).eps
    if q.ndim == 2:
        return q + jax.lax.stop_gradient(jnp.maximum(q, least) - q)
    q = (q + jnp.swapaxes(q, 1, 2)) / 2
    values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(q))
    lift = vectors * jnp.maximum(least - values, 0.0)[:, None, :]
    return q + lift @ jnp.swapaxes(vectors, 1, 2)


def _slope(inputs: Array, outputs: Array, weight: Array, dense: bool) -> Array:
    """The matrix, or the diagonal one, by which outputs follow inputs, both centred."""
    weighted = weight[:, None] * inputs
    if dense:
        return jnp.linalg.solve(weighted.T @ inputs, weighted.T @ outputs)
    return jnp.sum(weighted * outputs, axis=0) / jnp.sum(weighted * inputs, axis=0)


def fit_normals(
    u: Array, y: Array, z: Array, weight: Array, group: Array, groups: Groups
) -> Normals:
    r"""The Gaussians of a field u at the states y of pairs, shape (2, m, D), in units of $\Sigma$.

    `weight`, shape (m,), is that of each pair, and `group` its class.
    """
    dense = is_dense(z.shape[0], z.shape[1])
    if groups.count == 0:
        odd, even = (u[0] - u[1]) / 2, (u[0] + u[1]) / 2
        q = _made_positive(-_slope(z, odd, weight, dense)[None])
        which = jnp.zeros_like(group)
        return Normals(q, (y[0] + y[1]) / 2 + _each(_inverse(q), which, even), which)

    def one(k: Array) -> tuple[Array, Array, Array]:
        here = jnp.where(group == k, weight, 0.0)
        here = jnp.tile(here / jnp.sum(here), 2) / 2
        states, fields = y.reshape(-1, y.shape[-1]), u.reshape(-1, u.shape[-1])
        middle, pull = here @ states, here @ fields
        return -_slope(states - middle, fields - pull, here, dense), middle, pull

    q, middle, pull = jax.vmap(one)(jnp.arange(groups.count))
    q = _made_positive(q)
    mean = middle + _each(_inverse(q), jnp.arange(groups.count), pull)
    return Normals(q, mean[group], group)


def normal_divergence(p: Normals, q: Normals, x: Array, denoising: bool) -> Float[Array, " m"]:
    """The end term of two Gaussians, for each sample drawn."""
    log_dets = p.log_det() - q.log_det()
    if denoising:
        own, other = (n.square(x - n.mean) + n.trace() for n in (p, q))
        return (log_dets - own + other) / 2
    apart = q.square(p.mean - q.mean)
    return (q.per(p) - x.shape[1] + log_dets + apart) / 2


def mixture_information(p: Normals, y: Array, share: Array) -> Float[Array, " m"]:
    """Mean log density of a class's Gaussian over that of the mixture, at the states of a pair."""
    count = share.shape[0]
    first = jnp.argmax(p.which[None] == jnp.arange(count)[:, None], axis=1)
    means, log_dets = p.mean[first], p.log_det()[first]

    def log_density(k: Array) -> Array:
        which = jnp.full_like(p.which, k)
        around = [v - means[k] for v in y]
        squares = [jnp.sum(v * _each(p.precision, which, v), axis=1) for v in around]
        return (log_dets[k] - jnp.stack(squares)) / 2

    each = jax.vmap(log_density)(jnp.arange(count))  # (classes, 2, m)
    own = jnp.take_along_axis(each, jnp.tile(p.which, (2, 1))[None], axis=0)[0]
    mixed = jax.nn.logsumexp(each + jnp.log(share)[:, None, None], axis=0)
    return jnp.mean(own - mixed, axis=0)


def sobolev_bound(u: Array, y: Array, z: Array, fit: Normals, groups: Groups) -> Float[Array, " m"]:
    """The bound on the divergence of a density from its Gaussian, at each pair."""
    if groups.count == 0:
        # With a mean of its own for each sample the even part fits by construction: the odd part
        # stands for both.
        rest = (u[0] - u[1]) / 2 + fit.times(z)
        return jnp.sum(rest * fit.over(rest), axis=1)
    rests = [field + fit.times(state - fit.mean) for field, state in zip(u, y, strict=True)]
    squares = [jnp.sum(rest * fit.over(rest), axis=1) for rest in rests]
    return (squares[0] + squares[1]) / 4


def moments(v: Array, weight: Array, dense: bool) -> tuple[Array, Array]:
    """Weighted mean of samples, and of their squares (of the products of their coordinates)."""
    return weight @ v, (weight[:, None] * v).T @ v if dense else weight @ v**2


def moments_gap(
    p: Normals, q: Normals, middle: Array, gap: tuple[Array, Array]
) -> Float[Array, ""]:
    """What a gap between moments about `middle` does to the mean of `_divergence`."""
    mean, squares = gap
    at_q, at_p = (
        _each(n.precision, jnp.zeros(1, int), (middle - n.mean[0])[None])[0] for n in (q, p)
    )
    return jnp.sum((q.precision[0] - p.precision[0]) * squares) / 2 + jnp.sum(mean * (at_q - at_p))
