"""Critical times against closed forms: Gaussians, a symmetric mixture, a sign in noise."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick_jit
from tests.information.test_measures import LinearGaussian, vp


KEY = jax.random.key(0)


def collapse_of_gaussian(n, dim, variance):
    return np.log1p(variance / (n ** (2 / dim) - 1)) / 2


def log_snr_of(ou_time):
    return -np.log(np.expm1(2 * ou_time))


def white(dim, variance=1.0, process=None):
    gaussian = ex.Gaussian(np.zeros(dim), variance * np.eye(dim))
    return ex.ExactModel(gaussian, vp() if process is None else process)


def near(estimate, expected):
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.stderr) + 1e-6


@pytest.mark.slow(reason="a bisection at each size")
def test_collapse_of_a_gaussian():
    model = white(5)
    data = model.distribution.sample(8000, key=KEY)
    found = ex.critical_times(model, data, num_points=1000, key=KEY, num_evaluations=2048)
    expected = collapse_of_gaussian(1000, 5, 1.0)
    assert expected == pytest.approx(0.0325871, abs=5e-8)
    near(found.collapse.ou_time, expected)
    near(found.collapse.log_snr, log_snr_of(expected))
    near(found.collapse.time, float(model.process.time_of_log_snr(log_snr_of(expected))))
    assert float(found.collapse.ou_time.stderr) < 0.02 * expected
    assert found.class_entropy is None
    assert "collapse: log-SNR 2." in str(found)


@pytest.mark.slow(reason="other processes and shapes")
@pytest.mark.parametrize("make", [ex.RectifiedFlow, ex.StraightLine, lambda: vp(2.0)])
@pytest.mark.parametrize(("n", "dim", "variance"), [(50, 2, 0.01), (10**6, 8, 30.0)])
def test_collapse_does_not_depend_on_the_process(make, n, dim, variance):
    model = white(dim, variance, make())
    data = model.distribution.sample(8000, key=KEY)
    found = ex.critical_times(model, data, num_points=n, key=KEY, num_evaluations=2048).collapse
    near(found.ou_time, collapse_of_gaussian(n, dim, variance))


@pytest.mark.slow(reason="many seeds")
def test_errors_of_a_collapse_are_honest():
    """The scatter over data and keys is that of `stderr`, for data that are not isotropic."""
    variances = np.array([4.0, 1.0, 0.1])
    model = ex.ExactModel(ex.Gaussian(np.zeros(3), np.diag(variances)), vp())
    grid = np.linspace(-5, 10, 200_001)
    information = np.log1p(np.exp(grid)[:, None] * variances).sum(axis=1) / 2
    expected = np.interp(np.log(100.0), information, grid)
    errors, stated = [], []
    for seed in range(60):
        key, data_key = jax.random.split(jax.random.key(seed))
        data = model.distribution.sample(500, key=data_key)
        found = ex.critical_times(model, data, num_points=100, key=key, num_evaluations=512)
        errors.append(float(found.collapse.log_snr.value) - expected)
        stated.append(float(found.collapse.log_snr.stderr))
    ratio = np.sqrt(np.mean(np.square(errors)) / np.mean(np.square(stated)))
    assert 0.75 < ratio < 1.3
    assert abs(np.mean(errors)) < 4 * np.std(errors) / np.sqrt(60)


@pytest.mark.slow(reason="a bisection at each size")
def test_points_do_not_collapse_onto_more_than_they_are():
    """Eight points have ln 8 nats: less than ln 100 at any noise, more than ln 4 below some."""
    points = jax.random.normal(KEY, (8, 2))
    model = ex.ExactModel(ex.Empirical(points), vp())
    options = {"key": KEY, "num_evaluations": 2048, "num_times": 33}
    found = ex.critical_times(model, points, num_points=100, **options).collapse
    assert np.isposinf(found.log_snr.value)
    assert np.isposinf(found.log_snr.stderr)
    assert float(found.ou_time.value) < 1e-6
    found = ex.critical_times(model, points, num_points=4, **options).collapse
    assert np.isfinite(found.log_snr.value)


def collapse_of_misfit(count, dim, model_variance, variance):
    """The log-SNR where the denoising errors of N(0, wI), on data from N(0, vI), add up to ln n."""
    grid = np.linspace(-30, 15, 400_001)
    g = np.exp(grid)[:, None]
    off = 1 + g * np.atleast_1d(model_variance)
    rate = dim / 2 * ((1 + g * variance) / off**2 - 2 / off + 1)
    information = np.cumsum(rate, axis=0) * (grid[1] - grid[0])
    return np.array([np.interp(np.log(count), column, grid) for column in information.T])


@pytest.mark.slow(reason="a gradient of two integrals")
def test_gradient_of_a_collapse_in_a_parameter_of_the_model(x64):
    """Of a model that is wider than the data."""
    data = jax.random.normal(KEY, (20_000, 2))

    def log_snr(variance):
        model = ex.ExactModel(ex.Gaussian(jnp.zeros(2), variance * jnp.eye(2)), vp())
        found = ex.critical_times(
            model, data, num_points=100, key=KEY, num_evaluations=4096, cutoff=0.02
        )
        return found.collapse.log_snr

    (estimate, slope) = quick_jit(lambda v: (log_snr(v), jax.grad(lambda v: log_snr(v).value)(v)))(
        3.0
    )
    low, exact, high = collapse_of_misfit(100, 2, [2.99, 3.0, 3.01], 1.0)
    near(estimate, exact)
    # The rate by which the gradient is divided has an error of a few per cent.
    assert float(slope) == pytest.approx((high - low) / 0.02, rel=0.15)


def test_gradient_of_speciation_in_the_data(x64):
    """The largest eigenvalue grows by twice the relative growth of the data."""
    data = jax.random.normal(KEY, (500, 2)) * jnp.array([3.0, 1.0])
    slope = jax.grad(lambda c: ex.critical_times(c * data).speciation.ou_time.value)(1.0)
    assert float(slope) == pytest.approx(1.0, rel=0.01)


@pytest.mark.parametrize("model", [None, "exact"])
def test_speciation_of_a_symmetric_mixture(model):
    """The variance along the line between the components is 1 + m^2."""
    mixture = ex.GaussianMixture([0.5, 0.5], [[-4.0, 0.0], [4.0, 0.0]], np.ones((2, 2)))
    data = mixture.sample(4000, key=KEY)
    data = data[jnp.argsort(data[:, 0])]  # sorted data are no worse
    if model is None:
        found = ex.critical_times(data)
        assert found.collapse is None
        assert found.speciation.time is None
    else:
        found = ex.critical_times(ex.ExactModel(mixture, vp()), data)
        near(found.speciation.time, float(vp().time_of_log_snr(-np.log(16.0))))
    near(found.largest_eigenvalue, 17.0)
    near(found.speciation.ou_time, np.log(17.0) / 2)
    near(found.speciation.log_snr, -np.log(16.0))
    assert float(found.speciation.ou_time.stderr) < 0.01


def test_data_narrower_than_the_noise_do_not_speciate():
    found = ex.critical_times(0.5 * jax.random.normal(KEY, (1000, 3))).speciation
    near(found.ou_time, np.log(0.25) / 2)
    assert np.isposinf(found.log_snr.value)
    assert np.isposinf(found.log_snr.stderr)


def test_the_largest_eigenvalue_knows_its_bias():
    """Of 100 samples in 20 dimensions: one strong direction, or none."""
    run = jax.jit(lambda x: ex.critical_times(x).largest_eigenvalue)
    for largest in (1.0, 9.0):
        stds = np.r_[np.sqrt(largest), np.ones(19)]
        data = stds * np.random.default_rng(0).normal(size=(100, 100, 20)).astype(np.float32)
        found = jax.lax.map(run, jnp.asarray(data))
        error = np.asarray(found.value) - largest
        rms, stated = np.sqrt(np.mean(error**2)), np.sqrt(np.mean(found.stderr**2))
        assert 0.6 < rms / stated < 1.25
        if largest > 1:  # well separated: the bias is gone
            assert abs(error.mean()) < 4 * error.std() / 10


def information_of_a_sign(snr):
    """I(C; C + noise) for a sign, by Gauss-Hermite quadrature."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(200)
    weights = weights / weights.sum()
    u = snr[:, None] + np.sqrt(snr)[:, None] * nodes
    return np.log(2) - np.logaddexp(0, -2 * u) @ weights


def sign_in_noise(n, key=KEY, noise_key=None):
    noise_key = jax.random.key(1) if noise_key is None else noise_key
    sign = jax.random.rademacher(key, (n,), jnp.int32)
    x = 2 * sign[:, None] + jax.random.normal(noise_key, (n, 1))
    mixture = ex.GaussianMixture([0.5, 0.5], [[-2.0], [2.0]], [[1.0], [1.0]])
    conditional = LinearGaussian(vp(), jnp.array([2.0]), jnp.asarray(1.0))
    return conditional, ex.ExactModel(mixture, vp()), x, sign


@pytest.mark.slow(reason="a bisection, in two forms")
@pytest.mark.parametrize("form", ["score", "denoising"])
def test_class_entropy_of_a_sign(form):
    """At SNR g a sign of size 2 in unit noise has the SNR 4 g/(1 + g)."""
    conditional, marginal, x, sign = sign_in_noise(10_000)
    found = ex.critical_times(
        conditional,
        x,
        labels=sign,
        marginal_model=marginal,
        key=KEY,
        form=form,
        num_evaluations=8192,
    ).class_entropy
    assert float(found.prior.value) == pytest.approx(np.log(2), abs=1e-3)
    gain = np.exp(np.clip(np.asarray(found.log_snr, float), -60, 60))
    exact = np.log(2) - information_of_a_sign(4 * gain / (1 + gain))
    assert np.all(np.abs(found.value - exact) < 4 * found.stderr + 1e-4)
    assert float(np.max(found.stderr)) < 0.05
    assert found.value[-1] == pytest.approx(np.log(2), abs=0.01)
    grid = np.linspace(-8, 8, 4001)
    gain = np.exp(grid)
    half = np.interp(np.log(2) / 2, information_of_a_sign(4 * gain / (1 + gain)), grid)
    near(found.half.log_snr, half)
    assert float(found.half.log_snr.stderr) < 0.1
    # The rate integrates to the fall.
    level = -np.clip(np.asarray(found.log_snr, float), -60, 60)
    assert np.all(np.isfinite(found.rate))
    middle = np.abs(level + half).argmin()
    snr = np.exp(grid)
    rates = np.gradient(information_of_a_sign(4 * snr / (1 + snr)), grid)
    assert found.rate[middle] == pytest.approx(np.interp(-level[middle], grid, rates), rel=0.2)


@pytest.mark.slow(reason="many seeds")
def test_errors_of_a_class_entropy_are_honest():
    """The scatter over data and keys, at every noise at which the error is not negligible."""
    errors, stated = [], []
    for seed in range(40):
        keys = jax.random.split(jax.random.key(seed), 3)
        conditional, marginal, x, sign = sign_in_noise(500, keys[0], keys[1])
        found = ex.critical_times(
            conditional,
            x,
            labels=sign,
            marginal_model=marginal,
            key=keys[2],
            form="score",
            num_evaluations=1024,
            num_times=33,
        ).class_entropy
        gain = np.exp(np.clip(np.asarray(found.log_snr, float), -60, 60))
        errors.append(found.value - np.log(2) + information_of_a_sign(4 * gain / (1 + gain)))
        stated.append(found.stderr)
    stated = np.sqrt(np.mean(np.square(stated), axis=0))
    ratio = np.sqrt(np.mean(np.square(errors), axis=0)) / stated
    assert stated[-1] < 0.1 * stated[0]
    # On the way the variance of the data is known from few evaluations: it is an upper bound.
    assert ratio[0] > 0.7
    assert np.all((ratio > 0.55) & (ratio < 1.35) | (stated < 0.01)), ratio


@pytest.mark.slow(reason="another program")
def test_labels_that_tell_nothing_have_no_half():
    x = sign_in_noise(2000)[2]
    noise = jax.random.bernoulli(KEY, 0.5, (2000,)).astype(int)
    conditional = LinearGaussian(vp(), jnp.array([0.0]), jnp.asarray(5.0))
    alone = ex.ExactModel(ex.Gaussian([0.0], [[5.0]]), vp())
    found = ex.critical_times(
        conditional,
        x,
        labels=noise,
        marginal_model=alone,
        key=KEY,
        form="score",
        num_evaluations=512,
        num_times=33,
    ).class_entropy
    np.testing.assert_allclose(found.value, float(found.prior.value), atol=1e-3)
    assert np.isposinf(found.half.log_snr.value)


@pytest.mark.slow(reason="all of it in one program")
def test_under_jit():
    conditional, marginal, x, sign = sign_in_noise(1000)
    options = {"num_points": 20, "num_evaluations": 512, "num_times": 33, "form": "score"}

    def run(x, sign, key):
        return ex.critical_times(
            conditional, x, labels=sign, marginal_model=marginal, key=key, cutoff=0.02, **options
        )

    found = eqx.filter_jit(run)(x, sign, KEY)
    expected = run(x, sign, KEY)
    for name in ("speciation", "collapse"):
        one, other = (getattr(times, name).log_snr for times in (found, expected))
        assert float(one.value) == pytest.approx(float(other.value), abs=4 * float(other.stderr))
    assert float(found.class_entropy.prior.value) == pytest.approx(
        float(expected.class_entropy.prior.value), rel=1e-5
    )


def test_bad_arguments():
    model, data = white(2), jax.random.normal(KEY, (64, 2))
    with pytest.raises(ValueError, match="`num_points` must be None without a model"):
        ex.critical_times(data, num_points=10)
    with pytest.raises(ValueError, match="`model_or_data` must vary, got 64 equal samples"):
        ex.critical_times(jnp.ones((64, 2)))
    with pytest.raises(ValueError, match="`data` must vary"):
        ex.critical_times(model, jnp.ones((64, 2)))
    with pytest.raises(ValueError, match="`data` must be given with a model"):
        ex.critical_times(model)
    with pytest.raises(ValueError, match="`key` must be given"):
        ex.critical_times(model, data, num_points=10)
    with pytest.raises(ValueError, match="`num_points` must be"):
        ex.critical_times(model, data, num_points=1, key=KEY)
    with pytest.raises(ValueError, match="`labels` must have a leading axis"):
        ex.critical_times(model, data, labels=jnp.zeros(3), key=KEY)
    with pytest.raises(ValueError, match="`labels` must be classes"):
        ex.critical_times(model, data, labels=data, key=KEY, num_evaluations=256)
    with pytest.raises(ValueError, match="`labels` must hold several classes, got 64 equal ones"):
        ex.critical_times(model, data, labels=jnp.ones(64), key=KEY, num_evaluations=256)
    with pytest.raises(ValueError, match="`data` must have shape"):
        ex.critical_times(model, data[:, :1])
    with pytest.raises(ValueError, match="`marginal_model` must run on"):
        ex.critical_times(model, data, marginal_model=white(2, process=vp(8.0)))
