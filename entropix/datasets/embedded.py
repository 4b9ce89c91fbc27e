r"""Data sets that need no file: real digits, the paper's mixtures, two-dimensional toys.

Most toys have an exact density before and after diffusion. Moons, circles and the spiral are curves
blurred by Gaussian noise of standard deviation s. Their densities are mixtures of equal Gaussians
placed along the curve at distances h of about s, and that mixture is the definition here, not an
approximation: samples, `log_prob` and entropies are exact. Away from the ends of a curve it differs
from noise around the curve itself by a ripple of relative size $2 e^{-2\pi^2 s^2/h^2}$, 6e-9 at
h = s.
"""

import functools
import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix._core.extras import needed
from entropix.datasets.dataset import Dataset
from entropix.datasets.sequences import TOPICS
from entropix.distributions import Gaussian, GaussianMixture


_NUM_SAMPLES = 8192
# The mixtures of the paper by dimension, in the layout of `entropix transport --mixtures`.
_MIXTURES = Path(__file__).with_name("mixtures.json")
_DIMENSIONS = (2, 3, 6)


def available() -> tuple[str, ...]:
    """Names of the embedded data sets, for `load`."""
    return ("digits", *_DISTRIBUTIONS, *_SAMPLERS, TOPICS)


def embedded(name: str, num_samples: int | None, key: Key | None) -> Dataset:
    """The embedded data set of numbers of this name, one of `available()`."""
    if name == "digits":
        return _digits()
    if key is None:
        raise ValueError(f"`key` must be a random key to draw {name!r}, got None.")
    n = _NUM_SAMPLES if num_samples is None else num_samples
    positive_integer(n, "num_samples", minimum=2)
    distribution, labels = None, None
    if name in _SAMPLERS:
        points = _SAMPLERS[name](n, key=key)
    else:
        distribution = _DISTRIBUTIONS[name]()
        points = distribution.sample(n, key=key)
        # The components of these mean something: they label the samples.
        labelled = name in ("mixture2", "mixture3", "eight-gaussians")
        if labelled and isinstance(distribution, GaussianMixture):
            labels = np.asarray(distribution.sample_labelled(n, key=key)[1])
    return Dataset(
        points=np.asarray(points),
        name=name,
        kind="points",
        labels=labels,
        distribution=distribution,
        source=f"{name} (synthetic)",
    )


def _digits() -> Dataset:
    """1797 handwritten digits of 8 x 8 pixels and 17 grey levels."""
    sklearn = needed("sklearn.datasets", "the data set 'digits'", "scikit-learn", "studies")
    bunch = sklearn.load_digits()
    return Dataset(
        points=bunch.data.astype(np.float32),  # integers from 0 to 16
        name="digits",
        shape=(8, 8),
        kind="image",
        levels=17,
        labels=bunch.target,
        source="digits (scikit-learn)",
    )


def paper_mixture(dim: int) -> GaussianMixture:
    """The five-component mixture of the Neural Entropy paper's transport experiments.

    Args:
        dim: D: 2, 3 or 6.

    Raises:
        ValueError: for another dimension.

    References:
        Premkumar, *Neural Entropy*, arXiv 2409.03817.
    """
    if dim not in _DIMENSIONS:
        raise ValueError(f"`dim` must be 2, 3 or 6, got {dim!r}.")
    given = json.loads(_MIXTURES.read_text(encoding="utf-8"))[str(dim)]
    means = np.array(given["means"])
    stds = np.broadcast_to(np.array(given["stds"])[:, None], means.shape)
    return GaussianMixture(given["weights"], means.tolist(), stds.tolist())


def _gaussian() -> Gaussian:
    """A correlated Gaussian of mean (0.5, -1)."""
    return Gaussian([0.5, -1.0], [[0.6, 0.35], [0.35, 0.9]])


def _eight_gaussians() -> GaussianMixture:
    """Eight equal Gaussians of standard deviation 0.2 on a circle of radius 2."""
    return _blurred([_circle(8, radius=2.0)], std=0.2)


def _moons() -> GaussianMixture:
    """Two interleaved half circles of radius 1, noise 0.1."""
    angle = np.pi * (np.arange(32) + 0.5) / 32
    upper = np.stack([np.cos(angle), np.sin(angle)], axis=-1)
    return _blurred([upper, [1.0, 0.5] - upper], std=0.1)


def _circles() -> GaussianMixture:
    """Two concentric circles of radius 1 and 0.5 and equal weight, noise 0.08."""
    return _blurred([_circle(80, radius=1.0), _circle(40, radius=0.5)], std=0.08)


def _spiral() -> GaussianMixture:
    """Two turns of an Archimedean spiral out to radius 2, uniform in arc length, noise 0.1."""
    angle = np.linspace(0.0, 4 * np.pi, 4001)
    radius = angle / (2 * np.pi)
    curve = np.stack([radius * np.cos(angle), radius * np.sin(angle)], axis=-1)
    steps = np.linalg.norm(np.diff(curve, axis=0), axis=-1)
    length = np.concatenate([[0.0], np.cumsum(steps)])
    at = length[-1] * (np.arange(128) + 0.5) / 128
    points = np.stack([np.interp(at, length, curve[:, i]) for i in range(2)], axis=-1)
    return _blurred([points], std=0.1)


def _circle(count: int, *, radius: float) -> np.ndarray:
    angle = 2 * np.pi * np.arange(count) / count
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


def _blurred(curves: list[np.ndarray], *, std: float) -> GaussianMixture:
    """Gaussian noise around points along curves; every curve has the same weight."""
    weights = np.concatenate([np.full(len(curve), 1.0 / len(curve)) for curve in curves])
    means = np.concatenate(curves)
    return GaussianMixture(
        (weights / len(curves)).tolist(), means.tolist(), np.full_like(means, std).tolist()
    )


@functools.partial(jax.jit, static_argnames="n")
def _checkerboard(n: int, *, key: Key) -> Float[Array, "n 2"]:
    """Uniform on the eight squares of side 1 in [-2, 2]^2 whose lower corners have an even sum.

    The entropy is log 8; the density is discontinuous, so its relative Fisher information, and
    with it the entropy rate at the data end, is infinite.
    """
    square_key, place_key = jax.random.split(key)
    square = jax.random.randint(square_key, (n,), 0, 8)
    row = square // 2
    column = 2 * (square % 2) + row % 2
    corner = jnp.stack([column, row], axis=-1) - 2
    return corner + jax.random.uniform(place_key, (n, 2))


@functools.partial(jax.jit, static_argnames="n")
def _pinwheel(n: int, *, key: Key) -> Float[Array, "n 2"]:
    r"""Five Gaussian arms, bent into a pinwheel by a rotation that depends on the radius.

    In the frame of its arm a sample is $u \sim N((1, 0), \mathrm{diag}(0.3^2, 0.1^2))$; it becomes
    $x = 2 R(2\pi k/5 + e^{|u|}/2)\,u$, k the number of the arm. A rotation by an angle that depends
    on the radius alone preserves areas, so $p(x) = \frac{1}{4}\, p(u)$ summed over the arms.

    References:
        Johnson et al., *Composing graphical models with neural networks*, arXiv 1603.06277.
    """
    arm_key, noise_key = jax.random.split(key)
    arm = jax.random.randint(arm_key, (n,), 0, 5)
    noise = jax.random.normal(noise_key, (n, 2))
    u = jnp.array([1.0, 0.0]) + jnp.array([0.3, 0.1]) * noise
    angle = 2 * jnp.pi * arm / 5 + jnp.exp(jnp.linalg.norm(u, axis=-1)) / 2
    cos, sin = jnp.cos(angle), jnp.sin(angle)
    return 2 * jnp.stack([cos * u[:, 0] - sin * u[:, 1], sin * u[:, 0] + cos * u[:, 1]], axis=-1)


_DISTRIBUTIONS: dict[str, Callable[[], Gaussian | GaussianMixture]] = {
    "mixture2": functools.partial(paper_mixture, 2),
    "mixture3": functools.partial(paper_mixture, 3),
    "gaussian": _gaussian,
    "eight-gaussians": _eight_gaussians,
    "moons": _moons,
    "circles": _circles,
    "spiral": _spiral,
}
_SAMPLERS = {"checkerboard": _checkerboard, "pinwheel": _pinwheel}
