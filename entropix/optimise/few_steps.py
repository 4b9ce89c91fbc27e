r"""A sampler of few steps at the log-SNRs of a schedule, and its error.

A sampler of `entropix.dynamics` depends on the log-SNRs of its steps only, so that all schedules
are sampled through one process that covers the whole axis of log-SNR: one compiled program serves
all of them, with the same noise.

The distance between N and many steps from the same noise z,

$$\mathrm{error}^2 = E_z\|X_N(z) - X_\infty(z)\|^2 \ge W_2(p_N, p_\infty)^2,$$

needs no data and has no sampling bias.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import choice
from entropix.dynamics import DDIM, DPMSolver, sample
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractSampler
from entropix.processes import StraightLine


# This number of second-order steps stands for infinitely many of any sampler.
LIMIT_STEPS = 256


def equilibrium_std(process: AbstractGaussianProcess) -> float:
    r"""The standard deviation $\kappa$ of the equilibrium of a process that has a static one.

    Args:
        process: a Gaussian process with `is_static`.
    """
    return float(process.equilibrium_precision(process.t1)) ** -0.5


class FewStepSampler(eqx.Module):
    """A sampler of the probability flow, as a function of the log-SNRs of its steps.

    Args:
        model: any model of a Gaussian process.
        name: `"ddim"`, of first order, or `"dpm"`, DPM-Solver++ of second order.

    Raises:
        ValueError: for any other name.
    """

    model: AbstractModel
    solver: AbstractSampler

    def __init__(self, model: AbstractModel, name: str = "ddim"):
        choice(name, "name", ("ddim", "dpm"))
        process = model.process
        width = equilibrium_std(process) if process.is_static else 1.0
        self.model = model.with_process(StraightLine(width))
        self.solver = DDIM() if name == "ddim" else DPMSolver()

    def __call__(
        self, levels: Float[Array, " knots"], key: Key, num_samples: int
    ) -> Float[Array, "num_samples dim"]:
        """Samples from steps through increasing log-SNRs, of which the last is infinite."""
        times = self.model.process.time_of_log_snr(levels)
        return sample(self.model, key=key, num_samples=num_samples, times=times, solver=self.solver)

    def limit(self, key: Key, num_samples: int) -> Float[Array, "num_samples dim"]:
        """The samples of many steps from the same noise."""
        return sample(
            self.model,
            key=key,
            num_samples=num_samples,
            num_steps=LIMIT_STEPS,
            solver=DPMSolver(),
        )


def uniform_levels(process: AbstractGaussianProcess, num_steps: int) -> Float[Array, " knots"]:
    """The log-SNRs of sampling steps that are uniform in the time of a process, from noise to data.

    Args:
        process: a Gaussian process.
        num_steps: N, the number of steps.

    Returns:
        Increasing log-SNRs, shape (N + 1,); the last is infinite.
    """
    times = jnp.linspace(process.t1, process.t0, num_steps + 1, dtype=process.t1.dtype)
    return jnp.append(process.log_snr(times[:-1]), jnp.inf)


class FewStepError(eqx.Module):
    r"""The objective $\frac12\log E_z\|X_N(z) - X_\infty(z)\|^2$ of a schedule.

    A differentiable function of the process in whose time the N steps are uniform.

    Args:
        sampler: the few-step sampler.
        num_steps: N.
        num_samples: draws of the noise, the same in every call.
        key: PRNG key of the noise.
    """

    sampler: FewStepSampler
    num_steps: int = eqx.field(static=True)
    key: Key
    limit: Float[Array, "n dim"]

    def __init__(self, sampler: FewStepSampler, num_steps: int, num_samples: int, *, key: Key):
        self.sampler = sampler
        self.num_steps = num_steps
        self.key = key
        self.limit = sampler.limit(key, num_samples)

    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        levels = uniform_levels(process, self.num_steps)
        made = self.sampler(levels, self.key, self.limit.shape[0])
        return jnp.log(jnp.mean(jnp.sum((made - self.limit) ** 2, axis=-1))) / 2
