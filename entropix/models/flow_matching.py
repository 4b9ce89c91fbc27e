r"""A velocity field alone: flow matching with pairs that need not be independent.

$$\frac{dy}{ds} = v_\theta(y, s), \qquad v_\theta \approx E[\mu' x + \Sigma' z\,|\,y_s = y], \qquad
  y_s = \mu x + \Sigma z$$

(Albergo et al., 2303.08797; Lipman et al., 2210.02747). The flow carries the law of $x$ to that of
$z$ for any coupling of the two (Pooladian et al., 2304.14772; Tong et al., 2302.00482). For an
optimal coupling the paths are straight and as short as possible. However, the intermediate
densities are then not those of the process, and v is not $b - \frac{\sigma^2}{2}\nabla\log p_s$:
the velocity determines no score, no reverse SDE and no entropy of the process.
"""

from collections.abc import Callable
from typing import NoReturn

import equinox as eqx
from jaxtyping import PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import checked
from entropix.interfaces import AbstractGaussianProcess
from entropix.models.network_model import (
    AbstractNetworkModel,
    call_network,
    check_parts,
    example_shape,
    time_level,
)


class FlowMatching(AbstractNetworkModel):
    r"""A flow: the network is its velocity, $v_\theta(y, s) = \mathrm{network}(l(s), y)$.

    The level l is not the log-SNR, but decreases linearly in time from 4 to -4: the velocity of a
    flow is smooth in time up to both ends, where the log-SNR is infinite.

    Functions that need a velocity accept this model: `fit`, `solve_flow`, `flow_action`,
    `sample(method="ode")`, `log_prob(method=ProbabilityFlow())`. Functions that need a score
    (`neural_entropy`, `sample(method="sde")`, `solve_reverse`, `speed_limit`, ...) raise
    `ValueError`: for these train a `VelocityPrediction`, whose pairs are independent.

    Args:
        network: `network(level, y, condition=None[, key=None]) -> array of y's shape`.
        process: a Gaussian process with $\Sigma'$ finite at the data end: `RectifiedFlow` or
            `CosinePath`, for example.
        shape: shape of one example; needed if the network has neither `shape` nor `dim`.

    Raises:
        ValueError: if `network` is not callable or has state, or $\Sigma'$ is infinite.
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
        # Sigma ~ sqrt(s) has a velocity that is infinite at the data end.
        checked(
            process.var_rate(process.t0),
            "process",
            lambda v: abs(v) < 1e-6,
            "one whose noise is proportional to time at t0 (RectifiedFlow, CosinePath), where "
            "the derivative of its variance is zero",
        )
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    def with_process(self, process: AbstractGaussianProcess) -> NoReturn:
        raise ValueError(
            f"`process` must be the process of the flow, got {type(process).__name__}: a velocity "
            "depends on the time of its process."
        )

    @property
    def divergence(self) -> str | None:
        return None

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        return call_network(self.network, time_level(self.process, s), y, condition, key)

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> NoReturn:
        raise ValueError(_NO_SCORE)

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> NoReturn:
        raise ValueError(_NO_SCORE)


_NO_SCORE = (
    "`model` must have a score, got FlowMatching, which has only a velocity: the densities of a "
    "flow with coupled pairs are not those of the process, and determine neither an entropy nor a "
    "reverse SDE. Use VelocityPrediction, or functions that follow the flow: solve_flow, "
    "sample(method='ode'), ProbabilityFlow, flow_action."
)
