r"""A velocity field alone: flow matching with pairs that need not be independent.

$$\frac{dy}{ds} = v_\theta(y, s), \qquad v_\theta \approx E[\mu' x + \Sigma' z\,|\,y_s = y], \qquad
  y_s = \mu x + \Sigma z$$

(Albergo et al., 2303.08797; Lipman et al., 2210.02747). The flow carries the law of $x$ to that of
$z$ for any coupling of the two (Pooladian et al., 2304.14772; Tong et al., 2302.00482): where it is
an optimal one, paths are straight and as short as they can be. But the densities on the way are
then not those of the process, and v is not $b - \frac{\sigma^2}{2}\nabla\log p_s$ of any of them:
there is no score, no reverse SDE and no entropy of the process to be had from it.
"""

from collections.abc import Callable
from typing import Any, NoReturn

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealScalarLike
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

    Its level l is not the log-SNR, but falls from 4 to -4 in proportion to time: a velocity of a
    flow is smooth in time, both ends included, where the log-SNR is infinite.

    What needs a velocity works: `fit`, with `coupling` or without, `solve_flow`, `flow_action`,
    `sample(method="ode")`, `log_prob(method=ProbabilityFlow())`. What needs a score raises
    ValueError: `score`, `entropy_field` and all that calls them (`neural_entropy`,
    `sample(method="sde")`, `solve_reverse`, `speed_limit`, ...). For those train a
    `VelocityPrediction`, whose pairs are independent.

    Args:
        network: `network(level, y, condition=None[, key=None]) -> array of y's shape`.
        process: a Gaussian process with $\Sigma'$ finite at the data end: `RectifiedFlow` or
            `CosinePath`, for example.
        shape: shape of one example, where the network does not know it.

    Raises:
        ValueError: if `network` is not callable or has state, or the process is not as above.
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
            "one whose noise starts in proportion to time (RectifiedFlow, CosinePath), so that "
            "the rate of its variance is zero at t0",
        )
        self.network = network
        self.process = process
        self.shape = example_shape(network, shape)

    def with_process(self, process: AbstractGaussianProcess) -> NoReturn:
        raise ValueError(
            f"`process` must be the one the flow was trained on, got {type(process).__name__}: its "
            "velocity is a function of that process's time."
        )

    @property
    def divergence(self) -> str | None:
        return None

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        return call_network(self.network, time_level(self.process, s), y, condition, key)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> NoReturn:
        raise ValueError(_NO_SCORE)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> NoReturn:
        raise ValueError(_NO_SCORE)


_NO_SCORE = (
    "`model` must have a score, got FlowMatching, a velocity field alone: the densities of a flow "
    "with coupled pairs are not those of the process, so that neither entropy nor the reverse SDE "
    "can be had from it. Use VelocityPrediction, or what follows the flow: solve_flow, "
    "sample(method='ode'), ProbabilityFlow, flow_action."
)
