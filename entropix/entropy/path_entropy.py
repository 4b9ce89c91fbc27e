r"""Stochastic entropy: what single trajectories of a process produce.

Along a trajectory (Seifert, 2005; Neural Entropy, 2409.03817)

$$Q = \int\frac{2b}{\sigma^2}\circ dY, \qquad \Delta s_{sys} = \log p_0(Y_0) - \log p_T(Y_T), \qquad
  \Sigma = \Delta s_{sys} + Q$$

are the entropy given to the medium, the change of system entropy and the total. $E[\Sigma] =
S_{tot}$, and $E[e^{-\Sigma}] = 1$ (see `fluctuation_theorem`). $Q$ is accumulated while Diffrax
solves the path, as the work of the force on the chord of each step, at its middle in time. For a
static equilibrium it is $\log p_{eq}(Y_T) - \log p_{eq}(Y_0)$: to rounding at any step where the
potential is a polynomial of degree four at most, and otherwise with an error that falls with the
step.
The part of the force that is no gradient, $a - \nabla\log p_{eq}$, gives the housekeeping entropy;
the rest of the total is the excess (Hatano and Sasa, 2001).
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, as_float, inner
from entropix._core.checks import is_concrete, on_host, positive_integer, samples
from entropix._core.compiled import compiled, error_if
from entropix._core.precision import full_precision
from entropix.dynamics import Trajectory, solve_forward
from entropix.entropy.curve import thermodynamic_force
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractProcess,
    DivergenceError,
    Estimate,
)


class PathEntropy(eqx.Module):
    """Entropies of single trajectories, in nats, each of shape (n,).

    Attributes:
        system: change of system entropy.
        medium: entropy given to the medium.
        housekeeping: the part of `medium` due to a force that is no gradient; zero without one.
        trajectory: states at the saved times; its `functional` holds what medium and housekeeping
            entropy had come to by then, shape (K, n) each.
        start: the states the paths start from, shape (n, *shape).
    """

    system: Float[Array, " n"]
    medium: Float[Array, " n"]
    housekeeping: Float[Array, " n"]
    trajectory: Trajectory
    start: Float[Array, "n *shape"]

    @property
    def total(self) -> Float[Array, " n"]:
        r"""$\Sigma$, the sum of system and medium."""
        return self.system + self.medium

    @property
    def excess(self) -> Float[Array, " n"]:
        """What of the total is not housekeeping."""
        return self.total - self.housekeeping

    @property
    def end(self) -> Float[Array, "n *shape"]:
        """The states the paths end in."""
        return self.trajectory.final

    @property
    def mean(self) -> Estimate:
        """The mean of the total, an estimate of the total entropy production.

        With one path from each sample, the errors of paths and of samples cannot be separated:
        `mc_stderr` is the whole error too, an upper bound.
        """
        return mean_of_paths(self.total)


@eqx.filter_jit
def mean_of_paths(values: Float[Array, " n"]) -> Estimate:
    """The mean of independent values; of one alone the error is infinite."""
    count = values.shape[0]
    error = jnp.std(values, ddof=min(1, count - 1)) / jnp.sqrt(count)
    error = jnp.full_like(error, jnp.inf) if count == 1 else error
    return Estimate(jnp.mean(values), error, error, count)


class Heat(eqx.Module):
    """What a step adds to medium and housekeeping entropy: the work of the force on the chord."""

    process: AbstractProcess

    def __call__(self, s0: Array, s1: Array, y0: Array, y1: Array) -> tuple[Array, Array]:
        process, s, moved = self.process, (s0 + s1) / 2, y1 - y0
        if isinstance(process, AbstractGaussianProcess):  # a linear force: its value at the middle
            medium = inner(process.equilibrium_score(s, (y0 + y1) / 2), moved)
            return medium, jnp.zeros_like(medium)

        def forces(y: Array) -> tuple[Array, Array]:
            force = thermodynamic_force(process, s, y)
            return inner(force, moved), inner(force - process.equilibrium_score(s, y), moved)

        # Simpson's rule is exact for cubic forces.
        ends = jax.tree.map(jnp.add, forces(y0), forces(y1))
        return jax.tree.map(lambda e, m: (e + 4 * m) / 6, ends, forces((y0 + y1) / 2))


@full_precision
def path_entropy(
    model: AbstractModel | AbstractProcess,
    x: DataLike,
    *,
    key: Key,
    log_p0: Callable | DataLike | None = None,
    log_pT: Callable | DataLike | None = None,
    times: DataLike | None = None,
    num_steps: int = 128,
    save: str | DataLike | None = None,
    chunk_size: int | None = None,
    **solve: Any,
) -> PathEntropy:
    r"""System, medium and total entropy of forward trajectories that start at `x`.

    Gaussian processes are stepped by exact transitions, so that the trajectories have no
    discretisation error; others by `diffrax.SRA1`. Differentiable in the process through any
    adjoint of Diffrax; no trajectory is stored.

    Args:
        model: an `ExactModel`, whose densities are known, or any model or process.
        x: samples of the data distribution, shape (n, *shape).
        key: PRNG key.
        log_p0: log density of the data: a function of states (n, *shape) to (n,), or its values
            at `x`. None for that of an `ExactModel`.
        log_pT: log density at the last time, likewise: a function, or values at the end states.
            None for that of an `ExactModel`.
        times: increasing times of the process to step through; None for all of it.
        num_steps: number of steps where `times` is None.
        save: what `trajectory` holds: None for the end states, "steps" for all of them, or an array
            of times, to which the last is added if it is not among them.
        chunk_size: paths solved at a time; None for all at once.
        **solve: further arguments of `solve_forward`: solver, stepsize_controller, adjoint, path,
            dense, max_steps.

    Returns:
        A `PathEntropy`; `.mean` is an estimate of the total entropy production.

    Raises:
        ValueError: if an argument is not allowed, or a density is not known.
        DivergenceError: if the equilibrium collapses at the data end (rectified flow, sub-VP) and
            `times` starts there, where the medium entropy is infinite.

    Example:
        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> model = ex.ExactModel(ex.Gaussian([0.0], [[0.2]]), process)
        >>> x = model.distribution.sample(200, key=jax.random.key(0))
        >>> paths = ex.path_entropy(model, x, key=jax.random.key(1), num_steps=16)
        >>> paths.total.shape
        (200,)
        >>> bool(abs(paths.mean.value - 0.405) < 4 * paths.mean.stderr)  # KL(N(0, 0.2)||N(0, 1))
        True

    References:
        Seifert, Phys. Rev. Lett. 95, 040602 (2005); Neural Entropy, 2409.03817.
    """
    process: Any = model.process if isinstance(model, AbstractModel) else model
    if not isinstance(process, AbstractProcess):
        raise ValueError(f"`model` must be a model or a process, got {type(model).__name__}.")
    x = samples(x, "x", minimum=1)
    positive_integer(num_steps, "num_steps")
    if "functional" in solve:
        raise ValueError("`functional` must be left out: the heat of a path is accumulated here.")
    collapses = isinstance(process, AbstractGaussianProcess) and not process.is_finite
    if collapses and times is None:
        raise DivergenceError(
            "`times` must be given and start above t0: the equilibrium of "
            f"{type(process).__name__} collapses there, and the medium entropy is infinite.",
            remedy="times",
        )
    first, last = ends_of(process, times)
    before = log_density(log_p0, model, first, "log_p0")
    after = log_density(log_pT, model, last, "log_pT")
    if save is not None and not isinstance(save, str) and is_concrete((save, last)):
        host = np.asarray(as_float(save, "save"), np.asarray(last).dtype).reshape(-1)
        save = host if host.size and host[-1] == last else np.append(host, last)
    trajectory = solve_forward(
        process,
        x,
        key=key,
        times=times,
        num_steps=num_steps,
        save=save,
        functional=Heat(process),
        chunk_size=chunk_size,
        **solve,
    )
    medium, housekeeping = _last(trajectory.functional)
    system = _fall(before(x), after(trajectory.final))
    return PathEntropy(system, medium, housekeeping, trajectory, x)


def ends_of(process: AbstractProcess, times: Any) -> tuple[Any, Any]:
    """The first and the last of the times to step through."""
    if times is None:
        return process.t0, process.t1
    times = on_host(as_float(times))
    return times[0], times[-1]


@jax.jit
def _last(totals: Any) -> Any:
    return jax.tree.map(lambda leaf: leaf[-1], totals)


@compiled
def _fall(before: Array, after: Array) -> Array:
    """The change of system entropy."""
    system = before - after
    return error_if(
        system, ~jnp.all(jnp.isfinite(system)), "`log_p0` and `log_pT` must be finite on the paths"
    )


@eqx.filter_jit
def _log_prob(distribution: Any, process: AbstractGaussianProcess, s: Any, states: Array) -> Array:
    return distribution.diffused(process, s).log_prob(states)


def log_density(given: Any, model: Any, s: Any, name: str) -> Callable[[Array], Array]:
    """A log density at time `s`, as a function of states (n, *shape)."""
    if given is None:
        distribution = getattr(model, "distribution", None)
        if not isinstance(distribution, AbstractDistribution):
            raise ValueError(
                f"`{name}` must be given: the densities of {type(model).__name__} are not known in "
                "closed form. Pass a function of states, or values at the states."
            )
        return functools.partial(_log_prob, distribution, model.process, s)

    def evaluate(states: Array) -> Array:
        values = as_float(given(states) if callable(given) else given, name)
        if values.shape != states.shape[:1]:
            raise ValueError(
                f"`{name}` must be or return one value for each of {states.shape[0]} states, "
                f"got shape {values.shape}."
            )
        return values

    return evaluate
