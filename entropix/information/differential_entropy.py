r"""Differential entropy, $h(X) = -E\log p(X)$."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import prng_key, samples
from entropix._core.precision import full_precision
from entropix.density import log_prob
from entropix.estimators import GaussianReference, all_exact, reference_of
from entropix.information.end_term import end_term
from entropix.information.forms import ModelPair, ReferenceField, ScoreForm
from entropix.interfaces import (
    AbstractDensityMethod,
    AbstractGaussianProcess,
    AbstractModel,
    Estimate,
)
from entropix.models import FlowMatching


@eqx.filter_jit
def _moments(process: AbstractGaussianProcess, data: Array) -> tuple[GaussianReference, Array]:
    """The Gaussian of the data's moments, and what fitting it to them gains at t1, in nats."""
    reference = reference_of(data)
    signal = process.scale(process.t1) ** 2 * reference.spread
    share = jax.lax.stop_gradient(signal / (signal + process.var(process.t1)))
    # Half a nat for each parameter and data set, as far as the noise lets the data show.
    parameters = jnp.sum(share) + (jnp.sum(share) ** 2 + jnp.sum(share**2)) / 2
    return reference, parameters / (2 * data.shape[0])


@full_precision
def differential_entropy(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    method: AbstractDensityMethod | None = None,
    prior: Any = None,
    condition: PyTree = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$h(X) = -E\log p(X)$ in nats, from a model's log densities.

    With the exact model it is exact; with a trained one and a bound, it is too large by what the
    model misses, the path KL. With a condition it is $h(X|C)$.

    A density needs the law that the process ends in. Unless `prior` is given, it is that of an
    `ExactModel`, and for other models the Gaussian with the moments of the diffused data, less the
    divergence from it of the Gaussian fitted to the model's field, given the condition: data that
    the process does not erase are allowed for. See `entropix.information.end_term`.

    Args:
        model: any model.
        data: samples, shape (N, *shape).
        key: PRNG key.
        method: how densities are computed; None for `PathBound()`.
        prior: what generation starts from, with `log_prob(y)`; None for the above. With one, the
            value is $-E\log p_\theta$ of what is generated from it, too large by $KL(p_T\|prior)$.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: as `log_prob`.
        DivergenceError: if the rate does not decay at the data end: the entropy is minus infinity.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> model = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process)
        >>> x = model.distribution.sample(500, key=jax.random.key(0))
        >>> method = ex.PathBound(32)
        >>> entropy = ex.differential_entropy(model, x, key=jax.random.key(1), method=method)
        >>> bool(abs(entropy.value - 0.5 * jnp.log(2 * jnp.pi * jnp.e)) < 4 * entropy.stderr)
        True

    References:
        Neural Entropy, 2409.03817; Premkumar, 2410.06986.
    """
    data = samples(data)
    process = model.process
    known_end = all_exact(model) or isinstance(model, FlowMatching)

    def entropy(key: Key, prior: Any) -> Estimate:
        density = log_prob(
            model,
            data,
            key=key,
            method=method,
            prior=prior,
            condition=condition,
            chunk_size=chunk_size,
        ).mean
        return eqx.tree_at(lambda e: e.value, density, -density.value)

    if prior is not None or known_end or not isinstance(process, AbstractGaussianProcess):
        return entropy(key, prior)
    density_key, end_key = jax.random.split(prng_key(key))
    reference, gain = _moments(process, data)
    field = ReferenceField(reference, process)
    functional, both = ScoreForm(ModelPair(model, field)), (condition, None)
    end = end_term(functional, data, both, key=end_key, chunk_size=chunk_size)
    corrected = (end.value - gain, end.allowance + gain)
    end = eqx.tree_at(lambda e: (e.value, e.allowance), end, corrected)
    return end.added_to(entropy(density_key, field), -1)
