"""The embedded sets: their exact densities, and samples that follow them."""

import functools
import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix.datasets import available, load
from entropix.distributions import Gaussian


SYNTHETIC = [name for name in available() if name not in ("digits", "python-topics")]
KNOWN = [name for name in SYNTHETIC if name not in ("checkerboard", "pinwheel")]
# Entropy and E|x|^2 of the paper's mixtures, by float64 quadrature on a grid.
MIXTURES = {2: (3.004009231266383, 4.623771512718773), 3: (4.342939960327018, 5.3681735526491225)}


@functools.cache
def drawn(name):
    """64 samples of a synthetic set, drawn once."""
    return load(name, num_samples=64, key=jax.random.key(0))


def grid(distribution, step):
    """Points on a grid that holds the mass of the distribution, and the volume of one cell."""
    if isinstance(distribution, Gaussian):
        reach = 8 * np.sqrt(np.diag(distribution.covariance))
        low, high = distribution.mean - reach, distribution.mean + reach
    else:
        low = (distribution.means - 8 * distribution.stds).min(axis=0)
        high = (distribution.means + 8 * distribution.stds).max(axis=0)
    axes = [np.arange(a, b + step, step) for a, b in zip(low, high, strict=True)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, len(axes)), step ** len(axes)


def log_density(distribution, points):
    return np.asarray(eqx.filter_jit(distribution.log_prob)(jnp.asarray(points)))


def test_digits():
    data = load("digits")
    assert data.points.shape == (1797, 64)
    assert (data.shape, data.kind, data.levels) == ((8, 8), "image", 17)
    assert data.points.dtype == np.float32
    assert set(np.unique(data.points)) == set(range(17))
    assert np.bincount(data.labels).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    with pytest.raises(ValueError, match=r"`num_samples` must be None .* got 10 for 'digits'"):
        load("digits", num_samples=10)
    with pytest.raises(ValueError, match="no constant column, got column 0"):
        load("digits", kind="table")
    assert load("digits", kind="points").levels is None


@pytest.mark.parametrize("name", SYNTHETIC)
def test_key_and_number(name):
    with pytest.raises(ValueError, match=f"`key` must be a random key to draw '{name}'"):
        load(name)
    with pytest.raises(ValueError, match="`num_samples` must be an integer of at least 2, got 1"):
        load(name, num_samples=1, key=jax.random.key(0))
    data = drawn(name)
    again, other = (load(name, num_samples=64, key=jax.random.key(i)) for i in (0, 1))
    assert again.kind == "points"
    assert again.points.shape == (64, 3 if name == "mixture3" else 2)
    np.testing.assert_array_equal(again.points, data.points)
    assert not np.isin(data.points, other.points).any()


def test_default_number():
    assert load("checkerboard", key=jax.random.key(0)).num_samples == 8192


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("dim", [2, 3])
def test_mixtures_are_those_of_the_paper(dim):
    entropy, second_moment = MIXTURES[dim]
    mixture = load(f"mixture{dim}", num_samples=2, key=jax.random.key(0)).distribution
    exact = mixture.weights @ (mixture.means**2 + mixture.stds**2).sum(axis=-1)
    np.testing.assert_allclose(exact, second_moment, rtol=1e-12)
    points, cell = grid(mixture, 0.15 if dim == 2 else 0.2)
    log_p = log_density(mixture, points)
    np.testing.assert_allclose(-np.sum(np.exp(log_p) * log_p) * cell, entropy, rtol=1e-7)


@pytest.mark.usefixtures("x64")
@pytest.mark.parametrize("name", [name for name in KNOWN if name != "mixture3"])
def test_samples_follow_the_density(name):
    """The density is normalised, and samples have its moments and its entropy."""
    data = load(name, num_samples=20_000, key=jax.random.key(0))
    points, cell = grid(data.distribution, 0.05)
    log_p = log_density(data.distribution, points)
    p = np.exp(log_p) * cell
    np.testing.assert_allclose(p.sum(), 1.0, rtol=1e-8)
    x = data.points
    pairs = [
        (-log_density(data.distribution, x), -np.sum(p * log_p)),
        *((x[:, i], p @ points[:, i]) for i in range(2)),
        *(
            (x[:, i] * x[:, j], p @ (points[:, i] * points[:, j]))
            for i, j in itertools.combinations_with_replacement(range(2), 2)
        ),
    ]
    for sampled, exact in pairs:
        stderr = sampled.std() / np.sqrt(len(sampled))
        assert abs(sampled.mean() - exact) < 4 * stderr


def test_curves():
    """The means lie on the curves, at distances of at most the noise: no beads on a string."""

    upper, lower = np.split(np.asarray(drawn("moons").distribution.means), 2)
    np.testing.assert_allclose(np.linalg.norm(upper, axis=-1), 1, rtol=1e-6)
    np.testing.assert_allclose(np.linalg.norm(lower - [1, 0.5], axis=-1), 1, rtol=1e-6)
    assert (upper[:, 1] > 0).all()
    assert (lower[:, 1] < 0.5).all()

    circles = drawn("circles").distribution
    radius = np.linalg.norm(circles.means, axis=-1)
    np.testing.assert_allclose(np.unique(radius.round(5)), [0.5, 1.0])
    np.testing.assert_allclose(circles.weights[radius < 0.75].sum(), 0.5, rtol=1e-5)

    spiral = np.asarray(drawn("spiral").distribution.means)
    radius, angle = np.linalg.norm(spiral, axis=-1), np.arctan2(spiral[:, 1], spiral[:, 0])
    np.testing.assert_allclose((radius - angle / (2 * np.pi) + 0.5) % 1, 0.5, atol=1e-3)
    for curve, std in [(upper, 0.1), (lower, 0.1), (spiral, 0.1)]:
        gaps = np.linalg.norm(np.diff(curve, axis=0), axis=-1)
        assert gaps.max() < 1.02 * std
        assert gaps.min() > 0.95 * gaps.max()


def test_checkerboard_is_uniform_on_its_squares():
    data = load("checkerboard", num_samples=16_000, key=jax.random.key(0))
    assert data.distribution is None
    square = np.floor(data.points).astype(int)
    assert (square.sum(axis=-1) % 2 == 0).all()
    assert (np.abs(square + 0.5) < 2).all()
    _, counts = np.unique(square, axis=0, return_counts=True)
    assert len(counts) == 8
    assert np.sum((counts - 2000) ** 2) / 2000 < 24.3  # chi squared, 7 degrees, 1 in 1000
    inside = data.points - square
    stderr = np.sqrt(1 / 12 / 16_000)
    np.testing.assert_allclose(inside.mean(axis=0), 0.5, atol=4 * stderr)
    np.testing.assert_allclose(inside.var(axis=0), 1 / 12, rtol=0.03)


def test_pinwheel_untwists_to_gaussian_arms():
    """With z = u_1 + i u_2 in the frame of an arm, E z^5 = 1 + 10 c + 15 c^2, c = 0.3^2 - 0.1^2.

    The fifth power is blind to which of the five arms it is.
    """
    data = load("pinwheel", num_samples=50_000, key=jax.random.key(0))
    assert data.distribution is None
    z = (data.points[:, 0] + 1j * data.points[:, 1]) / 2
    z = z * np.exp(-0.5j * np.exp(np.abs(z)))
    c = 0.3**2 - 0.1**2
    for sampled, exact in [
        (np.abs(z) ** 2, 1 + 0.3**2 + 0.1**2),
        ((z**5).real, 1 + 10 * c + 15 * c**2),
        ((z**5).imag, 0.0),
        (z.real, 0.0),
        ((z**2).real, 0.0),
    ]:
        assert abs(sampled.mean() - exact) < 4 * sampled.std() / np.sqrt(len(z))
