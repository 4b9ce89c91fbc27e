r"""Speed limits: how far a diffusion carries the data, and what it pays for it.

With $v$ the velocity of the probability flow (Benamou and Brenier, 2000; Ikeda et al., 2407.04495;
Nakazato and Ito, 2103.00503),

$$W_2(p_0, p_T) \le \int\sqrt{E\|v\|^2}\,ds, \qquad
  \left(\int\sqrt{E\|v\|^2}\,ds\right)^2 \le (t_1 - t_0)\int E\|v\|^2\,ds, \qquad
  W_2^2 \le S_{tot}\int\frac{\sigma^2}{2}\,ds .$$

The first is the length of the path in the space of densities, the second its action, the third
the thermodynamic speed limit, which does not depend on the clock.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import Key, safe_sqrt
from entropix._core.checks import conditions, positive_integer, samples
from entropix._core.precision import full_precision
from entropix.entropy import neural_entropy
from entropix.estimators import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, Estimate
from entropix.transport.couplings import Coupling, assignment, costs_of, sorted_coupling
from entropix.transport.errors import split_errors
from entropix.transport.lower_bound import squared_lower_bound
from entropix.transport.speed import SpeedProfile, Speeds, measure_speeds
from entropix.transport.speed_result import SpeedLimit


@full_precision
def speed_limit(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    num_times: int = 64,
    num_samples: int = 4096,
    num_evaluations: int = 16_384,
    max_exact: int = 1000,
    condition: Any = None,
    cutoff: Any = None,
    chunk_size: int = 4096,
) -> SpeedLimit:
    r"""Compare the transport along a model's probability flow with its cost.

    Differentiable in the model, its process included (the optimal coupling is held fixed, by the
    envelope theorem). Standard errors cover the sampling of the data and of the noise; those of
    length and action also the quadrature in time and rounding, as estimated from two sets of nodes.
    The nodes are doubled, at most four times, while their error exceeds 1e-4 of the value and a
    quarter of the sampling error; in a transformation of JAX (`jit`, `grad`, `vmap`) it is only
    stated. It is infinite where an integral does not converge at the data end, as the action of
    finite data under a variance-preserving process. Length, action, entropy and `w2_lower` have a
    Gaussian control variate: of a Gaussian model they have no noise but that of the moments of
    `data`. $W_2$ is that of finite samples, which exceeds $W_2(p_0, p_T)$ by an amount that in
    $D > 2$ dimensions falls like $n^{-1/D}$; its error includes the amount that Gaussian samples
    of the same number and moments have. `w2_lower` bounds it from the other side.

    Args:
        model: any model; the inequalities are theorems for an `ExactModel`.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_times: nodes of the quadrature in time at which the model is evaluated.
        num_samples: points at which each time's velocity is evaluated: half as many data points
            (all of them, if fewer), each with two or more draws of the noise.
        num_evaluations: evaluations for the total entropy, see `neural_entropy`.
        max_exact: largest number of points for the optimal assignment in more than one dimension.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included in the total entropy; None takes the
            whole axis, or reports infinity where that is known. The speed limit is a theorem for
            the whole axis only.
        chunk_size: evaluations held in memory at once.

    Returns:
        A `SpeedLimit`.

    Raises:
        ValueError: if an argument is malformed, or the entropy turns out infinite (see
            `neural_entropy`) and no cut-off was given.

    References:
        Benamou and Brenier, 2000; Ikeda, Uda, Okanohara and Ito, 2407.04495.
    """
    data = samples(data)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_times, "num_times", 2)
    positive_integer(num_samples, "num_samples", 8)
    positive_integer(max_exact, "max_exact", 2)
    positive_integer(chunk_size, "chunk_size")
    entropy_key, rest_key = jax.random.split(key)
    gaussian_key = jax.random.fold_in(rest_key, 1)
    if model.divergence is not None and cutoff is None:
        infinite = jnp.full((), jnp.inf, data.dtype)
        total_entropy = Estimate(infinite, jnp.zeros_like(infinite), jnp.zeros_like(infinite))
    else:
        total_entropy = neural_entropy(
            model,
            data,
            key=entropy_key,
            num_evaluations=num_evaluations,
            condition=condition,
            cutoff=cutoff,
            chunk_size=chunk_size,
        )
    ends, profile, speeds = measure_speeds(
        model,
        data,
        condition,
        key=rest_key,
        num_times=num_times,
        num_samples=num_samples,
        chunk=chunk_size,
    )
    line = data[0].size == 1
    start, end = ends if line else (part[:max_exact] for part in ends)
    pair = _gaussian_pair(model.process, data, start.shape[0], gaussian_key)

    def couple(start: Array, end: Array) -> Coupling:
        return sorted_coupling(start, end) if line else assignment(start, end, 2.0)

    couplings = couple(start, end), couple(*pair)
    return _report(model.process, data, ends, pair, couplings, profile, speeds, total_entropy)


@eqx.filter_jit
def _gaussian_pair(
    process: AbstractGaussianProcess, data: Array, count: int, key: Key
) -> tuple[Array, Array]:
    """Samples of both ends for Gaussian data with the moments of these, in their eigenbasis."""
    data_key, noise_key = jax.random.split(key)
    reference = GaussianReference.from_data(data)
    shape = count, reference.mean.shape[0]
    spread = jnp.sqrt(reference.variances) * jax.random.normal(data_key, shape, data.dtype)
    start = reference.mean + spread
    z = jax.random.normal(noise_key, shape, data.dtype)
    end = process.scale(process.t1) * start + process.std(process.t1) * z
    return jax.lax.stop_gradient((start, end))


def _excess(pair: tuple[Array, Array], coupling: Coupling) -> Array:
    """W2^2 of two Gaussian samples less that of their own moments: the bias of so few points."""
    start, end = pair
    squared = jnp.mean(costs_of(start, end[coupling.partner], 2.0))
    means = jnp.mean(start, axis=0) - jnp.mean(end, axis=0)
    stds = jnp.std(start, axis=0) - jnp.std(end, axis=0)
    return jax.lax.stop_gradient(jnp.maximum(squared - jnp.sum(means**2 + stds**2), 0.0))


@eqx.filter_jit
def _report(
    process: AbstractGaussianProcess,
    data: Array,
    ends: tuple[Array, Array],
    pair: tuple[Array, Array],
    couplings: tuple[Coupling, Coupling],
    profile: SpeedProfile,
    speeds: Speeds,
    total_entropy: Estimate,
) -> SpeedLimit:
    start, end = ends
    coupling = couplings[0]
    population = data.shape[0]
    number = coupling.partner.shape[0]
    squared = jnp.mean(costs_of(start[:number], end[coupling.partner], 2.0))
    few = _excess(pair, couplings[1])
    squared_error = split_errors(coupling.u, coupling.v, population)
    squared_error = jnp.hypot(squared_error[0], few), jnp.hypot(squared_error[1], few)
    lower, influence = squared_lower_bound(process, data.reshape(population, -1))
    lower_error = split_errors(influence, jnp.zeros_like(influence), population)
    # The potentials used the first draw of the noise: another draw leaves what the data share.
    of_entropy = speeds.entropy
    of_entropy = (of_entropy.residual[:, 1] + of_entropy.of_data)[:number]
    potential = coupling.u + coupling.v
    shared = jnp.mean((potential - jnp.mean(potential)) * (of_entropy - jnp.mean(of_entropy)))
    budget = process.noise_budget()
    return SpeedLimit(
        w2=_root(squared, squared_error),
        w2_lower=_root(lower, lower_error),
        length=speeds.length.estimate(population, speeds.evaluations),
        action=speeds.action.estimate(population, speeds.evaluations),
        total_entropy=total_entropy,
        budget=budget,
        efficiency=_ratio(squared, squared_error, total_entropy, budget, shared / population),
        times=profile.times,
        speed=profile.speed,
        quadrature=jnp.stack([speeds.length.quadrature, speeds.action.quadrature]),
        num_samples=number,
        dim=start.shape[1],
    )


def _root(value: Array, errors: tuple[Array, Array]) -> Estimate:
    root = safe_sqrt(value)
    half = jnp.where(root > 0, 1 / (2 * jnp.where(root > 0, root, 1.0)), 0.0)
    return Estimate(root, half * errors[0], half * errors[1])


def _ratio(
    squared: Array, errors: tuple[Array, Array], total: Estimate, budget: Array, shared: Array
) -> Estimate:
    r"""$W_2^2/(S_{tot}\,\mathrm{budget})$; `shared` is the covariance that the data cause."""
    finite = jnp.isfinite(total.value) & jnp.isfinite(budget) & (total.value > 0) & (squared > 0)
    entropy = jnp.where(finite, total.value, 1.0)
    value = jnp.where(finite, squared / (entropy * jnp.where(finite, budget, 1.0)), 0.0)
    top = jnp.where(finite, squared, 1.0)

    def error(of_top: Array, of_entropy: Array, covariance: Array | float) -> Array:
        a, b = of_top / top, jnp.where(finite, of_entropy, 0.0) / entropy
        variance = jnp.maximum(a**2 + b**2 - 2 * covariance / (top * entropy), (a - b) ** 2)
        return jax.lax.stop_gradient(value * jnp.sqrt(variance))

    return Estimate(
        value,
        error(errors[0], total.stderr, shared),
        error(errors[1], total.mc_stderr, 0.0),
        total.num_evaluations,
    )
