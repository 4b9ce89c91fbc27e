"""The variance that a model's data are taken to have where nobody states it."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.checks import positive
from entropix.interfaces import AbstractGaussianProcess, AbstractModel


def reference_variance(model: AbstractModel, variance: Any = None) -> Float[Array, ""]:
    """The variance `c` to use: as given, else what the model knows of its data.

    That is the mean variance of an exact model's distribution or of a model's output scaling; else
    the variance of a static equilibrium; else one. It decides how fast a sampler converges, never
    to what. Of a model made from another (`Guided`, `Tempered`) it is that of the other.
    """
    if variance is not None:
        return positive(variance, "variance")
    while isinstance(inner := getattr(model, "model", None), AbstractModel):
        model = inner
    distribution, scaling = (getattr(model, n, None) for n in ("distribution", "scaling"))
    if distribution is None and scaling is not None:
        return scaling.variance
    return _variance_of(distribution, model.process)


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
