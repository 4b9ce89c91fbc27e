"""Conditional entropy of Gaussian data given the noisy state, which has a closed form."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


VARIANCES = np.array([0.4, 2.0])


def vp(beta_max=16.0):
    return ex.VariancePreserving(ex.LinearSchedule(0.1, beta_max))


def model_and_data(process, n=2000):
    model = ex.ExactModel(ex.Gaussian([0.5, 0.0], np.diag(VARIANCES)), process)
    return model, model.distribution.sample(n, key=jax.random.key(0))


def grown(log_snr, start):
    """H at a log-SNR less H at `start`: half the logarithm of the ratio of 1 + v SNR."""
    at, first = (1 + jnp.exp(v) * VARIANCES for v in (log_snr[..., None], start))
    return jnp.sum(jnp.log(first / at), axis=-1) / 2


@pytest.mark.slow
@pytest.mark.parametrize("make", [vp, ex.CosinePath])
def test_curve_of_a_gaussian(make, x64):
    process = make()
    model, data = model_and_data(process)
    found = ex.information.entropic_time(
        model, data, key=jax.random.key(1), cutoff=0.01, num_quantiles=8
    )
    curve = found.curve
    expected = grown(curve.log_snr, curve.log_snr[0])
    off = np.abs(curve.cumulative - expected)
    assert np.all(off < 4 * curve.stderr + 1e-6)
    assert float(curve.total.stderr) < 0.05  # of 9.1 nats: the spread of the data
    assert abs(float(curve.total.value - expected[-1])) < 4 * float(curve.total.stderr)
    # Rates per unit of log-SNR, away from the ends: D/2 at the data, falling to nothing.
    snr = jnp.exp(curve.log_snr[1:-1, None])
    rate = jnp.sum(snr * VARIANCES / (1 + snr * VARIANCES), axis=1) / 2
    np.testing.assert_allclose(curve.rate[1:-1], rate, atol=0.03)
    # The quantiles divide the growth equally.
    assert found.quantiles[0] == curve.times[0]
    assert found.quantiles[-1] == curve.times[-1]
    levels = grown(process.log_snr(found.quantiles), curve.log_snr[0]) / expected[-1]
    np.testing.assert_allclose(levels, np.arange(9) / 8, atol=0.005)


@pytest.mark.slow
def test_two_points_leave_one_bit():
    """H grows from nothing to ln 2; at a signal-to-noise ratio of 1 the state tells .3368 of it."""
    points = jnp.array([[-1.0], [1.0]])
    model = ex.ExactModel(ex.Empirical(points), vp())
    found = ex.information.entropic_time(
        model, points, key=jax.random.key(0), cutoff=0.05, num_times=257
    )
    curve = found.curve
    at_one = jnp.interp(0.0, -curve.log_snr, curve.cumulative)
    assert float(curve.total.mc_stderr) < 0.03  # rare large values
    for value, expected in ((at_one, np.log(2) - 0.33682083), (curve.total.value, np.log(2))):
        assert abs(float(value) - expected) < 4 * float(curve.total.mc_stderr) + 1e-3


@pytest.mark.slow
def test_quantiles_are_differentiable_in_the_schedule(x64):
    _, data = model_and_data(vp(), 4000)

    def middle(beta_max):
        model, _ = model_and_data(vp(beta_max), 2)
        options = {"key": jax.random.key(1), "cutoff": 0.1, "num_quantiles": 2}
        return ex.information.entropic_time(model, data, **options).quantiles[1]

    def exact(beta_max):
        process = vp(beta_max)
        start, end = jnp.log((1 - 0.1**2) / 0.1**2), process.log_snr(process.t1)
        half = grown(end, start) / 2
        low, high = end, start
        for _ in range(60):
            centre = (low + high) / 2
            above = jax.lax.stop_gradient(grown(centre, start)) > half
            low, high = jnp.where(above, centre, low), jnp.where(above, high, centre)
        root = jax.lax.stop_gradient((low + high) / 2)
        slope = jax.lax.stop_gradient(jax.grad(grown)(root, start))
        return process.time_of_log_snr(root - (grown(root, start) - half) / slope)

    value, gradient = jax.jit(jax.value_and_grad(middle))(16.0)
    expected, slope = jax.jit(jax.value_and_grad(exact))(16.0)
    assert float(value) == pytest.approx(float(expected), rel=0.01)
    assert float(gradient) == pytest.approx(float(slope), rel=0.02)


@pytest.mark.slow
def test_errors_are_honest():
    """A mixture, where the control variate leaves something to the noise."""
    process = vp()
    mixture = ex.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.3], [0.3]])
    model = ex.ExactModel(mixture, process)
    for count in (100, 5000):

        @jax.jit
        def run(key, count=count):
            data_key, key = jax.random.split(key)
            data = mixture.sample(count, key=data_key)
            total = ex.information.entropic_time(
                model, data, key=key, cutoff=0.1, num_evaluations=1024, num_times=9
            ).curve.total
            return total.value, total.stderr

        values, errors = jax.lax.map(run, jax.random.split(jax.random.key(0), 100))
        reported = float(jnp.sqrt(jnp.mean(errors**2)))
        assert 0.8 < float(jnp.std(values)) / reported < 1.25


def test_bad_arguments():
    model, data = model_and_data(vp(), 4)
    with pytest.raises(ValueError, match="`cutoff` must be a noise standard deviation"):
        ex.information.entropic_time(model, data, key=jax.random.key(0), cutoff=None)
    with pytest.raises(ValueError, match="`num_quantiles` must be"):
        ex.information.entropic_time(
            model, data, key=jax.random.key(0), cutoff=0.1, num_quantiles=0
        )
