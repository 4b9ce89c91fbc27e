"""Proposals of times: densities that integrate, open ends, and stratified draws."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training import LogisticTimes, UniformTimes
from entropix.training.objective import stratified
from tests.helpers import PROCESSES, finite_difference, numbers, quick, quick_jit
from tests.training.common import gaussian_data


@eqx.filter_jit
def drawn(times, process, u):
    return jax.vmap(lambda u: times(process, u))(u)


def proposals(process):
    scaling = ex.GaussianScaling.from_data(gaussian_data(), process)
    return {
        "uniform": UniformTimes(),
        "noise fraction": LogisticTimes.noise_fraction(0.4),
        "logistic": LogisticTimes(1.5, 2.0),
        "matched": LogisticTimes.matched(process, scaling),
    }


@pytest.mark.parametrize("name", quick(("vp", "ve", "subvp", "rf"), PROCESSES))
def test_densities_integrate(name, x64):
    """The mean over u of f/q is the integral of f over the log-SNRs of the process."""
    process = PROCESSES[name]()
    ends = process.log_snr(jnp.stack([process.t0, process.t1]))
    expected = float(-jnp.diff(jax.nn.sigmoid((ends - 0.3) / 0.8))[0])
    u = (jnp.arange(4000) + 0.5) / 4000
    for label, times in proposals(process).items():
        s, density = drawn(times, process, u)
        tau = jax.nn.sigmoid((process.log_snr(s) - 0.3) / 0.8)
        assert jnp.mean(tau * (1 - tau) / 0.8 / density) == pytest.approx(expected, abs=2e-3), label
        assert jnp.all(jnp.diff(s) > 0), label


@pytest.mark.parametrize(
    "name", quick(("vpx", "cosine", "sl", "path-module", "path-learned-noise"), PROCESSES)
)
def test_open_and_finite_at_both_ends(name):
    process = PROCESSES[name]()
    # The smallest and largest quantiles that a batch of 10,000 draws can hold in float32.
    u = jnp.array([6e-12, 1e-7, 0.5, 1 - 2.0**-20, 1 - 2.0**-24], jnp.float32)
    for label, times in proposals(process).items():
        s, density = drawn(times, process, u)
        assert jnp.all(jnp.isfinite(s) & jnp.isfinite(density) & (density > 0)), label
        assert jnp.all((s > process.t0) & (s <= process.t1)), label
        assert s[0] < 1e-2
        assert s[-1] > 0.9


@pytest.mark.parametrize("name", quick(("vp", "sl"), PROCESSES))
def test_derivatives_of_a_draw(name, x64):
    """In the process and the proposal, although the log-SNR is infinite at an end."""
    flat, build = numbers((LogisticTimes(1.5, 2.0), PROCESSES[name]()))

    def draw(flat):
        times, process = build(flat)
        return jnp.stack(times(process, 0.3))

    found = quick_jit(jax.jacrev(draw))(flat)
    expected = finite_difference(quick_jit(jax.vmap(draw)), flat)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-8)


def test_uniform_is_uniform():
    process = ex.VariancePreserving(ex.LinearSchedule(), kappa=0.3)
    s, density = UniformTimes()(process, jnp.float32(0.25))
    assert s == 0.25
    slope = jax.grad(process.log_snr)(s)
    assert float(density) == pytest.approx(-1 / float(slope), rel=1e-5)


def test_noise_fraction_is_uniform_in_the_noise_fraction(x64):
    process, c = PROCESSES["cosine"](), 0.4
    u = jnp.linspace(0.01, 0.99, 50)
    s, _ = drawn(LogisticTimes.noise_fraction(c), process, u)
    tau = process.var(s) / (process.var(s) + c * process.scale(s) ** 2)
    assert jnp.allclose(tau, u, atol=1e-12)


def test_matched_sits_on_the_entropy_rate():
    """VPx: the rate peaks where mu^2 = 1/2, at log-SNR -2 log kappa."""
    for name, expected in (("vp", 0.0), ("vpx", -2 * np.log(0.1)), ("sl", -2 * np.log(0.1))):
        process = PROCESSES[name]()
        scaling = ex.GaussianScaling.from_data(gaussian_data(512), process)
        assert abs(LogisticTimes.matched(process, scaling).location - expected) < 1.5


def test_bad_arguments():
    with pytest.raises(ValueError, match=r"`scale` must be positive and finite, got 0\.0"):
        LogisticTimes(0.0, 0.0)
    with pytest.raises(ValueError, match="`location` must be finite"):
        LogisticTimes(np.inf)
    with pytest.raises(ValueError, match="`variance` must be positive"):
        LogisticTimes.noise_fraction(-1.0)


@pytest.mark.parametrize(("n", "m"), [(1, 7), (32, 1), (33, 10)])
def test_stratified(n, m, getkey):
    for u in np.asarray(jax.vmap(lambda k: stratified(k, n, m))(jax.random.split(getkey(), 10))):
        u = u.astype(np.float64)
        assert u.shape == (n, m)
        assert u.min() > 0
        assert u.max() < 1
        # One draw in each of n m intervals, and in every row one in each of m.
        # Up to float32 rounding at the ends of an interval.
        middles = np.arange(n * m) + 0.5
        np.testing.assert_allclose(np.sort(u.ravel()) * n * m, middles, atol=0.5 + 1e-4 * n * m)
        inside = np.sort(u * m, axis=1) - np.arange(m)
        np.testing.assert_allclose(inside, 0.5, atol=0.5 + 1e-5 * m)


def test_every_entry_is_uniform_and_rows_are_random():
    keys = jax.random.split(jax.random.key(0), 4000)
    u = np.asarray(jax.vmap(lambda k: stratified(k, 4, 3))(keys), np.float64)
    inside = u * 3 - np.arange(3)  # each column fills its own third
    assert np.allclose(inside.mean(axis=0), 0.5, atol=4 * np.sqrt(1 / 12 / 4000))
    assert np.allclose((inside**2).mean(axis=0), 1 / 3, atol=4 * np.sqrt(4 / 45 / 4000))
    rows = inside.transpose(1, 2, 0)
    correlation = np.corrcoef(rows[0, 0], rows[0, 1])[0, 1]  # columns: independent
    assert abs(correlation) < 4 / np.sqrt(4000)
    between = np.corrcoef(rows[0, 0], rows[1, 0])[0, 1]  # rows: strata repel
    assert between < -0.2
