"""Entropy estimates against values known in closed form or by quadrature.

For Gaussian data the exact field is that of the Gaussian reference, so an array whose own moments
are those of the Gaussian leaves nothing to chance: the estimate is the closed form to rounding.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick_jit
from tests.mixtures import TOTAL_ENTROPY, mixture, process


def schedule(beta_max=16.0):
    return ex.LinearSchedule(0.1, beta_max)


def two_points(mean, variance):
    """An array with exactly these moments."""
    return jnp.asarray([[mean - variance**0.5], [mean + variance**0.5]])


def divergence_to(kappa, mean, variance):
    """K(m, v) of one dimension: KL(N(m, v) || N(0, kappa^2))."""
    ratio = variance / kappa**2
    return (ratio + mean**2 / kappa**2 - 1 - jnp.log(ratio)) / 2


def closed_form(process, mean, variance):
    """S_tot of a Gaussian under a process with a static equilibrium."""
    scale, var = process.scale(process.t1), process.var(process.t1)
    kappa = 1 / jnp.sqrt(process.equilibrium_precision(process.t1))
    return divergence_to(kappa, mean, variance) - divergence_to(
        kappa, scale * mean, scale**2 * variance + var
    )


def gaussian_entropy(process, mean, variance, **options):
    model = ex.ExactModel(ex.Gaussian([mean], [[variance]]), process)
    data = two_points(mean, variance)
    return ex.neural_entropy(model, data, key=jax.random.key(0), num_evaluations=512, **options)


@pytest.mark.parametrize(
    ("make", "mean", "variance", "options", "expected"),
    [
        (lambda: ex.VariancePreserving(schedule()), 0.7, 0.4, {}, 0.40306717680056),
        (lambda: ex.VariancePreserving(schedule(), 0.1), 1.5, 0.4, {}, 130.11962290559),
        (lambda: ex.StraightLine(0.1), 1.5, 0.4, {}, 130.15556027294),
        (lambda: ex.RectifiedFlow(), 0.5, 1.0, {"cutoff": 0.01}, 3.5389620557385),
        (lambda: ex.VariancePreserving(schedule()), 0.0, 1e-4, {}, 4.105220),
        (lambda: ex.VariancePreserving(schedule()), 0.0, 1e-6, {}, 6.407756),
    ],
    ids=["VP", "VPx", "SL", "rectified flow", "variance 1e-4", "variance 1e-6"],
)
def test_gaussian_values(x64, make, mean, variance, options, expected):
    estimate = gaussian_entropy(make(), mean, variance, **options)
    assert float(estimate.value) == pytest.approx(expected, rel=2e-7)
    assert float(estimate.mc_stderr) < 1e-6 * expected


@pytest.mark.slow
def test_full_covariance_values(x64):
    mean, covariance = [0.5, -1.0], np.array([[0.6, 0.35], [0.35, 0.9]])
    root = np.linalg.cholesky(covariance) * np.sqrt(2)
    data = jnp.asarray(np.concatenate([root.T, -root.T]) + mean)
    distribution = ex.Gaussian(mean, covariance)
    for path, expected in (
        (ex.VariancePreserving(schedule()), 0.81153591807826),
        (ex.CosinePath(), 0.81173536734561),
    ):
        model = ex.ExactModel(distribution, path)
        estimate = ex.neural_entropy(model, data, key=jax.random.key(1), num_evaluations=512)
        assert float(estimate.value) == pytest.approx(expected, rel=1e-9)


def test_variance_exploding_is_the_growth_of_differential_entropy(x64):
    path = ex.VarianceExploding(0.01, 20.0)
    estimate = gaussian_entropy(path, 0.3, 0.5)
    expected = float(jnp.log1p(path.var(path.t1) / 0.5) / 2)
    assert float(estimate.value) == pytest.approx(expected, rel=1e-9)


@pytest.mark.slow
def test_gradients_equal_the_closed_form(x64):
    def make(parameters):
        kappa, beta_min, beta_max = parameters
        return ex.VariancePreserving(ex.LinearSchedule(beta_min, beta_max), kappa)

    parameters = jnp.asarray([0.8, 0.3, 3.0])
    estimated, expected = (
        quick_jit(jax.grad(lambda p, f=f: f(make(p), 0.7, 0.4)))(parameters)
        for f in (lambda *a: gaussian_entropy(*a).value, closed_form)
    )
    np.testing.assert_allclose(estimated, expected, rtol=1e-6)

    at_16 = quick_jit(
        jax.grad(lambda b: gaussian_entropy(ex.VariancePreserving(schedule(b)), 0.7, 0.4).value)
    )(16.0)
    assert float(at_16) == pytest.approx(3.9099151602e-5, rel=1e-6)


@pytest.mark.slow
def test_second_derivative_equals_the_closed_form(x64):
    def make(kappa):
        return ex.VariancePreserving(ex.LinearSchedule(0.3, 3.0), kappa)

    def of_kappa(function):
        return quick_jit(jax.grad(jax.grad(lambda k: function(make(k)))))(0.8)

    second = of_kappa(lambda path: gaussian_entropy(path, 0.7, 0.4).value)
    expected = of_kappa(lambda path: closed_form(path, 0.7, 0.4))
    np.testing.assert_allclose(second, expected, rtol=1e-4)


@pytest.mark.slow
def test_gradient_of_a_mixture_equals_the_closed_form(x64):
    """S_tot = KL(p_d || p_eq) - KL(p_T || p_eq), of which p_d's own entropy drops out."""
    data = mixture(3).sample(50_000, key=jax.random.key(0))
    second_moment = jnp.mean(jnp.sum(data**2, axis=-1))
    mean, variances = jnp.mean(data, axis=0), jnp.linalg.eigvalsh(jnp.cov(data.T, ddof=0))
    quiet = jnp.sum(mean**2) / 3  # the end term is Gaussian up to the fourth power of mu_T

    def entropy(kappa):
        path = ex.VariancePreserving(schedule(), kappa)
        model = ex.ExactModel(mixture(3), path)
        return ex.neural_entropy(model, data, key=jax.random.key(1), num_evaluations=16_384)

    def expected(kappa):
        path = ex.VariancePreserving(schedule(), kappa)
        scale, var = path.scale(1.0), path.var(1.0)
        end = divergence_to(kappa, scale * jnp.sqrt(quiet), scale**2 * variances + var)
        return 3 * jnp.log(kappa) + second_moment / (2 * kappa**2) - jnp.sum(end)

    estimated = quick_jit(jax.grad(lambda k: entropy(k).value))(0.7)
    truth = quick_jit(jax.grad(expected))(0.7)
    assert float(estimated) == pytest.approx(float(truth), rel=0.01)


@pytest.mark.parametrize(
    ("dim", "name"),
    [
        case if case == (2, "VP") else pytest.param(*case, marks=pytest.mark.slow)
        for case in TOTAL_ENTROPY
    ],
)
def test_total_entropy_of_the_papers_mixtures(dim, name):
    """float32, 200,000 fresh samples, 100,000 evaluations: within 4 standard errors, and small."""
    model = ex.ExactModel(mixture(dim), process(name))
    data = mixture(dim).sample(200_000, key=jax.random.key(17 + dim))
    estimate = ex.neural_entropy(model, data, key=jax.random.key(3), num_evaluations=100_000)
    expected = TOTAL_ENTROPY[dim, name]
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.stderr)
    assert float(estimate.stderr) < (0.004 if name == "VP" else 0.005) * expected
    assert float(estimate.mc_stderr) <= float(estimate.stderr)


@pytest.mark.parametrize("control_variate", [True, pytest.param(False, marks=pytest.mark.slow)])
@pytest.mark.parametrize(
    ("distribution", "expected"),
    [
        (lambda: ex.Gaussian([0.0], [[1e-4]]), 4.105220),
        (lambda: ex.Gaussian([0.0], [[1e-6]]), 6.407756),
        (lambda: ex.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[0.01], [0.01]]), 3.912073),
    ],
    ids=["1e-4", "1e-6", "two narrow peaks"],
)
def test_small_variance_in_float32(distribution, expected, control_variate):
    data = distribution().sample(200_000, key=jax.random.key(5))
    estimate = ex.neural_entropy(
        ex.ExactModel(distribution(), ex.VariancePreserving(schedule())),
        data,
        key=jax.random.key(6),
        num_evaluations=100_000,
        control_variate=control_variate,
    )
    assert abs(float(estimate.value) - expected) < 4 * float(estimate.stderr)
    assert float(estimate.stderr) < 0.01 * expected


class Shrink(eqx.Module):
    """A field that pulls to the origin."""

    def __call__(self, log_snr, y, condition=None):
        return -0.5 * y


@pytest.mark.slow
def test_a_wrong_field():
    """e = -y/2: S_NN and the path KL to the truth are both known."""
    path = process("VP")
    model = ex.EntropyMatching(Shrink(), path, shape=(3,))
    data = mixture(3).sample(200_000, key=jax.random.key(8))
    entropy = ex.neural_entropy(model, data, key=jax.random.key(0), num_evaluations=40_000)
    distance = ex.path_kl(
        model,
        ex.ExactModel(mixture(3), path),
        data,
        key=jax.random.key(1),
        num_evaluations=100_000,
    )
    assert abs(float(entropy.value) - 3.3146772329895) < 4 * float(entropy.stderr)
    assert abs(float(distance.value) - 5.5960533604) < 4 * float(distance.stderr)
    total = TOTAL_ENTROPY[3, "VP"]
    assert abs(float(entropy.value) ** 0.5 - total**0.5) < float(distance.value) ** 0.5


@pytest.mark.slow(reason="a program for each cut-off")
def test_two_points_with_a_cutoff(x64):
    """Finite data: entropy down to Sigma^2 = 1e-4, and the slope D - d = 1."""
    points = jnp.asarray([[-1.0], [1.0]])
    model = ex.ExactModel(ex.Empirical(points), ex.VariancePreserving(schedule()))
    estimate = ex.neural_entropy(
        model, points, key=jax.random.key(0), num_evaluations=60_000, cutoff=0.01
    )
    assert abs(float(estimate.value) - 3.9120230054281) < 4 * float(estimate.mc_stderr)
    assert float(estimate.mc_stderr) < 0.03
    assert float(estimate.cutoff) == 0.01
    assert float(estimate.slope) == pytest.approx(1.0, abs=0.1)
    assert "slope" in str(estimate)


@pytest.mark.slow(reason="repeated estimates")
def test_slope_is_the_codimension(x64):
    plane = ex.Gaussian(jnp.zeros(5), jnp.diag(jnp.asarray([1.0, 0.5, 1e-12, 1e-12, 1e-12])))
    model = ex.ExactModel(plane, ex.VariancePreserving(schedule()))
    data = plane.sample(2000, key=jax.random.key(0))
    estimate = ex.neural_entropy(model, data, key=jax.random.key(1), cutoff=1e-3)
    assert float(estimate.slope) == pytest.approx(3.0, abs=0.2)


@pytest.mark.slow
def test_total_entropy_does_not_depend_on_the_schedule(x64):
    data = mixture(2).sample(500, key=jax.random.key(0))
    values = []
    for clock in (ex.LinearSchedule(0.1, 19.9), ex.LinearSchedule(10.0, 10.0)):
        model = ex.ExactModel(mixture(2), ex.VariancePreserving(clock))
        values.append(ex.neural_entropy(model, data, key=jax.random.key(0)).value)
    assert float(values[0]) == pytest.approx(float(values[1]), rel=1e-9)
