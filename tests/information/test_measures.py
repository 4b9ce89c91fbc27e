"""Information of Gaussians, where everything is known: exact models, then trained ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.models.conditional import AbstractConditional


def vp(beta_max=16.0):
    return ex.VariancePreserving(ex.LinearSchedule(0.1, beta_max))


class ConditionalGaussian(AbstractConditional):
    """X given C, for (X, C) jointly normal with unit variances and correlation rho in each pair."""

    process: ex.VariancePreserving
    rho: jax.Array
    shape = None
    divergence = None

    def inner(self, condition):
        mean = self.rho * condition
        covariance = (1 - self.rho**2) * jnp.eye(condition.shape[0])
        return ex.ExactModel(ex.Gaussian(mean, covariance), self.process)

    @property
    def prior(self):
        raise NotImplementedError

    def with_process(self, process):
        raise NotImplementedError


class LinearGaussian(AbstractConditional):
    """X given a condition u, N(gain . u, variance): u a number, or several, flat."""

    process: ex.VariancePreserving
    gain: jax.Array
    variance: jax.Array
    shape = None
    divergence = None

    def inner(self, condition):
        values = jnp.concatenate([jnp.ravel(part) for part in jax.tree.leaves(condition)])
        mean = (self.gain @ values.astype(self.gain.dtype))[None]
        return ex.ExactModel(ex.Gaussian(mean, self.variance[None, None]), self.process)

    @property
    def prior(self):
        raise NotImplementedError

    def with_process(self, process):
        raise NotImplementedError


def pair(rho, dim, n, key):
    x_key, c_key = jax.random.split(key)
    c = jax.random.normal(c_key, (n, dim))
    return rho * c + jnp.sqrt(1 - rho**2) * jax.random.normal(x_key, (n, dim)), c


def close(estimate, expected, within=0.01):
    """Within four standard errors, and within 1% or 0.01 nats, unless stated otherwise."""
    error = abs(float(estimate.value) - expected)
    assert error < 4 * float(estimate.stderr) + 1e-6
    assert error < within * max(abs(expected), 1.0)


def gaussian_kl(m1, c1, m2, c2):
    inverse = np.linalg.inv(c2)
    ratio = np.linalg.slogdet(c2)[1] - np.linalg.slogdet(c1)[1]
    shift = m2 - m1
    return (np.trace(inverse @ c1) + shift @ inverse @ shift - len(m1) + ratio) / 2


@pytest.mark.parametrize("dim", [1, pytest.param(10, marks=pytest.mark.slow)])
def test_kl_of_gaussians(dim):
    rng = np.random.default_rng(dim)
    root = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    first = 0.3 * np.eye(dim) + root @ root.T
    second = 0.8 * np.eye(dim)
    m1, m2 = rng.normal(size=dim), np.zeros(dim)
    p, q = ex.Gaussian(m1, first), ex.Gaussian(m2, second)
    data = p.sample(20_000, key=jax.random.key(0))
    estimate = ex.kl_divergence(
        ex.ExactModel(p, vp()), ex.ExactModel(q, vp()), data, key=jax.random.key(1)
    )
    close(estimate, gaussian_kl(m1, first, m2, second))


@pytest.mark.slow  # five programs for each dimension
@pytest.mark.parametrize(("dim", "rho"), [(1, 0.99), (10, 0.9)])
def test_gaussian_grid(dim, rho):
    """Pairs of `dim` correlated coordinates: I in two forms, TC and KL are one number; and h."""
    process = vp()
    n, count = 100_000 // dim, 32_768
    x, c = pair(rho, dim, n, jax.random.key(0))
    both, one = jnp.concatenate([x, c], axis=1), jnp.eye(dim)
    covariance = jnp.block([[one, rho * one], [rho * one, one]])
    joint = ex.ExactModel(ex.Gaussian(jnp.zeros(2 * dim), covariance), process)
    half = ex.ExactModel(ex.Gaussian(jnp.zeros(dim), one), process)
    product = ex.ExactModel(ex.Gaussian(jnp.zeros(2 * dim), jnp.eye(2 * dim)), process)
    conditional = ConditionalGaussian(process, jnp.asarray(rho))
    options = {"key": jax.random.key(1), "num_evaluations": count}
    scores = {"marginal_model": half, "form": "score", **options}
    twice = {**scores, "num_evaluations": 4 * count, "form": "denoising"}
    information = -dim / 2 * np.log(1 - rho**2)
    within = 0.03  # of three standard errors
    close(ex.mutual_information(conditional, x, c, **scores), information, within)
    close(ex.mutual_information(conditional, x, c, **twice), information, within)
    close(ex.total_correlation(joint, [half, half], both, **options), information, within)
    close(ex.kl_divergence(joint, product, both, **options), information, within)
    entropy = ex.differential_entropy(joint, both[:20_000], key=jax.random.key(2))
    close(entropy, dim * np.log(2 * np.pi * np.e) - information, within)


def trivariate(n, key):
    """x = .6 y + .5 z + e, with y = .7 z + f: unit variances but for x."""
    z, f, e = jax.random.normal(key, (3, n, 1))
    y = 0.7 * z + jnp.sqrt(1 - 0.49) * f
    return 0.6 * y + 0.5 * z + 0.6 * e, y, z


@pytest.mark.slow
def test_conditional_information_of_gaussians():
    process = vp()
    x, y, z = trivariate(20_000, jax.random.key(0))
    left = 0.36 * (1 - 0.49) + 0.36  # the variance of x given z
    given_both = LinearGaussian(process, jnp.array([0.6, 0.5]), jnp.asarray(0.36))
    given_z = LinearGaussian(process, jnp.array([0.6 * 0.7 + 0.5]), jnp.asarray(left))
    estimate = ex.information.conditional_mutual_information(
        given_both,
        x,
        y,
        z,
        key=jax.random.key(1),
        given_model=given_z,
        form="score",
        num_evaluations=65_536,
    )
    close(estimate, np.log(left / 0.36) / 2)


@pytest.mark.slow
@pytest.mark.parametrize("form", ["denoising", "score"])
def test_information_about_a_label(form):
    """A sign seen through noise of its own size: points +-1 at a signal-to-noise ratio of 1."""
    process = vp()
    mixture = ex.GaussianMixture([0.5, 0.5], [[-1.0], [1.0]], [[1.0], [1.0]])
    sign = jax.random.rademacher(jax.random.key(0), (20_000,), jnp.int32)
    x = sign[:, None] + jax.random.normal(jax.random.key(1), (20_000, 1))
    estimate = ex.mutual_information(
        LinearGaussian(process, jnp.array([1.0]), jnp.asarray(1.0)),
        x,
        sign,
        key=jax.random.key(2),
        marginal_model=ex.ExactModel(mixture, process),
        form=form,
        num_evaluations=131_072,
    )
    close(estimate, 0.33682083034683)


@pytest.mark.slow(reason="a program of its own")
def test_kl_between_conditions_of_one_model():
    """Labels 0 and 1 shift the mean by 0.8: KL(p(x|0) || p(x|1)) = 0.32."""
    process = vp()
    model = LinearGaussian(process, jnp.array([0.8]), jnp.asarray(1.0))
    data = jax.random.normal(jax.random.key(0), (20_000, 1))
    estimate = ex.kl_divergence(
        model,
        model,
        data,
        key=jax.random.key(1),
        condition=jnp.zeros(20_000, int),
        reference_condition=jnp.ones(20_000, int),
        form="score",
    )
    close(estimate, 0.32)


@pytest.mark.slow(reason="a gradient of an integral")
@pytest.mark.parametrize("form", ["score", pytest.param("denoising", marks=pytest.mark.slow)])
def test_gradient_of_information_in_the_correlation(form, x64):
    """Through the data, the model and its condition: d/d rho of -log(1 - rho^2)/2."""
    process = vp()
    c, noise = jax.random.normal(jax.random.key(0), (2, 20_000, 1))
    marginal = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process)

    def information(rho):
        x = rho * c + jnp.sqrt(1 - rho**2) * noise
        model = ConditionalGaussian(process, rho)
        return ex.mutual_information(
            model,
            x,
            c,
            key=jax.random.key(1),
            marginal_model=marginal,
            form=form,
            num_evaluations=16_384 if form == "score" else 131_072,
        ).value

    slope = jax.jit(jax.grad(information))(0.8)
    assert float(slope) == pytest.approx(0.8 / (1 - 0.64), rel=0.05)


@pytest.mark.slow
def test_gradients_of_the_other_measures(x64):
    process = vp()
    noise = jax.random.normal(jax.random.key(0), (20_000, 2))
    options = {"key": jax.random.key(1), "num_evaluations": 65_536}

    def exact(covariance):
        return ex.ExactModel(ex.Gaussian(jnp.zeros(len(covariance)), covariance), process)

    def correlated(rho):
        x = jnp.stack([noise[:, 0], rho * noise[:, 0] + jnp.sqrt(1 - rho**2) * noise[:, 1]], 1)
        return x, exact(jnp.array([[1.0, rho], [rho, 1.0]]))

    def tc(rho):
        x, model = correlated(rho)
        return ex.total_correlation(model, [exact(jnp.eye(1))] * 2, x, **options).value

    def kl(rho):
        x, model = correlated(rho)
        return ex.kl_divergence(model, exact(jnp.eye(2)), x, **options).value

    def entropy(rho):
        x, model = correlated(rho)
        return ex.differential_entropy(model, x[:5000], key=jax.random.key(2)).value

    expected = 0.6 / (1 - 0.36)
    for measure, sign in ((tc, 1), (kl, 1), (entropy, -1)):
        slope = float(jax.jit(jax.grad(measure))(0.6))
        assert slope == pytest.approx(sign * expected, rel=0.03)


@pytest.mark.slow
def test_total_correlation_and_entropy_of_a_gaussian():
    process = vp()
    covariance = np.array([[1.0, 0.6, 0.2], [0.6, 1.0, -0.3], [0.2, -0.3, 0.5]])
    whole = ex.Gaussian(np.zeros(3), covariance)
    data = whole.sample(20_000, key=jax.random.key(0))
    blocks = [
        ex.ExactModel(ex.Gaussian(np.zeros(2), covariance[:2, :2]), process),
        ex.ExactModel(ex.Gaussian(np.zeros(1), covariance[2:, 2:]), process),
    ]
    model = ex.ExactModel(whole, process)
    estimate = ex.total_correlation(model, blocks, data, key=jax.random.key(1))
    logdet = np.linalg.slogdet
    expected = logdet(covariance[:2, :2])[1] + np.log(covariance[2, 2]) - logdet(covariance)[1]
    close(estimate, expected / 2)
    entropy = ex.differential_entropy(model, data[:2000], key=jax.random.key(2))
    exact = (3 * np.log(2 * np.pi * np.e) + logdet(covariance)[1]) / 2
    assert abs(float(entropy.value) - exact) < 4 * float(entropy.stderr)


def test_bad_arguments():
    model = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), vp())
    other = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), vp(8.0))
    data, key = jnp.ones((4, 1)) * jnp.arange(4.0)[:, None], jax.random.key(0)
    with pytest.raises(ValueError, match="`marginal_model` must run on the process"):
        ex.mutual_information(model, data, data, key=key, marginal_model=other)
    with pytest.raises(ValueError, match="`given` must be given"):
        ex.information.conditional_mutual_information(model, data, data, None, key=key)
    with pytest.raises(ValueError, match="`reference_condition` must have a leading axis"):
        ex.kl_divergence(model, model, data, key=key, reference_condition=jnp.zeros(3))
    with pytest.raises(ValueError, match="`reference_model` must run on the process"):
        ex.kl_divergence(model, other, data, key=key)
    with pytest.raises(ValueError, match="`condition` must be given"):
        ex.mutual_information(model, data, None, key=key)
    with pytest.raises(ValueError, match="`condition` must have a leading axis"):
        ex.mutual_information(model, data, jnp.zeros((3, 1)), key=key)
    with pytest.raises(ValueError, match="`marginal_models` must make up the 1 coordinates"):
        ex.total_correlation(model, [model, model], data, key=key)
