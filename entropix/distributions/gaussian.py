r"""The Gaussian distribution, closed under diffusion.

$N(m, C)$ becomes $N(\mu m, \mu^2 C + \Sigma^2)$. With precision $\pi$ and gain $r$ of the
equilibrium (see `AbstractGaussianProcess`), its entropy field is

$$e(y) = \mu\pi m - \mu P^{-1}(r - \pi\mu C)(y - \mu m), \qquad P = \mu^2 C + \Sigma^2,$$

a form in which nothing cancels but $y - \mu m$, which is computed before it is rotated: the field
is proportional to $\mu$ at the noise end, and as accurate far from the origin as near it.

A linear solve inside a mapped loop stalls on CPU, so eigenvalues and eigenvectors are computed once
and kept. Differentiating an eigendecomposition is singular where eigenvalues meet; solve and
determinant are instead differentiated in the matrix itself, by rules stated in terms of the
functions themselves, so that every order and mode of derivative is right whatever the spectrum. The
solve needs a rule for its transpose too: a backward pass written in eigenvectors would no longer
depend on the matrix.
"""

import math

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, DataLike, Key, RealScalarLike, real_array
from entropix._core.checks import (
    checked,
    exact_shape,
    finite,
    is_concrete,
    positive,
    positive_integer,
    trailing_shape,
)
from entropix._core.precision import matmul
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess, AbstractPrior


_POSITIVE = "positive definite (its eigenvalues above zero)"


def _spectrum(given: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Eigenvalues and eigenvectors of a covariance, in float64 whatever the library computes in.

    In float32, eigenvalues of less than 1e-7 of the largest one would be rounding.
    """
    host = given.astype(np.float64)
    gap = float(np.max(np.abs(host - host.T)))
    if gap > 1e-5 * float(np.max(np.abs(host))):
        raise ValueError(f"`covariance` must be symmetric, got an asymmetry of {gap:.3g}.")
    values, vectors = np.linalg.eigh((host + host.T) / 2)
    if values[0] <= 0:
        raise ValueError(f"`covariance` must be {_POSITIVE}, got {values.tolist()}.")
    # By this much the rounding of the entries that were given may have moved each eigenvalue.
    rounding = np.finfo(given.dtype if given.dtype.kind == "f" else np.float64).eps / 2
    size = np.abs(vectors)
    moved = rounding * np.einsum("ik,ij,jk->k", size, np.abs(host), size)
    if np.any(moved > 0.05 * values):
        raise ValueError(
            f"`covariance` must be {_POSITIVE} beyond rounding: its eigenvalues, from "
            f"{values[0]:.3g} to {values[-1]:.3g}, are not known from entries in {given.dtype}. "
            "Give a float64 NumPy array."
        )
    return values, vectors


class Gaussian(AbstractDistribution):
    """A Gaussian with full covariance.

    Args:
        mean: shape (D,).
        covariance: shape (D, D), symmetric positive definite. Its spectrum is computed in float64:
            give a NumPy array of that dtype where the eigenvalues differ by many orders.

    Raises:
        ValueError: on a wrong shape, a covariance that is not symmetric or not positive definite,
            or one whose smallest eigenvalues are lost in the rounding of its entries.

    Example:
        >>> import entropix as ex
        >>> gaussian = ex.Gaussian([0.5, -1.0], [[0.6, 0.35], [0.35, 0.9]])
        >>> print(f"{gaussian.log_prob(gaussian.mean):.3f}")  # nats
        -1.401
        >>> gaussian.diffused(ex.StraightLine(), 0.5).mean.tolist()
        [0.25, -0.5]
    """

    mean: Float[Array, " dim"]
    covariance: Float[Array, "dim dim"]
    eigenvalues: Float[Array, " dim"]
    eigenvectors: Float[Array, "dim dim"]

    def __init__(self, mean: DataLike, covariance: DataLike):
        given = covariance
        mean = finite(mean, "mean")
        covariance = finite(covariance, "covariance")
        if mean.ndim != 1 or mean.shape[0] == 0:
            raise ValueError(f"`mean` must have shape (D,), D >= 1, got {mean.shape}.")
        if covariance.shape != 2 * mean.shape:
            raise ValueError(
                f"`covariance` must have shape {2 * mean.shape} to fit `mean`, "
                f"got {covariance.shape}."
            )
        self.mean = mean
        self.covariance = covariance
        if is_concrete(covariance):
            values, vectors = _spectrum(real_array(given, "`covariance`"))
            dtype = covariance.dtype
            with jax.ensure_compile_time_eval():
                self.eigenvalues = jnp.asarray(values, dtype)
                self.eigenvectors = jnp.asarray(vectors, dtype)
        else:
            values, self.eigenvectors = jnp.linalg.eigh(jax.lax.stop_gradient(covariance))
            self.eigenvalues = checked(values, "covariance", lambda v: v > 0, _POSITIVE)

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        positive_integer(n, "n")
        return _draw(self, int(n), key)

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        return self._log_prob(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        centred = (x - self.mean).reshape(-1, self.dim).T
        solved = spd_solve(self.covariance, self.eigenvalues, self.eigenvectors, centred)
        log_det = spd_log_det(self.covariance, self.eigenvalues, self.eigenvectors)
        quadratic = jnp.sum(centred * solved, axis=0).reshape(x.shape[:-1])
        return -(quadratic + log_det + self.dim * jnp.log(2 * jnp.pi)) / 2

    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return self._score(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        centred = (x - self.mean).reshape(-1, self.dim).T
        solved = spd_solve(self.covariance, self.eigenvalues, self.eigenvectors, centred)
        return -solved.T.reshape(x.shape)

    def diffused(self, process: AbstractGaussianProcess, s: RealScalarLike) -> "Gaussian":
        scale, var = process.scale(s), process.var(s)
        identity = jnp.eye(self.dim, dtype=self.mean.dtype)
        new = object.__new__(Gaussian)  # the spectrum is known: no second eigendecomposition
        object.__setattr__(new, "mean", scale * self.mean)
        object.__setattr__(new, "covariance", scale**2 * self.covariance + var * identity)
        object.__setattr__(new, "eigenvalues", scale**2 * self.eigenvalues + var)
        object.__setattr__(new, "eigenvectors", self.eigenvectors)
        return new

    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        scale, var = process.scale(s), process.var(s)
        solved = self._solve(scale, var, self._rotate(y - scale * self.mean))
        return self.mean + scale * matmul(self.eigenvectors, self._times(solved))

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        scale, var = process.scale(s), process.var(s)
        precision = process.equilibrium_precision(s) * scale
        rotated = self._rotate(y - scale * self.mean)
        target = process.equilibrium_gain(s) * rotated - precision * self._times(rotated)
        solved = matmul(self.eigenvectors, self._solve(scale, var, target))
        return precision * self.mean - scale * solved

    # In the eigenbasis, rounding of a coordinate of large variance does not reach the others. There
    # the covariance is the diagonal of the eigenvalues plus a deviation that is zero, and has the
    # derivatives of the covariance.

    def _rotate(self, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        return matmul(self.eigenvectors.T, x)

    def _deviation(self) -> Float[Array, "dim dim"]:
        change = self.covariance - jax.lax.stop_gradient(self.covariance)
        return matmul(self.eigenvectors.T, matmul(change, self.eigenvectors))

    def _times(self, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        """`C x` in the eigenbasis."""
        return self.eigenvalues * x + matmul(self._deviation(), x)

    def _solve(self, scale: Array, var: Array, x: Float[Array, " dim"]) -> Float[Array, " dim"]:
        r"""$(\mu^2 C + \Sigma^2)^{-1} x$ in the eigenbasis."""
        total, deviation = scale**2 * self.eigenvalues + var, self._deviation()
        return jax.lax.custom_linear_solve(
            lambda v: total * v + scale**2 * matmul(deviation, v),
            x,
            lambda _, right: right / total,
            symmetric=True,
        )


@eqx.filter_jit
def _draw(gaussian: Gaussian, n: int, key: Key) -> Array:
    """Samples, by one program."""
    z = jax.random.normal(key, (n, gaussian.dim), gaussian.mean.dtype)
    covariance, values, vectors = gaussian.covariance, gaussian.eigenvalues, gaussian.eigenvectors
    identity = jnp.eye(gaussian.dim, dtype=z.dtype)
    least = 8 * gaussian.dim * jnp.finfo(z.dtype).eps * jnp.max(values)
    regular = jnp.min(values) > least
    plain = jnp.linalg.cholesky(jnp.where(regular, covariance, identity))
    # A Cholesky factor loses eigenvalues within the rounding of the largest one. In units of the
    # eigenvalues the covariance is the identity, and its factor has the same derivative.
    std = jnp.sqrt(values)
    unit = matmul(vectors.T, matmul(covariance, vectors)) / (std[:, None] * std)
    unit = identity + unit - jax.lax.stop_gradient(unit)
    scaled = matmul(vectors * std, jnp.linalg.cholesky(unit))
    return gaussian.mean + matmul(z, jnp.where(regular, plain, scaled).T)


def spd_solve(
    matrix: Float[Array, "d d"],
    eigenvalues: Float[Array, " d"],
    eigenvectors: Float[Array, "d d"],
    b: Float[Array, "d n"],
) -> Float[Array, "d n"]:
    """`matrix^-1 b`, by the cached spectrum."""

    def solve(_, right: Array) -> Array:
        return matmul(eigenvectors, matmul(eigenvectors.T, right) / eigenvalues[:, None])

    return jax.lax.custom_linear_solve(lambda x: matmul(matrix, x), b, solve, symmetric=True)


@jax.custom_jvp
def spd_log_det(
    matrix: Float[Array, "d d"],
    eigenvalues: Float[Array, " d"],
    eigenvectors: Float[Array, "d d"],
) -> Float[Array, ""]:
    """`log det matrix`, by the cached spectrum."""
    del matrix, eigenvectors
    return jnp.sum(jnp.log(eigenvalues))


@spd_log_det.defjvp
def _spd_log_det_jvp(primals, tangents):
    matrix, eigenvalues, eigenvectors = primals
    value = spd_log_det(matrix, eigenvalues, eigenvectors)
    return value, jnp.trace(spd_solve(matrix, eigenvalues, eigenvectors, tangents[0]))


class IsotropicGaussian(AbstractPrior):
    r"""$N(0, \mathrm{std}^2 I)$ on arrays of one shape: what most models start from.

    Args:
        shape: the shape of one example.
        std: the standard deviation, positive.
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    std: Float[Array, ""]

    def __init__(self, shape: tuple[int, ...], std: ArrayLike):
        self.shape = tuple(int(n) for n in shape)
        self.std = positive(std, "std", shape=())

    def sample(self, n: int, *, key: Key) -> Array:
        positive_integer(n, "n")
        return _draw_isotropic(self, int(n), key)

    def log_prob(self, y: Array) -> Array:
        return self._log_prob(trailing_shape(y, self.shape, "y"))

    @eqx.filter_jit
    def _log_prob(self, y: Array) -> Array:
        axes = tuple(range(y.ndim - len(self.shape), y.ndim))
        size = math.prod(self.shape)
        quadratic = jnp.sum((y / self.std) ** 2, axis=axes)
        return -quadratic / 2 - size * (jnp.log(2 * jnp.pi) / 2 + jnp.log(self.std))


@eqx.filter_jit
def _draw_isotropic(prior: IsotropicGaussian, n: int, key: Key) -> Array:
    """Samples, by one program."""
    return prior.std * jax.random.normal(key, (n, *prior.shape), prior.std.dtype)
