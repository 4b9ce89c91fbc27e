r"""Entropic time: how uncertainty about the data grows along a process.

$$\frac{d}{ds}H[x_0|Y_s] = \frac{\sigma^2}{2}\left(\frac{D}{\Sigma^2} - E\|\nabla\log p_s\|^2\right)
= \frac{\sigma^2}{2\Sigma^2}\,E\|\Sigma\nabla\log p_s + z\|^2$$

(Stančević et al., 2504.13612), the second form of which has no difference of large numbers. Steps
that raise H by equal amounts are uniform in entropic time.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import positive_integer
from entropix._core.inversion import log_snr_at
from entropix._core.precision import full_precision
from entropix.entropy import ConditionalEntropy
from entropix.estimators import EntropyCurve, integrate
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, DivergenceError


class EntropicTimeCurve(eqx.Module):
    r"""Conditional entropy $H[x_0|Y_s]$ along a process, in nats.

    Attributes:
        curve: from the time of the cut-off to `t1`; `.cumulative` is H at each time less H at the
            first, `.total` the whole increase, and `.rate` is $dH/d(-\lambda)$, per unit of log-SNR
            and between 0 and D/2.
        quantiles: times at equal steps of H, shape (Q + 1,), the first and the last time included.
    """

    curve: EntropyCurve
    quantiles: Float[Array, " q"]


@full_precision
def entropic_time(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    cutoff: DataLike | None,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    num_times: int = 129,
    num_quantiles: int = 16,
    chunk_size: int = 4096,
) -> EntropicTimeCurve:
    r"""The curve $H[x_0|Y_s]$ of a model, and the times that divide it equally.

    Differentiable in the model, its process included.

    Args:
        model: any model on a Gaussian process; of an `ExactModel` the curve is exact, of a trained
            one it is too steep by the model's error.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        cutoff: smallest noise standard deviation included. There has to be one: the entropy of a
            density given $Y_s$ falls like $D\ln\Sigma$ towards the data.
        num_evaluations: evaluations of the model's field.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        num_times: points of the curve.
        num_quantiles: Q, the number of equal steps.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is not allowed or the process is not Gaussian.
        DivergenceError: if `cutoff` is None.

    Returns:
        An `EntropicTimeCurve`.

    References:
        Stančević et al., *Entropic time schedulers for generative diffusion models*, 2504.13612.
    """
    positive_integer(num_quantiles, "num_quantiles")
    if cutoff is None:
        raise DivergenceError(
            "`cutoff` must be a noise standard deviation, got None.", remedy="cutoff"
        )
    curve = integrate(
        ConditionalEntropy(model),
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        num_times=num_times,
        chunk_size=chunk_size,
    )
    return _in_entropic_time(model.process, curve, num_quantiles)


@eqx.filter_jit
def _in_entropic_time(
    process: AbstractGaussianProcess, curve: EntropyCurve, num_quantiles: int
) -> EntropicTimeCurve:
    """Rates per unit of log-SNR, and the quantiles."""
    times, cumulative = curve.times, curve.cumulative
    # An exact end lies at minus infinity, where nothing happens any more: a number stands for it.
    level = -log_snr_at(process, times)
    level = jnp.where(jnp.isfinite(level), level, -jnp.log(jnp.finfo(level.dtype).tiny))
    rates = curve.rates_along(level)
    steps = jnp.arange(1, num_quantiles) / num_quantiles * cumulative[-1]
    inner = process.time_of_log_snr(-jnp.interp(steps, cumulative, level))
    quantiles = jnp.concatenate([times[:1], inner, times[-1:]])
    curve = eqx.tree_at(lambda c: (c.rate, c.rate_stderr), curve, rates)
    return EntropicTimeCurve(curve, quantiles)
