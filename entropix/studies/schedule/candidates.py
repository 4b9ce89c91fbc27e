r"""The schedules that are compared: a process, and the log-SNRs of N sampling steps.

A sampler of `entropix.dynamics` depends on the log-SNRs $\lambda_0 < \lambda_1 < \dots <
\lambda_N = \infty$ of its steps only. A schedule puts them at equal distances in its own time,
$s_i = t_1 - i(t_1 - t_0)/N$; the steps of Karras et al. (2206.00364, equation 5) are

$$\varsigma_i = \Big(\varsigma_{max}^{1/\rho} + \frac{i}{N-1}\big(\varsigma_{min}^{1/\rho} -
  \varsigma_{max}^{1/\rho}\big)\Big)^\rho, \quad i < N, \qquad \varsigma_N = 0,
  \qquad \lambda = -2\log\varsigma.$$

As a process, they are variance exploding with $\Sigma(s) = \varsigma_{max}\,s^\rho$.
"""

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix.interfaces import AbstractGaussianProcess
from entropix.optimise import step_times, uniform_levels
from entropix.processes import (
    CosineSchedule,
    GaussianPath,
    LinearSchedule,
    RectifiedFlow,
    StraightLine,
    VariancePreserving,
)


RHO, NOISE_MIN, NOISE_MAX = 7.0, 0.002, 80.0


@dataclasses.dataclass(frozen=True, eq=False)
class Candidate:
    """A schedule to compare.

    Attributes:
        name: its label in records.
        title: its name in tables and figures.
        process: a Gaussian process.
        hand_designed: whether it does not depend on the data.
        karras: whether its steps are those of Karras et al., not uniform in time.
        cutoff: the noise at which steps uniform in time end, before a last step to the data; None
            if all steps are uniform in time.
    """

    name: str
    title: str
    process: AbstractGaussianProcess
    hand_designed: bool = True
    karras: bool = False
    cutoff: float | None = None

    def levels(self, num_steps: int) -> Float[Array, " knots"]:
        """Increasing log-SNRs of `num_steps` steps; the last is infinite."""
        if self.karras:
            dtype = self.process.t1.dtype
            fraction = jnp.linspace(0.0, 1.0, num_steps, dtype=dtype)
            root = NOISE_MAX ** (1 / RHO) * (1 - fraction) + NOISE_MIN ** (1 / RHO) * fraction
            return jnp.append(-2 * RHO * jnp.log(root), jnp.inf)
        if self.cutoff is not None:
            times = step_times(self.process, num_steps - 1, jnp.asarray(self.cutoff))
            return jnp.append(self.process.log_snr(times), jnp.inf)
        return uniform_levels(self.process, num_steps)


def hand_designed(linear: LinearSchedule, kappa: float) -> tuple[Candidate, ...]:
    """The common schedules.

    Args:
        linear: the linear schedule.
        kappa: standard deviation of the equilibrium of the schedules that have one.
    """
    return (
        Candidate("linear", "linear", VariancePreserving(linear, kappa)),
        Candidate("cosine", "cosine", VariancePreserving(CosineSchedule(), kappa)),
        Candidate("straight-line", "straight line", StraightLine(kappa)),
        Candidate("rectified-flow", "rectified flow", RectifiedFlow()),
        Candidate("edm", "EDM", GaussianPath(jnp.ones_like, _power), karras=True),
    )


def _power(s: Array) -> Array:
    r"""$\varsigma_{max}\,s^\rho$."""
    return NOISE_MAX * s**RHO
