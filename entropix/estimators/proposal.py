"""Where an integral is evaluated: a density over the axis, learnt from a pilot pass."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.precision import matmul


BINS = 64
DEFENSIVE_SHARE = 0.1


class Proposal(eqx.Module):
    """A piecewise-constant density over fractions of the axis.

    Attributes:
        probability: of each of the equal bins, shape (bins,).
        keep: 1 in bins where the control variate is used, else 0.
    """

    probability: Float[Array, " bins"]
    keep: Float[Array, " bins"]

    def place(self, level: Array) -> tuple[Array, Array, Array]:
        """Fractions at levels of the distribution function, the density, and `keep` there."""
        dtype = self.probability.dtype
        # A product and a loop compile faster than a running sum and a search.
        cdf = matmul(self.probability, np.triu(np.ones((BINS, BINS + 1), dtype), 1))
        cdf = cdf / cdf[-1]
        index = jax.lax.fori_loop(
            1, BINS, lambda k, index: index + (level >= cdf[k]), jnp.zeros(level.shape, int)
        )
        table = jnp.stack([cdf[:-1], jnp.diff(cdf), self.keep], axis=1)
        below, mass, keep = jnp.moveaxis(table[index], -1, 0)
        fraction = (index + (level - below) / mass) / BINS
        # The open interval: rounding must not reach an exact end of the axis.
        fraction = jnp.clip(fraction, jnp.finfo(dtype).tiny, 1 - jnp.finfo(dtype).epsneg)
        return fraction, mass * BINS, keep


def learn_proposal(
    fraction: Array, values: Array, controlled: Array | None, rate: Array
) -> tuple[Proposal, Array]:
    """The proposal proportional to the root mean square of an integrand, from pilot values.

    A tenth of it is uniform, so that no part of the axis that the pilot missed weighs much.

    Args:
        fraction: where the values were taken.
        values: the integrand per unit of the axis.
        controlled: the same with the control variate subtracted, or None where there is none.
        rate: the integrand per unit of log-SNR.

    Returns:
        The proposal, and the largest mean absolute rate of a bin.
    """
    if controlled is None:
        controlled = jnp.full_like(values, jnp.inf)
    # One sum over the bins for all: each is a loop to compile.
    bins = jnp.clip((fraction * BINS).astype(int), 0, BINS - 1)
    columns = [jnp.ones_like(values), values**2, controlled**2, jnp.abs(rate)]
    columns = jax.lax.stop_gradient(jnp.stack(columns, axis=1))
    sums = jax.ops.segment_sum(columns, bins, BINS)
    peak = jnp.max(sums[:, 3] / jnp.maximum(sums[:, 0], 1.0))
    # Bins are smoothed: the mean square of one bin is uncertain, from its few evaluations.
    padded = jnp.pad(sums[:, :3], ((2, 2), (0, 0)))
    smooth = jnp.zeros_like(sums[:, :3])
    for i, weight in enumerate((1.0, 2.0, 3.0, 2.0, 1.0)):
        smooth = smooth + weight * padded[i : i + BINS]
    counts = jnp.maximum(smooth[:, 0], 1.0)
    without, with_control = smooth[:, 1] / counts, smooth[:, 2] / counts
    keep = (with_control < without).astype(without.dtype)
    rms = jnp.sqrt(jnp.minimum(without, with_control))
    total = jnp.sum(rms)
    share = jnp.where(total > 0, rms / jnp.where(total > 0, total, 1.0), 1 / BINS)
    return Proposal((1 - DEFENSIVE_SHARE) * share + DEFENSIVE_SHARE / BINS, keep), peak
