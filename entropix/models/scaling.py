r"""Scaling of entropy-matching networks by a Gaussian reference.

For data with mean $m$ and mean variance $v$ per dimension, the entropy field of the matching
Gaussian has the mean square, with $P = \mu^2 v + \Sigma^2$,

$$\frac{E\|e_r\|^2}{D} = \mu^2\left[\frac{(r - \pi\mu v)^2}{P}
  + \left(1 - \mu(r - \pi\mu v)\right)^2\frac{|m|^2/D}{P^2}\right],$$

which is $(1/\kappa^2 - 1/P)^2 P + \mu^2|m|^2/(D\kappa^4)$ if $p_{eq}$ is static. Multiplying the
output of the network by its root, with a floor for the part that is not Gaussian, makes the output
of order one at every noise level and every $\kappa$; dividing the input by the root mean square of
$Y_s$ makes the input of order one. This is the preconditioning of Karras et al. (2206.00364),
applied to the entropy field.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealLike, RealScalarLike, safe_sqrt
from entropix._core.checks import positive, samples
from entropix.interfaces import AbstractGaussianProcess


class GaussianScaling(eqx.Module):
    r"""$e_\theta(y, s) = c(s)\,\mathrm{network}(\lambda(s), y/\rho(s))$.

    $c(s)^2 = E\|e_r\|^2/D + \mu^2\,\mathrm{floor}^2/P$ and $\rho(s)^2 = P + \mu^2|m|^2/D$. At the
    noise end $c^2$ is proportional to $\mu^2$, so that the entropy of processes that end in pure
    noise is finite.

    Attributes:
        mean_square: $|m|^2/D$.
        variance: $v$, the mean over dimensions of the data variance.
        floor: the relative size of the non-Gaussian part.
        shape: the shape of one example.

    Example:
        >>> import jax
        >>> import entropix as ex
        >>> data = 0.5 * jax.random.normal(jax.random.key(0), (10_000, 2))
        >>> scaling = ex.GaussianScaling.from_data(data, ex.CosinePath())
        >>> print(f"{scaling.variance:.2f}", scaling.shape)
        0.25 (2,)
    """

    mean_square: Float[Array, ""]
    variance: Float[Array, ""]
    floor: Float[Array, ""]
    shape: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def from_data(
        cls, data: DataLike, process: AbstractGaussianProcess, *, floor: float = 0.5
    ) -> "GaussianScaling":
        """Estimate the moments from data.

        Args:
            data: samples, shape (N, *shape).
            process: the process of the model. Its coefficients are evaluated at call time, so that
                another schedule needs no new scaling.
            floor: see the class.

        Raises:
            ValueError: if `data` has no samples, is not finite, or is constant.
        """
        if not isinstance(process, AbstractGaussianProcess):
            raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
        data = samples(data)
        mean_square, variance = _moments_of(data)
        return cls(
            mean_square,
            positive(variance, "data variance"),
            positive(floor, "floor", shape=()),
            tuple(data.shape[1:]),
        )

    def _moments(self, process: AbstractGaussianProcess, s: RealLike) -> tuple[Array, Array]:
        scale = process.scale(s)
        return scale, scale**2 * self.variance + process.var(s)

    def __call__(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, ""]:
        r"""$c(s)$."""
        return process.scale(s) * self.over_scale(process, s)

    def over_scale(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, ""]:
        r"""$c(s)/\mu(s)$, finite at the noise end."""
        scale, total = self._moments(process, s)
        excess = process.equilibrium_gain(s) - process.equilibrium_precision(s) * (
            scale * self.variance
        )
        # hypot, because the squares would overflow where an equilibrium collapses.
        spread = jnp.hypot(excess, self.floor) / jnp.sqrt(total)
        shift = (1 - scale * excess) / total * safe_sqrt(self.mean_square)
        return jnp.hypot(spread, shift)

    def velocity(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, ""]:
        r"""$(\sigma^2/2)\,c(s)$, computed from $P'$, which is finite at both ends."""
        scale, total = self._moments(process, s)
        total_rate = 2 * scale * process.scale_rate(s) * self.variance + process.var_rate(s)
        speed = process.scaled_sigma_squared(s)
        spread = (total_rate**2 + (speed * self.floor) ** 2) / total
        shift = ((speed - scale * total_rate) / total) ** 2 * self.mean_square
        return jnp.sqrt(spread + shift) / 2

    def input_std(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, ""]:
        r"""$\rho(s)$, the root mean square of $Y_s$ per dimension."""
        scale, total = self._moments(process, s)
        return jnp.sqrt(total + scale**2 * self.mean_square)


@jax.jit
def _moments_of(data: Array) -> tuple[Array, Array]:
    """The mean square of the mean, and the mean variance."""
    mean = jnp.mean(data, axis=0)
    return jnp.mean(mean**2), jnp.mean((data - mean) ** 2)
