"""`Dataset`: what is refused, what is inferred, and which digits are kept."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from entropix.datasets import Dataset


TABLE = np.array([[1.0, 2.0], [3.0, 5.0], [4.0, 7.0]])


@pytest.mark.parametrize(
    ("shape", "kind", "example"),
    [
        ((5,), "points", (1,)),
        ((5, 3), "table", (3,)),
        ((5, 3, 2), "image", (3, 2)),
        ((5, 3, 2, 3), "image", (3, 2, 3)),
    ],
)
def test_kind_and_shape_follow_from_the_rank(shape, kind, example):
    array = np.random.default_rng(0).normal(size=shape)
    data = Dataset.from_array(array)
    assert (data.kind, data.shape, data.levels) == (kind, example, None)
    assert (data.num_samples, data.dim) == (5, np.prod(example))
    np.testing.assert_array_equal(data.points.reshape(shape), array)


@pytest.mark.parametrize(
    ("array", "dtype"),
    [
        (TABLE, np.float64),
        (TABLE.astype(">f8"), np.float64),
        (TABLE.astype(np.float32), np.float32),
        (TABLE.astype(np.float16), np.float32),
        (TABLE.astype(np.uint8), np.float32),
        (TABLE.astype(np.int64) + 2**24, np.float64),  # 16777217 is not a float32
        (jnp.asarray(TABLE, jnp.float32), np.float32),
        (TABLE.tolist(), np.float64),
    ],
)
def test_no_given_digit_is_lost(array, dtype):
    data = Dataset.from_array(array)
    assert data.points.dtype == dtype
    assert data.points.dtype.isnative
    np.testing.assert_array_equal(data.points, np.asarray(array, np.float64))


@pytest.mark.parametrize(
    ("dtype", "levels"),
    [(np.uint8, 256), (np.uint16, 65536), (np.int64, 8), (bool, 2), (np.float32, None)],
)
def test_levels_of_images(dtype, levels):
    array = np.arange(8).reshape(2, 2, 2).astype(dtype)
    if dtype is bool:
        array = array ^ np.array([True, False]).reshape(2, 1, 1)
    assert Dataset.from_array(array).levels == levels
    assert Dataset.from_array(array, kind="points").levels is None
    if dtype is np.int64:
        assert Dataset.from_array(array - 4).levels is None


def test_data_are_frozen():
    data = Dataset.from_array(TABLE, name="mine")
    with pytest.raises(ValueError, match="read-only"):
        data.points[0, 0] = 7.0
    with pytest.raises(dataclasses.FrozenInstanceError):
        data.name = "yours"
    assert repr(data) == "Dataset('mine': 3 x 2 float64, table (2,))"


def with_entry(value, row=1, column=1):
    array = TABLE.copy()
    array[row, column] = value
    return array


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.float64(3.0), r"`points` must have between one and four axes.*got shape \(\)"),
        (np.zeros((2, 1, 1, 1, 1)), r"between one and four axes.*\(2, 1, 1, 1, 1\)"),
        (TABLE[:1], "at least two samples, got 1"),
        (TABLE[:0], "at least two samples, got 0"),
        (TABLE[:, :0], r"must have shape \(N, D\), got shape \(3, 0\)"),
        (
            with_entry(np.nan),
            r"finite numbers, got 1 NaN or missing of 6, the first in sample 1, column 1 ",
        ),
        (with_entry(-np.inf, 2, 0), r"got 1 infinite of 6, the first in sample 2, column 0 "),
        (
            with_entry([np.inf, np.nan], row=0, column=slice(None)),
            r"got 1 NaN or missing and 1 infinite of 6, the first in sample 0, column 0 ",
        ),
        (np.array([["a", "b"], ["c", "d"]]), "real numbers, got text .dtype <U1"),
        (TABLE.astype(complex), "real numbers, got complex numbers .dtype complex128"),
        (np.array([{}, {}]), "real numbers, got {} of type dict"),
        (np.array(["2020-01-01", "2021-01-01"], "M8[D]"), "real numbers, got dates"),
        (
            TABLE * [1, 0] + [0, 4],
            "no constant column, got column 1, all 4: .*--drop.*, or pass kind='image'",
        ),
        (np.ones((4, 3)), "samples that differ, got 4 copies of one sample"),
        (np.ones(4), "samples that differ"),
        (np.ones((4, 3, 3), np.uint8), "samples that differ"),
    ],
)
def test_refused(array, message):
    with pytest.raises(ValueError, match=message) as caught:
        Dataset.from_array(array)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["image", "points"])
def test_constant_columns_are_fine_in_one_unit(kind):
    assert Dataset.from_array(TABLE * [1, 0], kind=kind).kind == kind


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"kind": "graph"},
            "`kind` must be one of 'table', 'image', 'points', 'tokens', got 'graph'",
        ),
        ({"shape": (3,)}, r"`shape` must have 2 entries in all, got \(3,\)"),
        ({"labels": np.arange(2)}, r"`labels` must have shape \(3,\), got \(2,\)"),
        ({"columns": ("a",)}, "`columns` must hold 2 names, got 1"),
        ({"points": np.zeros(3)}, r"`points` must have shape \(N, D\)"),
        ({"points": TABLE * [0, 1], "columns": ("a", "b")}, "got column 'a', all 0"),
        ({"points": TABLE * 0, "source": "x.npy"}, "^'x.npy' must hold samples that differ"),
    ],
)
def test_refused_by_the_constructor(changes, message):
    with pytest.raises(ValueError, match=message):
        Dataset(**({"points": TABLE, "name": "table"} | changes))
