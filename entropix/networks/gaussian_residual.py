r"""The exact field of a Gaussian pair, plus a network for what is not Gaussian.

In canonical coordinates (`entropix.information.CanonicalCoordinates`) x and y are white, and $x_i$
is correlated with $c_i$ alone, by $\rho_i$. Under a process with $\mu^2 + \Sigma^2 = 1$ the entropy
field of x given y is then

$$e_i = \frac{\mu\,(\rho_i c_i - \mu\rho_i^2 y_i)}{1 - \mu^2\rho_i^2},$$

and that of x alone is zero. The network adds

$$\frac{\mu}{\sqrt{\Sigma^2 + \tau^2\mu^2}}\;\mathrm{network}(\lambda, y, c),$$

which is of order one in units of the noise while $\Sigma > \tau\mu$, and bounded at the data end,
as the field of a density that is smooth on the scale $\tau$.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike
from entropix._core.checks import checked, finite, positive, with_key
from entropix._core.offered import divergence_of, passed_on
from entropix.networks.parameters import Fixed


class GaussianPlusResidual(eqx.Module):
    r"""The entropy field of a Gaussian pair plus that of a network.

    The network of an `EntropyMatching` model, without `scaling`, on a process whose equilibrium is
    N(0, I) at all times: `VariancePreserving` with $\kappa = 1$ or `CosinePath`. Put it inside a
    `ConditionDropout`: the last number of its condition is the flag that says whether there is one.

    Args:
        network: `network(log_snr, y, condition)`, such as a `ResidualMLP`; zero at first.
        correlations: $\rho_i$, shape (d,), between -1 and 1, of the d coordinates of the state with
            the first d of the condition; zero beyond the size of the condition.
        width: $\tau$, the smallest scale that the network is meant to resolve.

    Raises:
        ValueError: if an argument is not allowed.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> inner = ex.networks.ResidualMLP(2, key=jax.random.key(0), condition_dim=3, width=8)
        >>> network = ex.networks.GaussianPlusResidual(inner, [0.8, 0.0])
        >>> pair = ex.networks.ConditionDropout(network, 2)
        >>> print(pair(0.0, jnp.ones(2), jnp.ones(2)).round(4))  # untrained
        [0.3613 0.    ]
    """

    network: Callable
    correlations: Fixed
    width: Fixed

    def __init__(self, network: Callable, correlations: DataLike, width: DataLike = 0.1):
        if not callable(network):
            raise ValueError(f"`network` must be callable, got {type(network).__name__}.")
        rho = checked(
            finite(correlations, "correlations"),
            "correlations",
            lambda v: (v > -1) & (v < 1),
            "between -1 and 1",
        )
        if rho.ndim != 1:
            raise ValueError(f"`correlations` must have shape (d,), got {rho.shape}.")
        self.network = network
        self.correlations = Fixed(rho)
        self.width = Fixed(positive(width, "width", shape=()))

    @property
    def dim(self) -> int:
        """The dimension of the state."""
        return self.correlations.value.shape[0]

    def __call__(
        self,
        log_snr: RealScalarLike,
        y: Float[Array, " dim"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, " dim"]:
        _, scale, factor = self._scales(jnp.asarray(log_snr, y.dtype))
        field = factor * self.network(log_snr, y, condition, **with_key(self.network, key))
        if condition is None:
            return field
        vector = jnp.asarray(condition, y.dtype).ravel()
        c, present = vector[:-1], vector[-1]
        more = self.dim - c.shape[0]
        c = jnp.pad(c, (0, more)) if more > 0 else c[: self.dim]
        rho = self.correlations.value * present
        return field + scale * (rho * c - scale * rho**2 * y) / self._unknown(log_snr, rho)

    @property
    def divergence(self) -> Callable | None:
        """The divergence in closed form, if the network has one."""
        return passed_on(self.network, self._divergence)

    def _divergence(
        self, log_snr: RealScalarLike, y: Array, condition: PyTree = None, *, key: Key | None = None
    ) -> Array:
        square, _, factor = self._scales(jnp.asarray(log_snr, y.dtype))
        value = factor * divergence_of(self.network, log_snr, y, condition, key)
        if condition is None:
            return value
        rho = self.correlations.value * jnp.asarray(condition, y.dtype).ravel()[-1]
        return value - jnp.sum(square * rho**2 / self._unknown(log_snr, rho))

    def _unknown(self, log_snr: RealScalarLike, rho: Array) -> Array:
        r"""$1 - \mu^2\rho^2$, without cancellation where $\rho$ is nearly one."""
        log_snr = jnp.asarray(log_snr, rho.dtype)
        return jax.nn.sigmoid(-log_snr) + jax.nn.sigmoid(log_snr) * (1 - rho) * (1 + rho)

    def _scales(self, log_snr: Array) -> tuple[Array, Array, Array]:
        r"""$\mu^2$, $\mu$, and the factor of the network."""
        square, noise = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
        # The exact ends of a process have infinite log-SNRs; the network sees large ones there.
        scale = jnp.sqrt(jnp.maximum(square, jnp.finfo(square.dtype).tiny))
        return square, scale, scale / jnp.sqrt(noise + square * self.width.value**2)
