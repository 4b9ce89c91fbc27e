"""Schedules: rate, integral, inverse and decay agree, at the ends too."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import LOG_RATES, double, quick_jit


SCHEDULES = {
    "linear": lambda: ex.LinearSchedule(0.1, 16.0),
    "constant": lambda: ex.LinearSchedule(3.0, 3.0),
    "cosine": lambda: ex.processes.CosineSchedule(),
    "learned": lambda: ex.MonotoneSchedule(LOG_RATES, 8.05),
    "learned-from-linear": lambda: ex.MonotoneSchedule.from_schedule(
        ex.LinearSchedule(0.1, 16.0), 32
    ),
}


@pytest.mark.parametrize("name", SCHEDULES)
def test_schedule(name, x64):
    @quick_jit
    def evaluate(schedule, s):
        def along(fn):
            return jax.jvp(fn, (s,), (jnp.ones_like(s),))

        return {
            "rate": schedule.rate(s),
            "integral": along(schedule.integral),
            "decay": along(schedule.decay),
            "decay_rate": schedule.decay_rate(s),
            "absorbed": schedule.absorbed(s),
            "inverse": along(lambda s: schedule.inverse(schedule.integral(s))),
        }

    s = np.linspace(0.02, 0.98, 33)
    v = evaluate(SCHEDULES[name](), s)
    integral, rate = v["integral"]
    np.testing.assert_allclose(rate, v["rate"], rtol=1e-12)
    np.testing.assert_allclose(v["decay"][0], jnp.exp(-integral / 2), rtol=1e-12)
    np.testing.assert_allclose(v["decay"][1], v["decay_rate"], rtol=1e-12)
    np.testing.assert_allclose(v["absorbed"], -jnp.expm1(-integral), rtol=1e-12)
    np.testing.assert_allclose(v["inverse"][0], s, rtol=1e-12)
    np.testing.assert_allclose(v["inverse"][1], 1.0, rtol=1e-10)
    start = evaluate(SCHEDULES[name](), np.zeros(33))
    assert np.all(start["integral"][0] == 0)
    assert np.all(start["inverse"][0] == 0)
    assert np.all(start["decay"][0] == 1)


@pytest.mark.parametrize("name", SCHEDULES)
def test_absorbed_loses_no_digits(name, x32):
    s = np.asarray([1e-6, 1e-5, 1e-4, 1e-3, 1e-2], np.float32)
    single = SCHEDULES[name]().absorbed(jnp.asarray(s))
    with double():
        exact = np.asarray(SCHEDULES[name]().absorbed(s.astype(np.float64)))
    np.testing.assert_allclose(single, exact, rtol=1e-6)


def test_nearly_constant_rate_is_stable(x32):
    """The inverse is no quotient of differences that vanish with beta_max - beta_min."""
    for beta_max in (2.0, np.nextafter(np.float32(2), np.float32(3)), 2.0001):
        schedule = ex.LinearSchedule(2.0, beta_max)
        values = jnp.asarray([1e-8, 1e-3, 0.5, 1.9])
        np.testing.assert_allclose(schedule.inverse(values), values / 2, rtol=1e-4)
        gradient = jax.grad(lambda sch: sch.inverse(0.5))(schedule)
        np.testing.assert_allclose(gradient.beta_min + gradient.beta_max, -0.125, rtol=1e-3)
