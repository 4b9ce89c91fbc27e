r"""What a Wasserstein distance of samples amounts to where there is none of populations.

Two samples of one population lie at a distance that is not zero: about $n^{-1/2}$ on a line,
$n^{-1/D}$ in D > 4 dimensions. A distance of two samples means something only in comparison with
that of two samples of one population, of the same sizes.
"""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, as_float
from entropix._core.checks import positive_integer, prng_key
from entropix._core.formatting import format_with_error
from entropix._core.precision import full_precision
from entropix.transport.points import as_clouds
from entropix.transport.wasserstein import Wasserstein, wasserstein


class WassersteinNull(eqx.Module):
    """Distances between samples of one population.

    Attributes:
        values: one for each random split, shape (num_splits,).
        num_samples: points on each side.
        method: how they were computed, see `Wasserstein`.
        p: the order.

    `float(null)` is their mean.
    """

    values: Float[Array, "*seeds splits"]
    num_samples: int = eqx.field(static=True)
    method: str = eqx.field(static=True)
    p: float = eqx.field(static=True)

    @property
    def value(self) -> Float[Array, "*seeds"]:
        """The mean distance: what sampling alone makes of a distance of zero."""
        return jnp.mean(self.values, axis=-1)

    @property
    def scatter(self) -> Float[Array, "*seeds"]:
        """The standard deviation of one such distance."""
        return jnp.std(self.values, axis=-1, ddof=1)

    def p_value(self, distance: Wasserstein | Array | float) -> Array:
        """Chance of a distance as large as the given one; at least 1 / (num_splits + 1).

        That of a permutation test where the null was taken of both samples, concatenated.
        """
        given = (
            distance.value if isinstance(distance, Wasserstein) else as_float(distance, "distance")
        )
        above = jnp.sum(self.values >= given[..., None], axis=-1)
        return (above + 1) / (self.values.shape[-1] + 1)

    def __float__(self) -> float:
        return float(self.value)

    def __str__(self) -> str:
        size = f"{self.method}, n = {self.num_samples}, {self.values.shape[-1]} splits"
        if isinstance(self.values, jax.core.Tracer) or self.values.ndim > 1:
            return f"W{self.p:g} null = {self.value} ± {self.scatter} ({size})"
        value = format_with_error(float(self.value), float(self.scatter))
        return f"W{self.p:g} null = {value} ({size})"


@full_precision
def wasserstein_null(
    x: Any,
    p: float | int = 2,
    *,
    key: Key,
    num_samples: int | None = None,
    num_splits: int = 16,
    **options: Any,
) -> WassersteinNull:
    r"""$W_p$ between two disjoint random parts of one sample, for comparison with $W_p(x, y)$.

    Of one population, it says how much of a distance between samples of `num_samples` points each
    is due to their number. Of two samples together, `wasserstein_null(concatenate([x, y]))`, it is
    the null distribution of a permutation test of their being of one population.

    Args:
        x: samples, shape (N, *shape), or (N,) for numbers.
        p: order of the distance.
        key: PRNG key.
        num_samples: points on each side, at most half of all; None for half of all.
        num_splits: random splits. They share points, so that their mean is known less well than
            their number suggests; each is as a distance of fresh samples would be.
        options: passed to `wasserstein`.

    Returns:
        A `WassersteinNull`.

    Raises:
        ValueError: if an argument is malformed, or `num_samples` more than half of the points.
    """
    x, _ = as_clouds(x, x)
    prng_key(key)
    half = x.shape[0] // 2
    size = half if num_samples is None else positive_integer(num_samples, "num_samples")
    positive_integer(num_splits, "num_splits", 2)
    if not 1 <= size <= half:
        raise ValueError(
            f"`num_samples` must be at most half of the {x.shape[0]} samples of `x`, got {size}."
        )
    distances = []
    for split in jax.random.split(key, num_splits):
        parts = x[jax.random.permutation(split, x.shape[0])]
        distances.append(wasserstein(parts[:size], parts[size : 2 * size], p, **options))
    values = jnp.stack([distance.value for distance in distances])
    return WassersteinNull(values, size, distances[0].method, distances[0].p)
