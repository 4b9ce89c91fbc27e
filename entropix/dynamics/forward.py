r"""Forward dynamics: the SDE of a process, from data to noise.

A Gaussian process is stepped by its exact transitions unless a solver is asked for; any other
process, by `diffrax.SRA1`. Where a Gaussian process ends in infinite noise ($\mu(t_1) = 0$), a
solver's steps shrink towards the end in proportion to the signal left, and the last one, over which
$\sigma$ is infinite, is the exact transition: nothing is cut off.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import checked, is_concrete, positive_integer, prng_key, samples
from entropix._core.compiled import compiled
from entropix._core.precision import full_precision
from entropix.dynamics.coordinates import OwnCoordinates, ReverseCoordinates
from entropix.dynamics.settings import SolveSettings, check_times, with_saved
from entropix.dynamics.solve import Trajectory, run
from entropix.dynamics.solvers import GaussianTransition, normal_of_samples, transition
from entropix.interfaces import AbstractGaussianProcess, AbstractProcess


@full_precision
def solve_forward(
    process: AbstractProcess,
    x: DataLike,
    *,
    key: Key,
    times: DataLike | None = None,
    num_steps: int = 128,
    save: DataLike | str | None = None,
    functional: Callable | None = None,
    solver: diffrax.AbstractSolver | None = None,
    stepsize_controller: diffrax.AbstractStepSizeController | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
    path: diffrax.AbstractBrownianPath | None = None,
    chunk_size: int | None = None,
    dense: bool = False,
    max_steps: int = 4096,
) -> Trajectory:
    r"""Solve $dY = b(Y, s)\,ds + \sigma(s)\,dB$ (Itô) from samples of the data.

    With fixed steps the result is the same for the same key, whatever `chunk_size` (adaptive steps
    are chosen for a chunk as a whole). It is differentiable in process and data. Without `solver`,
    the states of a Gaussian process have its exact law at any steps.

    Args:
        process: any process.
        x: samples at the first time, shape (n, *shape).
        key: PRNG key.
        times: increasing times of the process to step through; None for `num_steps` steps from `t0`
            to `t1`, which shrink towards the data for a Gaussian process and are equal otherwise.
        num_steps: see `times`.
        save: None for the final states, "steps" for the states at all `times`, the first included,
            or an array of times, which become steps.
        functional: None, or a function `increment(s0, s1, y0, y1)` of one sample, to a scalar or a
            pytree of scalars, that is added up over the steps; see `path_entropy`. A function made
            anew for each call is compiled anew: pass a module, or define it once.
        solver: a Diffrax solver; None for exact transitions where there are any, else
            `diffrax.SRA1()`. The noise is additive, so Itô and Stratonovich solvers agree.
        stepsize_controller: a Diffrax controller for adaptive steps; None for the fixed ones.
        adjoint: how to differentiate; None for `diffrax.RecursiveCheckpointAdjoint()`.
        path: a Brownian path of shape (n, *shape) to follow instead of one made from `key`.
        chunk_size: solve for so many samples at a time, which bounds memory; None for all at once.
        dense: keep what `Trajectory.evaluate` needs to interpolate.
        max_steps: bound on the number of adaptive steps.

    Returns:
        A `Trajectory`.

    Raises:
        ValueError: if an argument is not allowed. When the solve fails, or a state is not finite,
            an error is raised as the compiled program runs.

    Example:
        >>> import entropix as ex, jax, jax.numpy as jnp
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> x = jnp.ones((3, 2))
        >>> path = ex.solve_forward(process, x, key=jax.random.key(0), num_steps=4, save="steps")
        >>> path.states.shape
        (5, 3, 2)
    """
    if not isinstance(process, AbstractProcess):
        raise ValueError(f"`process` must be a process, got {type(process).__name__}.")
    x = samples(x, "x", minimum=1)
    prng_key(key)
    positive_integer(num_steps, "num_steps")
    gaussian = isinstance(process, AbstractGaussianProcess)
    if stepsize_controller is not None and solver is None:
        solver = diffrax.SRA1()
    if solver is None:
        solver = GaussianTransition(process) if gaussian else diffrax.SRA1()
    if isinstance(adjoint, diffrax.BacksolveAdjoint):
        raise ValueError(
            "`adjoint` must be another than BacksolveAdjoint, which cannot follow a forward path "
            "back."
        )
    settings = SolveSettings(
        solver,
        stepsize_controller,
        adjoint,
        x.shape[0],
        path=path,
        functional=functional,
        save=save,
        chunk_size=chunk_size,
        dense=dense,
        max_steps=max_steps,
    )
    if times is None:
        times = forward_times(process, num_steps, _mean_variance(x))
        if stepsize_controller is not None:  # a `diffrax.VirtualBrownianTree` has fixed ends
            times = jax.lax.stop_gradient(times)
    else:
        times = check_times(times, process, falling=False)
    times = with_saved(times, settings.save)
    to_noise = gaussian and process.ends_in_noise and not isinstance(solver, GaussianTransition)
    if to_noise and is_concrete((times, process.t1)):
        to_noise = bool(np.asarray(times)[-1] >= np.asarray(process.t1))
    return _solve(process, x, key, times, settings, to_noise)


def forward_times(
    process: AbstractProcess, num_steps: int, variance: DataLike = 1.0
) -> Float[Array, " knots"]:
    """The default steps of `solve_forward`, increasing.

    Args:
        process: any process.
        num_steps: how many.
        variance: of the data, for a Gaussian process; zero stands for unknown.

    Returns:
        Times, shape (num_steps + 1,): equal steps, or those of the reverse equations for a Gaussian
        process, which shrink towards the data.
    """
    if isinstance(process, AbstractGaussianProcess):
        variance = checked(
            as_float(variance, "variance"), "variance", lambda v: v < np.inf, "finite"
        )
    return _default_times(process, variance, num_steps)


@jax.jit
def _mean_variance(x: Array) -> Array:
    return jnp.mean(jnp.var(x, axis=0))


@eqx.filter_jit
def _default_times(process: AbstractProcess, variance: Any, num_steps: int) -> Array:
    if not isinstance(process, AbstractGaussianProcess):
        return OwnCoordinates(process, flow=False).steps(num_steps)[0]
    variance = jnp.where(variance > 0, variance, 1.0)
    return ReverseCoordinates(process, variance, flow=False).steps(num_steps)[0][::-1]


@compiled
def _solve(
    process: AbstractProcess,
    x: Array,
    key: Key,
    times: Array,
    settings: SolveSettings,
    to_noise: bool,
) -> Trajectory:
    coordinates = OwnCoordinates(process, flow=False)
    if not to_noise:
        return run(coordinates, process, None, times, x, key, settings)
    # The solver up to the last step, which is the exact transition.
    assert isinstance(process, AbstractGaussianProcess)
    if settings.path is not None or settings.dense or times.shape[0] < 3:
        raise ValueError(
            "`times` must end before t1, where sigma is infinite, for a solver with `path`, "
            "`dense` or fewer than two steps."
        )
    inner, last = settings, times[-2:]
    if not isinstance(settings.save, str):
        inner = eqx.tree_at(lambda p: p.save, settings, times[:-1])
    most = run(coordinates, process, None, times[:-1], x, key, inner)
    gain, std = transition(process, *last)
    z = normal_of_samples(key, times.shape[0] - 2, jnp.arange(len(x)), x.shape[1:], x.dtype)
    end = gain * most.final + std * z
    functional = most.functional
    if settings.functional is not None:
        added = jax.vmap(settings.functional, in_axes=(None, None, 0, 0))(*last, most.final, end)
        functional = jax.tree.map(
            lambda total, new: jnp.concatenate([total, (total[-1] + new)[None]]), functional, added
        )
    whole = Trajectory(
        jnp.concatenate([most.times, last[1:]]),
        jnp.concatenate([most.states, end[None]]),
        functional,
    )
    if isinstance(settings.save, str):
        return whole if settings.save == "steps" else jax.tree.map(lambda leaf: leaf[-1:], whole)
    index = jnp.searchsorted(whole.times, settings.save)
    return jax.tree.map(lambda leaf: leaf[index], whole)
