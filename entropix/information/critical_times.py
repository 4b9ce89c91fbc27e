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

`entropix.information.crossing` says how a crossing is found.
"""

import equinox as eqx
import jax
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import (
    check_same_process,
    conditions,
    is_concrete,
    on_host,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.precision import full_precision
from entropix.estimators import check_cutoff
from entropix.information.class_entropy import ClassEntropy, class_entropy_of
from entropix.information.collapse import collapse_of
from entropix.information.crossing import CriticalTime
from entropix.information.forms import ModelPair, in_form
from entropix.information.speciation import speciation_of
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, Estimate
from entropix.processes import check_example_shape


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
        data = _varying(model_or_data, "model_or_data")
        return CriticalTimes(*speciation_of(None, data), None, None)
    model = model_or_data
    if data is None:
        raise ValueError("`data` must be given with a model, got None.")
    if not isinstance(model.process, AbstractGaussianProcess):
        raise ValueError(
            "`model_or_data` must be data, or a model of a Gaussian process, got one of "
            f"{type(model.process).__name__}."
        )
    data = _varying(data, "data")
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
            collapse = collapse_of(marginal_model, data, count, cutoff, collapse_key, options)
        if labels is not None:
            labels = conditions(labels, data.shape[0], "labels")
            pair = ModelPair(model, marginal_model, marginal=True)
            functional = in_form(pair, form)
            class_entropy = class_entropy_of(functional, data, labels, cutoff, class_key, options)
    return CriticalTimes(*speciation_of(model.process, data), collapse, class_entropy)


def _varying(data: DataLike, name: str) -> Array:
    """Samples that are not all the same: the covariance of those has no eigenvalue but zero."""
    array = samples(data, name)
    host = on_host(array)
    if is_concrete(host) and (host == host[:1]).all():
        raise ValueError(f"`{name}` must vary, got {len(array)} equal samples.")
    return array
