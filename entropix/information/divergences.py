r"""Divergences from the fields of models on one forward process.

$$KL(p\|q) = KL(p_T\|q_T) + \int\frac{\sigma^2}{2}E_p\|\nabla\log p - \nabla\log q\|^2\,ds$$

and total correlation, of $p$ against the product of its marginals (Franzese et al., 2310.09031;
Premkumar, 2509.23937). The end term is part of the value: see `entropix.information.end_term`. Each
integral has two forms, which treat the errors of trained models differently: see
`entropix.information.forms`.
"""

from collections.abc import Callable, Sequence
from typing import Any, Literal, overload

from jaxtyping import PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import check_same_process, conditions, samples
from entropix._core.precision import full_precision
from entropix.estimators import PointwiseCurve
from entropix.information.end_term import divided_or_whole, with_end_term
from entropix.information.forms import ModelPair, ProductField, in_form
from entropix.interfaces import AbstractModel, Estimate


@overload
def kl_divergence(
    model: AbstractModel,
    reference_model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    per_coordinate: Literal[False] = False,
    **options: Any,
) -> Estimate: ...


@overload
def kl_divergence(
    model: AbstractModel,
    reference_model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    per_coordinate: Literal[True] | Callable,
    **options: Any,
) -> PointwiseCurve: ...


@full_precision
def kl_divergence(
    model: AbstractModel,
    reference_model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    condition: PyTree = None,
    reference_condition: PyTree = None,
    form: str | None = None,
    num_evaluations: int = 16_384,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
    per_coordinate: bool | Callable = False,
    num_times: int = 17,
) -> Estimate | PointwiseCurve:
    r"""$KL(p\|q)$ between the densities of two models of one process, in nats.

    Between two data sets: train a model on each, with one process, and pass samples of the first
    that its model has not seen. Between two conditions of one model: pass it twice, with the
    samples' own `condition` and the other as `reference_condition`.

    Args:
        model: the model of p.
        reference_model: the model of q.
        data: samples of p, shape (N, *shape).
        key: PRNG key.
        condition: of the samples, passed to `model`: None, or a pytree of arrays with leading axis
            N. The value is then the mean over conditions of $KL(p(x|c)\|q)$.
        reference_condition: the same for `reference_model`.
        form: "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for exact models; "denoising", the
            difference of the two models' denoising errors, for trained ones on held-out data.
            None takes "score" where all models are `ExactModel`s, else "denoising".
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.
        per_coordinate: True to divide the integral into those of each coordinate, or an orthogonal
            transform of one example: see `entropix.estimators.transforms`.
        num_times: edges of the intervals of log-SNR, with `per_coordinate`.

    Returns:
        An `Estimate`. For exact models it includes the divergence down to pure noise, with nothing
        left out. For others it includes an end term $KL(p_T\|q_T)$ of Gaussians fitted to the
        fields at `t1`; the error of this term, with an allowance for what is not Gaussian, is a
        part of `.stderr`. With `per_coordinate` a `PointwiseCurve`, which does not contain the end
        term: that is `-.total.bias`. For trained models the value has the error of their fields,
        too.

    Raises:
        ValueError: if the processes differ.
        DivergenceError: if the rate does not decay at an end of the axis.

    Example:
        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> p = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process)
        >>> q = ex.ExactModel(ex.Gaussian([1.0], [[1.0]]), process)
        >>> data = p.distribution.sample(100, key=jax.random.key(0))
        >>> value = ex.kl_divergence(p, q, data, key=jax.random.key(1), num_evaluations=512)
        >>> bool(abs(value.value - 0.5) < 0.02)
        True

    References:
        Franzese et al., 2310.09031; Premkumar, 2509.23937; Kong et al., 2302.03792.
    """
    check_same_process(model.process, reference_model.process)
    data = samples(data)
    condition = conditions(condition, data.shape[0])
    reference_condition = conditions(reference_condition, data.shape[0], "reference_condition")
    return divided_or_whole(
        ModelPair(model, reference_model),
        form,
        data,
        per_coordinate=per_coordinate,
        num_times=num_times,
        key=key,
        condition=(condition, reference_condition),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


@full_precision
def total_correlation(
    model: AbstractModel,
    marginal_models: Sequence[AbstractModel],
    data: DataLike,
    *,
    key: Key,
    form: str | None = None,
    num_evaluations: int = 16_384,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$TC(X) = KL(p(x)\|\prod_i p(x_i))$, in nats; of two blocks, their mutual information.

    $I(X; Y)$ from a model of the pair and one of each variable is
    `total_correlation(model, [model_x, model_y], jnp.concatenate([x, y], axis=1), key=key)`;
    `mutual_information` has it from a conditional model instead.

    Args:
        model: the model of the whole vector.
        marginal_models: models of consecutive blocks of coordinates, which together are all of
            them, on the same process; the length of each block is that of its model's `shape`.
        data: samples, shape (N, D).
        key: PRNG key.
        form: "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for exact models; "denoising", the
            difference of the two models' denoising errors, for trained ones on held-out data.
            None takes "score" where all models are `ExactModel`s, else "denoising".
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `Estimate`; the end term $TC(X_T)$ is treated as in `kl_divergence`.

    Raises:
        ValueError: if the blocks do not make up the vector, or the processes differ.
        DivergenceError: if the rate does not decay at an end of the axis.

    Example:
        Two coordinates with correlation 0.6 share $-\frac12\ln(1 - 0.36) = 0.223$ nats:

        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> joint = ex.ExactModel(ex.Gaussian([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]]), process)
        >>> single = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process)
        >>> data = joint.distribution.sample(500, key=jax.random.key(0))
        >>> value = ex.total_correlation(
        ...     joint, [single, single], data, key=jax.random.key(1), num_evaluations=1024
        ... )
        >>> bool(abs(value.value - 0.223) < 4 * value.stderr)
        True

    References:
        Franzese et al., 2310.09031; Kong et al., 2302.03792.
    """
    data = samples(data)
    shapes = [m.shape for m in marginal_models]
    if data.ndim != 2 or any(shape is None or len(shape) != 1 for shape in shapes):
        raise ValueError(
            f"`marginal_models` must be models of vectors of known shape, for data of shape "
            f"(N, D), got shapes {shapes} for data of shape {data.shape}."
        )
    sizes = tuple(shape[0] for shape in shapes if shape is not None)
    if sum(sizes) != data.shape[1]:
        raise ValueError(
            f"`marginal_models` must make up the {data.shape[1]} coordinates of `data`, "
            f"got blocks of {sizes}."
        )
    for marginal in marginal_models:
        check_same_process(model.process, marginal.process)
    return with_end_term(
        in_form(ModelPair(model, ProductField(tuple(marginal_models), sizes)), form),
        data,
        key=key,
        condition=(None, None),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )
