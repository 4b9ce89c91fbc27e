r"""Losses under Gaussian processes: denoising, and the velocity of a flow.

With $y = \mu x + \Sigma z$ and $z \sim N(0, I)$, the entropy-matching loss (Neural Entropy,
2409.03817; for a score it is the denoising score-matching loss of Vincent, 2011) is

$$\ell(s, x, z) = \|(\nabla\log p_{eq}^{(s)}(y) + e_\theta(y, s))\,\Sigma + z\|^2
  = \|\Sigma\,s_\theta(y, s) + z\|^2 = \|\Sigma\,e_\theta + \mu(r z - \Sigma\pi x)\|^2,$$

with the precision $\pi$ and gain $r$ of the equilibrium. The last form is the one computed: its
second term is the part of $z$ that $y$ does not determine, and in float32 it keeps its digits at
the noise end, where the first two subtract numbers of order one to leave one of order $\mu$.

A weighting turns it into the objective $\int w(s)\,E[\ell]\,ds$. In log-SNR, $ds =
\frac{\Sigma^2}{\sigma^2}\,d(-\lambda)$, so

| weighting | $w(s)\,ds$ | per $d(-\lambda)$ |
|---|---|---|
| `"uniform"`, the paper's | $ds/(t_1 - t_0)$ | $\frac{\Sigma^2}{\sigma^2 (t_1 - t_0)}$ |
| `"likelihood"` | $\frac{\sigma^2}{2\Sigma^2} ds$ | $\frac12$ |

The second is maximum likelihood (Song et al., 2101.09258; Kingma et al., 2107.00630): up to a
constant it is the path KL. That constant, $\frac12\int E\|E[z|y] - z\|^2 d(-\lambda)$, is infinite
at the data end, so the reported loss is taken relative to a reference score $s_r$,

$$\ell_r = \ell(s_\theta) - \ell(s_r) = \Sigma^2\|d\|^2 + 2\Sigma\,d\cdot(\Sigma s_r + z),
  \qquad d = s_\theta - s_r,$$

which has the same gradient and costs no evaluation. The reference is $p_{eq}$, so that the loss is
$L - S_{tot}$ in nats: zero for a network that has stored nothing, $-S_{tot}$ for a perfect one.
Where the equilibrium collapses at the data end (rectified flow, sub-VP) and $S_{tot}$ is infinite,
it is the diffused standard normal, $N(0, \mu^2 + \Sigma^2)$.

A flow is trained on the velocities of interpolants between pairs (x, z),

$$J(\theta) = \frac{1}{t_1 - t_0}\int_{t_0}^{t_1}
  E\|v_\theta(\mu x + \Sigma z, s) - \mu' x - \Sigma' z\|^2\,ds$$

(Lipman et al., 2210.02747; Albergo et al., 2303.08797), that are independent or coupled within each
batch (Pooladian et al., 2304.14772; Tong et al., 2302.00482). In the mean over batches x and z keep
their laws; only the pairs are chosen.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, as_float, inner, squared_norm
from entropix._core.checks import choice, positive_integer
from entropix.interfaces import (
    AbstractGaussianProcess,
    AbstractLoss,
    AbstractModel,
    AbstractProcess,
    AbstractTimes,
    AbstractTokenProcess,
)
from entropix.models import FlowMatching, GaussianScaling
from entropix.training.times import LogisticTimes, UniformTimes, time_per_log_snr


WEIGHTINGS = ("likelihood", "uniform")


def denoising_loss(
    model: AbstractModel,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    condition: PyTree = None,
    *,
    key: Key | None = None,
) -> Float[Array, ""]:
    r"""$\|\Sigma\,s_\theta(\mu x + \Sigma z, s) + z\|^2$, summed over all axes of the example.

    Its mean over z is least, and its mean gradient zero, where $s_\theta$ is the score of $p_s$.

    Args:
        model: any model; entropy matching and score matching give the same number.
        s: time, between `process.t0` (excluded: there is nothing to denoise) and `process.t1`.
        x: one example of the data.
        z: standard normal noise of its shape.
        condition: what the network takes besides.
        key: for networks with dropout.

    Returns:
        A scalar, dimensionless.

    References:
        Neural Entropy, arXiv 2409.03817.
    """
    x, z = as_float(x, "x"), as_float(z, "z")
    process = model.process
    std = process.std(s)
    field = model.entropy_field(s, process.scale(s) * x + std * z, condition, key=key)
    return squared_norm(std * field + _rest(process, s, x, z))


def relative_denoising_loss(
    model: AbstractModel,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    condition: PyTree = None,
    *,
    key: Key | None = None,
) -> Float[Array, ""]:
    r"""`denoising_loss` of the model minus that of the reference score, without cancellation.

    With the weight $\frac12 d(-\lambda)$ its mean is $L - S_{tot}$ in nats; see the module.

    Args: as `denoising_loss`.
    """
    x, z = as_float(x, "x"), as_float(z, "z")
    process = model.process
    y = process.scale(s) * x + process.std(s) * z
    return relative_loss(process, s, x, z, model.entropy_field(s, y, condition, key=key))


def relative_loss(
    process: AbstractGaussianProcess,
    s: RealScalarLike,
    x: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    field: Float[Array, "*shape"],
) -> Float[Array, ""]:
    """`relative_denoising_loss` of an entropy field that is known."""
    std, rest = process.std(s), _rest(process, s, x, z)
    if not process.is_finite:
        scale, var = process.scale(s), process.var(s)
        total = scale**2 + var
        excess = process.equilibrium_precision(s) - 1 / total
        field = field - excess * (scale * x + std * z)
        rest = scale * (scale * z - std * x) / total
    return squared_norm(std * field) + 2 * std * inner(field, rest)


def _rest(
    process: AbstractGaussianProcess, s: RealScalarLike, x: Array, z: Array
) -> Float[Array, "*shape"]:
    r"""$\mu(r z - \Sigma\pi x) = \Sigma\nabla\log p_{eq} + z$."""
    pull = process.std(s) * process.equilibrium_precision(s)
    return process.scale(s) * (process.equilibrium_gain(s) * z - pull * x)


def weight_per_log_snr(
    weighting: str | Callable, process: AbstractGaussianProcess, s: RealScalarLike
) -> Float[Array, ""]:
    r"""The weight at `s` per unit of $-\lambda$: the table of the module.

    Args:
        weighting: `"likelihood"`, `"uniform"`, or a function `weight(process, s)` that gives the
            weight per unit of time.
        process: the process.
        s: time.
    """
    if weighting == "likelihood":
        return jnp.full_like(process.t1, 0.5)
    if weighting == "uniform":
        return time_per_log_snr(process, s) / (process.t1 - process.t0)
    assert callable(weighting)
    return weighting(process, s) * time_per_log_snr(process, s)


class Denoising(AbstractLoss):
    r"""Denoising from the data, for `fit(..., loss=Denoising(...))`; for Gaussian processes.

    The default of `fit`: $w_\lambda(s)/q_\lambda(s)$ times the loss of the module, with the weight
    $w_\lambda$ of its table and times drawn from the density $q_\lambda$.

    Args:
        num_draws: times and noises for each example.
        antithetic: draw noise in pairs (z, -z) at one time. None: if `num_draws` is even.
        weighting: `"likelihood"`, `"uniform"` (the paper's), or a function `weight(process, s)`.
            None: likelihood for a model with a `scaling` and a process whose entropy is finite,
            else uniform.
        times: proposal of times. None: `UniformTimes()` for the uniform weighting, else
            `LogisticTimes.matched`.

    Raises:
        ValueError: if an argument is not as above.

    References:
        Neural Entropy, arXiv 2409.03817; Song et al., 2101.09258; Kingma et al., 2107.00630.
    """

    weighting: str | Callable | None
    times: AbstractTimes | None
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    coupling = None
    num_steps = 0

    def __init__(
        self,
        num_draws: int = 10,
        antithetic: bool | None = None,
        weighting: str | Callable | None = None,
        times: AbstractTimes | None = None,
    ):
        self.num_draws, self.antithetic = check_draws(num_draws, antithetic)
        if isinstance(weighting, str):
            choice(weighting, "weighting", WEIGHTINGS)
        elif weighting is not None and not callable(weighting):
            raise ValueError(
                f"`weighting` must be 'likelihood', 'uniform' or a function weight(process, s), "
                f"got {type(weighting).__name__}."
            )
        self.weighting, self.times = weighting, check_times_proposal(times, "UniformTimes")

    def for_model(self, model: AbstractModel, data: Float[Array, "_ *shape"]) -> AbstractLoss:
        if isinstance(model, FlowMatching):
            raise ValueError(
                "`loss` must be None or FlowLoss(...) for FlowMatching, got Denoising."
            )
        process = model.process
        if not isinstance(process, AbstractProcess):
            jumps = isinstance(process, AbstractTokenProcess)
            loss = "TokenDenoising" if jumps else "MultimodalDenoising"
            raise ValueError(
                f"`loss` must be None or {loss}(...) for a model of {type(process).__name__}, got "
                "Denoising."
            )
        if not isinstance(process, AbstractGaussianProcess):
            raise ValueError(
                f"`loss` must be LocalDenoising(...) or SlicedScoreMatching(...) for a process "
                f"without a closed transition kernel ({type(process).__name__}), got Denoising."
            )
        scaling = getattr(model, "scaling", None)
        weighting, times = self.weighting, self.times
        if weighting is None:
            finite = scaling is not None and process.is_finite
            weighting = "likelihood" if finite else "uniform"
        if times is None and weighting == "uniform":
            times = UniformTimes()
        elif times is None:
            scaling = GaussianScaling.from_data(data, process) if scaling is None else scaling
            times = LogisticTimes.matched(process, scaling)
        return Denoising(self.num_draws, self.antithetic, weighting, times)

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "*shape"],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "*shape"],
        key: Key | None,
    ) -> Float[Array, ""]:
        assert self.times is not None  # `for_model` fills in both
        assert self.weighting is not None
        s, density = self.times(model.process, u)
        loss = relative_denoising_loss if self.weighting == "likelihood" else denoising_loss
        weight = weight_per_log_snr(self.weighting, model.process, s) / density
        return weight * loss(model, s, start, z, condition, key=key)


class FlowLoss(AbstractLoss):
    """The velocity loss of a flow, for `fit(FlowMatching(...), ..., loss=FlowLoss(...))`.

    Args:
        coupling: a function `coupling(x, z, *, key)` of a batch and its noise that returns the
            noise in the order in which it is to go with the batch, such as
            `ex.transport.MinibatchCoupling()`; None for independent pairs.
        num_draws: times and noises for each example; each is coupled to the batch on its own.
        antithetic: draw noise in pairs (z, -z) at one time. None: if `num_draws` is even and there
            is no coupling, which allows none.

    Raises:
        ValueError: if an argument is not as above.

    References:
        Lipman et al., arXiv 2210.02747; Tong et al., 2302.00482.
    """

    coupling: Callable | None
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    num_steps = 0

    def __init__(
        self,
        coupling: Callable | None = None,
        num_draws: int = 10,
        antithetic: bool | None = None,
    ):
        if coupling is not None:
            if not callable(coupling):
                raise ValueError(
                    f"`coupling` must be a function coupling(x, z, *, key), such as "
                    f"MinibatchCoupling(), got {type(coupling).__name__}."
                )
            if antithetic:
                raise ValueError(
                    "`antithetic` must be False where noise has a `coupling`, got True."
                )
            antithetic = False
        self.coupling = coupling
        self.num_draws, self.antithetic = check_draws(num_draws, antithetic)

    def for_model(self, model: AbstractModel, data: Float[Array, "_ *shape"]) -> AbstractLoss:
        if not isinstance(model, FlowMatching):
            raise ValueError(
                f"`loss` must be None or another than FlowLoss for {type(model).__name__}, which "
                "learns a score; FlowLoss trains FlowMatching."
            )
        return self

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        return shape

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "*shape"],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "*shape"],
        key: Key | None,
    ) -> Float[Array, ""]:
        process = model.process
        s = process.t0 + u * (process.t1 - process.t0)
        std = process.std(s)
        target = process.scale_rate(s) * start + process.var_rate(s) / (2 * std) * z
        velocity = model.velocity(s, process.scale(s) * start + std * z, condition, key=key)
        return squared_norm(velocity - target)


def check_times_proposal(times: Any, example: str) -> AbstractTimes | None:
    """The proposal of times, or None; otherwise a ValueError that names an example."""
    if times is not None and not isinstance(times, AbstractTimes):
        raise ValueError(
            f"`times` must be a proposal of times such as {example}(), got {type(times).__name__}."
        )
    return times


def check_draws(num_draws: int, antithetic: bool | None) -> tuple[int, bool]:
    """The number of draws, and whether they come in pairs; None: if they can."""
    num_draws = positive_integer(num_draws, "num_draws")
    even = num_draws % 2 == 0
    if antithetic and not even:
        raise ValueError(f"`num_draws` must be even for antithetic pairs, got {num_draws}.")
    return num_draws, even if antithetic is None else bool(antithetic)
