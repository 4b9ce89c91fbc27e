"""Dequantisation: within its level, uniform, and a bound on discrete probabilities."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

from entropix.datasets import dequantise, load


@hypothesis.given(st.integers(0, 2**31 - 1), st.sampled_from([(17, 1.0), (256, 1.0), (256, 0.25)]))
def test_levels_are_recovered(seed, levels_and_width):
    levels, width = levels_and_width
    points = np.repeat(np.arange(levels), 200)[:, None] * width
    y = np.asarray(dequantise(points.astype(np.float32), key=jax.random.key(seed), width=width))
    assert ((y >= points) & (y < points + width)).all()
    np.testing.assert_array_equal(np.floor(y / width) * width, points)


def test_rounding_never_reaches_the_next_level():
    """A level so high that float32 has but 8 numbers in it, where a sum often rounds up."""
    points = np.full((2000, 1), 2**20, np.float32)
    y = dequantise(points, key=jax.random.key(0))
    assert (y < points + 1).all()
    assert (y == points + 0.875).any()


def test_noise_is_uniform():
    digits = load("digits").points
    noise = np.asarray(dequantise(digits, key=jax.random.key(0)), np.float64) - digits
    n = noise.size
    assert abs(noise.mean() - 0.5) < 4 * np.sqrt(1 / 12 / n)
    assert abs(noise.var() - 1 / 12) < 4 * np.sqrt(1 / 180 / n)
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 4 / np.sqrt(len(noise))


def test_bounds_the_discrete_likelihood():
    """E log p(x + u) + log w <= log P(x), for a standard logistic density, whose P is exact."""
    width = 0.5
    x = np.arange(-4, 4) * width
    points = np.broadcast_to(x, (20_000, 8))
    y = np.asarray(dequantise(points, key=jax.random.key(0), width=width), np.float64)
    log_p = scipy.stats.logistic.logpdf(y).mean(axis=0) + np.log(width)
    gap = np.log(np.diff(scipy.stats.logistic.cdf([x, x + width]), axis=0)[0]) - log_p
    assert (gap > -0.004).all()  # four standard errors of the mean
    assert (gap < 0.02).all()


def test_under_jit():
    run = jax.jit(lambda x, key: dequantise(x, key=key))
    x = jnp.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(jnp.floor(run(x, jax.random.key(0))), x)


@pytest.mark.parametrize(
    ("points", "width", "message"),
    [
        (np.array([[0.5, 1.0]]), 1.0, "multiples of `width` = 1, got 0.5: continuous data"),
        (np.array([[np.nan, 1.0]]), 1.0, "multiples of `width` = 1, got nan"),
        (np.array([[0.0, 1.0]]), 0.0, "`width` must be positive"),
        (np.array([[0.0, 1.0]]), np.ones(2), "`width` must be a number"),
    ],
)
def test_refusals(points, width, message):
    with pytest.raises(ValueError, match=message):
        dequantise(points, key=jax.random.key(0), width=width)
