r"""Information from samples alone: the `estimate_*` functions.

Each trains its own networks by cross-fitting (`entropix.information.crossfit`). Information does
not change under invertible maps of single variables. Every continuous column is therefore mapped to
normal scores, which removes heavy tails and singular margins, and all are whitened; the field of a
Gaussian pair is then known, and the networks learn what is left.

With d the true difference of the two fields and $\hat d$ that of the networks, on samples that they
have not seen,

| form | value | error |
|---|---|---|
| score | $E\|\hat d\|^2$ | $+$ fitted noise |
| denoising | $2E\langle d, \hat d\rangle - E\|\hat d\|^2$ | $-$ fitted noise |
| their mean | $E\langle d, \hat d\rangle$ | no fitted noise, to first order |

The mean is the value that is returned. Structure that was not learnt lowers all three equally, so
that their agreement proves nothing: what the networks still learnt in the second half of their
training is a sign of it. Overfitting shows in the difference of the forms, and in the training
samples: their denoising form is too large by about as much as that of the other samples is too
small. Since it cancels in the mean to first order, training goes on after the held-out loss was
least, as long as the networks keep half of what they had gained. The `model_error` is the larger of
what was learnt late and a quarter of the larger difference, between the forms or between the two
sets of samples: half of the correction that the mean makes.
"""

import warnings
from typing import NamedTuple

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, as_float, as_number
from entropix._core.checks import is_concrete, prng_key, samples
from entropix._core.formatting import format_with_error
from entropix.datasets import NormalScores
from entropix.information.canonical import FLAT, dependence, thinness, whitening
from entropix.information.crossfit import (
    LARGEST,
    Fold,
    Measured,
    Recipe,
    canonical_folds,
    cross_fit,
    split,
)
from entropix.information.labels import cross_fit_labels


# The largest canonical correlation for which networks resolve the conditional density: it has a
# tenth of the spread, the width of `networks.GaussianPlusResidual`.
_RESOLVED = 0.995


class InformationEstimate(eqx.Module):
    r"""A quantity of information estimated from samples, in nats, and its errors.

    Attributes:
        value: the mean of both forms.
        stderr: its standard error with respect to the population the samples were drawn from; at
            least that of the information of independent Gaussian samples, $\sqrt{k/2}/N$ for k
            correlations.
        model_error: the detectable error of the networks: a quarter of the difference between the
            forms, or between the denoising forms of training samples and others, after the sampling
            error is subtracted, or what was learnt in the second half of training, whichever is
            largest. It is not a bound.
        denoising: the denoising form.
        score: the score form.
        fitted: the denoising form on samples that the networks were trained on.
        gaussian: the value for Gaussians with the same covariances (for mutual information, that of
            canonical correlation analysis), on samples not used for the covariances.
        pointwise: the denoising form of each sample, shape (N,): an estimate of the log ratio of
            densities, such as $\log p(x|y)/p(x)$.
        folds: the value in each fold, shape (folds,).
        bound: an upper bound on the true value: the entropy of the labels; None without labels.
        converged: whether the held-out loss had stopped falling in every fold.
        resolved: whether all canonical correlations are below 0.995. Where they are not, one
            variable leaves less than a tenth of the spread of the other unknown. Networks resolve
            nothing narrower: the value is about that of a Gaussian pair, and `model_error` does not
            contain what is missing.

    Prints as `1.02 ± 0.01 (model 0.03)`. `float(estimate)` is its value.
    """

    value: Float[Array, ""]
    stderr: Float[Array, ""]
    model_error: Float[Array, ""]
    denoising: Float[Array, ""]
    score: Float[Array, ""]
    fitted: Float[Array, ""]
    gaussian: Float[Array, ""]
    pointwise: Float[Array, " n"]
    folds: Float[Array, " folds"]
    bound: Float[Array, ""] | None = None
    converged: bool = eqx.field(static=True, default=True)
    resolved: bool = eqx.field(static=True, default=True)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        text = format_with_error(float(self.value), float(self.stderr))
        return f"{text} (model {float(self.model_error):.2g})"

    def __repr__(self) -> str:
        return f"InformationEstimate({self})"


def estimate_mutual_information(
    x: DataLike,
    y: DataLike,
    *,
    key: Key,
    normal_scores: bool = True,
    recipe: Recipe = Recipe(),
) -> InformationEstimate:
    r"""$I(X; Y)$ of paired samples, in nats, from networks that it trains itself.

    $$I(X; Y) = \int\frac{\sigma^2}{2}E\|s(y_s|Y) - s(y_s)\|^2\,ds,$$

    by cross-fitting in canonical coordinates of normal scores; see the table of the module. The
    variable of fewer dimensions is diffused, the other one is the condition. If it has one
    dimension, its unconditional field is known. Labels are diffused as well; their field follows
    from a classifier at all noise levels, and the denoising form is exactly $E\log q(y|x)/p(y)$.

    Args:
        x: samples, shape (N, d_x), or (N,). Integers are numbers here; pass labels as `y`.
        y: the samples paired with x, shape (N, d_y), or (N,). Integers of shape (N,) are labels:
            the true value is then at most their entropy, `.bound`.
        key: PRNG key.
        normal_scores: whether to map continuous columns to normal scores, or else to unit variance.
            Columns with fewer distinct values than half the samples are always mapped to unit
            variance.
        recipe: how to train and to measure.

    Returns:
        An `InformationEstimate`.

    Raises:
        ValueError: if the rows do not match or are too few, a variable is constant, most labels
            are different, or a combination of columns of x determines one of y to a thousandth of
            its spread: the information is infinite or too large.

    Warns:
        UserWarning: if the held-out loss was still falling after `recipe.steps`: the value is then
            probably too small; or if the estimate is not `resolved`.

    Example:
        >>> import jax, entropix as ex
        >>> joint = ex.Gaussian([0.0, 0.0], [[1.0, 0.8], [0.8, 1.0]])
        >>> pair = joint.sample(400, key=jax.random.key(0))
        >>> recipe = ex.information.Recipe(folds=2, steps=20, width=8, depth=1, num_levels=4)
        >>> found = ex.estimate_mutual_information(
        ...     pair[:, 0], pair[:, 1], key=jax.random.key(1), recipe=recipe
        ... )
        >>> bool(abs(found.value - 0.511) < 4 * (found.stderr + found.model_error))
        True

    References:
        Franzese et al., 2310.09031; Kong et al., 2302.03792; Czyz et al., 2306.11078 (tasks with
        known values); Chernozhukov et al., 1608.00060 (cross-fitting).
    """
    prng_key(key)
    first, second, correlation = _pair(x, y, normal_scores)
    bound = second.label_entropy
    if second.dim < first.dim and bound is None:
        first, second = second, first
    split_key, fit_key = jax.random.split(key)
    rows = split(len(first.points), recipe.folds, split_key)
    if bound is not None:
        found = cross_fit_labels(first.points, second.points, rows, recipe, fit_key)
        return _result(found, first.dim * (second.dim - 1), bound)
    folds = canonical_folds(first.points, second.points, rows)
    learnt = first.dim > 1 or not first.normal
    found = cross_fit(folds, recipe, marginal=learnt, key=fit_key)
    return _result(found, first.dim * second.dim, bound, correlation)


def check_pair(
    x: DataLike,
    y: DataLike,
    *,
    normal_scores: bool = True,
    name: str = "y",
    otherwise: str = "convert them to float",
) -> None:
    """Refuse pairs that `estimate_mutual_information` refuses, before anything is trained.

    Args:
        x: samples, shape (N, d_x), or (N,).
        y: the samples paired with x, shape (N, d_y), or (N,); integers of shape (N,) are labels.
        normal_scores: see `estimate_mutual_information`.
        name: of y in messages.
        otherwise: what else to do with labels of which most are different.

    Raises:
        ValueError: as `estimate_mutual_information`.
    """
    _pair(x, y, normal_scores, name, otherwise)


def estimate_conditional_mutual_information(
    x: DataLike,
    y: DataLike,
    z: DataLike,
    *,
    key: Key,
    normal_scores: bool = True,
    recipe: Recipe = Recipe(),
) -> InformationEstimate:
    r"""$I(X; Y|Z) = I(X; (Y, Z)) - I(X; Z)$ of samples, in nats.

    Both terms are measured on the same samples and diffused states; the field of x alone cancels
    and is not learnt.

    Args:
        x: samples, shape (N, d_x), or (N,).
        y: the samples paired with x, shape (N, d_y), or (N,); integers of shape (N,) are labels.
        z: as y.
        key: PRNG key.
        normal_scores: see `estimate_mutual_information`.
        recipe: how to train and to measure; two networks are trained for each fold.

    Returns:
        An `InformationEstimate`; `.bound` is the entropy of y, if it holds labels.

    Raises:
        ValueError: as `estimate_mutual_information`.

    Warns:
        UserWarning: as `estimate_mutual_information`.

    Example:
        >>> import jax, entropix as ex
        >>> x, y, z = jax.random.normal(jax.random.key(0), (3, 400))
        >>> recipe = ex.information.Recipe(folds=2, steps=20, width=8, depth=1, num_levels=4)
        >>> found = ex.information.estimate_conditional_mutual_information(
        ...     x + z, y + z, z, key=jax.random.key(1), recipe=recipe
        ... )
        >>> bool(abs(found.value) < 4 * (found.stderr + found.model_error))
        True

    References:
        Franzese et al., 2310.09031.
    """
    prng_key(key)
    first = _variable(x, "x", normal_scores)
    second = _variable(y, "y", normal_scores, labels=True)
    third = _variable(z, "z", normal_scores, labels=True)
    _check_rows(first, second, "y")
    _check_rows(first, third, "z")
    split_key, *keys = jax.random.split(key, 3)
    rows = split(len(first.points), recipe.folds, split_key)
    both = np.concatenate([second.points, third.points], axis=1)
    correlation = dependence(first.points, both)
    known = [v.columns for v in (second, third) if v.label_entropy is None]
    if known:
        as_given = dependence(first.columns, np.concatenate(known, axis=1))
        _check_undetermined(max(correlation, as_given), "y")
    whole, part = (
        cross_fit(canonical_folds(first.points, c, rows), recipe, marginal=False, key=k)
        for c, k in zip((both, third.points), keys, strict=True)
    )
    return _result(whole.minus(part), first.dim * second.dim, second.label_entropy, correlation)


def estimate_total_correlation(
    x: DataLike, *, key: Key, recipe: Recipe = Recipe()
) -> InformationEstimate:
    r"""$TC(X) = KL(p(x)\|\prod_i p(x_i))$ of samples, in nats.

    In normal scores z the margins are standard normal, so that $TC = KL(p(z)\|N(0, I))$: the value
    for the Gaussian of equal covariance, in closed form, plus the contribution of a network.

    Args:
        x: samples, shape (N, d), with continuous columns.
        key: PRNG key.
        recipe: how to train and to measure.

    Returns:
        An `InformationEstimate`.

    Raises:
        ValueError: if there are too few samples, a column is not continuous, or columns determine
            one another.

    Warns:
        UserWarning: as `estimate_mutual_information`.

    Example:
        >>> import jax, entropix as ex
        >>> joint = ex.Gaussian([0.0, 0.0], [[1.0, 0.6], [0.6, 1.0]])
        >>> x = joint.sample(400, key=jax.random.key(0))
        >>> recipe = ex.information.Recipe(folds=2, steps=20, width=8, depth=1, num_levels=4)
        >>> found = ex.information.estimate_total_correlation(
        ...     x, key=jax.random.key(1), recipe=recipe
        ... )
        >>> bool(abs(found.value - 0.223) < 4 * (found.stderr + found.model_error))
        True

    References:
        Franzese et al., 2310.09031; Kong et al., 2302.03792.
    """
    prng_key(key)
    variable = _variable(x, "x", True)
    _check_continuous(variable)
    _check_thick(variable.columns, "x")
    split_key, fit_key = jax.random.split(key)
    rows = split(len(variable.points), recipe.folds, split_key)
    found = _from_normal([variable.points] * recipe.folds, rows, recipe, fit_key)
    return _result(found, variable.dim * (variable.dim - 1) // 2)


def estimate_entropy(x: DataLike, *, key: Key, recipe: Recipe = Recipe()) -> InformationEstimate:
    r"""The differential entropy $h(X) = -E\log p(x)$ of samples, in nats.

    In normal scores z, computed for each fold from the others,
    $\log p(x) = \log p(z) + \sum_i\log\frac{dz_i}{dx_i}$, and
    $-E\log p(z)$ is that of a standard normal density minus $KL(p(z)\|N(0, I))$; see
    `estimate_total_correlation`.

    Args:
        x: samples, shape (N, d), or (N,), with continuous columns.
        key: PRNG key.
        recipe: how to train and to measure.

    Returns:
        An `InformationEstimate`; `.pointwise` is $-\log p(x)$.

    Raises:
        ValueError: if there are too few samples, a column is not continuous, or columns determine
            one another.

    Warns:
        UserWarning: as `estimate_mutual_information`.

    Example:
        >>> import jax, entropix as ex
        >>> x = 2.0 * jax.random.normal(jax.random.key(0), (400,))
        >>> recipe = ex.information.Recipe(folds=2, steps=20, width=8, depth=1, num_levels=4)
        >>> found = ex.information.estimate_entropy(x, key=jax.random.key(1), recipe=recipe)
        >>> bool(abs(found.value - 2.112) < 4 * (found.stderr + found.model_error) + 0.05)
        True

    References:
        Kong et al., 2302.03792; Premkumar, 2509.23937.
    """
    prng_key(key)
    points = _columns(x, "x")
    variable = _variable(x, "x", True)
    _check_continuous(variable)
    if variable.dim < points.shape[1]:
        raise ValueError("`x` must vary in every column, got a constant one, which has no density.")
    _check_thick(variable.columns, "x")
    spread = points.std(axis=0)
    points = (points - points.mean(axis=0)) / spread
    split_key, fit_key = jax.random.split(key)
    rows = split(len(points), recipe.folds, split_key)
    scores, log_density = [], np.full(len(points), -np.sum(np.log(spread)))
    for train, stop, test in rows:
        map_ = NormalScores.fit(points[np.concatenate([train, stop])])
        z = np.asarray(map_.forward(points), np.float64)
        scores.append(z)
        normal = -0.5 * np.sum(z[test] ** 2 + np.log(2 * np.pi), axis=1)
        log_density[test] += normal + np.asarray(map_.log_jacobian(points[test]), np.float64)
    found = _from_normal(scores, rows, recipe, fit_key).plus(log_density).negative()
    return _result(found, points.shape[1] * (points.shape[1] + 1) // 2)


def estimate_kl(
    x: DataLike,
    y: DataLike,
    *,
    key: Key,
    normal_scores: bool = True,
    recipe: Recipe = Recipe(),
) -> InformationEstimate:
    r"""$KL(p\|q)$ of two sets of samples, in nats: x of p, y of q.

    One network learns both fields, with the set as its condition; their difference is measured on
    samples of p. Samples of the two sets are not paired.

    Args:
        x: samples of p, shape (N, d), or (N,).
        y: samples of q, shape (M, d), or (M,).
        key: PRNG key.
        normal_scores: see `estimate_mutual_information`; of both sets together.
        recipe: how to train and to measure.

    Returns:
        An `InformationEstimate`. Where q has no samples, its field is an extrapolation: M samples
        cannot confirm more than $\log M$ nats (McAllester and Stratos, 1811.04251).

    Raises:
        ValueError: if the dimensions differ, there are too few samples, or a combination of columns
            tells the sets apart by more than a thousand times its spread within them.

    Warns:
        UserWarning: as `estimate_mutual_information`.

    Example:
        >>> import jax, entropix as ex
        >>> x, y = jax.random.normal(jax.random.key(0), (2, 400, 1))
        >>> recipe = ex.information.Recipe(folds=2, steps=20, width=8, depth=1, num_levels=4)
        >>> found = ex.information.estimate_kl(x + 1.0, y, key=jax.random.key(1), recipe=recipe)
        >>> bool(abs(found.value - 0.5) < 4 * (found.stderr + found.model_error))
        True

    References:
        Franzese et al., 2310.09031.
    """
    prng_key(key)
    first, second = _columns(x, "x"), _columns(y, "y")
    if first.shape[1] != second.shape[1]:
        raise ValueError(
            f"`y` must have the columns of `x`, {first.shape[1]}, got {second.shape[1]}."
        )
    variable = _variable(np.concatenate([first, second]), "x", normal_scores)
    points, n = variable.points, len(first)
    side = np.zeros((len(points), 2))
    side[:n, 0], side[n:, 1] = 1, 1
    correlation = dependence(points, side)
    if max(correlation, dependence(variable.columns, side)) > LARGEST:
        raise ValueError(
            "`y` must overlap with `x`, got samples that a combination of columns tells apart by "
            "more than a thousand times its spread: their KL is infinite, or too large."
        )
    x_key, y_key, fit_key = jax.random.split(key, 3)
    rows = []
    parts = (split(n, recipe.folds, x_key), split(len(second), recipe.folds, y_key))
    for own, other in zip(*parts, strict=True):
        train, stop = (np.concatenate([own[i], n + other[i]]) for i in range(2))
        rows.append((np.asarray(jax.random.permutation(x_key, train)), stop, own[2]))
    folds = canonical_folds(points, side, rows, contrast=side[:, ::-1])
    found = cross_fit(folds, recipe, marginal=False, key=fit_key).first(n)
    return _result(found, first.shape[1], None, correlation)


class _Variable(NamedTuple):
    """A variable in the form in which networks see it.

    Attributes:
        points: shape (N, d), in normal scores or standard units, or one-hot vectors of labels.
        columns: the same, all in standard units.
        normal: whether every column is in normal scores.
        label_entropy: of labels, in nats; None for other variables.
    """

    points: np.ndarray
    columns: np.ndarray
    normal: bool
    label_entropy: Array | None

    @property
    def dim(self) -> int:
        return self.points.shape[1]


def _columns(data: DataLike, name: str) -> np.ndarray:
    """Samples as columns in float64, to which those of float64 are not rounded before."""
    array = as_float(data, name)
    if not is_concrete(array):
        raise ValueError(f"`{name}` must be concrete, got an array traced by jit, vmap or grad.")
    array = samples(array[:, None] if array.ndim == 1 else array, name)
    if array.ndim != 2:
        raise ValueError(f"`{name}` must have shape (N, d) or (N,), got {array.shape}.")
    return np.asarray(data, np.float64).reshape(array.shape)


def _variable(
    data: DataLike,
    name: str,
    normal_scores: bool,
    labels: bool = False,
    otherwise: str = "convert them to float",
) -> _Variable:
    """A variable, its columns transformed; integers of shape (N,) are labels where allowed."""
    points = _columns(data, name)
    given = as_number(data, name)
    if labels and given.ndim == 1 and not np.issubdtype(given.dtype, np.floating):
        values, inverse, counts = np.unique(points, return_inverse=True, return_counts=True)
        if len(values) < 2:
            raise ValueError(f"`{name}` must vary, got {len(points)} equal labels.")
        if len(values) > len(points) // 4:
            raise ValueError(
                f"`{name}` must hold labels, of which several samples share each, or real numbers, "
                f"got {len(values)} different ones for {len(points)} samples: {otherwise}."
            )
        share = counts / len(points)
        entropy = as_float(-np.sum(share * np.log(share)))
        one_hot = np.eye(len(values))[inverse.ravel()]
        return _Variable(one_hot, one_hot, False, entropy)
    std = points.std(axis=0)
    varying = np.ptp(points, axis=0) > 0
    if not varying.any():
        raise ValueError(f"`{name}` must vary, got {len(points)} equal samples.")
    points, std = points[:, varying], std[varying]
    scored = columns = (points - points.mean(axis=0)) / std
    distinct = np.array([len(np.unique(column)) for column in points.T])
    continuous = normal_scores & (2 * distinct >= len(points))
    if continuous.any():
        part, scored = columns[:, continuous], columns.copy()
        scored[:, continuous] = np.asarray(NormalScores.fit(part).forward(part), np.float64)
    return _Variable(scored, columns, bool(np.all(continuous)), None)


def _pair(
    x: DataLike,
    y: DataLike,
    normal_scores: bool,
    name: str = "y",
    otherwise: str = "convert them to float",
) -> tuple[_Variable, _Variable, float]:
    """Both variables, checked, and their largest correlation; y may hold labels: zero then."""
    first = _variable(x, "x", normal_scores)
    second = _variable(y, name, normal_scores, labels=True, otherwise=otherwise)
    _check_rows(first, second, name)
    if second.label_entropy is not None:
        return first, second, 0.0
    correlation = dependence(first.points, second.points)
    as_given = dependence(first.columns, second.columns)
    _check_undetermined(max(correlation, as_given), name)
    return first, second, correlation


def _check_undetermined(correlation: float, name: str) -> None:
    """Refuse variables that determine each other."""
    if correlation > LARGEST:
        raise ValueError(
            f"`{name}` must not be determined by `x`, got a combination of columns that is the "
            "same in both to a thousandth of its spread: their mutual information is infinite, or "
            "too large. Leave out columns that both contain."
        )


def _check_thick(points: np.ndarray, name: str) -> None:
    """Refuse columns that determine one another, which have no density."""
    if thinness(points) < FLAT:
        raise ValueError(
            f"`{name}` must have columns that do not determine one another and fewer of them than "
            f"samples, got {points.shape[1]} columns in {len(points)} samples, a combination of "
            "which is constant."
        )


def _check_rows(first: _Variable, second: _Variable, name: str) -> None:
    if len(first.points) != len(second.points):
        raise ValueError(
            f"`{name}` must have one row for each of `x`, {len(first.points)}, "
            f"got {len(second.points)}."
        )


def _check_continuous(variable: _Variable) -> None:
    if not variable.normal:
        raise ValueError(
            "`x` must have continuous columns, got one with recurring values, which has no density."
        )


def _from_normal(
    scores: list[np.ndarray],
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    recipe: Recipe,
    key: Key,
) -> Measured:
    """The divergence of the densities of normal scores from a standard normal density."""
    folds, known = [], np.zeros(len(scores[0]))
    for z, (train, stop, test) in zip(scores, rows, strict=True):
        _check_thick(z[train], "x")
        mean, white = whitening(z[train], "x")
        w = (z - mean) @ white
        own = (as_float(w), None, None, as_float(np.zeros(w.shape[1])))
        folds.append(Fold(*own, train, stop, test))
        squares = np.sum(z[test] ** 2, axis=1) - np.sum(w[test] ** 2, axis=1)
        known[test] = np.linalg.slogdet(white)[1] + squares / 2
    return cross_fit(folds, recipe, marginal=False, key=key).plus(known)


def _result(
    found: Measured, correlations: int, bound: Array | None = None, correlation: float = 0.0
) -> InformationEstimate:
    """Both forms and what they say about the error.

    Args:
        found: for each sample.
        correlations: how many of them a Gaussian has.
        bound: of the true value, or None.
        correlation: the largest canonical correlation.
    """
    count = len(found.denoising)
    middle = (found.denoising + found.score) / 2
    gap = found.score - found.denoising
    forms = np.sqrt(max(np.mean(gap) ** 2 - np.var(gap) / count, 0.0))
    optimism = abs(np.mean(found.fitted) - np.mean(found.denoising))
    optimism = optimism if optimism > 1e-12 else 0.0  # rounding, where no network was used
    late = np.mean(found.late)
    if found.falling.any():
        warnings.warn(
            f"the held-out loss was still falling in {int(found.falling.sum())} of "
            f"{len(found.falling)} folds when training ended: use more `steps` in `recipe`.",
            stacklevel=3,
        )
    if correlation > _RESOLVED:
        warnings.warn(
            f"a canonical correlation of {correlation:.6g} leaves less than a tenth of the spread "
            "unknown, and networks resolve nothing narrower: the value is about that of a Gaussian "
            "pair, and its `model_error` may be too small.",
            stacklevel=3,
        )
    folds = [np.mean(middle[found.fold == i]) for i in range(len(found.falling))]
    return InformationEstimate(
        value=as_float(np.mean(middle)),
        stderr=as_float(np.sqrt(np.var(found.denoising) / count + correlations / 2 / count**2)),
        model_error=as_float(max(forms / 4, optimism / 4, late)),
        denoising=as_float(np.mean(found.denoising)),
        score=as_float(np.mean(found.score)),
        fitted=as_float(np.mean(found.fitted)),
        gaussian=as_float(np.mean(found.gaussian)),
        pointwise=as_float(found.denoising),
        folds=as_float(np.array(folds)),
        bound=bound,
        converged=not bool(found.falling.any()),
        resolved=correlation <= _RESOLVED,
    )
