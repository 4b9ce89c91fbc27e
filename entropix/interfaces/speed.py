r"""`AbstractSpeed`: how fast something changes along a process, as an objective of its schedule.

With a rate $r(s) \ge 0$ per unit time, the length $\int r\,ds$ does not depend on the clock, and
the action

$$(t_1 - t_0)\int r^2\,ds \ \ge\ \left(\int r\,ds\right)^2$$

reaches its square at constant speed: where equal times cover equal lengths.
"""

import abc

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import safe_sqrt
from entropix.interfaces.process import AbstractGaussianProcess


class AbstractSpeed(eqx.Module):
    r"""A rate along a process, its length, and its action as an objective of `optimise_schedule`.

    `constant_speed` finds the clock of least action without a gradient. An objective that is not
    the action of a rate needs no interface: any function of a process to a scalar is one.
    """

    @abc.abstractmethod
    def nodes(
        self, process: AbstractGaussianProcess, num_times: int | None = None
    ) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """Increasing times that resolve the rate, and their weights in ds.

        `time_rule` of `entropix.transport` gives both, for the scales of the data.
        """

    @abc.abstractmethod
    def squared_rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        r"""$r(s)^2$ at times."""

    @eqx.filter_jit
    def rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        r"""$r(s)$ at times."""
        return safe_sqrt(self.squared_rate(process, times))

    @eqx.filter_jit
    def length(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        r"""$\int r\,ds$, whatever the clock."""
        times, weights = self.nodes(process)
        return jnp.sum(weights * self.rate(process, times))

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        r"""$(t_1 - t_0)\int r^2\,ds$."""
        times, weights = self.nodes(process)
        return (process.t1 - process.t0) * jnp.sum(weights * self.squared_rate(process, times))
