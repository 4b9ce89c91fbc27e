"""The path bound against closed forms: value, tightness, honesty and variance."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import quick, quick_jit
from tests.mixtures import mixture, process


SCHEDULE = (0.1, 16.0)


def processes():
    schedule = ex.LinearSchedule(*SCHEDULE)
    return {
        "VP": ex.VariancePreserving(schedule),
        "VPx": ex.VariancePreserving(schedule, kappa=0.1),
        "SL": ex.StraightLine(0.1),
        "VE": ex.VarianceExploding(0.01, 50.0),
        "sub-VP": ex.SubVariancePreserving(schedule),
        "rectified flow": ex.RectifiedFlow(),
    }


class Shrink(eqx.Module):
    def __call__(self, log_snr, y, condition=None):
        return -0.5 * y if condition is None else -condition * y


class Scaled(eqx.Module):
    model: ex.ExactModel
    factor: float

    def __call__(self, log_snr, y, condition=None):
        s = self.model.process.time_of_log_snr(log_snr)
        return self.factor * self.model.entropy_field(s, y)


@pytest.mark.parametrize("name", quick(["SL"], ["VE", "sub-VP", "rectified flow"]))
def test_exact_models_meet_the_bound(name):
    """With the exact score and the exact prior the bound is log p_d, within its errors."""
    distribution = mixture(3)
    x = distribution.sample(1000, key=jax.random.key(0))
    model = ex.ExactModel(distribution, processes()[name])
    result = ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(128))
    error = result.value - distribution.log_prob(x)
    z = error / result.stderr
    assert 0.8 < float(jnp.std(z)) < 1.3
    assert abs(float(jnp.mean(error))) < 4 * float(result.mean.mc_stderr)
    assert float(jnp.mean(result.stderr)) < 0.1


def large_mixture(dim):
    """Five groups of unequal size and width in any dimension."""
    rng = np.random.default_rng(0)
    return ex.GaussianMixture(
        rng.uniform(0.5, 1.5, 5),
        rng.normal(size=(5, dim)),
        rng.uniform(0.3, 0.9, (5, 1)) * np.ones(dim),
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("dim", "name", "gain", "method"),
    [
        (3, "VP", 10, ex.PathBound),
        (3, "VPx", 100, ex.PathBound),
        (20, "VP", 1, ex.PathBound),
        (2, "VP", 6, ex.DenoisingError),
        (20, "VPx", 1, ex.DenoisingError),
    ],
)
def test_variance_against_plain_monte_carlo(dim, name, gain, method):
    """Per evaluation and per sample, against uniform times without a reference or pairs."""
    distribution, path = large_mixture(dim) if dim == 20 else mixture(dim), processes()[name]
    model = ex.ExactModel(distribution, path)
    x = distribution.sample(200, key=jax.random.key(0))
    result = ex.log_prob(model, x, key=jax.random.key(1), method=method(128))
    error = result.value - distribution.log_prob(x)
    end = 5e-3 * np.sqrt(dim) * (method is ex.DenoisingError)
    assert abs(float(jnp.mean(error))) < 4 * float(result.mean.mc_stderr) + end

    def plain(x, key):
        time_key, noise_key = jax.random.split(key)
        # Below 1e-5 the plain integrand has no variance to speak of: it has an infinite one.
        s = jax.random.uniform(time_key, minval=1e-5)
        z = jax.random.normal(noise_key, x.shape)
        score = model.score(s, path.perturb(s, x, z))
        drift = path.drift(s, path.perturb(s, x, z)) - path.sigma_squared(s) * score
        return path.sigma_squared(s) / 2 * jnp.sum(score**2) - drift @ z / path.std(s)

    keys = jax.random.split(jax.random.key(2), (200, 512))
    values = quick_jit(jax.vmap(jax.vmap(plain, (None, 0))))(x, keys)
    variance = jnp.mean(jnp.var(values, axis=1))
    ours = jnp.mean(result.stderr**2) * result.num_evaluations
    assert float(variance / ours) > gain


@pytest.mark.slow
@pytest.mark.parametrize("reference", ["poor", "samples"])
def test_any_reference_is_unbiased(reference):
    """A Gaussian that is far off, and samples, whose moments are taken: within errors."""
    distribution = mixture(2)
    given = {
        "poor": ex.Gaussian([1.0, 1.0], [[2.0, 0.5], [0.5, 1.0]]),
        "samples": distribution.sample(500, key=jax.random.key(3)),
    }[reference]
    x = distribution.sample(500, key=jax.random.key(0))
    model = ex.ExactModel(distribution, processes()["VP"])
    method = ex.PathBound(128, reference=given)
    result = ex.log_prob(model, x, key=jax.random.key(1), method=method)
    error = result.value - distribution.log_prob(x)
    assert 0.8 < float(jnp.std(error / result.stderr)) < 1.25
    assert abs(float(jnp.mean(error))) < 4 * float(result.mean.mc_stderr)


@pytest.mark.slow(reason="repeated estimates")
def test_wrong_field_at_a_point():
    """e = -y/2 under VP at x = (1, -2): the bound is known, and lies below the SDE's density."""
    model = ex.EntropyMatching(Shrink(), processes()["VP"], shape=(2,))
    x = jnp.asarray([[1.0, -2.0]])
    result = ex.log_prob(model, x, key=jax.random.key(0), method=ex.PathBound(16_384))
    expected, exact = -8.2247787503047, -6.1447294785453
    assert abs(float(result.value[0]) - expected) < 4 * float(result.stderr[0])
    assert float(result.stderr[0]) < 0.05 < exact - expected
    # The condition reaches the network, example by example.
    conditional = ex.log_prob(
        model,
        jnp.concatenate([x, x]),
        key=jax.random.key(0),
        method=ex.PathBound(4096),
        condition=jnp.asarray([0.5, 0.0]),
    )
    assert abs(float(conditional.value[0]) - expected) < 4 * float(conditional.stderr[0])
    # No field: nothing is gained over equilibrium, whose density is known (bound with equality).
    normal = -jnp.sum(x**2) / 2 - jnp.log(2 * jnp.pi)
    assert abs(float(conditional.value[1] - normal)) < 4 * float(conditional.stderr[1]) + 1e-4


@pytest.mark.slow
def test_mean_gap_is_the_path_kl():
    """E[log p_d - bound] = L + KL(p_T || prior), here with e = 0.8 e*."""
    distribution, path = mixture(3), processes()["VP"]
    truth = ex.ExactModel(distribution, path)
    model = ex.EntropyMatching(Scaled(truth, 0.8), path, shape=(3,))
    x = distribution.sample(4000, key=jax.random.key(0))
    result = ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(64))
    gap = float(jnp.mean(distribution.log_prob(x) - result.value))
    distance = ex.path_kl(model, truth, x, key=jax.random.key(2), num_evaluations=32_768)
    end = 2.952e-4
    spread = float(result.mean.mc_stderr) ** 2 + float(distance.mc_stderr) ** 2
    # The identity holds for the population; the sample's own score terms scatter around it.
    spread += float(jnp.var(distribution.log_prob(x) - result.value)) / x.shape[0]
    assert abs(gap - float(distance.value) - end) < 4 * spread**0.5


@pytest.mark.slow(reason="repeated estimates")
def test_standard_errors_are_honest():
    """Per sample, over 200 keys, for the exact model and for one that is wrong."""
    truth = ex.ExactModel(mixture(3), processes()["VPx"])
    wrong = ex.EntropyMatching(Scaled(truth, 0.9), truth.process, shape=(3,))
    x = mixture(3).sample(30, key=jax.random.key(0))
    for model in (truth, wrong):
        run = jax.jit(lambda k, m=model: ex.log_prob(m, x, key=k, method=ex.PathBound(64)))
        results = jax.lax.map(run, jax.random.split(jax.random.key(1), 200))
        scatter = jnp.std(results.value, axis=0)
        ratio = scatter / jnp.mean(results.stderr, axis=0)
        assert 0.8 < float(jnp.mean(ratio)) < 1.25
        means = jax.vmap(lambda r: r.mean.mc_stderr)(results)
        spread = jnp.std(jnp.mean(results.value, axis=1))
        assert 0.8 < float(spread / jnp.mean(means)) < 1.25


@pytest.mark.slow
def test_gaussian_data_are_exact_with_their_gradient(x64):
    """The reference of Gaussian data is the model: no noise is left, in value or gradient."""
    half = jnp.asarray([[1.0, 0.5], [-0.3, 1.2]])
    points = jnp.concatenate([half, -half]) + jnp.asarray([0.3, -0.2])
    covariance = jnp.cov(points.T, ddof=0)
    distribution = ex.Gaussian(jnp.mean(points, axis=0), covariance)
    model = ex.ExactModel(distribution, processes()["VP"])
    method = ex.PathBound(16, reference=jnp.tile(points, (500, 1)))

    def value(x):
        return ex.log_prob(model, x[None], key=jax.random.key(0), method=method).value[0]

    x = jnp.asarray([0.7, 0.1])
    np.testing.assert_allclose(value(x), distribution.log_prob(x), rtol=1e-4)
    np.testing.assert_allclose(jax.grad(value)(x), distribution.score(x), rtol=1e-3)


@pytest.mark.slow
def test_images():
    """Images are their flattened selves, for a model, a condition and a reference Gaussian."""
    x = jax.random.normal(jax.random.key(0), (5, 6)) * 0.8
    condition = jnp.linspace(-0.2, 0.2, 5)
    covariance = 0.7 * jnp.eye(6) + 0.1
    method = ex.PathBound(32, reference=ex.Gaussian(0.1 * jnp.ones(6), covariance))
    results = [
        ex.log_prob(
            ex.EntropyMatching(Shrink(), processes()["VP"], shape=size),
            x.reshape(5, *size),
            key=jax.random.key(1),
            method=method,
            condition=condition,
        )
        for size in ((6,), (1, 2, 3))
    ]
    np.testing.assert_allclose(results[0].value, results[1].value, rtol=1e-4)
    np.testing.assert_allclose(results[0].stderr, results[1].stderr, rtol=1e-3)


@pytest.mark.slow
def test_shapes_chunks_and_priors():
    model = ex.EntropyMatching(Shrink(), processes()["VP"], shape=(2, 2))
    x = jax.random.normal(jax.random.key(0), (7, 2, 2))
    runs = [
        ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(32), chunk_size=chunk)
        for chunk in (8, 10_000)
    ]
    assert runs[0].value.shape == runs[0].stderr.shape == (7,)
    np.testing.assert_allclose(runs[0].value, runs[1].value, rtol=1e-4)

    class Shifted(eqx.Module):
        """The model's own prior times a constant."""

        def log_prob(self, y):
            return model.prior.log_prob(y) + 1.5

    shifted = ex.log_prob(model, x, key=jax.random.key(1), method=ex.PathBound(32), prior=Shifted())
    np.testing.assert_allclose(shifted.value, runs[1].value + 1.5, rtol=1e-4)


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda m, x: ex.log_prob(m, x), "`key` must be given"),
        (lambda m, x: ex.PathBound(17), "`num_evaluations` must be even"),
        (lambda m, x: ex.PathBound(2), "`num_evaluations` must be an integer of at least 16"),
        (lambda m, x: ex.PathBound(reference="mine"), "`reference` must "),
        (
            lambda m, x: ex.log_prob(
                m,
                x,
                key=jax.random.key(0),
                method=ex.PathBound(reference=ex.Gaussian([0.0], [[1.0]])),
            ),
            "`reference` must have the dimension 3 of the samples, got 1",
        ),
        (lambda m, x: ex.log_prob(m, x[0], key=jax.random.key(0)), "`x` must have shape"),
        (lambda m, x: ex.log_prob(m, x * jnp.nan, key=jax.random.key(0)), "`x` must be finite"),
    ],
)
def test_bad_arguments(call, match):
    model = ex.ExactModel(mixture(3), process("VP"))
    with pytest.raises(ValueError, match=match):
        call(model, jnp.ones((4, 3)))
