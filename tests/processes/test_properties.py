"""Identities of Gaussian processes at whatever parameters they may have, in float64.

The grid in `test_grid.py` tries every process at parameters of use; here they are drawn.
"""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import Bell, Ramp, double, quick_jit


def numbers(low, high):
    """Positive numbers, uniform in their logarithm."""
    return st.floats(np.log(low), np.log(high)).map(lambda value: float(np.exp(value)))


def linear(least, growth):
    return ex.LinearSchedule(least, least + growth)


LINEAR = (numbers(1e-3, 1.0), numbers(1e-3, 30.0))
LOGS = st.lists(st.floats(-3.0, 3.0), min_size=5, max_size=5).map(tuple)
# Of each family: how it is made, and its parameters.
FAMILIES = {
    "vp": (lambda a, b, k: ex.VariancePreserving(linear(a, b), kappa=k), *LINEAR, numbers(0.01, 9)),
    "vp-cosine": (
        lambda k: ex.VariancePreserving(ex.processes.CosineSchedule(), k),
        numbers(0.01, 9.0),
    ),
    "vp-monotone": (
        lambda logs, total, k: ex.VariancePreserving(ex.MonotoneSchedule(logs, total), kappa=k),
        LOGS,
        numbers(0.5, 20.0),
        numbers(0.01, 9.0),
    ),
    "sl": (lambda sigma0: ex.StraightLine(sigma0), numbers(1e-3, 10.0)),
    "ve": (lambda low, ratio: ex.VarianceExploding(low, low * ratio), numbers(1e-4, 1), LINEAR[1]),
    "subvp": (lambda a, b: ex.SubVariancePreserving(linear(a, b)), *LINEAR),
    "path": (
        lambda rate, size: ex.GaussianPath(Bell(jnp.asarray(rate)), Ramp(jnp.asarray(size))),
        numbers(0.1, 6.0),
        numbers(0.01, 9.0),
    ),
    "warped": (
        lambda sigma0, logs: ex.TimeChanged(
            ex.StraightLine(sigma0), ex.processes.MonotoneWarp(logs)
        ),
        numbers(1e-3, 10.0),
        LOGS,
    ),
}
FAMILIES["ve"] = (*FAMILIES["ve"][:2], numbers(1.5, 1e5))
SLOW = ("vp-cosine", "vp-monotone", "warped")
families = [pytest.param(n, marks=pytest.mark.slow) if n in SLOW else n for n in FAMILIES]
FRACTIONS = np.array([1e-4, 0.01, 0.11, 0.31, 0.5, 0.73, 0.9, 0.97])


@quick_jit
def evaluate(process, s):
    """What a process states, and the derivatives of it."""

    def along(function):
        return jax.jvp(function, (s,), (jnp.ones_like(s),))

    mu, mu_rate = along(process.scale)
    var, var_rate = along(process.var)
    log_snr, log_snr_rate = along(process.log_snr)
    return {
        "mu": (mu, jnp.exp(process.log_scale(s))),
        "mu'": (mu_rate, process.scale_rate(s)),
        "drift": (mu_rate, jax.vmap(process.drift)(s, jnp.ones((s.size, 1)))[:, 0] * mu),
        "var": (var, process.std(s) ** 2),
        "var'": (var_rate, process.var_rate(s)),
        "sigma^2": (var_rate - 2 * mu_rate / mu * var, process.sigma_squared(s)),
        "sigma^2, scaled": (process.sigma_squared(s) * mu, process.scaled_sigma_squared(s)),
        "log snr": (jnp.log(mu**2 / var), log_snr),
        "log snr'": (log_snr_rate, -process.sigma_squared(s) / var),
        "time": (s, process.time_of_log_snr(log_snr)),
    }


@pytest.mark.parametrize("family", families)
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=20)
def test_identities(family, data):
    make, *parameters = FAMILIES[family]
    with double():
        process = make(*(data.draw(parameter) for parameter in parameters))
        s = process.t0 + (process.t1 - process.t0) * FRACTIONS
        found = evaluate(process, s)
        for name, (expected, stated) in found.items():
            np.testing.assert_allclose(stated, expected, rtol=1e-8, atol=1e-300, err_msg=name)
        assert np.all(np.diff(found["log snr"][1]) < 0)
        assert np.all(np.asarray(found["sigma^2"][1]) > 0)
