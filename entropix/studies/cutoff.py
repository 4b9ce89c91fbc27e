"""The cut-off of an entropy, and the times at which curves are reported."""

import dataclasses
from collections.abc import Callable
from typing import TypeVar

import equinox as eqx
import jax.numpy as jnp
import numpy as np

from entropix.datasets import Standardisation
from entropix.entropy import EntropyCurve
from entropix.estimators import log_snr_of_std
from entropix.interfaces import AbstractGaussianProcess, DivergenceError
from entropix.processes import end_scale_and_std
from entropix.studies.data import PreparedData


S = TypeVar("S")
# About e^-14 of the entropy lies further than this from the log-SNR of the data's variance.
_TOWARDS_DATA, _TOWARDS_NOISE, _COUNT = 16.0, 14.0, 121
# The default cut-off, in standard deviations of the data.
_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Cutoff:
    """The smallest noise standard deviation included in entropies, and the reason for it.

    Attributes:
        value: in the model's coordinates; None for the whole axis.
        reason: in words, for a report.
    """

    value: float | None
    reason: str

    def attributes(self) -> dict[str, float | str]:
        """What a record says of it."""
        text = self.reason
        if self.value is not None:
            text = f"noise of standard deviation {self.value:.4g} and above ({self.reason})"
        return {"cutoff": 0.0 if self.value is None else self.value, "cutoff_text": text}


def choose_cutoff(
    asked: float | None,
    process: AbstractGaussianProcess,
    data: PreparedData,
    *,
    of_entropy: bool = True,
) -> Cutoff:
    """The cut-off that was requested, or one where the integral is known to be infinite without.

    Args:
        asked: the smallest noise standard deviation to include, or None.
        process: the forward process.
        data: in the coordinates of the model.
        of_entropy: whether the integral is an entropy, which is infinite where the equilibrium
            collapses, or a divergence, which is not.

    Raises:
        ValueError: if the requested one is not positive and below the noise at the noise end.
    """
    if asked is not None:
        end = float(end_scale_and_std(process)[1])
        if not 0 < asked < end:
            raise ValueError(
                f"`cutoff` must be positive and below the noise standard deviation at the noise "
                f"end, {end:.6g}, got {asked}."
            )
        return Cutoff(asked, "as requested")
    if of_entropy and not process.is_finite:
        return default_cutoff(
            data,
            f"chosen, because the equilibrium of {type(process).__name__} collapses at the "
            "data end",
        )
    map_ = data.standardisation
    if (
        data.dataset.levels is not None
        and not data.dequantised
        and isinstance(map_, Standardisation)
    ):
        # The noise that dequantisation would have added: below it, single levels are resolved.
        level = float(1 / jnp.mean(map_.std)) / np.sqrt(12)
        return Cutoff(
            min(level, 0.5 * float(end_scale_and_std(process)[1])),
            "chosen, because the data are integer levels without dequantisation",
        )
    found = data.description
    if found is None:
        return Cutoff(None, "none: the data have a density")
    if not found.has_density:
        return default_cutoff(data, f"chosen, because {found.obstacle}")
    return Cutoff(None, "none: neither atoms nor linear dependence were found in the data")


def default_cutoff(data: PreparedData, reason: str) -> Cutoff:
    """A cut-off at a hundredth of the data's standard deviation."""
    spread = float(np.sqrt(np.mean(np.var(data.train, axis=0))))
    return Cutoff(_SHARE * spread, reason)


def with_cutoff(
    estimate: Callable[[Cutoff], S], cutoff: Cutoff, fallback: Callable[[], Cutoff]
) -> tuple[S, Cutoff]:
    """An estimate and its cut-off: the given one, or the fallback if the integral is infinite.

    Args:
        estimate: from a cut-off to the estimate.
        cutoff: the cut-off to try first.
        fallback: the cut-off where the estimate without one is infinite.
    """
    try:
        return estimate(cutoff), cutoff
    except DivergenceError as error:
        if cutoff.value is not None or error.remedy != "cutoff":
            raise
    cutoff = fallback()
    return estimate(cutoff), cutoff


def report_times(
    process: AbstractGaussianProcess, data: PreparedData, cutoff: Cutoff
) -> np.ndarray:
    """Increasing times from the data end (or the cut-off) to the noise end.

    They are uniform in log-SNR in the range of the entropy; the exact ends are added.
    """
    centre = -float(np.log(np.mean(np.var(data.train, axis=0))))
    levels = np.linspace(centre + _TOWARDS_DATA, centre - _TOWARDS_NOISE, _COUNT)
    levels = jnp.asarray(levels, process.t0.dtype)
    start = process.t0
    if cutoff.value is not None:
        first = log_snr_of_std(process, jnp.asarray(cutoff.value, process.t0.dtype))
        start = process.time_of_log_snr(first)
    times = np.asarray(eqx.filter_jit(process.time_of_log_snr)(levels))
    inside = times[(times > float(start)) & (times < float(process.t1))]
    return np.unique(np.concatenate([[start], inside, [process.t1]]).astype(times.dtype))


def time_per_log_snr(curve: EntropyCurve) -> np.ndarray:
    """The time per unit of log-SNR around each time; 0 next to an infinite log-SNR."""

    def around(x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([x[:1], x, x[-1:]])
        return padded[2:] - padded[:-2]

    log_snr = np.asarray(curve.log_snr, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf at an exact end
        ratio = around(np.asarray(curve.times, np.float64)) / -around(log_snr)
    return np.where(np.isfinite(ratio), ratio, 0.0)
