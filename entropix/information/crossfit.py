r"""Cross-fitting: every sample is measured once, with a network that has not seen it.

The samples are divided into folds. For each fold a network is trained on the others, a tenth of
which is used only for early stopping, and the fold is measured: a difference of two fields on
diffused states $y_s = \mu x + \Sigma z$ of a process with $\mu^2 + \Sigma^2 = 1$. A field is that
of a Gaussian, $g$, plus that of a network, $r$ (`networks.GaussianPlusResidual`). In both forms of
the integral (see `entropix.information.forms`) the Gaussian part is exact,

$$\int\frac{\sigma^2}{2}E_z\left[\left\|s_N + \tfrac{z}{\Sigma}\right\|^2
  - \left\|s_g + \tfrac{z}{\Sigma}\right\|^2\right]ds = \log\frac{N(x|c)}{N(x)},$$

and only what the network adds is sampled: nothing, for Gaussian variables.
"""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key, as_float
from entropix._core.checks import positive_integer
from entropix._core.chunks import map_in_chunks
from entropix._core.compiled import compiled
from entropix._core.precision import full_precision
from entropix.information.canonical import CanonicalCoordinates
from entropix.models import EntropyMatching
from entropix.networks import (
    ConditionDropout,
    GaussianPlusResidual,
    ResidualMLP,
)
from entropix.processes import CosinePath
from entropix.training import Callback, Denoising, LogisticTimes, fit


# Noise levels are drawn from this logistic density (location and scale in log-SNR), in training and
# in measuring. It is centred above the log-SNR of equal signal and noise: the two fields differ
# most where the noise is about as wide as a conditional density, which is narrower than the data.
_LEVELS = (1.0, 2.0)
# The fraction of conditions that are left out, where the network must know both fields, and a
# fraction that counts as none.
_DROPPED, _NEVER = 0.2, 1e-3
# Samples for each product of two coordinates, with which all are learnt equally fast.
_SAMPLES_PER_PRODUCT = 1000
# How often in a run the gain of the network is evaluated, and the share of the largest gain that
# it keeps.
_EVALUATIONS, _SHARE = 20, 0.5
_CHUNK = 2048
# The largest correlation that a Gaussian part may have.
LARGEST = 1 - 8 * float(np.finfo(np.float32).eps)


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How the `estimate_*` functions train and measure.

    Args:
        folds: the number of parts into which the samples are divided, and of networks.
        steps: the largest number of gradient steps of each network.
        patience: training ends after this number of steps in which the network lowered the error of
            the stopping samples by less than half of what it had reached; None: a quarter of
            `steps`. With labels: in which their loss had no new minimum; None: not before the end.
        batch_size: samples per step, at most all training samples.
        num_draws: pairs of a noise level and a noise for each sample in a step.
        learning_rate: its peak; it follows a cosine.
        width: of the hidden state of `networks.ResidualMLP`.
        depth: its residual blocks.
        num_levels: pairs of evaluations of each field with which a sample is measured.

    Raises:
        ValueError: if an argument is not allowed.
    """

    folds: int = 3
    steps: int = 4000
    patience: int | None = None
    batch_size: int = 256
    num_draws: int = 2
    learning_rate: float = 4e-3
    width: int = 64
    depth: int = 3
    num_levels: int = 8

    def __post_init__(self):
        positive_integer(self.folds, "folds", 2)
        positive_integer(self.num_draws, "num_draws", 1)
        if self.patience is not None:
            positive_integer(self.patience, "patience")
        for name in ("steps", "batch_size", "width", "depth", "num_levels"):
            positive_integer(getattr(self, name), name)
        # No array is made at import, where the default is.
        if not 0 < self.learning_rate < np.inf:
            raise ValueError(
                f"`learning_rate` must be positive and finite, got {self.learning_rate}."
            )


class Fold(NamedTuple):
    """One fold, before a network is trained for it.

    Attributes:
        x: all samples in white coordinates of the training rows, shape (N, d).
        condition: what x is conditioned on, in coordinates paired with those of x, or None.
        contrast: the condition of the second field; None: no condition.
        correlations: of x and condition, shape (d,).
        train: rows to learn from.
        stop: rows for early stopping.
        test: rows to measure.
    """

    x: Float[Array, "n d"]
    condition: Float[Array, "n c"] | None
    contrast: Float[Array, "n c"] | None
    correlations: Float[Array, " d"]
    train: np.ndarray
    stop: np.ndarray
    test: np.ndarray


class Measured(NamedTuple):
    """What cross-fitting has measured.

    Attributes:
        denoising: the denoising form of each sample, shape (N,); NaN for rows of no fold.
        score: the score form of each sample.
        gaussian: the log ratio of the Gaussians alone, of each sample.
        fitted: the mean denoising form on the training samples of its fold; the Gaussian part,
            which hardly overfits, is that of the samples measured.
        fold: in which fold each sample was measured, -1 for none.
        falling: whether the loss of a fold's stopping samples was still falling at the end.
        late: by how much it fell in the second half of the training of a fold, in nats.
    """

    denoising: np.ndarray
    score: np.ndarray
    gaussian: np.ndarray
    fitted: np.ndarray
    fold: np.ndarray
    falling: np.ndarray
    late: np.ndarray

    def plus(self, known: np.ndarray) -> "Measured":
        """With a known number added to each sample."""
        return self._replace(
            denoising=self.denoising + known,
            score=self.score + known,
            gaussian=self.gaussian + known,
            fitted=self.fitted + known,
        )

    def minus(self, other: "Measured") -> "Measured":
        """The difference of two quantities of the same samples and folds."""
        return Measured(
            self.denoising - other.denoising,
            self.score - other.score,
            self.gaussian - other.gaussian,
            self.fitted - other.fitted,
            self.fold,
            self.falling | other.falling,
            self.late + other.late,
        )

    def negative(self) -> "Measured":
        """The opposite of all."""
        flipped = (-self.denoising, -self.score, -self.gaussian, -self.fitted)
        return Measured(*flipped, self.fold, self.falling, self.late)

    def first(self, count: int) -> "Measured":
        """Of the first samples alone."""
        denoising, score, gaussian, fitted, fold, falling, late = self
        parts = (denoising[:count], score[:count], gaussian[:count], fitted[:count])
        return Measured(*parts, fold[:count], falling, late)


def split(count: int, folds: int, key: Key) -> list[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Rows for training, early stopping and measuring of each fold; equal sizes where possible.

    Every row is measured once. All folds have equally many training rows, so that one compiled
    program serves all.

    Raises:
        ValueError: if there are too few samples.
    """
    if count < 4 * folds:
        raise ValueError(
            f"`x` must hold at least {4 * folds} samples for {folds} folds, got {count}."
        )
    order = np.asarray(jax.random.permutation(key, count))
    parts = np.array_split(order, folds)
    used = count - len(parts[0])
    stopping = max(1, used // 10)
    found = []
    for i, test in enumerate(parts):
        rest = np.concatenate([part for j, part in enumerate(parts) if j != i])[:used]
        found.append((rest[stopping:], rest[:stopping], test))
    return found


def cross_fit(folds: list[Fold], recipe: Recipe, *, marginal: bool, key: Key) -> Measured:
    """Train one network for each fold, and measure every sample once.

    Args:
        folds: see `Fold`.
        recipe: see `Recipe`.
        marginal: whether the second field is learnt as well; otherwise it is that of `contrast`, or
            zero, the field of a standard normal density.
        key: PRNG key.
    """
    count = folds[0].x.shape[0]
    denoising, score, gaussian, fitted = (np.full(count, np.nan) for _ in range(4))
    index = np.full(count, -1)
    falling, late = [], []
    for i, fold in enumerate(folds):
        keys = jax.random.split(jax.random.fold_in(key, i), 5)
        init_key, fit_key, stop_key, test_key, train_key = keys
        network = make_network(fold, recipe, marginal, init_key)
        condition = fold.condition
        course = _Course(fold, recipe, marginal, stop_key)
        fit(
            EntropyMatching(network, CosinePath()),
            fold.x[fold.train],
            condition=None if condition is None else condition[fold.train],
            key=fit_key,
            steps=recipe.steps,
            batch_size=min(recipe.batch_size, len(fold.train)),
            loss=Denoising(recipe.num_draws, weighting="likelihood", times=LogisticTimes(*_LEVELS)),
            learning_rate=recipe.learning_rate,
            callback=Callback(course, every=max(1, recipe.steps // _EVALUATIONS)),
        )
        best = network if course.kept is None else course.kept
        test, train = fold.test, fold.train[: len(fold.test)]
        found = measure(best, fold, test, marginal, recipe.num_levels, test_key)
        denoising[test], score[test], gaussian[test] = found
        index[test] = i
        seen = measure(best, fold, train, marginal, recipe.num_levels, train_key)
        fitted[test] = np.mean(seen[0] - seen[2]) + np.mean(found[2])
        falling.append(course.rising)
        late.append(course.late)
    found = (denoising, score, gaussian, fitted, index)
    return Measured(*found, np.array(falling), np.array(late))


class _Course:
    """The parameters that a training run keeps, a callback of `fit`.

    The gain of the network is the fall of the denoising error of the stopping samples, in nats. It
    is largest where the structure that is still learnt and the noise that is fitted balance; the
    mean of both forms, in which fitted noise cancels, comes closer to the truth after that. Kept
    are the last parameters whose gain was positive and at least `_SHARE` of the largest.

    Attributes:
        kept: the network, None if it never lowered the error.
        gains: its gains so far.
    """

    def __init__(self, fold: Fold, recipe: Recipe, marginal: bool, key: Key):
        self.measure = lambda network: measure(
            network, fold, fold.stop, marginal, recipe.num_levels, key
        )
        self.steps = recipe.steps
        self.patience = recipe.patience or max(1, recipe.steps // 4)
        self.kept: Callable | None = None
        self.kept_step, self.kept_gain = 0, 0.0
        self.gains: list[float] = []
        self.error = 0.0

    def __call__(self, step: int, metrics: dict[str, Any], model: Callable) -> bool:
        network = model().network
        denoising, _, gaussian = self.measure(network)
        gain = denoising - gaussian
        self.gains.append(float(gain.mean()))
        self.error = float(gain.std() / np.sqrt(len(gain)))
        if self.gains[-1] > 0 and self.gains[-1] >= _SHARE * max(self.gains):
            self.kept, self.kept_step, self.kept_gain = network, step, self.gains[-1]
        return step - self.kept_step >= self.patience

    @property
    def late(self) -> float:
        """By how much the gain of the network that was kept rose in the second half of the run."""
        if self.kept is None:
            return 0.0
        half = len(self.gains) // 2
        return max(self.kept_gain - max(self.gains[:half], default=0.0), 0.0)

    @property
    def rising(self) -> bool:
        """Whether the gain was still rising when all steps had been taken."""
        last, before = self.gains[-1], self.gains[: -max(1, len(self.gains) // 10)]
        clear = self.kept_step == self.steps and last > 2 * self.error
        return clear and last > 1.01 * max(before, default=0.0)


def make_network(fold: Fold, recipe: Recipe, marginal: bool, key: Key) -> Callable:
    """An untrained network for the fields of a fold."""
    dim = fold.x.shape[1]
    size = None if fold.condition is None else fold.condition.shape[1]
    scale, condition_scale = _scales(fold)
    inner = ResidualMLP(
        dim,
        condition_dim=None if size is None else size + 1,
        width=recipe.width,
        depth=recipe.depth,
        scale=scale,
        condition_scale=condition_scale,
        key=key,
    )
    network = GaussianPlusResidual(inner, fold.correlations)
    if size is None:
        return network
    return ConditionDropout(network, size, rate=_DROPPED if marginal else _NEVER)


def _scales(fold: Fold) -> tuple[Array, Array | None]:
    """The scales of the coordinates and of the condition, with its flag, in a network.

    With N samples, products of all $d_x d_y$ pairs of coordinates cannot be learnt where N is not
    much larger: coordinates with a larger canonical correlation come first, and the others only as
    fast as N allows.
    """
    rho = jnp.abs(fold.correlations)
    if fold.condition is None:
        return jnp.ones_like(rho), None
    d, c = rho.shape[0], fold.condition.shape[1]
    least = min(1.0, np.sqrt(len(fold.train) / (_SAMPLES_PER_PRODUCT * d * c)))
    of_condition = jnp.pad(rho, (0, max(c - d, 0)))[:c]
    largest = jnp.maximum(jnp.max(rho), least)
    scales = [jnp.maximum(v, least) / largest for v in (rho, of_condition)]
    return scales[0], jnp.append(scales[1], 1.0)


@full_precision
def measure(
    network: Callable, fold: Fold, rows: np.ndarray, marginal: bool, levels: int, key: Key
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Denoising form, score form, and the Gaussian log ratio, of each of the rows."""
    x = fold.x[rows]
    condition = None if fold.condition is None else fold.condition[rows]
    contrast = None if fold.contrast is None else fold.contrast[rows]
    pairs = (condition, contrast)
    learnt = _residuals(network, fold.correlations, x, pairs, marginal, levels, key)
    log_ratio, squared = _gaussian_forms(fold.correlations, x, pairs)
    return (
        np.asarray(log_ratio + learnt[:, 0], float),
        np.asarray(squared + learnt[:, 1], float),
        np.asarray(log_ratio, float),
    )


def _zero(log_snr: Array, y: Array, condition: Array | None) -> Array:
    """A network that adds nothing."""
    return jnp.zeros_like(y)


@compiled
def _residuals(
    network: Callable,
    correlations: Float[Array, " d"],
    x: Float[Array, "n d"],
    pairs: tuple[Float[Array, "n c"] | None, Float[Array, "n c"] | None],
    marginal: bool,
    levels: int,
    key: Key,
) -> Float[Array, "n 2"]:
    """What the network adds to the denoising and to the score form of each sample."""
    process, times = CosinePath(), LogisticTimes(*_LEVELS)
    gaussian = GaussianPlusResidual(_zero, correlations)

    def field(log_snr: Array, y: Array, condition: Array | None) -> tuple[Array, Array]:
        """The Gaussian part, and the whole."""
        whole = network(log_snr, y, condition)
        if condition is None:
            return jnp.zeros_like(y), whole
        return gaussian(log_snr, y, jnp.append(condition, 1.0)), whole

    def one(x: Array, pair: tuple[Array | None, Array | None], key: Key) -> Array:
        # Equidistant quantiles with one random shift: a stratified sample of noise levels.
        shift_key, noise_key = jax.random.split(key)
        shift = jax.random.uniform(shift_key, (), x.dtype)
        u = jnp.clip((jnp.arange(levels) + shift) / levels, 1e-6, 1 - 1e-6)
        noise = jax.random.normal(noise_key, (levels, x.shape[0]), x.dtype)

        def at(u: Array, z: Array) -> Array:
            s, density = times(process, u)
            log_snr, scale, std = process.log_snr(s), process.scale(s), process.std(s)
            y = scale * x + std * z
            rest = scale * (scale * z - std * x)  # of z, what a standard normal x leaves unknown

            def added(gaussian: Array, whole: Array) -> Array:
                """The gain of the denoising error over that of the Gaussian."""
                more = std * (whole - gaussian)
                return -jnp.sum(more * (more + 2 * (std * gaussian + rest)))

            first, second = pair
            of_first = field(log_snr, y, first)
            if second is None and not marginal:
                of_second = (jnp.zeros_like(y), jnp.zeros_like(y))
            else:
                of_second = field(log_snr, y, second)
            known = std * (of_first[0] - of_second[0])
            more = std * (of_first[1] - of_second[1]) - known
            parts = [added(*of_first) - added(*of_second), jnp.sum(more * (more + 2 * known))]
            return jnp.stack(parts) / (2 * density)

        return jnp.mean(jax.vmap(lambda u, z: at(u, z) + at(u, -z))(u, noise), axis=0) / 2

    keys = jax.random.split(key, x.shape[0])
    return map_in_chunks(lambda args: one(*args), (x, pairs, keys), max(1, _CHUNK // levels))


@eqx.filter_jit
def _gaussian_forms(
    correlations: Float[Array, " d"],
    x: Float[Array, "n d"],
    pairs: tuple[Float[Array, "n c"] | None, Float[Array, "n c"] | None],
) -> tuple[Float[Array, " n"], Float[Array, " n"]]:
    r"""The log ratio of the two Gaussians at each sample, and its score form.

    The squared difference of the linear fields has a mean over z in closed form; that over noise
    levels is a trapezoidal sum, with an error far below rounding: the integrand is analytic and
    vanishes exponentially at both ends.
    """
    first, second = pairs
    if first is None:
        return jnp.zeros(x.shape[0], x.dtype), jnp.zeros(x.shape[0], x.dtype)
    d = x.shape[1]

    def paired(c: Array) -> Array:
        return c[:, :d] if c.shape[1] >= d else jnp.pad(c, ((0, 0), (0, d - c.shape[1])))

    a = paired(first)
    b = jnp.zeros_like(a) if second is None else paired(second)
    other = jnp.zeros_like(correlations) if second is None else correlations

    def unknown(rho: Array) -> Array:
        return (1 - rho) * (1 + rho)

    def log_density(rho: Array, c: Array) -> Array:
        var = unknown(rho)
        return -0.5 * jnp.sum(jnp.log(var) + (x - rho * c) ** 2 / var, axis=1)

    log_ratio = log_density(correlations, a) - log_density(other, b)
    log_snr = jnp.linspace(-40.0, 40.0, 801, dtype=x.dtype)[:, None]
    signal, noise = jax.nn.sigmoid(log_snr), jax.nn.sigmoid(-log_snr)
    # The difference of the fields is (mu/Sigma) times Sigma (rho (a - b) - mu k rho^2 y) / (...),
    # with k = 1 where the second field has no condition.
    k = 1.0 if second is None else 0.0
    step = log_snr[1, 0] - log_snr[0, 0]
    weight = step * signal / 2 * noise / (noise + signal * unknown(correlations)) ** 2

    def total(values: Array) -> Array:
        return jnp.sum(weight * values, axis=0)

    shift = correlations * (a - b)
    slope = k * correlations**2
    squared = (
        total(jnp.ones_like(signal)) * shift**2
        - 2 * total(signal) * slope * shift * x
        + total(signal**2) * slope**2 * x**2
        + total(signal * noise) * slope**2
    )
    return log_ratio, jnp.sum(squared, axis=1)


def canonical_folds(
    x: np.ndarray,
    y: np.ndarray,
    rows: list[tuple[np.ndarray, np.ndarray, np.ndarray]],
    contrast: np.ndarray | None = None,
) -> list[Fold]:
    """The folds of a pair, each in the canonical coordinates of its training rows."""
    folds = []
    for train, stop, test in rows:
        canonical = CanonicalCoordinates.from_samples(x[train], y[train])
        # On the host in float64: narrow directions are differences of large numbers.
        maps = (canonical.mean_x, canonical.map_x, canonical.mean_y, canonical.map_y)
        mean_x, map_x, mean_y, map_y = (np.asarray(part, np.float64) for part in maps)
        second = None if contrast is None else as_float((contrast - mean_y) @ map_y)
        first, condition = as_float((x - mean_x) @ map_x), as_float((y - mean_y) @ map_y)
        rho = jnp.minimum(canonical.correlations, LARGEST)
        own = (first, condition, second, rho)
        folds.append(Fold(*own, train, stop, test))
    return folds
