r"""One functional, three ways: from the marginals, along SDE paths, along the probability flow.

All three estimate $\int\frac{\sigma^2}{2}E[f(s, Y_s)]\,ds$. From the marginals, which a Gaussian
process has in closed form, nothing is simulated and nothing is biased. Along paths the expectation
at each time is a mean over trajectories of `solve_forward` or `solve_flow`. The integral over time
is a sum at equal steps of the Cauchy axis of `LogSNRAxis` for Gaussian processes, where integrands
vanish at both ends and such a sum converges faster than any power of the step, and the trapezoidal
rule in time for others.
"""

from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import (
    check_same_process,
    choice,
    conditions,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.chunks import in_chunks, unchunk
from entropix._core.compiled import error_if
from entropix._core.precision import full_precision
from entropix.dynamics import Trajectory, solve_flow, solve_forward
from entropix.entropy.curve import EntropyProduction
from entropix.entropy.functionals import MediumEntropy, SystemEntropy
from entropix.estimators import (
    EndRates,
    GaussianReference,
    LogSNRAxis,
    check_cutoff,
    check_divergence,
    check_ends,
    integrate,
    judge_sizes,
    resolved_points,
)
from entropix.interfaces import (
    AbstractFunctional,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractProcess,
    Estimate,
)
from entropix.models import checked_model


@full_precision
def path_functional(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    along: str = "marginals",
    num_evaluations: int = 16_384,
    num_steps: int = 128,
    model: AbstractModel | None = None,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
    solver: diffrax.AbstractSolver | None = None,
    adjoint: diffrax.AbstractAdjoint | None = None,
) -> Estimate:
    r"""$\int\frac{\sigma^2}{2}\,E[f(s, Y_s)]\,ds$ along the process of `functional`.

    `neural_entropy`, `path_kl` and `entropy_rates` are instances of it. Differentiable in
    everything the functional and the model hold.

    Args:
        functional: $f$: a built-in one (`EntropyProduction`, `SystemEntropy`, `MediumEntropy`,
            `HousekeepingEntropy`, `PathDivergence`), a `PathFunctional`, or your own subclass of
            `entropix.interfaces.AbstractFunctional`.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        along: "marginals" of a Gaussian process, simulation free; "sde" for trajectories of the
            forward process; "flow" for the probability flow of `model`.
        num_evaluations: how often f is evaluated, about. Along paths, `num_evaluations` /
            `num_steps` paths start from data points drawn with replacement, two from each.
        num_steps: steps of a path.
        model: whose flow to follow; None for the model of `functional`.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included (Gaussian processes); None for all.
        chunk_size: evaluations held in memory at once.
        solver: a Diffrax solver for the paths; None for the default of `solve_forward` or
            `solve_flow`.
        adjoint: how to differentiate them; None for `diffrax.RecursiveCheckpointAdjoint()`.

    Returns:
        An `Estimate`, in the units of f (nats for entropies). Along paths its errors are those of
        the sampling of paths; what a solver's steps add is of their order.

    Raises:
        ValueError: if an argument is not allowed; from the marginals, if the process is not
            Gaussian.
        DivergenceError: if the integrand does not decay at the data end of a Gaussian process and
            no cut-off was given.
    """
    if not isinstance(functional, AbstractFunctional):
        raise ValueError(
            f"`functional` must be a path functional, got {type(functional).__name__}: wrap a "
            "function f(s, y, condition) in PathFunctional(function, process)."
        )
    divergence = None
    if isinstance(functional, EntropyProduction | SystemEntropy | MediumEntropy):
        divergence = functional.model.divergence
    if choice(along, "along", ("marginals", "sde", "flow")) == "marginals":
        given = {"model": model, "solver": solver, "adjoint": adjoint}
        given = [f"`{name}`" for name, value in given.items() if value is not None]
        if given:
            raise ValueError(f"`along` must be 'sde' or 'flow' where {', '.join(given)} is given.")
        return integrate(
            functional,
            data,
            key=key,
            num_evaluations=num_evaluations,
            condition=condition,
            cutoff=cutoff,
            chunk_size=chunk_size,
            divergence=divergence,
        ).total
    if functional.uses_noise or not isinstance(functional.process, AbstractProcess):
        raise ValueError(
            f"`along` must be 'marginals' for {type(functional).__name__}, which uses the noise or "
            "a process that jumps."
        )
    data = samples(data)
    prng_key(key)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_steps, "num_steps", 2)
    positive_integer(num_evaluations, "num_evaluations", 4 * num_steps)
    positive_integer(chunk_size, "chunk_size")
    pairs = num_evaluations // (2 * num_steps)
    cutoff = check_cutoff(functional, cutoff)
    check_divergence(divergence, cutoff)
    times, weights = _quadrature(functional, data, cutoff, num_steps)
    path_key, start, chosen = _starts(data, condition, key, pairs)
    chunk = min(max(chunk_size // num_steps, 1), 2 * pairs)
    options: dict[str, Any] = {
        "times": times,
        "save": "steps",
        "chunk_size": None if chunk >= 2 * pairs else chunk,
        "solver": solver,
        "adjoint": adjoint,
    }
    if along == "sde":
        trajectory = solve_forward(functional.process, start, key=path_key, **options)
    else:
        flow = checked_model(getattr(functional, "model", None) if model is None else model)
        check_same_process(functional.process, flow.process, "model", "functional")
        trajectory = solve_flow(flow, start, condition=chosen, **options)
    values = _integrals(functional, trajectory.times, weights, trajectory.states, chosen, chunk)
    if isinstance(functional.process, AbstractGaussianProcess):
        values = check_ends(values, _ends(functional, data, trajectory, chosen), cutoff, data)
    value, stderr, mc_stderr = _over_pairs(values.reshape(pairs, 2), data.shape[0])
    if is_concrete(value) and not np.isfinite(np.asarray(value)):
        raise ValueError("the functional must be finite on the whole path, got NaN or infinity.")
    if not is_concrete(value):
        value = error_if(value, ~jnp.isfinite(value), "the functional is not finite on a path.")
    return Estimate(value, stderr, mc_stderr, 2 * pairs * num_steps, cutoff)


@eqx.filter_jit
def _ends(
    functional: AbstractFunctional, data: Array, trajectory: Trajectory, condition: PyTree
) -> EndRates:
    """The rates at the steps closest to the limit of resolution of the data end."""
    process: Any = functional.process
    times, states = trajectory.times[1:], trajectory.states[1:]
    each = jax.vmap(
        jax.vmap(functional.rate, in_axes=(None, 0, None, 0)), in_axes=(0, 0, None, None)
    )
    rates = process.measure(times)[:, None] * each(times, states, None, condition)
    size, log_snr = jnp.mean(jnp.abs(rates), axis=1), process.log_snr(times)
    start = process.log_snr(process.t0)

    def last_before(value: Array) -> Array:
        return jnp.argmax(jnp.where(log_snr <= value, log_snr, -jnp.inf))

    # The step closest to the limit of resolution, and one a few units of log-SNR before it.
    far = last_before(resolved_points(start, data)[1])
    steps = jnp.stack([last_before(log_snr[far] - 2), far])
    # Steps that end before the data's own scale give no information on the data end.
    reached = log_snr[far] + jnp.log(jnp.mean(jnp.var(data, axis=0))) > 12
    size_there = jnp.where(reached, size[steps], 0.0)
    return judge_sizes(log_snr[steps], size_there, 2 * rates[steps[0]], jnp.max(size), start, data)


@eqx.filter_jit
def _starts(data: Array, condition: PyTree, key: Key, pairs: int) -> tuple[Key, Array, PyTree]:
    """A key for the paths, and where they start: two from each point, with their conditions."""
    index_key, path_key = jax.random.split(key)
    index = jnp.repeat(jax.random.randint(index_key, (pairs,), 0, data.shape[0]), 2)
    return path_key, data[index], jax.tree.map(lambda leaf: leaf[index], condition)


@eqx.filter_jit
def _quadrature(
    functional: AbstractFunctional, data: Array, cutoff: Array | None, num_steps: int
) -> tuple[Array, Array]:
    r"""Times to step through, from the data, and the $\frac{\sigma^2}{2}ds$ of each."""
    process: Any = functional.process
    if not isinstance(process, AbstractGaussianProcess):
        fraction = jnp.linspace(0.0, 1.0, num_steps + 1, dtype=data.dtype)
        times = process.t0 + (process.t1 - process.t0) * fraction
        step = (process.t1 - process.t0) / num_steps
        weights = jnp.full(num_steps + 1, step, data.dtype).at[jnp.array([0, -1])].mul(0.5)
        return times, weights * process.sigma_squared(times) / 2
    axis = LogSNRAxis.of(process, GaussianReference.from_data(data).mean_variance, cutoff)
    # Times beyond a signal of e^-28 could not be distinguished, and have no weight.
    last = 0.5 + jnp.arctan(28 / axis.width) / jnp.pi
    axis = eqx.tree_at(lambda a: a.q_stop, axis, jnp.minimum(axis.q_stop, last))
    fraction = (jnp.arange(num_steps, dtype=data.dtype) + 0.5) / num_steps
    times = process.time_of_log_snr(axis.log_snr(fraction))
    weights = process.measure(times) * axis.jacobian(fraction) / num_steps
    # The path starts at the data, where nothing is evaluated.
    start = jnp.zeros(1, times.dtype) + process.t0
    return jnp.concatenate([start, times]), jnp.concatenate([jnp.zeros_like(start), weights])


@eqx.filter_jit
def _integrals(
    functional: AbstractFunctional,
    times: Array,
    weights: Array,
    states: Array,
    condition: PyTree,
    chunk: int,
) -> Array:
    """The integral along each path, shape (n,)."""

    def path(args: Any, _: Array) -> Array:
        def one(path: Array, condition: PyTree) -> Array:
            rate = jax.vmap(functional.rate, in_axes=(0, 0, None, None))
            values = rate(times, path, None, condition)
            return jnp.sum(jnp.where(weights > 0, weights * values, 0.0))

        return jax.vmap(one)(*args)

    count = states.shape[1]
    return unchunk(in_chunks(path, (jnp.moveaxis(states, 1, 0), condition), count, chunk), count)


@eqx.filter_jit
def _over_pairs(values: Array, population: int) -> tuple[Array, Array, Array]:
    """The mean over pairs of paths from common points, shape (pairs, 2), and its two errors."""
    pairs = values.shape[0]
    means, value = jnp.mean(values, axis=1), jnp.mean(values)
    monte_carlo = jnp.var(means, ddof=1) / pairs
    centred = values - value
    between = jnp.maximum(jnp.sum(centred[:, 0] * centred[:, 1]) / (pairs - 1), 0.0)
    return value, jnp.sqrt(monte_carlo + between / population), jnp.sqrt(monte_carlo)
