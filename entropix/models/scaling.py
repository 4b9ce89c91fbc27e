r"""Scaling of entropy-matching networks by a Gaussian reference.

For data with mean $m$ and mean variance $v$ per dimension, the entropy field of the matching
Gaussian has the mean square, with $P = \mu^2 v + \Sigma^2$,

$$\frac{E\|e_r\|^2}{D} = \mu^2\left[\frac{(r - \pi\mu v)^2}{P}
  + \left(1 - \mu(r - \pi\mu v)\right)^2\frac{|m|^2/D}{P^2}\right],$$

which is $(1/\kappa^2 - 1/P)^2 P + \mu^2|m|^2/(D\kappa^4)$ where $p_{eq}$ is static. Multiplying the
network's output by its root, with a floor that carries what is not Gaussian, asks the network for
numbers of order one at every noise level and every $\kappa$; dividing its input by the root mean
square of $Y_s$ hands it numbers of order one. The idea is that of the preconditioning of Karras et
al. (2206.00364), for the entropy field.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, RealScalarLike, safe_sqrt
from entropix._core.checks import positive, samples
from entropix.interfaces import AbstractGaussianProcess


class GaussianScaling(eqx.Module):
    r"""$e_\theta(y, s) = c(s)\,\mathrm{network}(\lambda(s), y/\rho(s))$.

    $c(s)^2 = E\|e_r\|^2/D + \mu^2\,\mathrm{floor}^2/P$ is proportional to $\mu^2$ at the noise end,
    which the entropy of processes that end in pure noise needs to be finite; $\rho(s)^2 = P +
    \mu^2|m|^2/D$.

    Attributes:
        mean_square: $|m|^2/D$.
        variance: $v$, the mean over dimensions of the data variance.
        floor: the relative size of the non-Gaussian part that the scaling allows for.
        shape: the shape of one example.
    """

    mean_square: Float[Array, ""]
    variance: Float[Array, ""]
    floor: Float[Array, ""]
    shape: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def from_data(
        cls, data: Any, process: AbstractGaussianProcess, *, floor: float = 0.5
    ) -> "GaussianScaling":
        """Take the moments of `data`, shape (N, *shape).

        Args:
            data: samples with a leading axis.
            process: the process the model will run; its coefficients enter at call time, so that a
                change of schedule needs no new scaling.
            floor: see the class.

        Raises:
            ValueError: if `data` has no samples, is not finite, or does not vary at all.
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
        # hypot: the squares would overflow where an equilibrium collapses.
        spread = jnp.hypot(excess, self.floor) / jnp.sqrt(total)
        shift = (1 - scale * excess) / total * safe_sqrt(self.mean_square)
        return jnp.hypot(spread, shift)

    def velocity(self, process: AbstractGaussianProcess, s: RealScalarLike) -> Float[Array, ""]:
        r"""$(\sigma^2/2)\,c(s)$, written with $P'$ so that it is finite at both ends."""
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
