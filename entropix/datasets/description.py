r"""Obstacles to a measurement: atoms, repeated rows, linear dependence, heavy tails.

Where some values have a positive probability, or the data lie in a subspace, there is no density:
entropies grow without bound as the noise becomes small, and depend on the cut-off.

| finding | criterion |
|---|---|
| few values | a column has at most half as many different values as samples, or one value at least ten times, and ten times as often as the others on average |
| repeated rows | rows that are equal to an earlier one |
| dependence | the standardised covariance has eigenvalues that are explained by rounding to the working precision |
| heavy tails | the tail index is finite, significantly at the level 1% for all columns together |

The tail index $\alpha$ of $P(|x - m| > r) \sim r^{-\alpha}$, m the median, is $1/\gamma$ with the moment
estimator of $\gamma$ from the k largest distances, which is not positive for light tails. With the
mean $M_1$ and the mean square $M_2$ of $\log(r_i/r_{k+1})$,

$$\hat\gamma = M_1 + 1 - \tfrac12 (1 - M_1^2/M_2)^{-1}, \qquad
\text{stderr}(\hat\gamma) = \sqrt{(1 + \gamma^2)/k} .$$

Moments of order $\alpha$ and above are infinite.
"""  # noqa: E501

import dataclasses
import math
import shlex
from collections.abc import Callable

import numpy as np

from entropix._core.arrays import DataLike
from entropix._core.formatting import listed
from entropix.datasets.dataset import Dataset


_ATOM = 10  # occurrences, and times the mean occurrence of the other values
_MIN_TAIL = 30  # different values from which a tail index is estimated
_LEVEL = 0.01
_MOST_COLUMNS = 1024  # of a covariance whose rank is determined
_SHOWN = 4
_CLASSES = 10  # of a column that may be a label


@dataclasses.dataclass(frozen=True, eq=False)
class Description:
    """What `describe` found; printed as sentences.

    Attributes:
        num_samples: N.
        columns: D names.
        distinct: shape (D,), the number of different values of each column.
        largest: shape (D,), how often the most frequent value of each column occurs.
        discrete: shape (D,), whether a column has atoms, by the criteria above.
        steps: shape (D,), the distance of neighbouring levels where all values of a column lie on
            equidistant ones, otherwise 0: 1 for integers, 0.1 for numbers with one decimal.
        repeated: the number of rows that are equal to an earlier one.
        rank: of the standardised covariance, D if the data vary in every direction; None if it was
            not determined, for N <= D or D > 1024.
        tail_index: shape (D,), infinite where no heavy tail was found.
        tail_index_stderr: shape (D,), 0 where the index is infinite.
    """

    num_samples: int
    columns: tuple[str, ...]
    distinct: np.ndarray
    largest: np.ndarray
    discrete: np.ndarray
    steps: np.ndarray
    repeated: int
    rank: int | None
    tail_index: np.ndarray
    tail_index_stderr: np.ndarray

    @property
    def has_density(self) -> bool:
        """Whether no atoms, no dependence, and at most 1% of repeated rows were found."""
        return not self.obstacle

    @property
    def obstacle(self) -> str:
        """What rules out a density, in a few words; empty if nothing does."""
        found = []
        if which := self._recurring:
            found.append(f"values of {listed([self.columns[i] for i in which], _SHOWN)} recur")
        if self.repeated > 0.01 * self.num_samples:
            found.append(f"{self.repeated} rows repeat others")
        if self.rank is not None and self.rank < len(self.columns):
            found.append(f"{len(self.columns)} columns lie in {self.rank} dimensions")
        return ", and ".join(found)

    @property
    def sentences(self) -> tuple[str, ...]:
        """The findings, one sentence each, with the options of the command line that help."""
        found = []
        if self.discrete.any():
            which = self._recurring
            found.append(
                f"no density, because values recur: {self._listed(which, self._values)}. "
                f"{self._remedies(which)}"
            )
        if self.repeated:
            verb = "is equal to an earlier one" if self.repeated == 1 else "are equal to others"
            found.append(
                f"{self.repeated} of the {self.num_samples} rows {verb}: where the copies are on "
                "both sides of the split, held-out results are those of training data. "
                "--drop-repeated leaves them out"
            )
        if self.rank is not None and self.rank < len(self.columns):
            extra = len(self.columns) - self.rank
            found.append(
                f"no density, because the {len(self.columns)} columns lie in {self.rank} "
                f"dimensions, up to rounding: {extra} of them are constant or depend linearly on "
                f"others. --drop leaves columns out, --components {self.rank} keeps what varies"
            )
        heavy = np.flatnonzero(np.isfinite(self.tail_index)).tolist()
        for order, said in ((2, _NO_VARIANCE), (4, _NO_FOURTH), (np.inf, _SLOW)):
            which = [i for i in heavy if self.tail_index[i] < order]
            heavy = [i for i in heavy if i not in which]
            if which:
                found.append(
                    f"heavy tails, of index {self._listed(which, self._tail)}: {said}. "
                    "--standardise ranks removes them"
                )
        return tuple(found)

    def __str__(self) -> str:
        head = f"{self.num_samples} samples of {len(self.columns)} columns"
        found = self.sentences or ("no atoms, dependence or heavy tails were found",)
        return "\n".join([head, *(f"  {sentence}" for sentence in found)])

    @property
    def _recurring(self) -> list[int]:
        """The discrete columns, those of fewest values first."""
        which = np.flatnonzero(self.discrete)
        return which[np.argsort(self.distinct[which], kind="stable")].tolist()

    def _listed(self, which: list[int], said: Callable[[int], str]) -> str:
        return listed([f"{self.columns[i]} ({said(i)})" for i in which], _SHOWN)

    def _values(self, i: int) -> str:
        if 2 * self.distinct[i] > self.num_samples:
            return f"one value {self.largest[i]} times"
        step = f" in steps of {self.steps[i]:.3g}" if self.steps[i] > 0 else ""
        return f"{self.distinct[i]} values{step}"

    def _tail(self, i: int) -> str:
        return f"{self.tail_index[i]:.2g} ± {self.tail_index_stderr[i]:.1g}"

    def _remedies(self, which: list[int]) -> str:
        remedies = []
        if (self.steps[which] > 0).any():
            remedies.append("--dequantise-columns adds noise one step wide")
        if self.distinct[which[0]] <= _CLASSES:
            name = self.columns[which[0]]
            name = str(which[0]) if name == _unnamed(which[0]) else name
            remedies.append(
                f"measure --condition {shlex.quote(name)} uses that column as the label"
            )
        return ", ".join([*remedies, "--drop leaves columns out"])


_NO_VARIANCE = (
    "the variance is infinite if the tail continues, so that means over samples do not "
    "converge and standard errors are too small"
)
_NO_FOURTH = (
    "the fourth moment is infinite if the tail continues, so that standard errors of entropies "
    "and W2 are themselves uncertain and may be too small"
)
_SLOW = "errors shrink more slowly than stated, because a few samples dominate them"


def describe(data: Dataset | DataLike) -> Description:
    """Atoms, repeated rows, linear dependence and heavy tails of samples.

    Args:
        data: a data set, or an array of shape (N, D), in its own units.

    Raises:
        ValueError: as `Dataset.from_array`, for an array.

    References:
        Dekkers, Einmahl, de Haan, *A moment estimator for the index of an extreme-value
        distribution*, Ann. Statist. 17 (1989).

    Example:
        >>> import numpy as np
        >>> import entropix as ex
        >>> rng = np.random.default_rng(0)
        >>> found = ex.datasets.describe(np.stack([rng.normal(size=500), rng.integers(0, 3, 500)], 1))
        >>> found.discrete, found.steps, found.has_density
        (array([False,  True]), array([0., 1.]), False)
    """  # noqa: E501
    from scipy.special import ndtri  # slow to import

    if not isinstance(data, Dataset):
        data = Dataset.from_array(data, kind="points")
    points = data.points.astype(np.float64)
    n, dim = points.shape
    eps = float(np.finfo(data.points.dtype).eps)
    columns = data.columns or tuple(map(_unnamed, range(dim)))
    distinct, largest = np.zeros(dim, int), np.zeros(dim, int)
    steps, gamma, stderr = np.zeros(dim), np.zeros(dim), np.zeros(dim)
    level = float(ndtri(1 - _LEVEL / dim))
    for i, column in enumerate(points.T):
        values, counts = np.unique(column, return_counts=True)
        distinct[i], largest[i] = len(values), counts.max()
        steps[i] = _step(values, eps)
        if len(values) >= _MIN_TAIL:
            gamma[i], stderr[i] = _tail(column)
    others = (n - largest) / np.maximum(distinct - 1, 1)
    atom = (largest >= _ATOM) & (largest >= _ATOM * others)
    heavy = gamma > level * stderr
    discrete = (2 * distinct <= n) | atom
    index, index_stderr = np.full(dim, np.inf), np.zeros(dim)
    heavy &= ~discrete
    index[heavy] = 1 / gamma[heavy]
    index_stderr[heavy] = stderr[heavy] / gamma[heavy] ** 2
    return Description(
        num_samples=n,
        columns=columns,
        distinct=distinct,
        largest=largest,
        discrete=discrete & (distinct > 1),
        steps=steps,
        repeated=n - len(np.unique(data.points, axis=0)),
        rank=_rank(points) if n > dim and dim <= _MOST_COLUMNS else None,
        tail_index=index,
        tail_index_stderr=index_stderr,
    )


def _unnamed(index: int) -> str:
    """A column without a name, which options call by its number."""
    return f"column {index}"


def _step(values: np.ndarray, eps: float) -> float:
    """The distance of equidistant levels on which all values lie; 0 if there is none.

    The greatest common divisor of the gaps, by the algorithm of Euclid with a margin for rounding.
    """
    if len(values) < 2:
        return 0.0
    gaps, reach = np.diff(values), float(values[-1] - values[0])
    margin = 16 * eps * float(np.abs(values).max())
    step = float(gaps.min())
    # Finer levels are meaningless: any numbers lie on them.
    while step > max(8 * margin, 1e-6 * reach, reach / (100 * len(values))):
        counts = np.round(gaps / step)
        rest = np.abs(gaps - counts * step)
        if (rest <= margin + 1e-3 * step).all():
            return reach / float(counts.sum())
        step = float(rest[rest > margin + 1e-3 * step].min())
    return 0.0


def _tail(column: np.ndarray) -> tuple[float, float]:
    """Gamma and its standard error; (0, 0) where the largest distances are equal."""
    n = len(column)
    k = math.ceil(min(n / 10, n ** (2 / 3)))
    distance = np.abs(column - np.median(column))
    top = np.sort(distance)[n - k - 1 :]
    if top[0] <= 0 or top[-1] == top[0]:
        return 0.0, 0.0
    logs = np.log(top[1:] / top[0])
    first, second = float(logs.mean()), float((logs**2).mean())
    if first**2 >= second:
        return 0.0, 0.0
    gamma = first + 1 - 0.5 / (1 - first**2 / second)
    return gamma, math.sqrt((1 + max(gamma, 0.0) ** 2) / k)


def _rank(points: np.ndarray) -> int:
    """The number of directions whose variance exceeds rounding to the working precision."""
    import jax.numpy as jnp

    reach = np.abs(points).max(axis=0)
    points = points / np.where(reach > 0, reach, 1.0)  # squares neither overflow nor vanish
    mean, std = points.mean(axis=0), points.std(axis=0)
    varies = std > 0
    if not varies.any():
        return 0
    x = (points[:, varies] - mean[varies]) / std[varies]
    eigenvalues = np.linalg.eigvalsh(x.T @ x / len(x))
    eps = float(jnp.finfo(jnp.result_type(float)).eps)  # in which models are evaluated
    size = np.sqrt((points[:, varies] ** 2).mean(axis=0)) / std[varies]
    # Models see rounded numbers; and eigenvalues have an error of their own.
    rounding = (4 * eps * size.max()) ** 2
    own = 8 * len(eigenvalues) * np.finfo(np.float64).eps * eigenvalues.max()
    return int((eigenvalues > max(rounding, own)).sum())
