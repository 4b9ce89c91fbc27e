r"""Critical times of generation: speciation, the decision for a class, collapse onto the data.

A noisy state passes three scales of noise on its way to the data (Biroli et al., 2402.18491). On
the clock of the Ornstein-Uhlenbeck process with unit noise,

$$\mu = e^{-t}, \qquad \Sigma^2 = 1 - e^{-2t}, \qquad \lambda = -\ln(e^{2t} - 1),$$

- **speciation**: $t_S = \frac12\ln\Lambda$, with $\Lambda$ the largest eigenvalue of the covariance
  of the data, is where the direction of largest variance emerges from the noise;
- **the class**: $H(C|Y_t) = H(C) - I(C; Y_t)$ falls from $H(C)$ in the noise to its value at the
  data; its rate shows where the class is decided, and the time of $H(C)/2$ is a number for it;
- **collapse** onto n training points: $I(x_0; Y_t) = \ln n$. Above this noise, n points are enough
  to fill the density; below it, the empirical density of n points consists of separate peaks. For
  $N(0, vI)$ in d dimensions $t_C = \frac12\ln\left(1 + v/(n^{2/d} - 1)\right)$.

Both informations are integrals over the noise above their time:

$$I(x_0; Y_\lambda) = \int_{-\infty}^{\lambda}\frac12 E\|\Sigma\nabla\log p + z\|^2\,d\lambda',
\qquad
I(C; Y_\lambda) = \int_{-\infty}^{\lambda}\frac{\Sigma^2}{2}E\|s(y|c) - s(y)\|^2\,d\lambda'.$$

**How a crossing is found.** A first integral, as a curve, gives the log-SNR $\lambda_1$ where the
information reaches its level. A second one starts there, and all its evaluations are spent on the
noise that counts. Its value, standard error and rate r at $\lambda_1$ give one Newton step,
$\lambda = \lambda_1 + (level - I)/r$, and the standard error $\mathrm{stderr}(I)/r$.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import (
    check_example_shape,
    check_same_process,
    conditions,
    is_concrete,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.precision import full_precision
from entropix.entropy import ConditionalEntropy
from entropix.estimators import (
    EntropyCurve,
    GaussianReference,
    all_exact,
    check_cutoff,
    finite_log_snr,
    integrate,
    log_snr_of_std,
    log_snr_per_log_std,
    rates_along,
    std_of_log_snr,
)
from entropix.information.end_term import curve_with_end_term, erasing_process
from entropix.information.forms import DenoisingForm, ModelPair, ScoreForm, in_form
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, Estimate


# How far the search for a collapse goes beyond that of the Gaussian, in log-SNR.
_MARGINS = (2.0, 8.0, 24.0)


class CriticalTime(eqx.Module):
    r"""One time, on three clocks, each with its standard errors.

    A time that is not reached above the data end (or the cut-off) has an infinite `log_snr` with an
    infinite standard error, and the `time` and `ou_time` of that end.

    Attributes:
        log_snr: $\lambda$, the same for every Gaussian process.
        ou_time: t of the Ornstein-Uhlenbeck process, $\frac12\ln(1 + e^{-\lambda})$. The one of
            speciation is $\frac12\ln\Lambda$ always, negative for $\Lambda < 1$.
        time: s of the model's process; None without a model.
    """

    log_snr: Estimate
    ou_time: Estimate
    time: Estimate | None

    def __str__(self) -> str:
        text = f"log-SNR {self.log_snr}, OU time {self.ou_time}"
        return text if self.time is None else f"{text}, process time {self.time}"


class ClassEntropy(eqx.Module):
    r"""The entropy of the class given the noisy state, from the data end to the noise end, in nats.

    Attributes:
        log_snr: shape (K,), decreasing; infinite at exact ends.
        time: of the model's process, shape (K,).
        ou_time: shape (K,).
        value: $H(C|Y)$, shape (K,). It is not clipped to $[0, H(C)]$.
        stderr: its standard error, for the population.
        rate: $dH(C|Y)/d(-\lambda)$ around each of them, per unit of log-SNR.
        rate_stderr: its standard error (Monte Carlo).
        prior: $H(C)$, the entropy of the frequencies of the classes.
        half: where $H(C|Y) = H(C)/2$.
    """

    log_snr: Float[Array, " k"]
    time: Float[Array, " k"]
    ou_time: Float[Array, " k"]
    value: Float[Array, " k"]
    stderr: Float[Array, " k"]
    rate: Float[Array, " k"]
    rate_stderr: Float[Array, " k"]
    prior: Estimate
    half: CriticalTime


class CriticalTimes(eqx.Module):
    r"""The result of `critical_times`; what was not asked for is None.

    Attributes:
        speciation: $t_S$.
        largest_eigenvalue: $\Lambda$, in squared units of the data.
        collapse: $t_C$, with `num_points`.
        class_entropy: $H(C|Y)$ and its half, with `labels`.
    """

    speciation: CriticalTime
    largest_eigenvalue: Estimate
    collapse: CriticalTime | None
    class_entropy: ClassEntropy | None

    def __str__(self) -> str:
        parts = [("speciation", self.speciation), ("collapse", self.collapse)]
        if self.class_entropy is not None:
            parts.append(("half of the class entropy", self.class_entropy.half))
        return "\n".join(f"{name}: {time}" for name, time in parts if time is not None)


@full_precision
def critical_times(
    model_or_data: AbstractModel | DataLike,
    data: DataLike | None = None,
    *,
    num_points: int | None = None,
    labels: PyTree = None,
    key: Key | None = None,
    marginal_model: AbstractModel | None = None,
    form: str = "denoising",
    num_evaluations: int = 16_384,
    cutoff: DataLike | None = None,
    num_times: int = 129,
    chunk_size: int = 4096,
) -> CriticalTimes:
    r"""Speciation, collapse and class decision of a diffusion model, with standard errors.

    $t_S = \frac12\ln\Lambda$; $I(x_0; Y_{t_C}) = \ln n$; $H(C|Y_t)$ and the time of its half; see
    `entropix.information.critical_times`. Speciation follows from the covariance of the data alone,
    the others from a model. The covariance is in the units of the data, and the noise has variance
    one at the end of the clock: standardise the data as those of the model.

    - The value of $\Lambda$ is corrected for the bias of the largest sample eigenvalue, by
      cross-validation of its direction in two halves of the samples; two thirds of the difference
      are a part of its standard error.
    - Of an `ExactModel` the collapse time is exact. Of a trained model the rate is too large by the
      rate of its path KL, so that the time is too late. The data should not have been used to train
      the model.
    - Times of noise beyond the end of the process are extrapolated on its clock.
    - A class entropy has the errors of `mutual_information`, and depends on `form` in the same way.

    Collapse and class are differentiable in the model, speciation in the data. Works under `jit`,
    where a collapse is searched down to `cutoff` (or up to 24 units of log-SNR beyond that of the
    Gaussian with the covariance of the data), and the labels are treated as continuous in the end
    term.

    Args:
        model_or_data: any model on a Gaussian process; or samples of the data, for speciation only.
        data: with a model, samples of the data distribution, shape (N, *shape).
        num_points: n, the number of training points, at least 2. None for no collapse time.
        labels: the condition of each sample, as for `mutual_information`: integers or one-hot
            vectors with leading axis N, equal ones for a class, passed to the model as they are.
            None for no class entropy.
        key: PRNG key, for collapse and class entropy.
        marginal_model: the model of the data without labels, on the same process; None for `model`
            without a condition.
        form: of the information about the class, see `mutual_information`.
        num_evaluations: evaluations of the model's field in each integral: two for collapse, two
            (of both fields) for the class.
        cutoff: smallest noise standard deviation included. None takes the whole axis for the class,
            and as much as is needed for collapse.
        num_times: points of the curves.
        chunk_size: evaluations held in memory at once.

    Returns:
        A `CriticalTimes`.

    Raises:
        ValueError: if an argument is not allowed, missing, or of no use without a model.
        DivergenceError: if the information about the class does not converge, and no cut-off was
            given.

    Example:
        $N(0, I)$ in five dimensions collapses onto 1000 points at t = 0.0325871:

        >>> import jax, numpy as np, entropix as ex
        >>> gaussian = ex.Gaussian(np.zeros(5), np.eye(5))
        >>> model = ex.ExactModel(gaussian, ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)))
        >>> data = gaussian.sample(2000, key=jax.random.key(0))
        >>> times = ex.critical_times(
        ...     model, data, num_points=1000, key=jax.random.key(1), num_evaluations=1024
        ... )
        >>> ou = times.collapse.ou_time
        >>> bool(abs(ou.value - 0.0325871) < 4 * ou.stderr)
        True

    References:
        Biroli, Bonnaire, de Bortoli and Mézard, 2402.18491.
    """
    if not isinstance(model_or_data, AbstractModel):
        given = {"data": data, "num_points": num_points, "labels": labels}
        for name, value in given.items():
            if value is not None:
                raise ValueError(
                    f"`{name}` must be None without a model: the covariance of the data gives the "
                    "speciation time only."
                )
        data = samples(model_or_data, "model_or_data")
        return CriticalTimes(*_speciation(None, data), None, None)
    model = model_or_data
    if data is None:
        raise ValueError("`data` must be given with a model, got None.")
    if not isinstance(model.process, AbstractGaussianProcess):
        raise ValueError(
            "`model_or_data` must be data, or a model of a Gaussian process, got one of "
            f"{type(model.process).__name__}."
        )
    data = samples(data)
    check_example_shape(model, data, "data")
    marginal_model = model if marginal_model is None else marginal_model
    check_same_process(model.process, marginal_model.process, "marginal_model")
    cutoff = check_cutoff(model, cutoff)
    positive_integer(num_times, "num_times", 3)
    collapse = class_entropy = None
    options = {
        "num_evaluations": num_evaluations,
        "num_times": num_times,
        "chunk_size": chunk_size,
        "from_noise": True,
    }
    if num_points is not None or labels is not None:
        if key is None:
            raise ValueError("`key` must be given for a collapse time or a class entropy.")
        prng_key(key)
        collapse_key, class_key = jax.random.split(key)
        if num_points is not None:
            count = positive_integer(num_points, "num_points", 2)
            collapse = _collapse(marginal_model, data, count, cutoff, collapse_key, options)
        if labels is not None:
            labels = conditions(labels, data.shape[0], "labels")
            pair = ModelPair(model, marginal_model, marginal=True)
            functional = in_form(pair, form)
            class_entropy = _class_entropy(functional, data, labels, cutoff, class_key, options)
    return CriticalTimes(*_speciation(model.process, data), collapse, class_entropy)


# ------------------------------------------------------------------ clocks


def _ou_time(log_snr: Array) -> Array:
    return jax.nn.softplus(-log_snr) / 2


def _on_clocks(
    process: AbstractGaussianProcess | None,
    log_snr: Array,
    stderr: Array,
    mc_stderr: Array,
    reached: Array,
    end: Array,
) -> CriticalTime:
    """A log-SNR on all clocks; where it is not reached, the end of the axis."""
    finite = jnp.where(reached, log_snr, end)

    def shown(value: Array) -> Array:
        return jnp.where(reached, value, jnp.inf)

    def on(clock: Callable[[Array], Array]) -> Estimate:
        value, slope = jax.jvp(clock, (finite,), (jnp.ones_like(finite),))
        size = jnp.where(reached, jnp.abs(jax.lax.stop_gradient(slope)), 0.0)
        return Estimate(value, size * stderr, size * mc_stderr)

    time = None if process is None else on(process.time_of_log_snr)
    own = Estimate(shown(log_snr), shown(stderr), shown(mc_stderr))
    return CriticalTime(own, on(_ou_time), time)


# ------------------------------------------------------------------ speciation


@eqx.filter_jit
def _speciation(
    process: AbstractGaussianProcess | None, data: Array
) -> tuple[CriticalTime, Estimate]:
    flat = data.reshape(data.shape[0], -1)
    centred = flat - jnp.mean(flat, axis=0)
    # Data may be sorted, by class for example: the halves are drawn at random.
    mixed = centred[jax.random.permutation(jax.random.key(0), flat.shape[0])]
    one, other = mixed[: flat.shape[0] // 2], mixed[flat.shape[0] // 2 :]

    def direction(rows: Array) -> Array:
        basis = GaussianReference.from_data(rows)
        return basis.basis[:, jnp.argmax(basis.variances)]

    def along(rows: Array, vector: Array) -> Array:
        rows = rows - jnp.mean(rows, axis=0)
        return (rows @ vector) ** 2

    # The derivative of an eigenvalue is that of the quotient with its vector fixed.
    squares = along(centred, direction(centred))
    largest = jnp.mean(squares)
    crossed = jnp.mean(along(one, direction(other))) + jnp.mean(along(other, direction(one)))
    # The sample eigenvalue is too large; across halves it is too small, by twice as much to first
    # order, and unbiased where the eigenvalue is degenerate.
    gap = jax.lax.stop_gradient(jnp.maximum(largest - crossed / 2, 0.0))
    value = largest - gap / 3
    spread = jnp.std(squares) / jnp.sqrt(flat.shape[0])
    stderr = jax.lax.stop_gradient(jnp.sqrt(spread**2 + (2 * gap / 3) ** 2))
    zero = jnp.zeros_like(value)
    ou_time = Estimate(jnp.log(value) / 2, stderr / (2 * value), zero)
    # mu^2 Lambda = 1, with Sigma^2 = 1 - mu^2.
    inside = value > 1
    excess = jnp.where(inside, value - 1, 1.0)
    log_snr = -jnp.log(excess)
    end = -jnp.log(jnp.finfo(value.dtype).tiny)
    found = _on_clocks(process, log_snr, stderr / excess, zero, inside, end)
    found = eqx.tree_at(lambda f: f.ou_time, found, ou_time)
    return found, Estimate(value, stderr, zero)


# ------------------------------------------------------------------ crossings


class _Crossing(eqx.Module):
    """Where an information that accumulates from the noise first reaches a level."""

    log_snr: Array
    std: Array
    reached: Array
    end: Array


@eqx.filter_jit
def _crossing(process: AbstractGaussianProcess, curve: EntropyCurve, level: Array) -> _Crossing:
    """Of a curve that accumulates from the noise."""
    information, log_snr = curve.cumulative, finite_log_snr(curve.log_snr)
    # The first crossing from the noise, also of a curve that is not monotone within its error.
    risen = jax.lax.cummax(information[::-1])
    found = jax.lax.stop_gradient(jnp.interp(level, risen, log_snr[::-1]))
    std = std_of_log_snr(process, found)
    return _Crossing(found, std, risen[-1] >= level, log_snr[0])


def _is_missing(crossing: _Crossing) -> bool:
    """Whether a level is known not to be reached."""
    return is_concrete(crossing) and not bool(crossing.reached)


@eqx.filter_jit
def _missing(process: AbstractGaussianProcess, crossing: _Crossing) -> CriticalTime:
    zero = jnp.zeros_like(crossing.end)
    return _on_clocks(process, zero, zero, zero, crossing.reached, crossing.end)


@eqx.filter_jit
def _known(value: Array) -> Estimate:
    return Estimate(value, jnp.zeros_like(value), jnp.zeros_like(value))


@eqx.filter_jit
def _refined(
    own: AbstractGaussianProcess,
    process: AbstractGaussianProcess,
    crossing: _Crossing,
    total: Estimate,
    level: Estimate,
) -> CriticalTime:
    """One Newton step from a crossing, with the information and its rate there."""
    s = process.time_of_log_snr(crossing.log_snr)
    assert total.slope is not None  # there is a cut-off
    # A slope per -ln Sigma as one per unit of log-SNR.
    rate = total.slope / log_snr_per_log_std(process, s)
    rate = jax.lax.stop_gradient(jnp.where(rate > 0, rate, jnp.inf))
    log_snr = crossing.log_snr + (level.value - total.value) / rate
    stderr = jnp.hypot(total.stderr, level.stderr) / rate
    mc_stderr = jnp.hypot(total.mc_stderr, level.mc_stderr) / rate
    reached = crossing.reached & (rate < jnp.inf)
    return _on_clocks(own, log_snr, stderr, mc_stderr, reached, crossing.end)


# ------------------------------------------------------------------ collapse


def _collapse(
    model: AbstractModel,
    data: Array,
    count: int,
    cutoff: Array | None,
    key: Key,
    options: dict[str, Any],
) -> CriticalTime:
    own = model.process
    level = jnp.log(jnp.asarray(float(count), data.dtype))
    gaussian, margins = _gaussian_collapse(data, level), _MARGINS
    log_snr = None if cutoff is None else log_snr_of_std(own, cutoff)
    if all_exact(model):  # known at any noise: taken along a process that ends in it
        model = model.with_process(erasing_process(GaussianReference.from_data(data).mean_variance))
    process, found = model.process, None
    beyond = _gaussian_information(process, data)
    first, second = jax.random.split(key)
    if not is_concrete((model, data)):
        margins = margins[-1:]
    for margin in margins:
        lowest = gaussian + margin if log_snr is None else log_snr
        std = std_of_log_snr(process, lowest)
        curve = integrate(ConditionalEntropy(model), data, key=first, cutoff=std, **options)
        found = _crossing(process, curve, level - beyond.value)
        if log_snr is not None or not is_concrete(found) or bool(found.reached):
            break
    assert found is not None
    if _is_missing(found):
        return _missing(own, found)
    # With as many times as before, although one would do: the same program.
    total = integrate(
        ConditionalEntropy(model), data, key=second, cutoff=found.std, **options
    ).total
    return _refined(own, process, found, _added(total, beyond), _known(level))


@eqx.filter_jit
def _added(total: Estimate, beyond: Estimate) -> Estimate:
    value, stderr = total.value + beyond.value, jnp.hypot(total.stderr, beyond.stderr)
    return eqx.tree_at(lambda e: (e.value, e.stderr), total, (value, stderr))


@eqx.filter_jit
def _gaussian_information(process: AbstractGaussianProcess, data: Array) -> Estimate:
    r"""$I(x_0; Y_T)$ of the Gaussian: the truth to second order in the signal-to-noise ratio."""
    signal = jnp.exp(process.log_snr(process.t1)) * GaussianReference.from_data(data).variances
    value = jnp.sum(jnp.log1p(signal)) / 2
    # What is not Gaussian changes the third order; it cannot change more than all.
    allowance = value * jnp.minimum(jnp.max(signal), 1.0)
    return Estimate(value, allowance, jnp.zeros_like(value))


@eqx.filter_jit
def _gaussian_collapse(data: Array, level: Array) -> Array:
    """The log-SNR of a Gaussian's collapse, which no density of its covariance precedes."""
    variances = GaussianReference.from_data(data).spread

    def information(log_snr: Array) -> Array:
        return jnp.sum(jax.nn.softplus(log_snr + jnp.log(variances))) / 2

    def halve(_: Array | int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = information(middle) > level
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # The largest variance alone would have 2 ln n; all of them at once have at least ln 2 per unit.
    top = 2 * level - jnp.log(jnp.max(variances)) + 2
    low = -jnp.log(jnp.max(variances)) - 2 * jnp.log(variances.size / level + 1) - 2
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, halve, (low, top))[1])


# ------------------------------------------------------------------ class entropy


def _class_entropy(
    functional: ScoreForm | DenoisingForm,
    data: Array,
    labels: PyTree,
    cutoff: Array | None,
    key: Key,
    options: dict[str, Any],
) -> ClassEntropy:
    process = functional.process
    first, second = jax.random.split(key)
    prior = _label_entropy(labels, data.dtype)
    options = {"condition": (labels, None), **options}
    curve = curve_with_end_term(functional, data, key=first, cutoff=cutoff, **options)
    level = jax.tree.map(lambda leaf: leaf / 2, prior)
    found = _crossing(process, curve, level.value)
    if _is_missing(found):
        return _class_curve(curve, prior, _missing(process, found))
    total = curve_with_end_term(functional, data, key=second, cutoff=found.std, **options).total
    return _class_curve(curve, prior, _refined(process, process, found, total, level))


@eqx.filter_jit
def _class_curve(curve: EntropyCurve, prior: Estimate, half: CriticalTime) -> ClassEntropy:
    level = -finite_log_snr(curve.log_snr)
    rate, rate_stderr = rates_along(level, -curve.cumulative, -(curve.mc_stderr**2))
    return ClassEntropy(
        log_snr=curve.log_snr,
        time=curve.times,
        ou_time=_ou_time(curve.log_snr),
        value=prior.value - curve.cumulative,
        stderr=jnp.hypot(curve.stderr, prior.stderr),
        rate=rate,
        rate_stderr=rate_stderr,
        prior=prior,
        half=half,
    )


def _label_entropy(labels: PyTree, dtype: Any) -> Estimate:
    """H(C) of the frequencies, with the standard error of the mean of -ln p(c)."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(labels)]
    if is_concrete(leaves):
        rows = np.concatenate([np.asarray(leaf, float) for leaf in leaves], axis=1)
        _, counts = np.unique(rows, axis=0, return_counts=True)
        if 2 * len(counts) > len(rows):
            raise ValueError(
                f"`labels` must be classes with several samples each, got {len(counts)} distinct "
                f"ones in {len(rows)} samples."
            )
        share = counts / len(rows)
        value = -np.sum(share * np.log(share))
        spread = np.sqrt(max(np.sum(share * np.log(share) ** 2) - value**2, 0.0) / len(rows))
        return Estimate(jnp.asarray(value, dtype), jnp.asarray(spread, dtype), jnp.zeros((), dtype))
    return _traced_label_entropy(leaves, dtype)


@eqx.filter_jit
def _traced_label_entropy(leaves: list[Array], dtype: Any) -> Estimate:
    count = leaves[0].shape[0]
    rows = jnp.concatenate([leaf.astype(dtype) for leaf in leaves], axis=1)
    _, index, counts = jnp.unique(rows, axis=0, size=count, return_inverse=True, return_counts=True)
    surprise = -jnp.log(counts[index.reshape(-1)] / count).astype(dtype)
    stderr = jnp.std(surprise) / np.sqrt(count)
    return Estimate(jnp.mean(surprise), stderr, jnp.zeros_like(stderr))
