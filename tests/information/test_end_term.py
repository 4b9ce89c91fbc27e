"""Data that the process does not erase: what is left at its end is part of every information.

Numbers of models are arrays and go through `jax.lax.map`: one program for all cases of a kind.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.models.conditional import AbstractConditional
from tests.models.test_parametrisations import ExactNetwork


def vp(kappa=1.0):
    return ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa)


def network(model):
    """A trained model that has learnt everything, at the log-SNRs of its process."""
    return ex.EntropyMatching(ExactNetwork(model, "entropy_field"), model.process)


def gaussian_kl(p, q):
    """KL of two Gaussians of two dimensions, each a mean and a covariance."""
    (m1, c1), (m2, c2) = p, q
    inverse, log_det = jnp.linalg.inv(c2), lambda c: jnp.linalg.slogdet(c)[1]
    shift = m2 - m1
    return (jnp.sum(inverse * c1) - 2 + shift @ inverse @ shift + log_det(c2) - log_det(c1)) / 2


def drawn_case(key):
    """Two Gaussians: sizes from 1e-3 to 1e3, within a factor of 30, means within a few of them."""
    keys = jax.random.split(key, 5)
    kappa = 10 ** jax.random.uniform(keys[0], (), minval=-1.0, maxval=0.48)
    size = 10 ** jax.random.uniform(keys[1], (), minval=-3.0, maxval=3.0)
    ratio = 30 ** jax.random.uniform(keys[2], (), minval=-1.0, maxval=1.0)
    means = size * jax.random.normal(keys[3], (2, 2)) * jnp.array([[1.0], [1 + ratio]])
    rho, other, tall = jax.random.uniform(keys[4], (3,), minval=-0.9, maxval=0.9)
    first = size**2 * jnp.array([[1.0, rho], [rho, 1.0]])
    second = (ratio * size) ** 2 * jnp.array([[1.0, other], [other, 1.0]]) * (1 + tall)
    return kappa, (means[0], first), (means[1], second)


def models(case, wrap):
    kappa, p, q = case
    process = vp(kappa)
    return [wrap(ex.ExactModel(ex.Gaussian(*numbers), process)) for numbers in (p, q)]


def z_scores(values, errors, truths):
    return np.abs(np.asarray(values - truths)) / np.asarray(errors)


@pytest.mark.parametrize(
    ("wrap", "form"),
    [
        (lambda model: model, None),
        pytest.param(network, None, marks=pytest.mark.slow),
        pytest.param(network, "score", marks=pytest.mark.slow),
        pytest.param(lambda model: model, "denoising", marks=pytest.mark.slow),
    ],
    ids=["exact", "network", "network-score", "exact-denoising"],
)
def test_kl_at_any_scale(wrap, form, x64):
    @jax.jit
    def run(key):
        case_key, data_key, key = jax.random.split(key, 3)
        case = drawn_case(case_key)
        p, q = models(case, wrap)
        data = ex.Gaussian(*case[1]).sample(4000, key=data_key)
        e = ex.kl_divergence(p, q, data, key=key, form=form, num_evaluations=4096)
        return e.value, e.stderr, e.bias, gaussian_kl(*case[1:])

    out = jax.lax.map(run, jax.random.split(jax.random.key(1), 32))
    values, errors, biases, truths = (np.asarray(v) for v in out)
    # Errors from the spread of ten nets have the tails of a t distribution.
    assert np.max(z_scores(values, errors, truths)) < 5
    assert np.all(errors < 0.2 * truths + 0.1)
    assert np.all(biases == 0)


@pytest.mark.slow(reason="programs of networks")
@pytest.mark.parametrize("wrap", [lambda model: model, network], ids=["exact", "network"])
def test_gaussians_of_std_75(wrap):
    """Single precision; of the 0.7 nats a third comes before the end of the process."""
    process = vp()
    p, q = ex.Gaussian([0.0], [[75.0**2]]), ex.Gaussian([40.0], [[45.0**2]])
    truth = np.log(45 / 75) + (75**2 + 40**2) / (2 * 45**2) - 0.5
    data = p.sample(10_000, key=jax.random.key(0))
    pair = [wrap(ex.ExactModel(d, process)) for d in (p, q)]
    e = ex.kl_divergence(*pair, data, key=jax.random.key(1))
    assert abs(float(e.value) - truth) < 4 * float(e.stderr)
    assert float(e.stderr) < 0.06 * truth
    assert "bias" not in str(e)


@pytest.mark.slow(reason="a gradient of two integrals")
@pytest.mark.parametrize(
    "wrap",
    [pytest.param(lambda model: model, marks=pytest.mark.slow, id="exact"), network],
)
def test_gradient_of_kl(wrap, x64):
    """d/dm of m^2 / (2 v), and d/d log v of the whole, with most of the signal left."""
    process = vp(0.2)
    data = 75.0 * jax.random.normal(jax.random.key(0), (10_000, 1))
    p = wrap(ex.ExactModel(ex.Gaussian([0.0], [[75.0**2]]), process))

    @jax.jit
    @jax.grad
    def slopes(numbers):
        mean, log_variance = numbers
        q = ex.Gaussian(mean[None], jnp.exp(log_variance)[None, None])
        q = wrap(ex.ExactModel(q, process))
        return ex.kl_divergence(p, q, data, key=jax.random.key(1), form="score").value

    got = slopes((jnp.asarray(50.0), jnp.log(60.0**2)))
    assert float(got[0]) == pytest.approx(50 / 60**2, rel=0.05)
    assert float(got[1]) == pytest.approx(0.5 * (1 - (75**2 + 50**2) / 60**2), rel=0.05)


@pytest.mark.slow  # 100 estimates
@pytest.mark.parametrize(
    ("wrap", "form"),
    [(lambda model: model, "score"), (network, "denoising")],
    ids=["exact", "network"],
)
def test_errors_are_honest(wrap, form, x64):
    """New keys and new data: the estimates scatter as they say."""
    p, q = (jnp.zeros(2), 75.0**2 * jnp.eye(2)), (jnp.array([20.0, 0.0]), 50.0**2 * jnp.eye(2))

    @jax.jit
    def run(key):
        data_key, key = jax.random.split(key)
        data = ex.Gaussian(*p).sample(1000, key=data_key)
        pair = models((1.0, p, q), wrap)
        e = ex.kl_divergence(*pair, data, key=key, form=form, num_evaluations=2048)
        return e.value, e.stderr

    values, errors = jax.lax.map(run, jax.random.split(jax.random.key(0), 100))
    reported = float(jnp.sqrt(jnp.mean(errors**2)))
    assert 0.8 < float(jnp.std(values)) / reported < 1.25
    assert abs(float(jnp.mean(values) - gaussian_kl(p, q))) < 4 * reported / np.sqrt(100)


@pytest.mark.parametrize(
    ("make", "wrap"),
    [
        pytest.param(lambda: vp(3.0), lambda model: model, marks=pytest.mark.slow),
        pytest.param(lambda: vp(3.0), network, marks=pytest.mark.slow),
        pytest.param(
            lambda: ex.VarianceExploding(0.01, 50.0), lambda model: model, marks=pytest.mark.slow
        ),
    ],
    ids=["exact", "network", "exact-ve"],
)
def test_a_cutoff_keeps_its_meaning(make, wrap, x64):
    """With noise of n = Sigma / mu in units of the data, KL(N(0, v + n^2) || N(0, w + n^2))."""
    data = 75.0 * jax.random.normal(jax.random.key(0), (20_000, 1))
    process = make()
    p, q = (ex.ExactModel(ex.Gaussian([0.0], [[std**2]]), process) for std in (75.0, 40.0))
    cutoff = 2.9
    s = jnp.interp(cutoff, process.std(jnp.linspace(0, 1, 8193)), jnp.linspace(0, 1, 8193))
    scale = process.scale(s)
    smallest = (cutoff / scale) ** 2

    def kl(noise):
        v, w = 75.0**2 + noise, 40.0**2 + noise
        return (v / w - 1 - np.log(v / w)) / 2

    # d KL / d(-ln Sigma) at the cut-off, by a step in time.
    after = s + 1e-5
    rise = kl(smallest) - kl((process.std(after) / process.scale(after)) ** 2)
    slope = float(rise / jnp.log(process.std(after) / cutoff))
    e = ex.kl_divergence(wrap(p), wrap(q), data, key=jax.random.key(1), cutoff=cutoff, form="score")
    assert float(e.cutoff) == pytest.approx(cutoff)
    assert abs(float(e.value) - kl(float(smallest))) < 4 * float(e.stderr)
    assert float(e.slope) == pytest.approx(slope, rel=0.1)


class Conditional(AbstractConditional):
    """N(mean @ c, diag(spread @ c)) given a vector c: classes, or means that follow a number."""

    process: Any
    mean: jax.Array
    spread: jax.Array
    shape = None
    divergence = None

    def inner(self, condition):
        gaussian = ex.Gaussian(self.mean @ condition, jnp.diag(self.spread @ condition))
        return ex.ExactModel(gaussian, self.process)

    @property
    def prior(self):
        raise NotImplementedError

    def with_process(self, process):
        raise NotImplementedError


@pytest.mark.slow(reason="programs of conditional models")
@pytest.mark.parametrize("form", ["denoising", "score"])
def test_information_about_classes(form):
    """Three classes of unlike means and variances, of which the process leaves much or all."""
    weights = np.array([0.3, 0.5, 0.2])
    means = jnp.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -2.0]])
    stds = jnp.array([[0.5, 0.3], [0.2, 0.9], [0.6, 0.6]])
    unit = ex.GaussianMixture(weights, means, stds)
    x, label = unit.sample_labelled(100_000, key=jax.random.key(0))
    own = unit.responsibilities(x)[jnp.arange(len(x)), label]
    truth = float(jnp.mean(jnp.log(own / weights[label])))
    x, label = x[:10_000], jax.nn.one_hot(label[:10_000], 3)
    for size in (75.0, 1000.0):
        model = Conditional(vp(), size * means.T, size**2 * (stds**2).T)
        marginal = ex.ExactModel(ex.GaussianMixture(weights, size * means, size * stds), vp())
        e = ex.mutual_information(
            model, size * x, label, key=jax.random.key(1), marginal_model=marginal, form=form
        )
        assert abs(float(e.value) - truth) < 4 * float(e.stderr)
        assert float(e.stderr) < 0.1 * truth


@pytest.mark.slow(reason="programs of both measures")
@pytest.mark.parametrize("form", ["denoising", "score"])
def test_information_of_numbers_and_total_correlation(form):
    """A pair of correlation 0.9 and std 200: I is the same from conditional and joint models."""
    rho, size, process = 0.9, 200.0, vp()
    truth = -np.log(1 - rho**2) / 2
    c, noise = jax.random.normal(jax.random.key(0), (2, 10_000, 1))
    x = size * (rho * c + np.sqrt(1 - rho**2) * noise)
    flagged = jnp.concatenate([c, jnp.ones_like(c)], axis=1)
    model = Conditional(
        process, jnp.array([[size * rho, 0.0]]), jnp.array([[0.0, size**2 * (1 - rho**2)]])
    )
    one = ex.ExactModel(ex.Gaussian([0.0], [[size**2]]), process)
    covariance = size**2 * np.array([[1.0, rho], [rho, 1.0]])
    joint = network(ex.ExactModel(ex.Gaussian(np.zeros(2), covariance), process))
    key = jax.random.key(1)
    both = jnp.concatenate([x, size * c], axis=1)
    for e in (
        ex.mutual_information(model, x, flagged, key=key, marginal_model=network(one), form=form),
        ex.total_correlation(joint, [network(one)] * 2, both, key=key, form=form),
    ):
        assert abs(float(e.value) - truth) < 4 * float(e.stderr)
        assert float(e.stderr) < 0.1 * truth


@pytest.mark.slow(reason="several programs")
def test_entropy_of_data_that_are_not_erased():
    """A prior of the process's own width would add 0.38 nats for each dimension."""
    gaussian = ex.Gaussian([10.0, -20.0], 75.0**2 * np.array([[1.0, 0.5], [0.5, 0.8]]))
    data = gaussian.sample(1000, key=jax.random.key(0))
    truth = np.log(2 * np.pi * np.e) + np.linalg.slogdet(gaussian.covariance)[1] / 2
    e = ex.differential_entropy(network(ex.ExactModel(gaussian, vp())), data, key=jax.random.key(1))
    assert abs(float(e.value) - truth) < 4 * float(e.stderr)
    assert float(e.stderr) < 0.05


@pytest.mark.slow
def test_what_is_not_gaussian_is_allowed_for(x64):
    """Mixtures, erased to any degree: the stated error covers what Gaussians miss."""
    weights, means = [0.3, 0.5, 0.2], np.array([[-1.0, 0.0], [1.0, 0.5], [0.0, -2.0]])
    stds = np.array([[0.5, 0.3], [0.2, 0.9], [0.6, 0.6]])

    @eqx.filter_jit
    def run(size):
        process = vp()
        p = ex.GaussianMixture(weights, size * means, size * stds)
        q = ex.Gaussian(p.mean, 2 * p.covariance)
        data = p.sample(4000, key=jax.random.key(0))
        pair = [network(ex.ExactModel(d, process)) for d in (p, q)]
        e = ex.kl_divergence(*pair, data, key=jax.random.key(1))
        many = p.sample(20_000, key=jax.random.key(2))
        return e.value, e.stderr, jnp.mean(p.log_prob(many) - q.log_prob(many))

    values, errors, truths = jax.lax.map(run, 10 ** jnp.linspace(-2.0, 3.0, 16))
    assert np.max(z_scores(values, errors, truths)) < 4
    assert np.all(errors[:11] < 0.1)


@pytest.mark.slow
def test_many_dimensions():
    """Beyond 64 the Gaussians of the end term are diagonal; the rest is in the error."""
    dim, process = 80, vp()
    root = np.random.default_rng(0).normal(size=(dim, dim)) / np.sqrt(dim)
    first, second = 20.0**2 * (np.eye(dim) + root @ root.T / 4), 25.0**2 * np.eye(dim)
    p, q = ex.Gaussian(np.zeros(dim), first), ex.Gaussian(np.full(dim, 3.0), second)
    ratio = np.linalg.solve(second, first)
    truth = (np.trace(ratio) - dim - np.linalg.slogdet(ratio)[1] + dim * (3 / 25) ** 2) / 2
    data = p.sample(4000, key=jax.random.key(0))
    pair = [network(ex.ExactModel(d, process)) for d in (p, q)]
    for form in ("score", "denoising"):
        e = ex.kl_divergence(*pair, data, key=jax.random.key(1), form=form)
        assert abs(float(e.value) - truth) < 4 * float(e.stderr)
