r"""Girsanov weights between the forward process and a model's reverse process.

With $s_\theta$ the model's score, $r$ a Gaussian reference with score $s_r$ and $d = s_\theta -
s_r$, the path measure of the generative process has the density (Stratonovich)

$$\log\frac{dQ_\theta}{dP}(Y|Y_0 = x) = \log r(x) + \log\frac{prior(Y_T)}{r_T(Y_T)}
 - \int d\circ dY + \int\left[b\cdot d - \frac{\sigma^2}{2}\left(\nabla\cdot d +
 \|s_\theta\|^2 - \|s_r\|^2\right)\right]ds$$

with respect to the forward process from $x$. Its exponential averages to $p_\theta(x)$, the density
of the reverse SDE, exactly: a Jarzynski equality. Its mean is the bound that `PathBound` computes
without paths. The reference changes neither; it takes away most of the variance.

States come from exact transitions of the process. The Stratonovich integral is taken by Simpson's
rule over the chord of each step, at the time of its middle; the middle alone leaves the mean an
error of the order of the step wherever the field is not linear. The integral over time is taken by
the trapezoidal rule: at the middle of a chord the state has too little variance, and the weights
would have an error of the order of the step again.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, inner
from entropix._core.checks import (
    conditions,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.chunks import map_in_chunks
from entropix._core.compiled import compiled
from entropix._core.precision import full_precision
from entropix.dynamics import Divergence, check_times, forward_times, solve_forward
from entropix.estimators import GaussianReference, reference_of
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models import checked_model
from entropix.processes import check_example_shape


class _Integrands(eqx.Module):
    """The two integrands of the log ratio, for one state and its condition."""

    model: AbstractModel
    reference: GaussianReference
    condition: Any

    def difference(self, s: Array, y: Array) -> Array:
        """$d$."""
        known = self.reference.entropy_field(self.model.process, s, y)
        return self.model.entropy_field(s, y, self.condition) - known

    def per_budget(self, s: Array, y: Array) -> Array:
        r"""$\nabla\cdot d + d\cdot(e_\theta + e_r + \nabla\log p_{eq})$."""
        process = self.model.process
        field, divergence = Divergence.along(
            lambda model, y: model.entropy_field(s, y, self.condition), self.model, y
        )
        known = self.reference.entropy_field(process, s, y)
        divergence = divergence[0] - self.reference.entropy_divergence(process, s)
        score = process.equilibrium_score(s, y)
        return divergence + inner(field - known, field + known + score)

    def along(self, times: Array, states: Array) -> Array:
        """Minus the integrals along one path."""
        process: AbstractGaussianProcess = self.model.process
        middle, centre = (times[1:] + times[:-1]) / 2, (states[1:] + states[:-1]) / 2
        budget = process.sigma_squared(middle) / 2 * jnp.diff(times)
        # One time for the three nodes: the ends of the chord at times of their own would bring back
        # an error of the order of the step.
        low, mid, high = (
            jax.vmap(self.difference)(middle, y) for y in (states[:-1], centre, states[1:])
        )
        work = jnp.sum((low + 4 * mid + high) / 6 * jnp.diff(states, axis=0))
        # The ends of the axis are singular: their two steps are taken at the middle.
        inside = jax.vmap(self.per_budget)(times[1:-1], states[1:-1])
        weights = (budget[1:] + budget[:-1]) / 2
        weights = weights.at[0].add(-budget[0] / 2).at[-1].add(-budget[-1] / 2)
        ends = jnp.array([0, -1])
        outside = jax.vmap(self.per_budget)(middle[ends], centre[ends])
        return -work - jnp.sum(weights * inside) - jnp.sum(budget[ends] * outside)


@full_precision
def path_log_ratio(
    model: AbstractModel,
    x: DataLike,
    *,
    key: Key,
    num_paths: int = 64,
    num_steps: int = 128,
    times: DataLike | None = None,
    prior: Any = None,
    condition: PyTree = None,
    reference: GaussianReference | None = None,
    chunk_size: int = 4096,
) -> Float[Array, "n num_paths"]:
    r"""$\log\frac{dQ_\theta}{dP}(Y|Y_0 = x)$ along forward paths from each sample, in nats.

    Differentiable in model and samples. The model's divergence is taken exactly: a step costs about
    D + 4 evaluations, or less where the network offers its divergence.

    Args:
        model: any model of a Gaussian process.
        x: samples, shape (n, *shape).
        key: PRNG key.
        num_paths: paths from each sample.
        num_steps: steps of a path; the error falls with their square.
        times: increasing times to step through, at least three, from t0 to t1; None for
            `num_steps` steps that shrink towards the data.
        prior: what generation starts from, with `log_prob(y)`; None for `model.prior`.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis n.
        reference: a Gaussian reference; None for that of `x`.
        chunk_size: paths held in memory at once.

    Returns:
        The log weights, shape (n, num_paths): their mean over paths bounds $\log p_\theta(x)$ from
        below, and the mean of their exponentials is $p_\theta(x)$.

    Raises:
        ValueError: if an argument is not allowed.

    References:
        Neural Entropy, 2409.03817; Premkumar, 2410.06986.
    """
    checked_model(model)
    x = samples(x, "x", minimum=1)
    check_example_shape(model, x, "x")
    prng_key(key)
    if not (prior is None or hasattr(prior, "log_prob")):
        raise ValueError(f"`prior` must have `log_prob(y)`, got {type(prior).__name__}.")
    condition = conditions(condition, x.shape[0])
    positive_integer(num_paths, "num_paths")
    positive_integer(num_steps, "num_steps", 2)
    positive_integer(chunk_size, "chunk_size")
    if reference is None:
        reference = reference_of(x)
    if times is None:
        times = forward_times(model.process, num_steps, reference.mean_variance)
    else:
        times = _whole(times, model.process)
    prior = model.prior if prior is None else prior
    return _log_ratios(model, reference, prior, x, condition, times, key, num_paths, chunk_size)


def _whole(times: Any, process: AbstractGaussianProcess) -> Array:
    """Times that cover the whole process: the weights are those of whole paths."""
    times = check_times(times, process, falling=False)
    ends = (times[0], times[-1], process.t0, process.t1)
    covers = not is_concrete(ends) or bool((times[0] == process.t0) & (times[-1] == process.t1))
    if times.shape[0] < 3 or not covers:
        raise ValueError(
            f"`times` must hold at least three times, from t0 to t1, got {times.shape[0]} "
            f"from {times[0]} to {times[-1]}."
        )
    return times


@compiled
def _log_ratios(
    model: AbstractModel,
    reference: GaussianReference,
    prior: Any,
    x: Array,
    condition: Any,
    times: Array,
    key: Key,
    num_paths: int,
    chunk_size: int,
) -> Array:
    process, end = model.process, times[-1]

    def one(args: Any) -> Array:
        sample, condition, index = args
        start = jnp.broadcast_to(sample, (num_paths, *sample.shape))
        paths = solve_forward(
            process,
            start,
            key=jax.random.fold_in(key, index),
            times=times,
            save="steps",
        )
        integrands = _Integrands(model, reference, condition)
        integrals = jax.vmap(integrands.along, in_axes=(None, 1))(times, paths.states)
        ends = jax.vmap(lambda y: prior.log_prob(y) - reference.log_prob(process, end, y))
        return reference.log_prob_undiffused(sample) + ends(paths.final) + integrals

    args = (x, condition, jnp.arange(x.shape[0]))
    batch = max(1, min(chunk_size // num_paths, x.shape[0]))
    return map_in_chunks(one, args, batch)
