r"""Models whose network is a denoiser, or what published models learn in its place.

All of them are functions of the log-SNR alone and of a state that no process knows of: with
$\alpha^2 = \mathrm{sigmoid}(\lambda)$, $\sigma^2 = 1 - \alpha^2$ and $n = \sigma/\alpha =
\Sigma/\mu$, the state $z = y/\sqrt{\mu^2 + \Sigma^2} = \alpha x + \sigma\epsilon$ is that of a
variance-preserving process. Every network gives a pair that adds up to it,
$z = \alpha D + \sigma\epsilon$:

| network | denoiser D | noise $\epsilon$ |
|---|---|---|
| denoiser | $D$ | $(z - \alpha D)/\sigma$ |
| noise | $(z - \sigma\epsilon)/\alpha$ | $\epsilon$ |
| v (Salimans, Ho, 2202.00512) | $\alpha z - \sigma v$ | $\sigma z + \alpha v$ |
| F (EDM, Karras et al., 2206.00364) | $\frac{\alpha v_d}{\tau^2}z + \frac{\sigma s_d}{\tau}F$ |
  $\frac{\sigma}{\tau^2}z - \frac{\alpha s_d}{\tau}F$ |
| flow velocity $u = \epsilon - D$ | $(z - \sigma u)/(\alpha + \sigma)$ |
  $(z + \alpha u)/(\alpha + \sigma)$ |

with $s_d$ the standard deviation of the data, $v_d = s_d^2$ and $\tau^2 = \sigma^2 + \alpha^2 v_d$.
Then, under any Gaussian process,

$$\nabla\log p_s(y) = -\frac{\epsilon}{\Sigma}, \qquad
  e = \pi y - \frac{\epsilon}{\Sigma} = \frac{\mu}{\Sigma^2}(D - r y), \qquad
  v = \mu' D + \Sigma'\epsilon,$$

the second form of $e$ where the noise dominates, so that nothing cancels there.
"""

import abc
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import positive
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models.moved import move
from entropix.models.network_model import (
    AbstractNetworkModel,
    call_network,
    check_parts,
    collapse,
    example_shape,
)


def signal_and_noise(log_snr: Array) -> tuple[Array, Array]:
    r"""$\alpha$ and $\sigma$, with $\alpha^2 + \sigma^2 = 1$."""
    return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


def from_denoised(z: Array, alpha: Array, sigma: Array, denoised: Array) -> tuple[Array, Array]:
    """The pair of a network that is the denoiser."""
    return denoised, (z - alpha * denoised) / sigma


def from_noise(z: Array, alpha: Array, sigma: Array, noise: Array) -> tuple[Array, Array]:
    """The pair of a network that predicts the noise."""
    return (z - sigma * noise) / alpha, noise


def from_v(z: Array, alpha: Array, sigma: Array, v: Array) -> tuple[Array, Array]:
    r"""The pair of a network that predicts $v = \alpha\epsilon - \sigma x$."""
    return alpha * z - sigma * v, sigma * z + alpha * v


def from_flow(z: Array, alpha: Array, sigma: Array, u: Array) -> tuple[Array, Array]:
    r"""The pair of a network that predicts the velocity $\epsilon - x$ of rectified flow."""
    return (z - sigma * u) / (alpha + sigma), (z + alpha * u) / (alpha + sigma)


def edm_std(alpha: Array, sigma: Array, data_std: Array) -> Array:
    r"""$\tau$, the standard deviation of z."""
    return jnp.sqrt(sigma**2 + alpha**2 * data_std**2)


def from_edm(
    z: Array, alpha: Array, sigma: Array, output: Array, data_std: Array
) -> tuple[Array, Array]:
    """The pair of an EDM network F, which is given z divided by its standard deviation."""
    std = edm_std(alpha, sigma, data_std)
    denoised = alpha * data_std**2 / std**2 * z + sigma * data_std / std * output
    return denoised, sigma / std**2 * z - alpha * data_std / std * output


class AbstractDenoiserModel(AbstractNetworkModel):
    """A model whose fields follow from an estimate of the data and one of the noise."""

    @abc.abstractmethod
    def split(
        self, s: RealScalarLike, y: State, condition: PyTree, key: Key | None
    ) -> tuple[State, State]:
        r"""The denoiser and the noise, $y = \mu D + \Sigma\epsilon$."""

    @property
    def divergence(self) -> str | None:
        return collapse(self.process)

    def with_process(self, process: AbstractGaussianProcess) -> AbstractModel:
        return move(self, process)

    def denoise(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""$D(y, s)$, the model's $E[x|y]$."""
        return self.split(s, y, condition, key)[0]

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return -self.split(s, y, condition, key)[1] / self.process.std(s)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process = self.process
        denoised, noise = self.split(s, y, condition, key)
        near_data = process.log_snr(s) > 0
        # What is not used is replaced, for the gradients.
        std = jnp.where(near_data, process.std(s), 1.0)
        var = jnp.where(near_data, 1.0, process.var(s))
        near_noise = process.scale(s) / var * (denoised - process.equilibrium_gain(s) * y)
        return jnp.where(near_data, process.equilibrium_precision(s) * y - noise / std, near_noise)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process = self.process
        denoised, noise = self.split(s, y, condition, key)
        return process.scale_rate(s) * denoised + process.var_rate(s) / (2 * process.std(s)) * noise


def unit_state(
    process: AbstractGaussianProcess, s: RealScalarLike, y: Array
) -> tuple[Array, Array, Array, Array]:
    r"""$\lambda$, z, $\alpha$ and $\sigma$ of a state."""
    log_snr = process.log_snr(s)
    alpha, sigma = signal_and_noise(log_snr)
    return log_snr, y / jnp.sqrt(process.scale(s) ** 2 + process.var(s)), alpha, sigma


class DenoiserPrediction(AbstractDenoiserModel):
    r"""The network is the denoiser, $D(y, s) = \mathrm{network}(\lambda(s), z)$.

    With $z = y/\sqrt{\mu^2 + \Sigma^2}$. Near the data end the score $(\mu D - y)/\Sigma^2$ is a
    difference of two numbers that are nearly equal, so that entropies need a cut-off there.

    Args:
        network: `network(log_snr, z, condition=None[, key=None]) -> array of z's shape`.
        process: a Gaussian process.
        shape: shape of one example, where the network does not know it.

    Raises:
        ValueError: if `network` is not callable or has state, or `process` is not Gaussian.
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

    def split(
        self, s: RealScalarLike, y: State, condition: PyTree, key: Key | None
    ) -> tuple[State, State]:
        log_snr, z, alpha, sigma = unit_state(self.process, s, y)
        return from_denoised(
            z, alpha, sigma, call_network(self.network, log_snr, z, condition, key)
        )


class VPrediction(AbstractDenoiserModel):
    r"""The network is $v = \alpha\epsilon - \sigma x$, a function of $\lambda$ and z.

    Not the velocity of the probability flow, which is `VelocityPrediction`.

    Args: as `DenoiserPrediction`.

    References:
        Salimans, Ho, arXiv 2202.00512.
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

    def split(
        self, s: RealScalarLike, y: State, condition: PyTree, key: Key | None
    ) -> tuple[State, State]:
        log_snr, z, alpha, sigma = unit_state(self.process, s, y)
        return from_v(z, alpha, sigma, call_network(self.network, log_snr, z, condition, key))


class EDMPrediction(AbstractDenoiserModel):
    r"""The preconditioning of EDM: $D = c_{skip}\,\hat x + c_{out}\,F(\lambda, c_{in}\,\hat x)$.

    With $\hat x = y/\mu$ and $n = \Sigma/\mu$: $c_{skip} = s_d^2/(n^2 + s_d^2)$, $c_{out} =
    n s_d/\sqrt{n^2 + s_d^2}$, $c_{in} = 1/\sqrt{n^2 + s_d^2}$. Inputs and targets of F have unit
    variance at every noise level, and F = 0 is the denoiser of $N(0, s_d^2)$. Unless F vanishes at
    the data end, the entropy diverges there like that of `NoisePrediction`, and needs a cut-off.

    Args:
        network: F, `network(log_snr, state, condition=None[, key=None])`; in the notation of EDM
            $c_{noise} = \ln(n)/4 = -\lambda/8$.
        process: a Gaussian process.
        data_std: $s_d$, the standard deviation of the data.
        shape: shape of one example, where the network does not know it.

    Raises:
        ValueError: as `DenoiserPrediction`, or if `data_std` is not positive.

    References:
        Karras et al., arXiv 2206.00364, table 1.
    """

    network: Callable
    process: AbstractGaussianProcess
    data_std: Float[Array, ""]
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractGaussianProcess,
        data_std: ArrayLike = 0.5,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process)
        self.network = network
        self.process = process
        self.data_std = positive(data_std, "data_std", shape=())
        self.shape = example_shape(network, shape)

    def split(
        self, s: RealScalarLike, y: State, condition: PyTree, key: Key | None
    ) -> tuple[State, State]:
        log_snr, z, alpha, sigma = unit_state(self.process, s, y)
        state = z / edm_std(alpha, sigma, self.data_std)
        output = call_network(self.network, log_snr, state, condition, key)
        return from_edm(z, alpha, sigma, output, self.data_std)
