r"""Normal scores: each column by itself is mapped to a standard normal distribution.

With the empirical distribution function F of a column, at ties the mean of its two limits,

$$x_{std,i} = \Phi^{-1}(F_i(x_i)), \qquad
\log p(x) = \log p_{std}(x_{std}) + \sum_i \log \frac{dx_{std,i}}{dx_i} .$$

F is a step function. Some of its points, the knots, are therefore joined by a monotone
rational quadratic spline, which has a continuous slope and an inverse in closed form. About
sqrt(N) samples lie between two neighbouring knots, fewer in the tails. If every sample were a knot,
the slope would follow single gaps, and log densities of new samples would be too low by 0.42 nats
per column.

Beyond the outermost knots, the scores grow with the logarithm of the distance, so that their
squares have a mean for any data with a power law in the tails.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, as_float
from entropix._core.checks import finite, is_concrete
from entropix.datasets.standardisation import check_columns, host_points, moments


class NormalScores(eqx.Module):
    r"""The map of each column to normal scores: increasing, smooth, the same for all samples.

    With the knots $(x_k, z_k)$, the slopes $s_k$ of their chords, and
    $\xi = (x - x_k)/(x_{k+1} - x_k)$, the map between two knots is

    $$z = z_k + (z_{k+1} - z_k)\,
    \frac{\xi^2 + a\,\xi(1 - \xi)}{1 + (a + b - 2)\,\xi(1 - \xi)},$$

    where a and b are its slopes at both knots divided by $s_k$; the slope at a knot is the
    geometric mean of those of the neighbouring chords. Beyond the last knot $x_K$ it is
    $z = z_K + s\,w \log(1 + (x - x_K)/w)$, with the slope s at $x_K$ and half the range of
    the knots for w; below the first one likewise. All samples that share a value have the score of
    their mean rank.

    Args:
        values: the knots $x_k$, shape (D, K), K >= 2, increasing along the last axis.
        scores: their scores $z_k$, shape (D, K), increasing.

    Raises:
        ValueError: on a wrong shape, or entries that do not increase.

    References:
        Gregory, Delbourgo, *Piecewise rational quadratic interpolation to monotonic data*, IMA J.
        Numer. Anal. 2 (1982); Durkan et al., *Neural spline flows*, 1906.04032, section 3.1.

    Example:
        >>> import numpy as np
        >>> from entropix.datasets import NormalScores
        >>> heavy = np.random.default_rng(0).standard_cauchy((1000, 2))
        >>> scores = NormalScores.fit(heavy)
        >>> bool(abs(scores.forward(heavy).std() - 1) < 0.02)
        True
        >>> scores.log_jacobian(heavy).shape  # log p(x) = log p_std(x_std) + this
        (1000,)
    """

    values: Float[Array, "d k"]
    scores: Float[Array, "d k"]

    def __init__(self, values: DataLike, scores: DataLike):
        self.values = finite(values, "values")
        self.scores = finite(scores, "scores")
        shape = self.values.shape
        if len(shape) != 2 or shape[1] < 2 or self.scores.shape != shape:
            raise ValueError(
                "`values` and `scores` must both have shape (D, K) with K >= 2, "
                f"got {shape} and {self.scores.shape}."
            )
        for name in ("values", "scores"):
            table = getattr(self, name)
            if is_concrete(table) and not bool(jnp.all(table[:, 1:] > table[:, :-1])):
                raise ValueError(
                    f"`{name}` must increase along the last axis, got entries that do not."
                )

    @staticmethod
    def fit(points: DataLike) -> "NormalScores":
        """The normal scores of some points.

        Args:
            points: shape (N, D), concrete (this runs on the host).

        Raises:
            ValueError: as `Standardisation.per_feature`: on a column that is constant, or whose
                spread is lost in the working precision beside its mean.
        """
        points, dtype = host_points(points)
        check_columns(*moments(points), dtype)
        knots = [_knots(column.astype(dtype)) for column in points.T]
        count = max(len(values) for values, _ in knots)
        padded = [_padded(values, scores, count) for values, scores in knots]
        values, scores = (np.stack(part).astype(dtype) for part in zip(*padded, strict=True))
        return NormalScores(values, scores)

    @property
    def name(self) -> str:
        """Its name in records."""
        return "ranks"

    @property
    def dim(self) -> int:
        """The dimension D."""
        return self.values.shape[0]

    def forward(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch d"]:
        """To normal scores; any leading axes."""
        return self._map(self._checked(x))[0]

    def log_jacobian(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch"]:
        r"""$\log|\det \partial x_{std}/\partial x|$ at points in the units of the data.

        A log density in the units of the data is the standardised one plus this.
        """
        return jnp.sum(self._map(self._checked(x))[1], axis=-1)

    def inverse(self, x: Float[Array | np.ndarray, "*batch d"]) -> Float[Array, "*batch d"]:
        """From normal scores to the units of the data; any leading axes."""
        return self._inverse(self._checked(x))

    @eqx.filter_jit
    def _inverse(self, z: Array) -> Array:
        below, inside, above = _split(z, self.scores)
        k = _bins(self.scores, inside)
        x0, width, z0, height, a, b = self._pieces(k)
        # The smaller root of the quadratic equation for xi, in the form without cancellation.
        y = (inside - z0) / height
        p, q = 1 - a + y * (a + b - 2), a - y * (a + b - 2)
        xi = 2 * y / (q + jnp.sqrt(jnp.maximum(q * q + 4 * p * y, 0)))
        low, high, reach = self._tails()
        upper, lower = jnp.expm1(above / (high * reach)), jnp.expm1(below / (low * reach))
        return x0 + width * xi + reach * (upper - lower)

    @eqx.filter_jit
    def _map(self, x: Array) -> tuple[Array, Array]:
        """Scores and the logarithms of their slopes, both of shape (*batch, D)."""
        below, inside, above = _split(x, self.values)
        k = _bins(self.values, inside)
        x0, width, z0, height, a, b = self._pieces(k)
        xi = (inside - x0) / width
        both = xi * (1 - xi)
        bottom = 1 + (a + b - 2) * both
        z = z0 + height * (xi**2 + a * both) / bottom
        slope = jnp.log(height) - jnp.log(width) - 2 * jnp.log(bottom)
        slope += jnp.log(b * xi**2 + 2 * both + a * (1 - xi) ** 2)
        low, high, reach = self._tails()
        upper, lower = jnp.log1p(above / reach), jnp.log1p(below / reach)
        return z + reach * (high * upper - low * lower), slope - upper - lower

    def _pieces(self, k: Array) -> tuple[Array, ...]:
        """Of the pieces k, shape (*batch, D): start, width, score, height, a and b."""
        width, height = jnp.diff(self.values), jnp.diff(self.scores)
        # Half the differences of the logarithms of neighbouring slopes: 0 at both ends.
        step = jnp.diff(jnp.log(height) - jnp.log(width)) / 2
        a = jnp.exp(-jnp.pad(step, ((0, 0), (1, 0))))
        b = jnp.exp(jnp.pad(step, ((0, 0), (0, 1))))
        rows = jnp.arange(self.dim)
        tables = (self.values, width, self.scores, height, a, b)
        return tuple(table[rows, k] for table in tables)

    def _tails(self) -> tuple[Array, Array, Array]:
        """The slopes at the lower and the upper end, and the width w of the tails, shape (D,)."""
        slopes = jnp.diff(self.scores) / jnp.diff(self.values)
        return slopes[:, 0], slopes[:, -1], (self.values[:, -1] - self.values[:, 0]) / 2

    def _checked(self, x: DataLike) -> Array:
        x = as_float(x, "x")
        if x.ndim == 0 or x.shape[-1] != self.dim:
            raise ValueError(f"`x` must have shape (..., {self.dim}), got {x.shape}.")
        return x


def _split(x: Array, table: Array) -> tuple[Array, Array, Array]:
    """The distance below the first knot, the point clipped to the knots, that above the last."""
    low, high = table[:, 0], table[:, -1]
    return jnp.maximum(low - x, 0), jnp.clip(x, low, high), jnp.maximum(x - high, 0)


def _bins(table: Array, x: Array) -> Array:
    """Which piece each entry lies in, shape (*batch, D)."""
    find = jax.vmap(jnp.searchsorted, in_axes=(0, 1), out_axes=1)
    return find(table[:, 1:-1], x.reshape(-1, x.shape[-1])).reshape(x.shape)


def _knots(column: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Some values of a column, both ends among them, and their normal scores."""
    from scipy.special import ndtri  # slow to import

    values, counts = np.unique(column, return_counts=True)
    n = len(column)
    ranks = np.cumsum(counts) - counts / 2  # the samples below, half of the ties counted
    bulk = int(np.ceil(np.sqrt(n)))
    tail = 4 * 2 ** np.arange(max(1, int(np.log2(max(bulk / 4, 1)))))
    wanted = np.concatenate([tail, np.arange(bulk, n - bulk, bulk), n - tail])
    chosen = np.unique(
        np.clip(np.searchsorted(ranks, [0, *np.sort(wanted), n]), 0, len(values) - 1)
    )
    # Neighbours that the precision hardly tells apart make no slope.
    step = 64 * np.finfo(values.dtype).eps * np.abs(values)
    kept = [int(chosen[0])]
    for k in chosen[1:-1]:
        if min(values[k] - values[kept[-1]], values[-1] - values[k]) > step[k]:
            kept.append(int(k))
    kept.append(int(chosen[-1]))
    return values[kept].astype(np.float64), ndtri(ranks[kept] / n)


def _padded(values: np.ndarray, scores: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """More knots on the chords, one after the other in the middle of the widest piece."""
    while len(values) < count:
        k = int(np.argmax(np.diff(scores)))
        values, scores = (
            np.insert(part, k + 1, (part[k] + part[k + 1]) / 2) for part in (values, scores)
        )
    return values, scores
