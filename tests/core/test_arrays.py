"""Conversion of input: each row of its table, and random dtypes, byte orders and layouts."""

import contextlib
import datetime
import decimal
import fractions

import hypothesis
import hypothesis.extra.numpy as npst
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix._core.arrays import as_float, as_number, real_array, rounded
from tests.helpers import double


MASKED = np.ma.masked_array([1.0, 2.0], [False, True])


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([True, 2, 2.5], [1, 2, 2.5]),
        ((1, (2, 3)[0]), [1, 2]),
        (np.arange(3, dtype=">i2"), [0, 1, 2]),
        (np.arange(3, dtype=">f8"), [0, 1, 2]),
        (np.arange(6.0).reshape(2, 3)[:, ::-2], [[2, 0], [5, 3]]),
        (np.float16([0.5, -2]), [0.5, -2]),
        (jnp.asarray([0.5, -2], jnp.bfloat16), [0.5, -2]),
        (np.asarray(jnp.asarray([0.5, -2], jnp.bfloat16)), [0.5, -2]),
        (jnp.asarray([0.5, -2], jnp.float8_e4m3fn), [0.5, -2]),
        (np.longdouble([1, 2]), [1, 2]),
        (np.ma.masked_array([1.0, 2.0]), [1, 2]),
        ([decimal.Decimal("0.5"), fractions.Fraction(1, 4)], [0.5, 0.25]),
        (np.array([1, np.float32(0.5), True], object), [1, 0.5, 1]),
        ([2**70, 1], [2.0**70, 1]),
        (range(3), [0, 1, 2]),
        (memoryview(np.ones(2)), [1, 1]),
        ([jnp.ones(2), np.zeros(2)], [[1, 1], [0, 0]]),
        (np.zeros((0, 3)), np.zeros((0, 3))),
        ([], []),
        ([np.inf, np.nan], [np.inf, np.nan]),  # whether they are allowed is not decided here
        ([1e-300, 1.0], [0, 1]),  # rounding
        (np.array([2**24, 2**24 + 2]), [2.0**24, 2.0**24 + 2]),
    ],
)
def test_accepted(given, expected, x32):
    array = as_float(given)
    assert array.dtype == jnp.float32
    assert not array.weak_type
    np.testing.assert_array_equal(array, np.float32(expected))


@pytest.mark.parametrize("name", ["pandas", "xarray", "torch"])
def test_other_libraries(name, x32):
    library = pytest.importorskip(name)
    given = {
        "pandas": lambda: library.DataFrame({"a": [1, 2], "b": [0.5, 1.5]}),
        "xarray": lambda: library.DataArray([[1.0, 0.5], [2.0, 1.5]]),
        "torch": lambda: library.tensor([[1.0, 0.5], [2.0, 1.5]], dtype=library.bfloat16),
    }[name]()
    np.testing.assert_array_equal(as_float(given), np.float32([[1, 0.5], [2, 1.5]]))


class OnlyDLPack:
    """An object without `__array__`."""

    def __init__(self, array):
        self.array = array

    def __dlpack__(self, **options):
        return self.array.__dlpack__(**options)

    def __dlpack_device__(self):
        return self.array.__dlpack_device__()


def test_dlpack(x32):
    np.testing.assert_array_equal(as_float(OnlyDLPack(np.float32([1, 2]))), [1, 2])


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (MASKED, "got 1 masked values"),
        ([MASKED, [1, 2]], "got 1 masked values"),
        (np.ma.masked, "got 1 masked values"),
        (1j, "complex numbers"),
        ([1, 2j], "complex numbers"),
        (np.array(["2020-01-01"], "M8[D]"), "dates"),
        (np.array([1], "m8[s]"), "durations"),
        ([datetime.date(2020, 1, 1)], "date"),
        ("x", "text"),
        ([1, "2"], "text"),
        (b"ab", "bytes"),
        (bytearray(b"ab"), "bytearray"),
        (np.array(["1"], object), "'1' of type str"),
        ([1, None], "None of type NoneType"),
        (None, "None"),
        ({}, "dict"),
        (np.zeros(2, [("a", float)]), "dtype"),
        ([[1, 2], [3]], "type list"),
        ((i for i in range(3)), "type generator"),
        (object, "type type"),
    ],
)
def test_refused(given, said, x32):
    for convert in (as_float, as_number):
        with pytest.raises(ValueError, match="`data` must hold real numbers, got ") as caught:
            convert(given, "data")
        assert said in str(caught.value)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("given", "said", "in_float64"),
    [
        (1e300, "at most 3.4e.38 in magnitude in float32, got 1e.300", True),
        ([1.0, -1e39], "at most 3.4e.38 in magnitude in float32, got -1e.39", True),
        (1e-50, "zero or at least 1.2e-38 in magnitude in float32, got 1e-50", True),
        (np.array([2**24, 2**24 + 1]), "integers that float32 can tell apart", True),
        (jnp.array([2**24, 2**24 + 1]), "integers that float32 can tell apart", True),
        ([2**24, 2**24 + 1], "integers that float32 can tell apart", True),
        ([2**53, 2**53 + 1], "integers that float.. can tell apart", False),
        ([2**53, 2**53 + 1, 0.5], "integers that float.. can tell apart", False),
        ([2**70, 2**70 + 1], "integers that float.. can tell apart", False),
        (np.array([2**64 - 1, 2**64 - 2], np.uint64), "integers that float.. can tell", False),
        (np.longdouble("1e4000"), "in magnitude in float", False),
        (10**400, "an integer of more than 308 digits", False),
    ],
)
def test_numbers_that_a_dtype_cannot_hold(given, said, in_float64, x32):
    with pytest.raises(ValueError, match=said) as caught:
        as_float(given, "data")
    assert "`data`" in str(caught.value)
    if in_float64:
        assert "jax_enable_x64" in str(caught.value)
    with double():
        if in_float64:
            np.testing.assert_array_equal(as_float(given), np.asarray(given, np.float64))
        else:
            with pytest.raises(ValueError, match="`data` must"):
                as_float(given, "data")


def test_integers_may_stay_integers(x32):
    assert as_number(np.arange(3, dtype=">i8")).dtype == jnp.int32
    assert as_number(np.array([True])).dtype == bool
    assert as_number(np.float16([1])).dtype == jnp.float32
    with pytest.raises(ValueError, match="`condition` must fit into int32, got 1099511627776"):
        as_number([2**40], "condition")


def test_under_jit(x32):
    @jax.jit
    def f(x):
        for given in (x, [x, 1], x.astype(jnp.bfloat16), x > 0, x.astype(int)):
            assert as_float(given).dtype == jnp.float32
        for given in (x + 1j, [x, "a"], [x, MASKED], [x, None, "a"]):
            with pytest.raises(ValueError, match="`a` must hold real numbers"):
                as_float(given, "a")
        return as_float([x, 2 * x]).sum()

    assert f(2.0) == 6
    assert jax.grad(f)(2.0) == 3


DTYPES = st.sampled_from(
    ["?", "i1", "u1", "i2", "u2", "i4", "u4", "i8", "u8", "f2", "f4", "f8", "g"]
)


@st.composite
def drawn(draw):
    """An array of any real dtype, byte order, layout and strides, possibly empty or a number."""
    dtype = np.dtype(draw(DTYPES)).newbyteorder(draw(st.sampled_from("<>")))
    shape = draw(npst.array_shapes(min_dims=0, max_dims=3, min_side=0, max_side=4))
    elements = npst.from_dtype(dtype, allow_nan=False, allow_infinity=False)
    array = draw(npst.arrays(dtype, shape, elements=elements, fill=st.nothing()))
    if array.ndim:
        array = np.asfortranarray(array) if draw(st.booleans()) else array
        array = array[(slice(None, None, draw(st.sampled_from([1, -1, 2]))),)]
    return array


@hypothesis.given(drawn(), st.booleans())
@hypothesis.settings(max_examples=300)
def test_drawn_arrays_are_rounded_or_refused(array, wide):
    """To the nearest number of the dtype, or an error if it would be infinite, equal or zero."""
    wide = wide or jax.config.jax_enable_x64
    with double() if wide else contextlib.nullcontext():
        expected = np.float64 if wide and array.dtype.itemsize >= 8 else np.float32
        expected = expected if array.dtype.kind == "f" else (np.float64 if wide else np.float32)
        with np.errstate(over="ignore", under="ignore"):
            nearest = array.astype(expected)
        before = array.copy()
        try:
            converted = as_float(array, "a")
        except ValueError as error:
            assert "`a` must" in str(error)  # noqa: PT017
            tiny = np.finfo(expected).tiny
            vanishes = np.any(array != 0) and np.all(np.abs(nearest) < tiny)
            merges = array.dtype.kind in "iu" and len(np.unique(nearest)) < len(np.unique(array))
            assert np.isinf(nearest).any() or vanishes or merges
            return
        assert converted.dtype == expected
        assert np.isfinite(np.asarray(converted)).all()
        np.testing.assert_array_equal(np.asarray(converted), nearest)
        np.testing.assert_array_equal(array, before)
        host = real_array(array, "`a`")
        assert host.dtype.isnative
        np.testing.assert_array_equal(host, array)


def test_rounding_names_what_is_rounded():
    with pytest.raises(ValueError, match=r"^column 'a' must be at most 3.4e.38"):
        rounded(np.array([1e300, 1.0]), np.float32, "column 'a'")
