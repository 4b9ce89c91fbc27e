"""Checks of compiled programs: on the host after a call, by `equinox.error_if` in a caller's."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from entropix._core.chunks import in_chunks
from entropix._core.compiled import compiled, error_if, lightly_compiled


@compiled
def _root(x, *, chunked=False):
    x = error_if(x, jnp.any(x > 9), "too large")
    if chunked:
        return in_chunks(lambda c, w: error_if(c**0.5, c < 0, "negative"), x, x.size, 2)
    return jax.vmap(lambda v: error_if(v, v < 0, "negative") ** 0.5)(x)


GOOD, BAD, LARGE = jnp.array([1.0, 4.0, 9.0]), jnp.array([4.0, -1.0, 1.0]), jnp.array([16.0, -1.0])


def _text(function, *args):
    return jax.jit(function).lower(*args).as_text()


@pytest.mark.parametrize("chunked", [False, True])
def test_a_check_is_read_after_the_call(chunked):
    assert jnp.ravel(_root(GOOD, chunked=chunked))[:3].tolist() == [1.0, 2.0, 3.0]
    for x, message in ((BAD, "negative"), (LARGE, "too large")):
        with pytest.raises(eqx.EquinoxRuntimeError, match=message):
            _root(x, chunked=chunked)


def test_a_check_survives_transformations():
    def total(x):
        return jnp.sum(_root(x))

    assert jax.grad(total)(GOOD)[1] == 0.25
    assert jax.vmap(total)(GOOD[:, None])[2] == 3.0
    for function in (jax.grad(total), jax.vmap(lambda v: total(v[None]))):
        with pytest.raises(eqx.EquinoxRuntimeError, match="negative"):
            function(BAD)
    for function in (total, jax.grad(total)):
        assert jnp.all(jnp.isfinite(eqx.filter_jit(function)(GOOD)))
        with pytest.raises(eqx.EquinoxRuntimeError, match="negative"):
            eqx.filter_jit(function)(BAD)


def test_a_callback_is_in_the_callers_program_only():
    assert "callback" in _text(_root, GOOD)

    @compiled
    def around(x):
        return _root(x) + 1

    assert around(GOOD)[0] == 2.0  # its own program holds none: see tests/test_recompilation.py
    with pytest.raises(eqx.EquinoxRuntimeError, match="negative"):
        around(BAD)


def test_values_that_are_known_need_no_program():
    assert error_if(GOOD, GOOD < 0, "negative") is GOOD
    with pytest.raises(eqx.EquinoxRuntimeError, match="negative"):
        error_if(BAD, BAD < 0, "negative")


@lightly_compiled
def _cube(x):
    return x**3


def test_a_lightly_compiled_program_works_everywhere():
    """JAX takes options of the compiler for outermost programs only."""
    assert _cube(GOOD).tolist() == [1.0, 64.0, 729.0]
    for of in (_cube, jax.jit(_cube), jax.vmap(_cube), jax.jit(lambda x: _cube(GOOD) + 0 * x)):
        assert of(GOOD).tolist() == [1.0, 64.0, 729.0]
    assert jax.lax.map(_cube, GOOD)[1] == 64.0
    assert jax.grad(_cube)(2.0) == 12.0
    (slope,) = jax.jit(jax.vjp(_cube, 2.0)[1])(1.0)  # a derivative as a part of another program
    assert slope == 12.0
