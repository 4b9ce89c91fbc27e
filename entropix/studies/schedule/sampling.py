r"""Few steps of a sampler, put where a schedule puts them, and what they cost in accuracy.

All schedules are sampled through one process with the whole axis of log-SNR: a sampler that sees
levels only makes the same samples under every process (see `candidates`), so that one program
serves all of them, from the same noise.

The error of N steps against many from the same noise z,

$$\mathrm{error}^2 = E_z\|X_N(z) - X_\infty(z)\|^2 \ge W_2(p_N, p_\infty)^2,$$

needs no data and has no sampling bias; W2 between samples and data has both.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix.dynamics import DDIM, DPMSolver, sample
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractSampler
from entropix.processes import StraightLine


# Steps of the sampler of second order that stand for infinitely many of either.
LIMIT_STEPS = 256


def equilibrium_std(process: AbstractGaussianProcess) -> float:
    r"""$\kappa$ of a process with a static equilibrium."""
    return float(process.equilibrium_precision(process.t1)) ** -0.5


class FewStepSampler(eqx.Module):
    """A model's sampler, as a function of log-SNRs.

    Args:
        model: any model of a Gaussian process.
        name: "ddim" or "dpm".
    """

    model: AbstractModel
    solver: AbstractSampler

    def __init__(self, model: AbstractModel, name: str = "ddim"):
        process = model.process
        width = equilibrium_std(process) if process.is_static else 1.0
        self.model = model.with_process(StraightLine(width))
        self.solver = DDIM() if name == "ddim" else DPMSolver()

    def __call__(
        self, levels: Float[Array, " knots"], key: Key, num_samples: int
    ) -> Float[Array, "num_samples dim"]:
        """Samples made by steps through increasing log-SNRs, the last infinite."""
        times = self.model.process.time_of_log_snr(levels)
        return sample(self.model, key=key, num_samples=num_samples, times=times, solver=self.solver)

    def limit(self, key: Key, num_samples: int) -> Float[Array, "num_samples dim"]:
        """What the same noise becomes in the limit of many steps."""
        return sample(
            self.model,
            key=key,
            num_samples=num_samples,
            num_steps=LIMIT_STEPS,
            solver=DPMSolver(),
        )


def uniform_levels(process: AbstractGaussianProcess, num_steps: int) -> Float[Array, " knots"]:
    """Log-SNRs at equal distances in the time of a process, from noise to data."""
    times = jnp.linspace(process.t1, process.t0, num_steps + 1, dtype=process.t1.dtype)
    return jnp.append(process.log_snr(times[:-1]), jnp.inf)


class FewStepError(eqx.Module):
    r"""$\frac12\log E_z\|X_N(z) - X_\infty(z)\|^2$, a function of the process that sets the steps.

    Args:
        sampler: the few-step sampler.
        num_steps: N, uniform in the time of the process.
        num_samples: draws of the noise, always the same ones.
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
