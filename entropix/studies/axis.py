"""The grid of times on which all curves of a study are reported, and the choice of a cut-off."""

import dataclasses

import jax.numpy as jnp
import numpy as np

from entropix.entropy import EntropyCurve
from entropix.estimators import log_snr_of_std
from entropix.interfaces import AbstractGaussianProcess
from entropix.studies.data import PreparedData


# Log-SNR beyond these distances from that of the data's variance holds about e^-14 of the entropy.
_TOWARDS_DATA, _TOWARDS_NOISE, _COUNT = 16.0, 14.0, 121
# A cut-off chosen for want of a better: this share of the data's standard deviation.
_SHARE = 0.01


@dataclasses.dataclass(frozen=True)
class Cutoff:
    """The smallest noise standard deviation included in entropies, and where it comes from.

    Attributes:
        value: in the model's coordinates; None for the whole axis.
        reason: a clause for the report.
    """

    value: float | None
    reason: str


def choose_cutoff(
    asked: float | None,
    process: AbstractGaussianProcess,
    data: PreparedData,
    *,
    of_entropy: bool = True,
) -> Cutoff:
    """The cut-off asked for, or else one where the integral is known to be infinite without.

    Args:
        asked: the smallest noise standard deviation to include, or None.
        process: the forward process.
        data: in the coordinates of the model.
        of_entropy: whether the integral diverges with the equilibrium, as entropies do and
            divergences do not.

    Raises:
        ValueError: if the one asked for is not positive, or above the noise at the noise end.
    """
    if asked is not None:
        end = float(process.std(process.t1))
        if not 0 < asked < end:
            raise ValueError(
                f"`cutoff` must be positive and below the noise standard deviation at the noise "
                f"end, {end:.6g}, got {asked}."
            )
        return Cutoff(asked, "as asked for")
    if of_entropy and not process.is_finite:
        return default_cutoff(
            data,
            f"chosen, because the equilibrium of {type(process).__name__} collapses at the "
            "data end",
        )
    if data.dataset.levels is not None and not data.dequantised:
        # The noise that dequantisation would have added: below it, the levels are resolved.
        level = float(1 / jnp.mean(data.standardisation.std)) / np.sqrt(12)
        return Cutoff(
            min(level, 0.5 * float(process.std(process.t1))),
            "chosen, because the data are integer levels without dequantisation",
        )
    return Cutoff(None, "none: the data have a density")


def default_cutoff(data: PreparedData, reason: str) -> Cutoff:
    """A hundredth of the data's standard deviation."""
    spread = float(np.sqrt(np.mean(np.var(data.train, axis=0))))
    return Cutoff(_SHARE * spread, reason)


def report_times(
    process: AbstractGaussianProcess, data: PreparedData, cutoff: Cutoff
) -> np.ndarray:
    """Increasing times from the data end (or the cut-off) to the noise end.

    They are uniform in log-SNR where the entropy lies, with the exact ends added.
    """
    centre = -float(np.log(np.mean(np.var(data.train, axis=0))))
    levels = jnp.linspace(centre + _TOWARDS_DATA, centre - _TOWARDS_NOISE, _COUNT)
    start = process.t0
    if cutoff.value is not None:
        first = log_snr_of_std(process, jnp.asarray(cutoff.value, process.t0.dtype))
        start = process.time_of_log_snr(first)
    times = np.asarray(process.time_of_log_snr(levels))
    inside = times[(times > float(start)) & (times < float(process.t1))]
    return np.unique(np.concatenate([[start], inside, [process.t1]]).astype(times.dtype))


def time_per_log_snr(curve: EntropyCurve) -> np.ndarray:
    """Time passed per unit of log-SNR around each time; 0 where an end is infinitely far."""

    def around(x: np.ndarray) -> np.ndarray:
        padded = np.concatenate([x[:1], x, x[-1:]])
        return padded[2:] - padded[:-2]

    log_snr = np.asarray(curve.log_snr, np.float64)
    with np.errstate(invalid="ignore"):  # inf - inf at an exact end
        ratio = around(np.asarray(curve.times, np.float64)) / -around(log_snr)
    return np.where(np.isfinite(ratio), ratio, 0.0)
