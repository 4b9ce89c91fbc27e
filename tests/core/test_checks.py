"""Invalid arguments raise immediately if they are known, and at run time under `jit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix._core.arrays import as_float, safe_sqrt
from entropix._core.checks import (
    checked,
    choice,
    exact_shape,
    finite,
    is_concrete,
    positive,
    positive_integer,
    samples,
    trailing_shape,
)
from tests.helpers import as_shipped, double


NAN, INF = float("nan"), float("inf")


@pytest.mark.parametrize(
    ("given", "dtype"),
    [
        (1, jnp.float32),
        (True, jnp.float32),
        (1.5, jnp.float32),
        ([1, 2.5], jnp.float32),
        (np.float64(1.5), jnp.float32),
        (np.arange(3), jnp.float32),
        (np.float16(1.5), jnp.float32),
        (jnp.asarray(1.5, jnp.bfloat16), jnp.float32),
        (jnp.asarray(1.5), jnp.float32),  # weakly typed
    ],
)
def test_as_float(given, dtype, x32):
    array = as_float(given)
    assert isinstance(array, jax.Array)
    assert array.dtype == dtype
    assert not array.weak_type
    np.testing.assert_array_equal(array, np.asarray(given, array.dtype))


def test_as_float_keeps_precision():
    with double():
        assert as_float(0.1).dtype == jnp.float64
        assert as_float(1).dtype == jnp.float64
        assert as_float(np.float32(0.1)).dtype == jnp.float32


def test_constants_stay_concrete_under_jit():
    """A mistake inside a jitted function is a ValueError at the line that causes it."""

    def f(x):
        assert is_concrete(as_float(2.0))
        assert is_concrete(positive(np.ones(3), "a"))
        assert not is_concrete(as_float(x))
        assert not is_concrete(as_float([x, 1.0]))
        with pytest.raises(ValueError, match="`a` must be positive and finite, got -1"):
            positive(-1.0, "a")
        return x * as_float([x, 1.0])

    np.testing.assert_array_equal(jax.jit(f)(3.0), [9.0, 3.0])


@pytest.mark.parametrize("value", [0.0, -1.0, NAN, INF, -INF, [1.0, 0.0], [1.0, NAN], "x", None])
def test_positive(value):
    with pytest.raises(ValueError, match="`rate`"):
        positive(value, "rate")
    if not isinstance(value, str) and value is not None:
        with pytest.raises(RuntimeError, match="`rate`"):
            eqx.filter_jit(lambda v: positive(v, "rate"))(np.asarray(value))


@pytest.mark.parametrize("value", [NAN, INF, -INF, [1.0, NAN], "x", None, {}])
def test_finite(value):
    with pytest.raises(ValueError, match="`mean`"):
        finite(value, "mean")


def test_a_bound_may_be_traced():
    """A known value against a bound known only under `jit`."""

    @eqx.filter_jit
    def above(low):
        return checked(as_float(1.0), "high", lambda v: v > low, "above `low`")

    assert above(jnp.asarray(0.5)) == 1
    with pytest.raises(RuntimeError, match="`high` must be above `low`"):
        above(jnp.asarray(2.0))


def test_shapes():
    for shape in ((), (3,), (2, 1)):
        with pytest.raises(ValueError, match="`a` must have shape"):
            positive(np.ones((2,)), "a", shape=shape)
        with pytest.raises(ValueError, match="`a` must have shape"):
            finite(np.ones((2,)), "a", shape=shape)
    assert positive(np.ones((2,)), "a", shape=(2,)).shape == (2,)
    for good in ((3,), (2, 3), (0, 3)):
        trailing_shape(np.ones(good), (3,), "x")
    trailing_shape(1.0, (), "x")
    for bad in ((), (1,), (3, 1), (3, 2)):
        with pytest.raises(ValueError, match="`x` must have shape"):
            trailing_shape(np.ones(bad), (3,), "x")
    with pytest.raises(ValueError, match="`x` must have shape"):
        trailing_shape(np.ones(3), (2, 3), "x")
    with pytest.raises(ValueError, match=r"jax\.vmap"):
        exact_shape(np.ones((4, 3)), (3,), "y")


@pytest.mark.parametrize("value", [0, -1, 1.0, True, None, "1", np.float32(2)])
def test_positive_integer(value):
    with pytest.raises(ValueError, match="`n`"):
        positive_integer(value, "n")


def test_integers_and_choices():
    assert type(positive_integer(np.int64(3), "n")) is int
    assert positive_integer(0, "n", minimum=0) == 0
    assert choice("a", "method", ("a", "b")) == "a"
    with pytest.raises(ValueError, match="`method` must be one of 'a', 'b', got 'c'"):
        choice("c", "method", ("a", "b"))


@pytest.mark.parametrize(
    "data", [1.0, [1.0, 2.0], np.ones((1, 2)), np.ones((3, 0)), [[1.0, NAN], [0, 1]], "x", [None]]
)
def test_samples(data):
    with as_shipped(), pytest.raises(ValueError, match="`data`"):
        samples(data)


def test_samples_under_jit():
    total = eqx.filter_jit(lambda x: jnp.sum(samples(x, "points")))
    assert total(np.ones((2, 3))) == 6
    with pytest.raises(RuntimeError, match="`points`"):
        total(np.full((2, 3), NAN))


def test_safe_sqrt():
    for f in (safe_sqrt, jax.jit(safe_sqrt)):
        given = jnp.asarray([0.0, 4.0, -1e-9, jnp.nan])  # a NaN does not become a zero
        np.testing.assert_array_equal(f(given), [0.0, 2.0, 0.0, jnp.nan])
    assert jax.grad(safe_sqrt)(0.0) == 0
    assert jax.grad(jax.grad(safe_sqrt))(0.0) == 0
    assert jax.grad(safe_sqrt)(4.0) == 0.25
