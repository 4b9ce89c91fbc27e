r"""Quasi-Monte Carlo integration over log-SNR, data and noise, with honest standard errors.

The integral of a functional $f$ is

$$I = \int \frac{\Sigma^2}{2}\,E_{x, z}\left[f(s, \mu x + \Sigma z, z)\right](-d\lambda).$$

It is estimated in two passes.

1. A pilot (an eighth to a fifteenth of the evaluations), uniform on the Cauchy axis of
   `LogSNRAxis`, measures in 64 bins the root mean square of the integrand with and without the
   control variate. The better of the two is kept in each bin, and the bins' root mean squares
   become the proposal density, mixed with 10% of the uniform one. A part of the pilot is spent at
   both ends of the axis, see `entropix.estimators.ends`. It is not used for the value, so the
   choices cost no bias.
2. The main pass takes the nodes of 10 to 18 digital nets (8 with the fewest evaluations) with
   independent random scramblings (`entropix.estimators.nets`). The coordinates of a node are the
   level of the proposal, the place of the data point along up to three leading principal
   components, and the noise in up to 13. Other components of the noise, and all of one that is
   not Gaussian, are independent draws.

**Errors.** The nets are independent and unbiased, so that their spread is the Monte Carlo error
for the given points, of the whole and at every edge of a curve. The spread of so few is known to
20% only. A second estimate, from the spread of evaluations at equal level as if they were
independent, is known far better, and right where a net gains nothing, as in many dimensions. It
is stated where the two variances agree within a factor of 1.5.

The sampling of the data adds Var(h)/N, where h(x) is the integral of a data point: the covariance
of independent evaluations that share a data point. They belong to different nets or, where these
seldom choose the same data point, to the pilot, where four evaluations at a time share one.

Memory is bounded by `chunk_size` evaluations (and a few numbers per evaluation and data point),
also under differentiation, where chunks are recomputed.

**Derivatives** are those of the estimate at fixed places on the axis. At given times, which a
process that changes moves along the axis, they have one more term: the rate there, as a mean over
evaluations close to it. No exact rate is known; its bias is that of a window of 1/32 of the axis.

Four programs are compiled: `prepare`, `rates`, `aim` and `combine`. Only `rates` contains the
functional and its model; it serves the pilot and the main pass, whose blocks have one size. The
others depend on the process, and are compiled once for all models.
"""

import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import conditions, is_concrete, positive_integer, prng_key, samples
from entropix._core.compiled import error_if
from entropix._core.precision import full_precision
from entropix.estimators.axis import check_cutoff
from entropix.estimators.combination import combine
from entropix.estimators.ends import check_ends
from entropix.estimators.entropy_curve import EntropyCurve
from entropix.estimators.noise_end import with_noise_end
from entropix.estimators.places import aim, blocks_of, chunk_of, control_of, prepare, rates
from entropix.estimators.proposal import Proposal
from entropix.interfaces import (
    AbstractFunctional,
    AbstractKernel,
    AbstractModel,
    DivergenceError,
    Estimate,
)


# A Monte Carlo variance made up by one difference is not known: such an estimate is refused where
# its error is not small, relative to the value and in nats. The threshold is low on purpose: of a
# badly trained network, two or three of two hundred differences may make up most of an error that
# is honest all the same.
_LEAST_EFFECTIVE = 1.05
_SMALL_RELATIVE, _SMALL_ERROR = 0.1, 0.05


@full_precision
def integrate(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    times: DataLike | None = None,
    num_times: int = 2,
    control_variate: bool | ArrayLike = True,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
    divergence: str | None = None,
    from_noise: bool = False,
) -> EntropyCurve:
    r"""The integral of a functional over the marginals of its process, as a curve.

    Args:
        functional: what is integrated.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the functional, at least 256, rounded down to 8, ..., 15
            times a power of 2 (in blocks of 64 below 1024); one that
            uses the noise is evaluated twice at each place.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included (Gaussian processes). None takes the
            whole axis.
        times: where to report the curve, increasing, within `[t0, t1]`; None chooses `num_times`
            of them that resolve both ends.
        num_times: see `times`.
        control_variate: whether the control variate of the functional may be used.
        chunk_size: evaluations held in memory at once.
        proposal: see `entropy_curve`.
        divergence: why the integral is known to be infinite at the data end, or None.
        from_noise: whether the curve accumulates from the noise end: `.cumulative` is then the
            integral between each time and the noise end, with its own errors.

    Returns:
        An `EntropyCurve`, in the units of the functional.

    Raises:
        ValueError: if an argument is malformed, the process has no perturbation kernel, or the
            functional is not finite.
        DivergenceError: if the integral is known or seen to be infinite.
    """
    data, condition, cutoff, times = checked_arguments(
        functional,
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        times=times,
        num_times=num_times,
        chunk_size=chunk_size,
        proposal=proposal,
        divergence=divergence,
    )
    process: Any = functional.process
    cost = 2 if functional.uses_noise else 1
    chunk = chunk_of(functional, data, chunk_size)
    pilot = prepare(process, data, cutoff, key, num_evaluations // cost)
    arguments = (functional, data, condition, pilot.reference)
    # No derivative of the pilot is needed.
    value, control = rates(frozen(arguments), frozen(pilot.places), pilot.noise, chunk)
    main = aim(pilot, data, value, control, np.asarray(control_variate), proposal)
    # Traced programs are not called but copied: one with all blocks is enough.
    blocks = blocks_of(main, pilot) if is_concrete((arguments, main)) else [main.places]
    found = [(value, control)]
    found += [rates(arguments, places, pilot.noise, chunk) for places in blocks]
    curve = combine(
        process,
        control_of(functional),
        pilot,
        main,
        data,
        tuple(value for value, _ in found),
        tuple(control for _, control in found),
        cutoff,
        times,
        num_times,
        cost,
        chunk,
        from_noise,
    )
    curve = check_ends(curve, main.ends, cutoff, data, trained=not all_exact(functional))
    total = with_noise_end(check_estimate(curve.total), functional, process, pilot.reference)
    return eqx.tree_at(lambda c: c.total, curve, total)


def checked_arguments(
    functional: AbstractFunctional,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int,
    condition: PyTree,
    cutoff: DataLike | None,
    times: DataLike | None,
    num_times: int,
    chunk_size: int,
    proposal: Proposal | None,
    divergence: str | None,
) -> tuple[Array, PyTree, Array | None, Array | None]:
    """The arguments of `integrate`, checked: data, condition, cut-off and times, converted."""
    data = samples(data)
    prng_key(key)
    condition = conditions(condition, data.shape[0])
    positive_integer(num_evaluations, "num_evaluations", 256)
    positive_integer(num_times, "num_times", 2)
    positive_integer(chunk_size, "chunk_size")
    if proposal is not None and not isinstance(proposal, Proposal):
        raise ValueError(
            "`proposal` must be the `.proposal` of an entropy curve, got "
            f"{type(proposal).__name__}."
        )
    process = functional.process
    if not isinstance(process, AbstractKernel):
        raise ValueError(
            "the process must be Gaussian, or have another perturbation kernel, where no paths are "
            f"simulated, got {type(process).__name__}: use `path_functional(..., along='sde')`."
        )
    cutoff = check_cutoff(functional, cutoff)
    check_divergence(divergence, cutoff)
    if times is not None:
        times = _check_times(as_float(times, "times"), process)
    return data, condition, cutoff, times


def check_divergence(reason: str | None, cutoff: DataLike | None) -> None:
    """Refuse an entropy that is known to be infinite without a cut-off."""
    if reason is not None and cutoff is None:
        raise DivergenceError(
            f"`cutoff` must be given (the smallest noise standard deviation to include): the "
            f"entropy is infinite because {reason}.",
            remedy="cutoff",
        )


def all_exact(tree: PyTree) -> bool:
    """Whether all models in a pytree say that they are exact."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, AbstractModel))
    return all(getattr(n, "is_exact", False) for n in nodes if isinstance(n, AbstractModel))


def _check_times(times: Array, process: AbstractKernel) -> Array:
    if times.ndim != 1 or times.shape[0] < 2:
        raise ValueError(f"`times` must have shape (K,) with K >= 2, got {times.shape}.")
    if is_concrete((times, process)):
        host = np.asarray(times)
        low, high = float(process.t0), float(process.t1)
        if np.any(np.diff(host) <= 0) or host[0] < low or host[-1] > high:
            raise ValueError(f"`times` must increase within [{low:g}, {high:g}].")
    return times


def frozen(tree: PyTree) -> PyTree:
    """A pytree as it is, treated as a constant by differentiation."""
    if is_concrete(tree):
        return tree
    return jax.tree.map(_stop_gradient, tree)


def _stop_gradient(leaf: Any) -> Any:
    return jax.lax.stop_gradient(leaf) if eqx.is_inexact_array(leaf) else leaf


def check_estimate(estimate: Estimate) -> Estimate:
    """Refuse a value that is not finite, or a large error that a few evaluations make up."""
    finite = "the field of the model must be finite on the whole axis, got NaN or infinity"
    few = (
        "a few evaluations make up all of the error, so it is not known: the field has rare large "
        "values; take more `num_evaluations`, use float64, or leave the smallest noise out"
    )

    def enough(value: Any, error: Any) -> int:
        """The number of evaluations with which such an error would be small, as a power of two."""
        allowed = np.maximum(_SMALL_RELATIVE * np.abs(value), _SMALL_ERROR)
        wanted = estimate.num_evaluations * np.max((error / allowed) ** 2)
        return 2 ** math.ceil(math.log2(wanted))

    def ruled_by_few(value: Any, error: Any, number: Any) -> Any:
        large = (error > _SMALL_RELATIVE * abs(value)) & (error > _SMALL_ERROR)
        return (number < _LEAST_EFFECTIVE) & large

    number = math.inf if estimate.num_effective is None else estimate.num_effective
    if is_concrete(estimate):
        value, error, number = (np.asarray(v) for v in (estimate.value, estimate.mc_stderr, number))
        if not np.all(np.isfinite(value) & np.isfinite(error)):
            raise ValueError(f"{finite}.")
        if np.any(ruled_by_few(value, error, number)):
            raise ValueError(
                f"{few}, got {value:.3g} ± {error:.2g} from an effective number of {number:.2g}. "
                f"About {enough(value, error)} evaluations are needed."
            )
        return estimate
    value, error = estimate.value, estimate.mc_stderr
    value = error_if(value, ~(jnp.isfinite(value) & jnp.isfinite(error)), finite)
    value = error_if(value, ruled_by_few(value, error, number), few)
    return eqx.tree_at(lambda e: e.value, estimate, value)
