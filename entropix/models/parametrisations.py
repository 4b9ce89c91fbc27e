r"""Four parametrisations of one field.

| model | score | entropy field | velocity |
|---|---|---|---|
| `EntropyMatching` | $e_\theta - \pi y$ | $e_\theta$ | $-\frac{\sigma^2}{2} e_\theta$ |
| `ScoreMatching` | $s_\theta$ | $s_\theta + \pi y$ | $b - \frac{\sigma^2}{2} s_\theta$ |
| `NoisePrediction` | $-\epsilon_\theta/\Sigma$ | $\pi y - \epsilon_\theta/\Sigma$ | $v_\epsilon$ |
| `VelocityPrediction` | $\frac{2}{\sigma^2}(b - v_\theta)$ | $-\frac{2}{\sigma^2}v_\theta$ | $v_\theta$ |

with $\pi$ the precision of $p_{eq}$ and
$v_\epsilon = \frac{\mu'}{\mu}(y - \Sigma\epsilon_\theta) + \Sigma'\epsilon_\theta$. Sources:
entropy matching, Neural Entropy (2409.03817); score matching, Song et al. (2011.13456); noise
prediction, Ho et al. (2006.11239); velocity, Albergo et al. (2303.08797), Lipman et al.
(2210.02747).
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.interfaces import AbstractGaussianProcess
from entropix.models.network_model import (
    AbstractNetworkModel,
    call_network,
    check_parts,
    example_shape,
)
from entropix.models.scaling import GaussianScaling


def _collapse(process: AbstractGaussianProcess) -> str | None:
    if process.is_finite:
        return None
    return f"the equilibrium of {type(process).__name__} collapses at the data end"


class EntropyMatching(AbstractNetworkModel):
    r"""The entropy-matching model: the network is the entropy field itself.

    $e_\theta(y, s) = \mathrm{network}(\lambda(s), y)$, or with a scaling
    $c(s)\,\mathrm{network}(\lambda(s), y/\rho(s))$. The reverse drift is $b + \sigma^2 e_\theta$: a
    network that outputs nothing reproduces equilibrium and has stored nothing, and
    $S_{NN} = \int\frac{\sigma^2}{2}E\|e_\theta\|^2$ (Neural Entropy, 2409.03817).

    Args:
        network: `network(log_snr, y, condition=None[, key=None]) -> array of y's shape`.
        process: a Gaussian process.
        scaling: `GaussianScaling.from_data(data, process)`, or None for the bare network.
        shape: shape of one example, where neither network nor scaling knows it.

    Raises:
        ValueError: if `network` is not callable or has state, or `process` is not Gaussian.
    """

    network: Callable
    process: AbstractGaussianProcess
    scaling: GaussianScaling | None
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractGaussianProcess,
        scaling: GaussianScaling | None = None,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process)
        self.network = network
        self.process = process
        self.scaling = scaling
        if shape is None and scaling is not None:
            shape = scaling.shape
        self.shape = example_shape(network, shape)

    @property
    def divergence(self) -> str | None:
        return _collapse(self.process)

    def _output(self, s: RealScalarLike, y: Array, condition: Any, key: Key | None) -> Array:
        if self.scaling is not None:
            y = y / self.scaling.input_std(self.process, s)
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        out = self._output(s, y, condition, key)
        return out if self.scaling is None else self.scaling(self.process, s) * out

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        field = self.entropy_field(s, y, condition, key=key)
        return field + self.process.equilibrium_score(s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        out = self._output(s, y, condition, key)
        if self.scaling is None:
            return -self.process.sigma_squared(s) / 2 * out
        return -self.scaling.velocity(self.process, s) * out


class ScoreMatching(AbstractNetworkModel):
    r"""The network is the score, $s_\theta(y, s) = \mathrm{network}(\lambda(s), y)$.

    Its entropy field is converted, $e_\theta = s_\theta - \nabla\log p_{eq}$.

    Args: as `EntropyMatching`, without a scaling.
    """

    network: Callable
    process: AbstractGaussianProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractGaussianProcess,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process)
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    @property
    def divergence(self) -> str | None:
        return _collapse(self.process)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self.score(s, y, condition, key=key) - self.process.equilibrium_score(s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        process = self.process
        flow = process.scale_rate(s) * y - process.scaled_sigma_squared(s) / 2 * self.score(
            s, y, condition, key=key
        )
        return flow / process.scale(s)


class NoisePrediction(AbstractNetworkModel):
    r"""The network is the noise, $\epsilon_\theta = -\Sigma\,s_\theta$.

    Unless the network vanishes at the data end, its entropy diverges there like
    $\frac12 E\|\epsilon_\theta\|^2\lambda$ and must be reported with a cut-off.

    Args: as `EntropyMatching`, without a scaling.
    """

    network: Callable
    process: AbstractGaussianProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractGaussianProcess,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process)
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    @property
    def divergence(self) -> str | None:
        return _collapse(self.process)

    def noise(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        r"""$\epsilon_\theta(y, s)$."""
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return -self.noise(s, y, condition, key=key) / self.process.std(s)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return self.score(s, y, condition, key=key) - self.process.equilibrium_score(s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        process = self.process
        noise = self.noise(s, y, condition, key=key)
        std = process.std(s)
        denoised = (y - std * noise) / process.scale(s)
        return process.scale_rate(s) * denoised + process.var_rate(s) / (2 * std) * noise


class VelocityPrediction(AbstractNetworkModel):
    r"""The network is the probability-flow velocity, as in flow matching.

    Args: as `EntropyMatching`, without a scaling.
    """

    network: Callable
    process: AbstractGaussianProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractGaussianProcess,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process)
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    @property
    def divergence(self) -> str | None:
        return _collapse(self.process)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        factor = -2 * self.process.scale(s) / self.process.scaled_sigma_squared(s)
        return factor * self.velocity(s, y, condition, key=key)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        field = self.entropy_field(s, y, condition, key=key)
        return field + self.process.equilibrium_score(s, y)
