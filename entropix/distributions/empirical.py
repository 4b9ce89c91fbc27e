r"""The empirical distribution of a finite data set, and its exact diffused density.

$p_s(y) = \frac1N\sum_i N(y; \mu x_i, \Sigma^2)$: the density whose score a network trained on these
points would learn if it could. Its entropy production diverges like $\frac{D}{2}\lambda$ at the
data end: report it with a cut-off.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, RealScalarLike
from entropix._core.checks import exact_shape, positive_integer, samples, trailing_shape
from entropix._core.precision import matmul
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess


class Empirical(AbstractDistribution):
    """The exact score of a finite data set under diffusion.

    Args:
        points: shape (N, D), N >= 1. Memory per evaluated example is N x D numbers: vmap over
            chunks.

    Raises:
        ValueError: on a wrong shape or entries that are not finite. `log_prob` and `score` raise:
            a set of points has no density before diffusion; use `diffused(process, s)`.
    """

    points: Float[Array, "n dim"]

    def __init__(self, points: DataLike):
        self.points = samples(points, "points", minimum=1)
        if self.points.ndim != 2:
            raise ValueError(f"`points` must have shape (N, D), got {self.points.shape}.")

    @property
    def dim(self) -> int:
        return self.points.shape[-1]

    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        positive_integer(n, "n")
        return _draw(self.points, int(n), key)

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        raise ValueError("Empirical has no density; use `diffused(process, s).log_prob(y)`.")

    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        raise ValueError("Empirical has no density; use `diffused(process, s).score(y)`.")

    def diffused(self, process: AbstractGaussianProcess, s: RealScalarLike) -> "SmoothedEmpirical":
        return SmoothedEmpirical(process.scale(s) * self.points, process.std(s))

    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        return matmul(self.diffused(process, s).responsibilities(y), self.points)

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        # (mu / Sigma^2) (E[x|y] - r y), which is score - equilibrium score without cancellation.
        residual = self.denoise(process, s, y) - process.equilibrium_gain(s) * y
        return process.scale(s) / process.var(s) * residual


class SmoothedEmpirical(AbstractDistribution):
    r"""$\frac1N\sum_i N(x; c_i, \mathrm{std}^2)$: a finite data set after diffusion.

    Args:
        centres: shape (N, D).
        std: the common standard deviation.
    """

    centres: Float[Array, "n dim"]
    std: Float[Array, ""]

    @property
    def dim(self) -> int:
        return self.centres.shape[-1]

    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        positive_integer(n, "n")
        return _draw_around(self, int(n), key)

    def _exponents(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch n"]:
        """Log densities up to a constant, that of the nearest centre being zero at any `std`."""
        distances = jnp.sum((x[..., None, :] - self.centres) ** 2, axis=-1)
        excess = distances - jnp.min(distances, axis=-1, keepdims=True)
        return -excess / (2 * jnp.maximum(self.std**2, jnp.finfo(self.std.dtype).tiny))

    def responsibilities(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch n"]:
        """Posterior probabilities of the points; the nearest one's is 1 where `std` is 0."""
        x = trailing_shape(x, (self.dim,), "x")
        return jax.nn.softmax(self._exponents(x), axis=-1)

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        return self._log_prob(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        nearest = jnp.min(jnp.sum(((x[..., None, :] - self.centres) / self.std) ** 2, -1), -1)
        normaliser = self.dim * (jnp.log(2 * jnp.pi) / 2 + jnp.log(self.std))
        mixing = jax.nn.logsumexp(self._exponents(x), axis=-1) - jnp.log(self.centres.shape[0])
        return mixing - nearest / 2 - normaliser

    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return self._score(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return (matmul(self.responsibilities(x), self.centres) - x) / self.std**2

    def diffused(self, process: AbstractGaussianProcess, s: RealScalarLike) -> "SmoothedEmpirical":
        scale = process.scale(s)
        std = jnp.sqrt(scale**2 * self.std**2 + process.var(s))
        return SmoothedEmpirical(scale * self.centres, std)

    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        marginal = self.diffused(process, s)
        gain = process.scale(s) * (self.std / marginal.std) ** 2
        centre = matmul(marginal.responsibilities(y), self.centres)
        return centre + gain * (y - process.scale(s) * centre)

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        marginal = self.diffused(process, s)
        scale = process.scale(s)
        pull = process.equilibrium_precision(s) * scale * self.std**2
        centre = matmul(marginal.responsibilities(y), self.centres)
        residual = centre - (process.equilibrium_gain(s) - pull) * y
        return scale / marginal.std**2 * residual


@eqx.filter_jit
def _draw(points: Array, n: int, key: Key) -> Array:
    """Points drawn with replacement, by one program."""
    return points[jax.random.randint(key, (n,), 0, points.shape[0])]


@eqx.filter_jit
def _draw_around(density: SmoothedEmpirical, n: int, key: Key) -> Array:
    index_key, noise_key = jax.random.split(key)
    z = jax.random.normal(noise_key, (n, density.dim), density.centres.dtype)
    return _draw(density.centres, n, index_key) + density.std * z
