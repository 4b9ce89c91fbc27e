r"""Information from two fields on one forward process.

$$KL(p\|q) = KL(p_T\|q_T) + \int\frac{\sigma^2}{2}E_p\|\nabla\log p - \nabla\log q\|^2\,ds$$

and its instances: mutual information, $p(x|c)$ against $p(x)$ averaged over $c$, and total
correlation, $p$ against the product of its marginals (Franzese et al., 2310.09031; Premkumar,
2509.23937). The end term is not part of the value and reported as its bias. Each integral has two
forms, which treat the errors of trained models differently: see `entropix.information.forms`.
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx

from entropix._core.arrays import Key
from entropix._core.checks import conditions, samples
from entropix._core.estimate import Estimate
from entropix._core.interfaces import AbstractModel
from entropix.density import AbstractDensityMethod, log_prob
from entropix.entropy.path_kl import check_same_process
from entropix.information.end_term import with_end_term
from entropix.information.forms import ModelPair, ProductPair, in_form


def kl_divergence(
    model: AbstractModel,
    reference_model: AbstractModel,
    data: Any,
    *,
    key: Key,
    form: str = "score",
    num_evaluations: int = 16_384,
    cutoff: Any = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$KL(p\|q)$ between what two models of one process were made for, in nats.

    Args:
        model: the model of p.
        reference_model: the model of q.
        data: samples of p, shape (N, *shape).
        key: PRNG key.
        form: "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for exact models; "denoising", the
            difference of the two models' denoising errors, for trained ones on held-out data.
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `Estimate`; `.bias` is minus an estimate of the end term $KL(p_T\|q_T)$, which the value
        leaves out. For trained models the value has their error, too.

    Raises:
        ValueError: if the processes differ, or the rate does not decay at an end of the axis.
    """
    check_same_process(model.process, reference_model.process)
    return with_end_term(
        in_form(ModelPair(model, reference_model), form),
        samples(data),
        key=key,
        condition=(None, None),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


def mutual_information(
    model: AbstractModel,
    data: Any,
    condition: Any,
    *,
    key: Key,
    marginal_model: AbstractModel | None = None,
    form: str = "score",
    num_evaluations: int = 16_384,
    cutoff: Any = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$I(X; C)$ from a conditional model and a marginal one, in nats.

    $I(X; C) = I(X_T; C) + \int\frac{\sigma^2}{2}E\|e(y|c) - e(y)\|^2\,ds$ is the form "score"; the
    form "denoising" is

    $$I(X; C) = I(X_T; C) + \int\frac{\sigma^2}{2}E\left[\left\|s(y) + \tfrac{z}{\Sigma}\right\|^2 -
    \left\|s(y|c) + \tfrac{z}{\Sigma}\right\|^2\right]ds.$$

    Of exact models both are the same number. Of trained ones the first is never negative and holds
    the errors of both fields; the second, on samples that were not trained on, is a difference of
    cross entropies: zero within its error, or below, where the condition tells nothing. The
    condition may be discrete or continuous; nothing is clipped.

    Args:
        model: the conditional model.
        data: samples of X, shape (N, *shape).
        condition: what belongs to each sample: a pytree of arrays with leading axis N.
        key: PRNG key.
        marginal_model: the model of X alone, on the same process; None for `model` without a
            condition, where its network serves both (see `ConditionDropout`).
        form: "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for exact models; "denoising", the
            difference of the two models' denoising errors, for trained ones on held-out data.
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `Estimate`; `.bias` is minus an estimate of the end term $I(X_T; C)$.

    Raises:
        ValueError: if there is no condition, the processes differ, or the rate does not decay at an
            end of the axis.
    """
    data = samples(data)
    if condition is None:
        raise ValueError("`condition` must be given, one for each sample, got None.")
    condition = conditions(condition, data.shape[0])
    marginal_model = model if marginal_model is None else marginal_model
    check_same_process(model.process, marginal_model.process)
    return with_end_term(
        in_form(ModelPair(model, marginal_model), form),
        data,
        key=key,
        condition=(condition, None),
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


def total_correlation(
    model: AbstractModel,
    marginal_models: Sequence[AbstractModel],
    data: Any,
    *,
    key: Key,
    form: str = "score",
    num_evaluations: int = 16_384,
    cutoff: Any = None,
    chunk_size: int = 4096,
) -> Estimate:
    r"""$TC(X) = KL(p(x)\|\prod_i p(x_i))$, in nats; of two blocks, their mutual information.

    Args:
        model: the model of the whole vector.
        marginal_models: models of consecutive blocks of coordinates, which together are all of
            them, on the same process; the block of each is as long as its `shape` says.
        data: samples, shape (N, D).
        key: PRNG key.
        form: "score", $\frac{\sigma^2}{2}E\|s_p - s_q\|^2$, for exact models; "denoising", the
            difference of the two models' denoising errors, for trained ones on held-out data.
        num_evaluations: evaluations of each field.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `Estimate`; `.bias` is minus an estimate of the end term $TC(X_T)$.

    Raises:
        ValueError: if the blocks do not make up the vector, the processes differ, or the rate does
            not decay at an end of the axis.
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
        in_form(ProductPair(model, tuple(marginal_models), sizes), form),
        data,
        key=key,
        condition=None,
        num_evaluations=num_evaluations,
        cutoff=cutoff,
        chunk_size=chunk_size,
    )


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
