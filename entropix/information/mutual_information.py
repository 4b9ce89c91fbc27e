r"""Mutual information from conditional and marginal fields.

$$I(X; Y) = I(X_T; Y) + \int\frac{\sigma^2}{2}E\|\nabla\log p(y_s|y) - \nabla\log p(y_s)\|^2\,ds$$

(Franzese et al., 2310.09031; Premkumar, 2509.23937), a mean of divergences over conditions. The
end term is part of the value; see `entropix.information.end_term` for it, and
`entropix.information.forms` for the two forms of the integral.
"""

from collections.abc import Callable
from typing import Any, Literal, overload

from jaxtyping import PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import check_same_process, conditions, samples
from entropix._core.precision import full_precision
from entropix.estimators import PointwiseCurve
from entropix.information.end_term import divided_or_whole
from entropix.information.forms import ModelPair
from entropix.interfaces import AbstractModel, Estimate


@overload
def mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    *,
    key: Key,
    pointwise: Literal[False] = False,
    per_coordinate: Literal[False] = False,
    **options: Any,
) -> Estimate: ...


@overload
def mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    *,
    key: Key,
    pointwise: Literal[True],
    per_coordinate: bool | Callable = False,
    **options: Any,
) -> PointwiseCurve: ...


@overload
def mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    *,
    key: Key,
    pointwise: bool = False,
    per_coordinate: Literal[True] | Callable,
    **options: Any,
) -> PointwiseCurve: ...


@full_precision
def mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    *,
    key: Key,
    marginal_model: AbstractModel | None = None,
    form: str = "denoising",
    num_evaluations: int = 16_384,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
    pointwise: bool = False,
    per_coordinate: bool | Callable = False,
    num_times: int = 17,
) -> Estimate | PointwiseCurve:
    r"""$I(X; C)$ from a conditional model and a marginal one, in nats.

    $I(X; C) = I(X_T; C) + \int\frac{\sigma^2}{2}E\|e(y|c) - e(y)\|^2\,ds$ is the form "score"; the
    form "denoising" is

    $$I(X; C) = I(X_T; C) + \int\frac{\sigma^2}{2}E\left[\left\|s(y) + \tfrac{z}{\Sigma}\right\|^2 -
    \left\|s(y|c) + \tfrac{z}{\Sigma}\right\|^2\right]ds.$$

    For exact models both are the same number. For trained ones the first is never negative and
    contains the errors of both fields. The second, on held-out samples, is a difference of cross
    entropies: zero within its error, or negative, for a condition that is independent of X. The
    condition may be discrete or continuous; nothing is clipped.

    Args:
        model: the conditional model.
        data: samples of X, shape (N, *shape).
        condition: what belongs to each sample, labels or numbers: a pytree of arrays with leading
            axis N.
        key: PRNG key.
        marginal_model: the model of X alone, on the same process; None for `model` without a
            condition, where its network serves both (see `ConditionDropout`).
        form: "denoising", the difference of the two models' denoising errors, for trained models on
            held-out data; "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for models that are exact,
            where its standard error is the smaller.
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.
        pointwise: whether each sample has an integral of its own; in the form "denoising" and for
            exact models it is $\log p(x|c)/p(x)$. `num_evaluations` must then be at least 32 for
            each sample (16 in the form "score").
        per_coordinate: True to divide the integral into those of each coordinate, or an orthogonal
            transform of one example to divide it by coefficient or band: see
            `entropix.estimators.transforms`.
        num_times: edges of the intervals of log-SNR, with `pointwise` or `per_coordinate`.

    Returns:
        An `Estimate`. The end term $I(X_T; C)$ in it is that of Gaussians fitted to the fields at
        `t1`, with a mean of its own for each sample's condition; its error, with an allowance for
        what is not Gaussian, is a part of `.stderr`. With `pointwise` or `per_coordinate` a
        `PointwiseCurve`, which does not contain the end term: that is `-.total.bias`.

    Raises:
        ValueError: if there is no condition, or the processes differ.
        DivergenceError: if the rate does not decay at an end of the axis.

    Example:
        A network with `ConditionDropout` works with and without a condition. This one is not
        trained, so its estimate is zero:

        >>> import jax, entropix as ex
        >>> key = jax.random.key(0)
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> mlp = ex.FourierMLP(1, key=key, widths=(8,), condition_dim=2)
        >>> network = ex.networks.ConditionDropout(mlp, 1)
        >>> x = jax.random.normal(key, (200, 1))
        >>> model = ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(x, process))
        >>> value = ex.mutual_information(model, x, x > 0, key=key, num_evaluations=512)
        >>> bool(abs(value.value) < 0.1)
        True

    References:
        Franzese et al., 2310.09031; Premkumar, 2509.23937; Kong et al., 2302.03792.
    """
    data = samples(data)
    condition = _given(condition, data.shape[0], "condition")
    marginal_model = model if marginal_model is None else marginal_model
    check_same_process(model.process, marginal_model.process, "marginal_model")
    return divided_or_whole(
        ModelPair(model, marginal_model, marginal=True),
        form,
        data,
        per_coordinate=per_coordinate,
        per_sample=pointwise,
        num_times=num_times,
        key=key,
        condition=(condition, None),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


@overload
def conditional_mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    given: PyTree,
    *,
    key: Key,
    per_coordinate: Literal[False] = False,
    **options: Any,
) -> Estimate: ...


@overload
def conditional_mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    given: PyTree,
    *,
    key: Key,
    per_coordinate: Literal[True] | Callable,
    **options: Any,
) -> PointwiseCurve: ...


@full_precision
def conditional_mutual_information(
    model: AbstractModel,
    data: DataLike,
    condition: PyTree,
    given: PyTree,
    *,
    key: Key,
    given_model: AbstractModel | None = None,
    form: str = "denoising",
    num_evaluations: int = 16_384,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
    per_coordinate: bool | Callable = False,
    num_times: int = 17,
) -> Estimate | PointwiseCurve:
    r"""$I(X; Y|Z)$ from a model of X given Y and Z and one of X given Z, in nats.

    The mean over (y, z) of $KL(p(x|y, z)\|p(x|z))$; it may exceed $I(X; Y)$ or fall short of it,
    and $I(X; Y, Z) = I(X; Z) + I(X; Y|Z)$.

    Args:
        model: the model of X given both, which takes the condition `(y, z)`.
        data: samples of X, shape (N, *shape).
        condition: the y of each sample: a pytree of arrays with leading axis N.
        given: the z of each sample.
        key: PRNG key.
        given_model: the model of X given Z, on the same process, which takes `z`; None for `model`
            with the condition `(None, z)`, which a network in
            `ConditionDropout(network, (dim_y, dim_z))` has learnt.
        form: see `mutual_information`.
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.
        per_coordinate: as for `mutual_information`.
        num_times: edges of the intervals of log-SNR, with `per_coordinate`.

    Returns:
        An `Estimate`, or a `PointwiseCurve` with `per_coordinate`; the end term $I(X_T; Y|Z)$ is
        treated as in `mutual_information`.

    Raises:
        ValueError: if a condition is missing, or the processes differ.
        DivergenceError: if the rate does not decay at an end of the axis.

    References:
        Franzese et al., 2310.09031; Premkumar, 2509.23937.
    """
    data = samples(data)
    condition = _given(condition, data.shape[0], "condition")
    given = _given(given, data.shape[0], "given")
    reference_condition = (None, given) if given_model is None else given
    given_model = model if given_model is None else given_model
    check_same_process(model.process, given_model.process, "given_model")
    return divided_or_whole(
        ModelPair(model, given_model),
        form,
        data,
        per_coordinate=per_coordinate,
        num_times=num_times,
        key=key,
        condition=((condition, given), reference_condition),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


def _given(condition: PyTree, count: int, name: str) -> PyTree:
    if condition is None:
        raise ValueError(f"`{name}` must be given, one for each sample, got None.")
    return conditions(condition, count, name)
