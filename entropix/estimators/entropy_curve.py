"""How an integral accumulates along a process, with errors."""

from typing import TYPE_CHECKING

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, as_float
from entropix._core.checks import is_concrete
from entropix._core.compiled import lightly_compiled
from entropix._core.display import axes_or_new, axis, draw_band, label, lines_of
from entropix.estimators.proposal import Proposal
from entropix.interfaces import AbstractResult, Estimate


if TYPE_CHECKING:
    from matplotlib.axes import Axes


class EntropyCurve(AbstractResult):
    """How an integral, such as a model's entropy, accumulates along the process, in nats.

    Attributes:
        times: shape (K,), increasing.
        log_snr: of those times; infinite at exact ends.
        rate: entropy per unit time around each of them.
        rate_stderr: its standard error (Monte Carlo).
        cumulative: entropy between the data end (or the cut-off) and each time; between each time
            and the noise end if `integrate` was called with `from_noise`.
        stderr: standard error of `cumulative`, for the population. What lies beyond the range of a
            model is in the error of `total` alone, which has the bound on it.
        mc_stderr: the same for the given points.
        total: the whole integral.
        proposal: where the evaluations were placed; pass it on to use it again.
    """

    times: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "time"))
    log_snr: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "1"))
    rate: Float[Array, "*seeds k"] = eqx.field(metadata=label("time", "nats per unit time"))
    rate_stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time", "nats per unit time"))
    cumulative: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    mc_stderr: Float[Array, "*seeds k"] = eqx.field(metadata=label("time"))
    total: Estimate = eqx.field(metadata=label())
    proposal: Proposal

    def rates_along(self, coordinate: DataLike) -> tuple[Array, Array]:
        """Mean rates over the intervals that meet at each time, and their standard errors.

        They are per unit of a coordinate that increases along the curve, given at its times, such
        as `-curve.log_snr`. For several curves at once use `jax.vmap`.

        Raises:
            ValueError: if the coordinate is not given at each time, or decreases.
        """
        coordinate = as_float(coordinate, "coordinate")
        if coordinate.ndim != 1 or coordinate.shape != self.times.shape:
            raise ValueError(
                "`coordinate` must have the shape (K,) of the times of one curve, got "
                f"{coordinate.shape} for {self.times.shape}."
            )
        if is_concrete(coordinate):
            host = np.asarray(coordinate)
            size = np.max(np.abs(host[np.isfinite(host)]), initial=0.0)
            if not np.all(host[1:] >= host[:-1] - 8 * np.finfo(host.dtype).eps * size):
                raise ValueError(
                    "`coordinate` must increase along the curve, from data to noise, got one that "
                    f"changes from {host[0]:.4g} to {host[-1]:.4g} and decreases on the way."
                )
        return _rates_of(self, coordinate)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw `cumulative` against log-SNR, from data to noise, or against time without one."""
        ax = axes_or_new(ax)
        curves = (self.times, self.log_snr, self.cumulative, self.stderr)
        for times, log_snr, value, error in zip(*map(lines_of, curves), strict=True):
            inside = np.isfinite(log_snr)
            x = log_snr if inside.sum() > 1 else times
            inside = inside if inside.sum() > 1 else np.isfinite(times)
            draw_band(ax, x[inside], value[inside], error[inside])
            if x is log_snr:
                # As far as the entropy grows: the log-SNR itself goes to infinity.
                grown = np.abs(value - value[0]), np.abs(value[-1] - value)
                seen = x[inside & (np.minimum(*grown) > 1e-3 * np.abs(value[-1] - value[0]))]
                if seen.size > 1 and not ax.xaxis_inverted():
                    ax.set_xlim(seen.max() + 1, seen.min() - 1)
                ax.set_xlabel("log-SNR  (data → noise)")
            else:
                ax.set_xlabel("time")
        ax.set_ylabel("entropy from the data end [nats]")
        return ax


@lightly_compiled
def rates_along(times: Array, cumulative: Array, variance: Array) -> tuple[Array, Array]:
    """Mean rates over the intervals that meet at each time, and their standard errors.

    `times` may be any increasing coordinate. The errors are those of sums of independent parts,
    whose variances add up along it; for an `EntropyCurve` see its method `rates_along`.
    """
    rate = per_length(around(jnp.diff(cumulative)), times)
    spread = around(jnp.maximum(jnp.diff(variance), 0.0))
    return rate, per_length(jnp.sqrt(spread), times)


@lightly_compiled
def _rates_of(curve: EntropyCurve, coordinate: Array) -> tuple[Array, Array]:
    """See `EntropyCurve.rates_along`."""
    rate = per_length(around(jnp.diff(curve.cumulative)), coordinate)
    return rate, per_length(curve.rate_stderr * around(jnp.diff(curve.times)), coordinate)


def around(x: Array) -> Array:
    """Sums over the intervals that meet at each point, from those of the intervals (first axis)."""
    padded = jnp.pad(x, [(1, 1)] + [(0, 0)] * (x.ndim - 1))
    return padded[:-1] + padded[1:]


def per_length(values: Array, coordinate: Array) -> Array:
    """Sums over the intervals that meet at each point, per unit of their length; zero without."""
    length = around(jnp.diff(coordinate))
    return jnp.where(length > 0, values / jnp.where(length > 0, length, 1.0), 0.0)
