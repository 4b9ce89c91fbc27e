"""Log densities under a model: one call, several methods."""

from collections.abc import Callable
from typing import Any, Literal, overload

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import (
    conditions,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.precision import full_precision
from entropix.density.any_order import AnyOrder
from entropix.density.parts import log_prob_parts
from entropix.density.path_bound import DenoisingError, PathBound
from entropix.distributions import IsotropicGaussian
from entropix.estimators import Partition, PointwiseCurve, check_cutoff
from entropix.interfaces import (
    AbstractDensityMethod,
    AbstractModel,
    AbstractTokenProcess,
    SampleEstimates,
)
from entropix.processes import check_example_shape, check_one_kind


@overload
def log_prob(
    model: AbstractModel,
    x: DataLike,
    *,
    per_coordinate: Literal[False] = False,
    **options: Any,
) -> SampleEstimates: ...


@overload
def log_prob(
    model: AbstractModel,
    x: DataLike,
    *,
    per_coordinate: Literal[True] | Callable,
    **options: Any,
) -> PointwiseCurve: ...


@full_precision
def log_prob(
    model: AbstractModel,
    x: DataLike,
    *,
    key: Key | None = None,
    method: AbstractDensityMethod | None = None,
    prior: Any = None,
    condition: PyTree = None,
    chunk_size: int = 4096,
    cutoff: DataLike | None = None,
    per_coordinate: bool | Callable = False,
    num_times: int = 17,
) -> SampleEstimates | PointwiseCurve:
    r"""Log density of samples under a model, in nats, with standard errors.

    Data on a set of lower dimension have no density, and a model that has learnt this has an
    infinite one: a rate that does not decay at the data end raises, with its slope. With a cut-off
    $\Sigma_c$, reached at the time $s_c$ with scale $\mu_c$, the value is

    $$\log p_{s_c}(\mu_c x) + D\log\mu_c,$$

    the log density at x, in units of the data, of the state of the reverse process at that time.
    For an exact model it is that of the data with noise $N(0, (\Sigma_c/\mu_c)^2 I)$ added.

    Args:
        model: any model.
        x: samples, shape (N, *shape).
        key: PRNG key, for methods that draw random numbers.
        method: how; default `PathBound()`, a lower bound on the density of the reverse SDE.
        prior: what generation starts from, with `log_prob(y)`; default `model.prior`.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        per_coordinate: True to divide each value by coordinate, or an orthogonal transform of one
            example to divide it by coefficient or band: see `entropix.estimators.transforms`. For
            `DenoisingError`, and for `PathBound` with the prior of a process; both then take at
            least 32 evaluations.
        num_times: edges of the intervals of log-SNR, with `per_coordinate`.

    Returns:
        `.value` and `.stderr`, shape (N,), `.cutoff`, and `.mean`, an `Estimate`. With
        `per_coordinate` a `PointwiseCurve` with `.value` of shape (N, *parts), the mean in
        `.total`, and in `.intervals` what each interval adds to the density of a Gaussian with the
        mean and the variance of each coordinate.

    Raises:
        ValueError: if an argument is malformed, a key is missing, or a value is not finite.
        DivergenceError: if the rate does not decay at the data end and no cut-off was given.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> gaussian = ex.Gaussian([0.0], [[0.5]])
        >>> model = ex.ExactModel(gaussian, process)
        >>> x = jnp.array([[0.0], [0.5], [1.0]])
        >>> density = ex.log_prob(model, x, key=jax.random.key(0), method=ex.PathBound(32))
        >>> bool(jnp.all(abs(density.value - gaussian.log_prob(x)) < 4 * density.stderr + 1e-4))
        True

    References:
        Song et al., 2101.09258; Premkumar, 2410.06986. Each method has its own.
    """
    x = samples(x, "x", minimum=1 if per_coordinate is False else 2)
    check_example_shape(model, x, "x")
    condition = conditions(condition, x.shape[0])
    check_one_kind(getattr(model, "process", None))
    method = PathBound() if method is None else method
    if key is not None:
        prng_key(key)
    if not isinstance(method, AbstractDensityMethod):
        raise ValueError(
            f"`method` must be a density method such as PathBound(), got {type(method).__name__}."
        )
    prior = model.prior if prior is None else prior
    cutoff = check_cutoff(model, cutoff)
    if isinstance(model.process, AbstractTokenProcess):
        if per_coordinate is not False:
            raise ValueError("`per_coordinate` must be False for models of tokens, got a division.")
        if not isinstance(method, PathBound | DenoisingError | AnyOrder):
            raise ValueError(
                "`method` must be PathBound() or AnyOrder() for models of tokens, got "
                f"{type(method).__name__}."
            )
    if per_coordinate is not False:
        if key is None:
            raise ValueError("`key` must be given with `per_coordinate`, got None.")
        bound, prior_std = _by_parts(method, prior)
        return log_prob_parts(
            model,
            x,
            partition=Partition.of(per_coordinate, x[0]),
            reference=bound.reference,
            num_evaluations=bound.num_evaluations,
            prior_std=prior_std,
            condition=condition,
            cutoff=cutoff,
            key=key,
            chunk_size=positive_integer(chunk_size, "chunk_size"),
            num_times=positive_integer(num_times, "num_times", 2),
        )
    result = method.evaluate(
        model,
        x,
        prior=prior,
        condition=condition,
        cutoff=cutoff,
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


def _by_parts(method: AbstractDensityMethod, prior: Any) -> tuple[PathBound, Array | None]:
    """The settings of a method that can be divided, and the standard deviation of its prior."""
    if isinstance(method, DenoisingError):
        return method.bound, None
    if isinstance(method, PathBound) and isinstance(prior, IsotropicGaussian):
        return method, prior.std
    raise ValueError(
        "`method` must be DenoisingError(), or PathBound() with the prior of a process, where "
        f"`per_coordinate` is given, got {type(method).__name__} with {type(prior).__name__}."
    )
