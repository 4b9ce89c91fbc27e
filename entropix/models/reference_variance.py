"""The data variance that is assumed for a model if the caller does not state it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import DataLike, Scalar
from entropix._core.checks import positive
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.processes import Multimodal


def reference_variance(model: AbstractModel, variance: DataLike | None = None) -> Scalar:
    """The variance `c`: as given, or else that of the data of a model.

    It is the mean variance of the distribution of an exact model or of the scaling of a network
    model; otherwise the variance of a static equilibrium; otherwise one. For a model derived from
    another one (`Guided`, `Tempered`) it is that of the other. It affects only the speed of
    convergence of samplers, not their limit.

    Args:
        model: any model of a Gaussian process, or of rows of tokens and numbers.
        variance: the variance per dimension, in squared units of the data; None to choose it.

    Returns:
        A scalar.

    Raises:
        ValueError: if `variance` is not positive.
    """
    if variance is not None:
        return positive(variance, "variance")
    while isinstance(inner := getattr(model, "model", None), AbstractModel):
        model = inner
    distribution, scaling = (getattr(model, n, None) for n in ("distribution", "scaling"))
    if distribution is None and scaling is not None:
        return scaling.variance
    process = model.process
    process = process.numbers if isinstance(process, Multimodal) else process
    return _variance_of(distribution, process)


@eqx.filter_jit
def _variance_of(distribution: Any, process: AbstractGaussianProcess) -> Array:
    covariance = getattr(distribution, "covariance", None)
    if covariance is not None:
        return jnp.mean(jnp.diagonal(covariance))
    points = getattr(distribution, "points", None)
    if points is not None:
        spread = jnp.mean(jnp.var(points, axis=0))
        return jnp.where(spread > 0, spread, 1.0)
    if process.is_static:
        return 1 / process.equilibrium_precision(process.t1)
    return jnp.ones_like(process.t1)
