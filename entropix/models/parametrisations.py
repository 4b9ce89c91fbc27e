r"""Four parametrisations of the same field.

| model | score | entropy field | velocity |
|---|---|---|---|
| `EntropyMatching` | $e - \pi y$ | $e$ | $-\frac{\sigma^2}{2} e$ |
| `ScoreMatching` | $s_\theta$ | $s_\theta + \pi y$ | $b - \frac{\sigma^2}{2} s_\theta$ |
| `NoisePrediction` | $-\epsilon/\Sigma$ | $\pi y - \epsilon/\Sigma$ | $v_\epsilon$ |
| `VelocityPrediction` | $\frac{2}{\sigma^2}(b - v)$ | $-\frac{2}{\sigma^2}v$ | $v$ |

Here $\pi$ is the precision of $p_{eq}$; $e$, $s_\theta$, $\epsilon$ and $v$ are the networks, and
$v_\epsilon = \frac{\mu'}{\mu}(y - \Sigma\epsilon) + \Sigma'\epsilon$. Sources: entropy matching,
Neural Entropy (2409.03817); score matching, Song et al. (2011.13456); noise prediction, Ho et al.
(2006.11239); velocity, Albergo et al. (2303.08797), Lipman et al. (2210.02747).

The first two need no log-SNR and also accept processes that are not Gaussian, such as `Langevin`.
Their networks are then functions of time, `network(s, y, condition=None)`, $-\pi y$ is replaced by
the equilibrium score $\nabla\log p_{eq}(y)$, and the velocity is
$b - \frac{\sigma^2}{2} s_\theta$, which differs from $-\frac{\sigma^2}{2} e$ for a driven process.
"""

from collections.abc import Callable

import equinox as eqx
from jaxtyping import Array, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess
from entropix.models.gaussian_part import GaussianPart
from entropix.models.moved import move
from entropix.models.network_model import (
    AbstractNetworkModel,
    call_network,
    check_parts,
    collapse,
    example_shape,
    noise_level,
)
from entropix.models.scaling import GaussianScaling


def _gaussian(process: AbstractProcess) -> AbstractGaussianProcess:
    assert isinstance(process, AbstractGaussianProcess)  # checked in `__init__`
    return process


def _with_process(model: AbstractNetworkModel, process: AbstractProcess) -> AbstractModel:
    """The same denoiser; without a log-SNR, the same network as a function of time."""
    if isinstance(model.process, AbstractGaussianProcess):
        return move(model, process)
    if isinstance(process, AbstractGaussianProcess) or not isinstance(process, AbstractProcess):
        raise ValueError(
            f"`process` must be a process without log-SNR, because the network of the model is a "
            f"function of time, got {type(process).__name__}."
        )
    return eqx.tree_at(lambda m: m.process, model, process)


class EntropyMatching(AbstractNetworkModel):
    r"""The entropy-matching model: the network is the entropy field itself.

    $e_\theta(y, s) = \mathrm{network}(\lambda(s), y)$, or with a scaling
    $c(s)\,\mathrm{network}(\lambda(s), y/\rho(s))$, and with a Gaussian part that of a Gaussian is
    added, $e_g(y, s)$ of `GaussianPart`. The reverse drift is
    $b + \sigma^2 e_\theta$, and $S_{NN} = \int\frac{\sigma^2}{2}E\|e_\theta\|^2\,ds$ (Neural
    Entropy, 2409.03817). A network with output zero generates the equilibrium: it stores nothing.

    Args:
        network: `network(log_snr, y, condition=None[, key=None]) -> array of y's shape`.
        process: a Gaussian process, or any other: the network is then `network(s, y, ...)`.
        scaling: `GaussianScaling.from_data(data, process)` (recommended); None for no scaling, as
            required by processes that are not Gaussian.
        shape: shape of one example; needed if neither network nor scaling states it.
        gaussian: `GaussianPart.from_data(data)`, so that the network learns what is not Gaussian in
            the data, for a Gaussian process of finite entropy; None for no such part.

    Raises:
        ValueError: if `network` is not callable or has state, `process` is not a process, or a
            scaling or a Gaussian part is combined with a process that does not allow it.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> network = ex.FourierMLP(2, key=jax.random.key(0), widths=(8,))
        >>> model = ex.EntropyMatching(network, process)
        >>> print(model.entropy_field(0.5, jnp.ones(2)))  # untrained
        [0. 0.]
    """

    network: Callable
    process: AbstractProcess
    scaling: GaussianScaling | None
    shape: tuple[int, ...] | None = eqx.field(static=True)
    gaussian: GaussianPart | None = None  # the default is that of files without it

    def __init__(
        self,
        network: Callable,
        process: AbstractProcess,
        scaling: GaussianScaling | None = None,
        *,
        shape: tuple[int, ...] | None = None,
        gaussian: GaussianPart | None = None,
    ):
        check_parts(network, process, gaussian=False)
        self.network = network
        self.process = process
        self.scaling = scaling
        if scaling is not None:
            if not isinstance(scaling, GaussianScaling):
                raise ValueError(
                    f"`scaling` must be a GaussianScaling or None, got {type(scaling).__name__}."
                )
            if not isinstance(process, AbstractGaussianProcess):
                raise ValueError(
                    f"`scaling` must be None for a process that is not Gaussian, "
                    f"got {type(process).__name__}."
                )
            if shape is not None and tuple(shape) != scaling.shape:
                raise ValueError(
                    f"`shape` must be that of `scaling`, {scaling.shape}, got {shape}."
                )
            shape = scaling.shape
        self.gaussian = gaussian
        if gaussian is not None:
            if not isinstance(gaussian, GaussianPart):
                raise ValueError(
                    f"`gaussian` must be a GaussianPart or None, got {type(gaussian).__name__}."
                )
            if not isinstance(process, AbstractGaussianProcess) or not process.is_finite:
                raise ValueError(
                    "`gaussian` must be None for a process that is not Gaussian or of infinite "
                    f"entropy, got {type(process).__name__}."
                )
            if shape is not None and tuple(shape) != gaussian.shape:
                raise ValueError(
                    f"`shape` must be that of `gaussian`, {gaussian.shape}, got {shape}."
                )
            shape = gaussian.shape
        self.shape = example_shape(network, shape)

    def with_process(self, process: AbstractProcess) -> AbstractModel:
        return _with_process(self, process)

    @property
    def divergence(self) -> str | None:
        return collapse(self.process)

    def _output(self, s: RealScalarLike, y: Array, condition: PyTree, key: Key | None) -> Array:
        if self.scaling is not None:
            y = y / self.scaling.input_std(_gaussian(self.process), s)
        return call_network(self.network, noise_level(self.process, s), y, condition, key)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        out = self._output(s, y, condition, key)
        if self.scaling is not None:
            out = self.scaling(_gaussian(self.process), s) * out
        if self.gaussian is not None:
            process = _gaussian(self.process)
            out = out + process.scale(s) * self.gaussian.over_scale(process, s, y)
        return out

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        field = self.entropy_field(s, y, condition, key=key)
        return field + self.process.equilibrium_score(s, y)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        out = self._output(s, y, condition, key)
        if self.gaussian is not None:
            process = _gaussian(self.process)
            part = self.gaussian.over_scale(process, s, y)
            rate = process.scaled_sigma_squared(s) / 2
            scaled = process.sigma_squared(s) / 2
            if self.scaling is not None:
                scaled = self.scaling.velocity(process, s)
            return -scaled * out - rate * part
        if self.scaling is not None:
            return -self.scaling.velocity(_gaussian(self.process), s) * out
        half = self.process.sigma_squared(s) / 2
        if isinstance(self.process, AbstractGaussianProcess):
            return -half * out
        force = self.process.drift(s, y) - half * self.process.equilibrium_score(s, y)
        return force - half * out


class ScoreMatching(AbstractNetworkModel):
    r"""The network is the score, $s_\theta(y, s) = \mathrm{network}(\lambda(s), y)$.

    Its entropy field is $e_\theta = s_\theta - \nabla\log p_{eq}$. Under a process that is not
    Gaussian the score is $\mathrm{network}(s, y)$, and the caller must provide the prior.

    Args: as `EntropyMatching`, without a scaling.

    References:
        Song et al., 2011.13456; Vincent, Neural Computation 23, 1661 (2011).
    """

    network: Callable
    process: AbstractProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: AbstractProcess,
        *,
        shape: tuple[int, ...] | None = None,
    ):
        check_parts(network, process, gaussian=False)
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    def with_process(self, process: AbstractProcess) -> AbstractModel:
        return _with_process(self, process)

    @property
    def divergence(self) -> str | None:
        return collapse(self.process)

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return call_network(self.network, noise_level(self.process, s), y, condition, key)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return self.score(s, y, condition, key=key) - self.process.equilibrium_score(s, y)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process = self.process
        if not isinstance(process, AbstractGaussianProcess):
            score = self.score(s, y, condition, key=key)
            return process.drift(s, y) - process.sigma_squared(s) / 2 * score
        flow = process.scale_rate(s) * y - process.scaled_sigma_squared(s) / 2 * self.score(
            s, y, condition, key=key
        )
        return flow / process.scale(s)


class NoisePrediction(AbstractNetworkModel):
    r"""The network is the noise, $\epsilon_\theta = -\Sigma\,s_\theta$.

    Unless the network vanishes at the data end, its entropy diverges there like
    $\frac12 E\|\epsilon_\theta\|^2\lambda$ and needs a cut-off.

    Args: as `EntropyMatching`, without a scaling and for a Gaussian process.

    References:
        Ho et al., 2006.11239.
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

    def with_process(self, process: AbstractGaussianProcess) -> AbstractModel:
        return move(self, process)

    @property
    def divergence(self) -> str | None:
        return collapse(self.process)

    def noise(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""$\epsilon_\theta(y, s)$."""
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return -self.noise(s, y, condition, key=key) / self.process.std(s)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return self.score(s, y, condition, key=key) - self.process.equilibrium_score(s, y)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process = self.process
        noise = self.noise(s, y, condition, key=key)
        std = process.std(s)
        denoised = (y - std * noise) / process.scale(s)
        return process.scale_rate(s) * denoised + process.var_rate(s) / (2 * std) * noise


class VelocityPrediction(AbstractNetworkModel):
    r"""The network is the probability-flow velocity, as in flow matching.

    Args: as `EntropyMatching`, without a scaling and for a Gaussian process.

    References:
        Albergo et al., 2303.08797; Lipman et al., 2210.02747.
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

    def with_process(self, process: AbstractGaussianProcess) -> AbstractModel:
        return move(self, process)

    @property
    def divergence(self) -> str | None:
        return collapse(self.process)

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return call_network(self.network, self.process.log_snr(s), y, condition, key)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process = self.process
        velocity = self.velocity(s, y, condition, key=key)
        return -2 * process.scale(s) / process.scaled_sigma_squared(s) * velocity

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        field = self.entropy_field(s, y, condition, key=key)
        return field + self.process.equilibrium_score(s, y)
