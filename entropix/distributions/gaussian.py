r"""The Gaussian distribution, closed under diffusion.

$N(m, C)$ becomes $N(\mu m, \mu^2 C + \Sigma^2)$. With precision $\pi$ and gain $r$ of the
equilibrium (see `AbstractGaussianProcess`), its entropy field is

$$e(y) = \mu P^{-1}\left[m - (r - \pi\mu C) y\right], \qquad P = \mu^2 C + \Sigma^2,$$

a form in which nothing cancels: it is proportional to $\mu$ at the noise end.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import (
    checked,
    exact_shape,
    finite,
    is_concrete,
    positive_integer,
    trailing_shape,
)
from entropix._core.interfaces import AbstractDistribution, AbstractGaussianProcess
from entropix._core.precision import matmul
from entropix.distributions.spd import spd_log_det, spd_solve


class Gaussian(AbstractDistribution):
    """A Gaussian with full covariance.

    Args:
        mean: shape (D,).
        covariance: shape (D, D), symmetric positive definite.

    Raises:
        ValueError: on a wrong shape, a covariance that is not symmetric or not positive definite.
    """

    mean: Float[Array, " dim"]
    covariance: Float[Array, "dim dim"]
    eigenvalues: Float[Array, " dim"]
    eigenvectors: Float[Array, "dim dim"]

    def __init__(self, mean: Any, covariance: Any):
        mean = finite(mean, "mean")
        covariance = finite(covariance, "covariance")
        if mean.ndim != 1 or mean.shape[0] == 0:
            raise ValueError(f"`mean` must have shape (D,), D >= 1, got {mean.shape}.")
        if covariance.shape != 2 * mean.shape:
            raise ValueError(
                f"`covariance` must have shape {2 * mean.shape} to fit `mean`, "
                f"got {covariance.shape}."
            )
        if is_concrete(covariance):
            host = np.asarray(covariance)
            gap = float(np.max(np.abs(host - host.T)))
            if gap > 1e-5 * float(np.max(np.abs(host))):
                raise ValueError(f"`covariance` must be symmetric, got an asymmetry of {gap:.3g}.")
        values, vectors = jnp.linalg.eigh(jax.lax.stop_gradient(covariance))
        self.mean = mean
        self.covariance = covariance
        self.eigenvalues = checked(
            values, "covariance", lambda v: v > 0, "positive definite (its eigenvalues above zero)"
        )
        self.eigenvectors = vectors

    @property
    def dim(self) -> int:
        return self.mean.shape[-1]

    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        positive_integer(n, "n")
        return _draw(self, int(n), key)

    @eqx.filter_jit
    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        x = trailing_shape(x, (self.dim,), "x")
        centred = (x - self.mean).reshape(-1, self.dim).T
        solved = spd_solve(self.covariance, self.eigenvalues, self.eigenvectors, centred)
        log_det = spd_log_det(self.covariance, self.eigenvalues, self.eigenvectors)
        quadratic = jnp.sum(centred * solved, axis=0).reshape(x.shape[:-1])
        return -(quadratic + log_det + self.dim * jnp.log(2 * jnp.pi)) / 2

    @eqx.filter_jit
    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        x = trailing_shape(x, (self.dim,), "x")
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
        marginal = self.diffused(process, s)
        scale = process.scale(s)
        return self.mean - scale * matmul(self.covariance, marginal.score(y))

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        marginal = self.diffused(process, s)
        scale = process.scale(s)
        pull = process.equilibrium_precision(s) * scale * matmul(self.covariance, y)
        target = self.mean - process.equilibrium_gain(s) * y + pull
        solved = spd_solve(
            marginal.covariance, marginal.eigenvalues, marginal.eigenvectors, target[:, None]
        )
        return scale * solved[:, 0]


@eqx.filter_jit
def _draw(gaussian: Gaussian, n: int, key: Key) -> Array:
    """Samples, by one program."""
    z = jax.random.normal(key, (n, gaussian.dim), gaussian.mean.dtype)
    return gaussian.mean + matmul(z, jnp.linalg.cholesky(gaussian.covariance).T)
