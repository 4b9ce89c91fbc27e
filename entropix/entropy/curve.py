r"""Entropy curves, neural entropy and total entropy production.

$$S_{NN} = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E\|e_\theta(Y_s, s)\|^2\,ds$$

(Neural Entropy, 2409.03817), the information a network must store to undo the
diffusion; with the exact field in place of the network's it is the total entropy production
$S_{tot}$.
"""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.precision import full_precision
from entropix.entropy.functional import estimate_integral
from entropix.entropy.integrands import EntropyProduction
from entropix.entropy.integrate import Integrand, Proposal
from entropix.interfaces import AbstractModel, Estimate


class EntropyCurve(eqx.Module):
    """How a model's entropy accumulates along the process, in nats.

    Attributes:
        times: shape (K,), increasing.
        log_snr: of those times; infinite at exact ends.
        rate: entropy per unit time around each of them.
        rate_stderr: its standard error (Monte Carlo).
        cumulative: entropy between the data end (or the cut-off) and each time.
        stderr: standard error of `cumulative`, for the population.
        mc_stderr: the same for the given points.
        total: the whole integral.
        proposal: where the evaluations were placed; pass it on to use it again.
    """

    times: Float[Array, "*seeds k"]
    log_snr: Float[Array, "*seeds k"]
    rate: Float[Array, "*seeds k"]
    rate_stderr: Float[Array, "*seeds k"]
    cumulative: Float[Array, "*seeds k"]
    stderr: Float[Array, "*seeds k"]
    mc_stderr: Float[Array, "*seeds k"]
    total: Estimate
    proposal: Proposal


@full_precision
def entropy_curve(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: Any = None,
    cutoff: Any = None,
    times: Any = None,
    num_times: int = 65,
    control_variate: bool = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
) -> EntropyCurve:
    r"""The entropy $\int\frac{\sigma^2}{2}E\|e\|^2 ds$ of a model along its process, in nats.

    Times are stratified and importance sampled over the whole log-SNR axis after a pilot pass, and
    the moment-matched Gaussian, whose entropy is known, serves as control variate: see
    `entropix.entropy.integrate`. Differentiable in the model, its process included. Works under
    `jit` and `vmap` (over models, keys or data).

    Args:
        model: any model; of an `ExactModel` this is the total entropy production.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the model's field, at least 256 (rounded up to even).
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        times: where to report the curve, increasing, within `[t0, t1]`; None chooses `num_times`
            of them that resolve both ends.
        num_times: see `times`.
        control_variate: whether the Gaussian reference may be used.
        chunk_size: evaluations held in memory at once.
        proposal: where to place the evaluations: the `.proposal` of an earlier curve, of the same
            or a similar model. None takes that of a pilot pass, which changes with the model; with
            a given one, the estimate is a smooth function of the model for a fixed key, and its
            gradient is exactly that function's.

    Returns:
        The curve; `.total` is an `Estimate`, with `.cutoff` and `.slope` where a cut-off was given.

    Raises:
        ValueError: if an argument is malformed; if the entropy is known to be infinite (finite data
            sets, collapsing equilibria) or its rate does not decay at the data end, and no cut-off
            was given; if the rate does not decay at the noise end. Under `jit` the last two raise
            when the compiled program runs.

    References:
        Neural Entropy, 2409.03817.
    """
    return curve_of(
        EntropyProduction(model),
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        times=times,
        num_times=num_times,
        control_variate=control_variate,
        chunk_size=chunk_size,
        divergence=model.divergence,
        proposal=proposal,
    )


def curve_of(functional: Integrand, data: Any, **options: Any) -> EntropyCurve:
    """The curve of any functional; the arguments are those of `estimate_integral`."""
    result = estimate_integral(functional, data, **options)
    return EntropyCurve(
        result.times,
        result.log_snr,
        result.rate,
        result.rate_stderr,
        result.cumulative,
        result.stderr,
        result.mc_stderr,
        result.total,
        result.proposal,
    )


@full_precision
def neural_entropy(
    model: AbstractModel,
    data: Any,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: Any = None,
    cutoff: Any = None,
    control_variate: bool = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
) -> Estimate:
    r"""The neural entropy $S_{NN}$ of a model, in nats; of an `ExactModel`, $S_{tot}$.

    The total of `entropy_curve`, which see for the arguments, the method and the errors.
    """
    return entropy_curve(
        model,
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        num_times=2,
        control_variate=control_variate,
        chunk_size=chunk_size,
        proposal=proposal,
    ).total
