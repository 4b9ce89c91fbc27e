r"""Differential entropy, $h(X) = -E\log p(X)$."""

from typing import Any

import equinox as eqx

from entropix._core.arrays import Key
from entropix._core.checks import samples
from entropix._core.estimate import Estimate
from entropix._core.interfaces import AbstractModel
from entropix._core.precision import full_precision
from entropix.density import AbstractDensityMethod, log_prob


@full_precision
def differential_entropy(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    method: AbstractDensityMethod | None = None,
    prior: Any = None,
    condition: Any = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$h(X) = -E\log p(X)$ in nats, from a model's log densities.

    With the exact model it is exact; with a trained one and a bound, it is too large by what the
    model misses, the path KL and the mismatch of the prior. With a condition it is $h(X|C)$.

    Args:
        model: any model.
        data: samples, shape (N, *shape).
        key: PRNG key.
        method: how densities are computed; None for `PathBound()`.
        prior: what generation starts from; None for `model.prior`.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: as `log_prob`.
    """
    densities = log_prob(
        model,
        samples(data),
        key=key,
        method=method,
        prior=prior,
        condition=condition,
        chunk_size=chunk_size,
    ).mean
    return eqx.tree_at(lambda e: e.value, densities, -densities.value)
