r"""Mixtures of diagonal Gaussians, closed under diffusion.

Component k becomes $N(\mu m_k, v_k)$, $v_k = \mu^2 s_k^2 + \Sigma^2$; its responsibility is a
softmax. The entropy field is the responsibility-weighted mean of

$$e_k(y) = \mu\pi m_k - \frac{\mu}{v_k}(r - \pi\mu s_k^2)(y - \mu m_k),$$

with the precision $\pi$ and gain $r$ of the equilibrium: no two large terms cancel, and the field
is proportional to $\mu$ at the noise end.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entropix._core.arrays import DataLike, Key, RealScalarLike
from entropix._core.checks import (
    checked,
    exact_shape,
    finite,
    positive,
    positive_integer,
    trailing_shape,
)
from entropix._core.precision import matmul
from entropix.interfaces import AbstractDistribution, AbstractGaussianProcess


class GaussianMixture(AbstractDistribution):
    """A mixture of Gaussians with diagonal covariances.

    Args:
        weights: shape (K,), positive; normalised to sum to one.
        means: shape (K, D).
        stds: shape (K, D), positive.

    Raises:
        ValueError: on a wrong shape, or a weight or standard deviation that is not positive.

    Example:
        >>> import jax
        >>> import entropix as ex
        >>> mixture = ex.GaussianMixture([1.0, 3.0], [[-1.0], [1.0]], [[0.5], [0.5]])
        >>> mixture.mean.tolist()
        [0.5]
        >>> mixture.sample(5, key=jax.random.key(0)).shape
        (5, 1)
        >>> print(f"{mixture.log_prob(mixture.means[1]):.3f}")  # nats
        -0.513
    """

    log_weights: Float[Array, " k"]
    means: Float[Array, "k dim"]
    stds: Float[Array, "k dim"]

    def __init__(self, weights: DataLike, means: DataLike, stds: DataLike):
        weights = checked(finite(weights, "weights"), "weights", lambda w: w > 0, "positive")
        means = finite(means, "means")
        stds = positive(stds, "stds")
        if weights.ndim != 1 or weights.shape[0] == 0:
            raise ValueError(f"`weights` must have shape (K,), got {weights.shape}.")
        if means.ndim != 2 or means.shape[0] != weights.shape[0] or means.shape[1] == 0:
            raise ValueError(
                f"`means` must have shape ({weights.shape[0]}, D), D >= 1, to fit `weights`, "
                f"got {means.shape}."
            )
        if stds.shape != means.shape:
            raise ValueError(
                f"`stds` must have shape {means.shape} to fit `means`, got {stds.shape}."
            )
        self.log_weights = _log_normalised(weights)
        self.means = means
        self.stds = stds

    @property
    def dim(self) -> int:
        return self.means.shape[-1]

    @property
    def weights(self) -> Float[Array, " k"]:
        """Weights that sum to one."""
        return jnp.exp(self.log_weights)

    @property
    def mean(self) -> Float[Array, " dim"]:
        """The mean of the mixture."""
        return matmul(self.weights, self.means)

    @property
    def covariance(self) -> Float[Array, "dim dim"]:
        """The covariance of the mixture."""
        centred = self.means - self.mean
        within = jnp.diag(matmul(self.weights, self.stds**2))
        return within + matmul((self.weights[:, None] * centred).T, centred)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n dim"]:
        return self.sample_labelled(n, key=key)[0]

    def sample_labelled(
        self, n: int, *, key: Key
    ) -> tuple[Float[Array, "n dim"], Int[Array, " n"]]:
        """The samples of `sample`, and the component that each was drawn from."""
        positive_integer(n, "n")
        return _draw(self, int(n), key)

    def _joint(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch k"]:
        """`log w_k + log N(x; m_k, s_k^2)`."""
        z = (x[..., None, :] - self.means) / self.stds
        log_det = jnp.sum(jnp.log(self.stds), axis=-1)
        constant = self.dim / 2 * jnp.log(2 * jnp.pi)
        return self.log_weights - jnp.sum(z * z, axis=-1) / 2 - log_det - constant

    def responsibilities(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch k"]:
        """Posterior probabilities of the components."""
        return self._responsibilities(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _responsibilities(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch k"]:
        return jax.nn.softmax(self._joint(x), axis=-1)

    def log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        return self._log_prob(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _log_prob(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch"]:
        return jax.nn.logsumexp(self._joint(x), axis=-1)

    def score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        return self._score(trailing_shape(x, (self.dim,), "x"))

    @eqx.filter_jit
    def _score(self, x: Float[Array, "*batch dim"]) -> Float[Array, "*batch dim"]:
        fields = (self.means - x[..., None, :]) / self.stds**2
        return jnp.sum(self._responsibilities(x)[..., None] * fields, axis=-2)

    def diffused(self, process: AbstractGaussianProcess, s: RealScalarLike) -> "GaussianMixture":
        scale, var = process.scale(s), process.var(s)
        new = object.__new__(GaussianMixture)  # checked when this mixture was made
        object.__setattr__(new, "log_weights", self.log_weights)
        object.__setattr__(new, "means", scale * self.means)
        object.__setattr__(new, "stds", jnp.sqrt(scale**2 * self.stds**2 + var))
        return new

    def denoise(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        marginal = self.diffused(process, s)
        gain = process.scale(s) * (self.stds / marginal.stds) ** 2
        posterior_means = self.means + gain * (y - marginal.means)
        return matmul(marginal.responsibilities(y), posterior_means)

    def entropy_field(
        self, process: AbstractGaussianProcess, s: RealScalarLike, y: Float[Array, " dim"]
    ) -> Float[Array, " dim"]:
        y = exact_shape(y, (self.dim,), "y")
        marginal = self.diffused(process, s)
        scale, precision = process.scale(s), process.equilibrium_precision(s) * process.scale(s)
        slopes = (process.equilibrium_gain(s) - precision * self.stds**2) / marginal.stds**2
        fields = precision * self.means - scale * slopes * (y - marginal.means)
        return matmul(marginal.responsibilities(y), fields)


@jax.jit
def _log_normalised(weights: Array) -> Array:
    return jnp.log(weights) - jnp.log(jnp.sum(weights))


@eqx.filter_jit
def _draw(mixture: GaussianMixture, n: int, key: Key) -> tuple[Array, Array]:
    """Samples and their components, by one program."""
    component_key, noise_key = jax.random.split(key)
    component = jax.random.categorical(component_key, mixture.log_weights, shape=(n,))
    z = jax.random.normal(noise_key, (n, mixture.dim), mixture.means.dtype)
    return mixture.means[component] + mixture.stds[component] * z, component
