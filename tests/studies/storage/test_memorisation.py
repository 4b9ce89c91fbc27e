"""Ratios of distances: copies, equal samples, and the law of independent samples."""

import numpy as np
import pytest

from entropix.studies import DataOptions
from entropix.studies.data import prepare_data
from entropix.studies.storage.memorisation import (
    THRESHOLD,
    generated_points,
    held_out_points,
    nearest_ratio,
    training_points,
)


def test_ratios_on_a_line():
    training = np.array([[0.0], [4.0], [4.0], [10.0]])
    points = np.array([[1.0], [2.0], [4.0], [6.0]])
    np.testing.assert_allclose(nearest_ratio(points, training), [1 / 3, 1, 0, 1 / 2])
    np.testing.assert_array_equal(nearest_ratio(points, training[1:3]), 1)
    words = np.array([[0, 1, 2, 3], [0, 1, 2, 2], [0, 0, 1, 2]])
    np.testing.assert_allclose(nearest_ratio(words[:1], words[1:], "hamming"), 1 / 3)


@pytest.mark.parametrize("dim", [1, 2, 5])
def test_the_null_is_a_power_law_of_the_dimension(dim):
    """P(r < t) = t^d and E r = d / (d + 1) for independent samples, away from edges."""
    rng = np.random.default_rng(dim)
    training = rng.uniform(size=(20_000, dim))
    count = 2000
    ratios = nearest_ratio(rng.uniform(0.35, 0.65, size=(count, dim)), training)
    mean, spread = dim / (dim + 1), np.sqrt(dim / (dim + 2) - (dim / (dim + 1)) ** 2)
    assert abs(ratios.mean() - mean) < 4 * spread / np.sqrt(count)
    share = THRESHOLD**dim
    assert abs((ratios < THRESHOLD).mean() - share) < 4 * np.sqrt(share / count)


@pytest.mark.slow(reason="a training")
def test_dequantised_images_are_compared_as_images():
    """A copy of a training image in other noise has ratio zero."""
    data = prepare_data("digits", DataOptions(held_out=0.15))
    known = training_points(data, 400)
    other_noise = generated_points(data, data.augmented[len(data.train) :][:50])
    np.testing.assert_array_equal(other_noise, known[:50])
    assert (nearest_ratio(other_noise, known) == 0).all()
    assert (nearest_ratio(held_out_points(data), known) > THRESHOLD).mean() > 0.9
