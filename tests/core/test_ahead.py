"""Programs that a thread compiles before they are called."""

import threading

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from entropix._core.ahead import compiled_ahead
from entropix._core.compiled import compiled, error_if, lightly_compiled


class Programs:
    """New programs, and which of them were traced, by which thread."""

    def __init__(self):
        self.traced = []

        def noted(name):
            self.traced.append((name, threading.current_thread() is threading.main_thread()))

        def long(x, power):
            noted("long")
            return x**power, jax.random.split(jax.random.key(0), 3), power

        def short(x):
            noted("short")
            return jnp.sum(x) + 1

        def checked(x):
            noted("checked")
            return error_if(2 * x, jnp.any(x > 9), "too large")

        self.long = lightly_compiled(long, level=1)
        self.short, self.checked = lightly_compiled(short), compiled(checked)

    def measure(self, x):
        """What all of them return."""
        values, keys, power = self.long(x, 2)
        return values, jax.random.key_data(keys), power, self.short(x), self.checked(x)


def ahead(measure, then):
    """What `then()` returns when the thread has gone through `measure`."""
    finished = threading.Event()

    def whole():
        try:
            measure()
        finally:
            finished.set()

    with compiled_ahead(whole):
        assert finished.wait(60)
        return then()


X = jnp.array([1.0, 2.0, 3.0])


def test_a_program_is_compiled_once_and_runs_as_without():
    programs, found = Programs(), []
    result = ahead(lambda: found.append(programs.measure(X)), lambda: programs.measure(2 * X))
    assert programs.traced == [("long", False), ("short", False), ("checked", False)]
    for value, usual in zip(result, Programs().measure(2 * X), strict=True):
        assert jnp.array_equal(value, usual)
    # The thread has not run what takes long. What is short it has.
    assert jnp.array_equal(found[0][0], jnp.zeros(3))
    assert found[0][2] == 2
    assert found[0][3] == 7.0
    assert jnp.array_equal(found[0][4], jnp.zeros(3))


def test_checks_and_derivatives_are_as_without():
    programs = Programs()

    def slope():
        return jax.grad(lambda x: programs.checked(x)[0])(X)

    assert ahead(lambda: programs.checked(X), slope)[0] == 2
    with pytest.raises(eqx.EquinoxRuntimeError, match="too large"):
        ahead(lambda: programs.checked(X), lambda: programs.checked(10 * X))


def test_a_failure_of_the_thread_is_none(capfd):
    programs = Programs()

    def measure():
        assert programs.long(X, 2)[0][0] == 1.0  # zero there
        programs.checked(X)

    assert ahead(measure, lambda: programs.measure(X))[0][0] == 1.0
    assert programs.traced == [("long", False), ("short", True), ("checked", True)]
    assert capfd.readouterr() == ("", "")


def test_the_thread_ends_with_the_block():
    """No program is begun after it, and none is left in the middle."""
    programs, begun, ended = Programs(), threading.Event(), threading.Event()

    def measure():
        programs.long(X, 2)
        begun.set()
        ended.wait(60)
        programs.checked(X)

    def interrupted():
        with compiled_ahead(measure):
            begun.wait(60)
            threading.Timer(0.2, ended.set).start()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert programs.traced == [("long", False)]
    assert all(thread.name != "compiles ahead" for thread in threading.enumerate())


def test_the_second_waits_for_the_first():
    """Both begin at once: who comes second finds the program compiled."""
    programs, both = Programs(), threading.Barrier(2)

    def measure():
        both.wait(60)
        programs.long(X, 2)
        programs.checked(X)

    with compiled_ahead(measure):
        measure()
    assert sorted(name for name, _ in programs.traced) == ["checked", "long"]
