"""Obstacles to a density are found, and none are found where there are none."""

import re

import numpy as np
import pytest

from entropix.datasets import Dataset, describe


RNG = np.random.default_rng(0)
NORMAL = RNG.normal(size=(400, 3))
COUNTS = RNG.poisson(3, (400, 1))


def with_column(column, points=NORMAL):
    return np.column_stack([points, column])


def test_nothing_is_found_in_data_with_a_density():
    """Of 60 sets of five columns, at most a few have an alarm at a level of 1%."""
    alarms = 0
    for seed in range(60):
        rng = np.random.default_rng(seed)
        n = int(rng.integers(60, 1500))
        columns = [rng.normal(size=n), rng.uniform(size=n), rng.exponential(size=n)]
        columns += [columns[0] + 0.01 * rng.normal(size=n), 1e4 + rng.normal(size=n)]
        found = describe(np.stack(columns, axis=1))
        assert found.has_density
        assert (found.steps == 0).all()
        alarms += np.isfinite(found.tail_index).any()
    assert alarms <= 4
    assert "no atoms, dependence or heavy tails" in str(describe(NORMAL))


@pytest.mark.parametrize(
    ("column", "step", "said"),
    [
        (COUNTS, 1.0, "values in steps of 1"),
        (np.where(COUNTS > 2, -0.0446, 0.0507), 0.0953, "2 values in steps of 0.0953"),
        (np.round(RNG.normal(size=400), 1), 0.1, "values in steps of 0.1"),
        (np.where(RNG.uniform(size=400) < 0.1, 0.0, RNG.normal(size=400)), 0.0, r"one value \d+ t"),
        (np.where(COUNTS > 2, 1 / 3, np.pi) * np.where(COUNTS > 4, 1, 0.7), 0.0, "3 values"),
    ],
    ids=["counts", "two values", "rounded", "many zeros", "no levels"],
)
def test_values_that_recur(column, step, said):
    found = describe(with_column(column))
    assert found.discrete.tolist() == [False, False, False, True]
    assert found.steps[3] == pytest.approx(step, rel=1e-6)
    assert not found.has_density
    assert "column 3" in found.obstacle
    assert len(found.sentences) == 1
    assert ("--dequantise-columns" in found.sentences[0]) == (step > 0)
    assert re.search(said, found.sentences[0])


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("offset", [0.0, 300.0])
def test_linear_dependence(dtype, offset):
    points = NORMAL + offset
    for column in (points[:, 0] - 2 * points[:, 1], points.sum(axis=1), 1e6 - 1e3 * points[:, 2]):
        found = describe(with_column(column, points).astype(dtype))
        assert found.rank == 3
        assert "the 4 columns lie in 3 dimensions" in found.sentences[0]
        assert not found.has_density
    constant = Dataset(with_column(np.full(400, 7.0)).astype(dtype), "x", kind="points")
    assert describe(constant).rank == 3
    # Spread that models can see is none of rounding.
    near = with_column(points[:, 0] - 2 * points[:, 1] + 0.003 * RNG.normal(size=400), points)
    assert describe(near.astype(dtype)).rank == 4


def test_few_samples_are_no_dependence():
    assert describe(RNG.normal(size=(5, 9))).rank is None
    assert describe(RNG.normal(size=(5, 9))).has_density


def test_repeated_rows():
    found = describe(np.concatenate([NORMAL, NORMAL[:3]]))
    assert found.repeated == 3
    assert found.has_density  # a slip, no atoms
    assert "3 of the 403 rows are equal to others" in found.sentences[0]
    found = describe(np.concatenate([NORMAL, NORMAL[:60]]))
    assert not found.has_density
    assert found.obstacle == "60 rows repeat others"


@pytest.mark.parametrize(("freedom", "said"), [(1, "variance is infinite"), (2, "is infinite")])
def test_tail_index(freedom, said):
    """Its error is that of repeated samples: Student's t has its degrees of freedom as index."""
    runs = [
        describe(np.random.default_rng(seed).standard_t(freedom, (6000, 1))) for seed in range(40)
    ]
    index = np.array([found.tail_index[0] for found in runs])
    stderr = np.array([found.tail_index_stderr[0] for found in runs])
    assert np.isfinite(index).all()
    assert 0.7 < index.std() / stderr.mean() < 1.4
    assert abs(index.mean() - freedom) < stderr.mean()
    assert said in runs[0].sentences[0]
    assert "--standardise ranks" in runs[0].sentences[0]


def test_names_of_columns():
    data = Dataset(with_column(COUNTS), "x", columns=("a", "b", "c", "number of b's"))
    assert "number of b's (" in describe(data).sentences[0]
    with pytest.raises(ValueError, match="`points` must hold finite numbers"):
        describe([[1.0, np.nan], [2.0, 3.0]])


@pytest.mark.parametrize("scale", [1e-320, 1e-200, 1e200, 1e300])
def test_the_unit_does_not_matter(scale):
    points = (1 + np.arange(24.0)[:, None] % 7) * scale
    found = describe(np.concatenate([points, (1 + np.arange(24.0)[:, None] ** 2) * scale], axis=1))
    assert found.rank == 2
    assert found.distinct.tolist() == [7, 24]
    assert "--condition 0 uses" in found.sentences[0]
