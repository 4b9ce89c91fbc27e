"""Log densities under a model: one call, several methods."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import (
    conditions,
    example_shape,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.interfaces import AbstractModel
from entropix.density.method import AbstractDensityMethod
from entropix.density.path_bound import PathBound
from entropix.density.result import LogDensity


def log_prob(
    model: AbstractModel,
    x: Any,
    *,
    key: Key | None = None,
    method: AbstractDensityMethod | None = None,
    prior: Any = None,
    condition: Any = None,
    chunk_size: int = 4096,
) -> LogDensity:
    r"""Log density of samples under a model, in nats, with standard errors.

    Args:
        model: any model.
        x: samples, shape (N, *shape).
        key: PRNG key, for methods that draw random numbers.
        method: how; default `PathBound()`, a lower bound on the density of the reverse SDE.
        prior: what generation starts from, with `log_prob(y)`; default `model.prior`.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.

    Returns:
        `.value` and `.stderr`, shape (N,), and `.mean`, an `Estimate`.

    Raises:
        ValueError: if an argument is malformed, a key is missing, or a value is not finite.
    """
    x = samples(x, "x", minimum=1)
    example_shape(model, x, "x")
    condition = conditions(condition, x.shape[0])
    method = PathBound() if method is None else method
    if key is not None:
        prng_key(key)
    if not isinstance(method, AbstractDensityMethod):
        raise ValueError(
            f"`method` must be a density method such as PathBound(), got {type(method).__name__}."
        )
    result = method.evaluate(
        model,
        x,
        prior=model.prior if prior is None else prior,
        condition=condition,
        key=key,
        chunk_size=positive_integer(chunk_size, "chunk_size"),
    )
    if is_concrete(result.value) and not bool(np.all(np.isfinite(np.asarray(result.value)))):
        count = int(jnp.sum(~jnp.isfinite(result.value)))
        raise ValueError(
            f"the log density must be finite, got {count} values that are not: the model's field "
            "is not finite on the whole axis."
        )
    return result
