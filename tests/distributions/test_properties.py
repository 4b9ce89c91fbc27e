"""Mixtures and Gaussians of whatever shape, diffused, against their formulas written out in SciPy.

Weights may be as small as 1e-12, components 1e5 times as narrow as others and far apart.
"""

import functools

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special
import scipy.stats

import entropix as ex
from tests.helpers import double, quick_jit


K, DIM = 3, 2
PROCESS = {
    "vp": lambda: ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0), kappa=0.5),
    "ve": lambda: ex.VarianceExploding(0.01, 20.0),
}
logs = functools.partial(st.floats, allow_nan=False)


@st.composite
def mixtures(draw, dim=DIM):
    """Weights, means and standard deviations of a mixture of three."""
    numbers = st.lists(logs(-6, 6), min_size=K * dim, max_size=K * dim).map(np.array)
    weights = np.exp(np.array(draw(st.lists(logs(-27.6, 0), min_size=K, max_size=K))))
    means = draw(numbers).reshape(K, dim)
    stds = np.exp(draw(numbers).reshape(K, dim))
    return weights / weights.sum(), means, stds


def explicit(weights, means, variances, y):
    """Log density and score of a mixture, shapes (n,) and (n, D)."""
    z = y[:, None, :] - means
    terms = np.log(weights) - 0.5 * np.sum(z**2 / variances + np.log(2 * np.pi * variances), -1)
    shares = scipy.special.softmax(terms, axis=1)
    return scipy.special.logsumexp(terms, axis=1), -np.sum(shares[..., None] * z / variances, 1)


@quick_jit
def evaluate(distribution, process, s, y):
    diffused = distribution.diffused(process, s)
    log_p, score = jax.vmap(jax.value_and_grad(diffused.log_prob))(y)
    return log_p, score, diffused.score(y), process.scale(s), process.var(s)


def close(found, expected, scale=0.0):
    """Equal but for rounding, that of the largest entry of the sum included."""
    expected = np.asarray(expected)
    atol = 1e-10 * (1 + scale + np.abs(expected).max())
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=atol)


@pytest.mark.parametrize("name", PROCESS)
@hypothesis.given(mixture=mixtures(), s=st.floats(0.01, 0.99), seed=st.integers(0, 2**16))
@hypothesis.settings(max_examples=15)
def test_mixture(name, mixture, s, seed):
    """Its diffused density and score, at samples and far from all of them."""
    weights, means, stds = mixture
    rng = np.random.default_rng(seed)
    with double():
        process = PROCESS[name]()
        mu, var = float(process.scale(s)), float(process.var(s))
        variances = mu**2 * stds**2 + var
        label = rng.integers(0, K, 8)
        noise = rng.normal(size=(8, DIM)) * np.repeat([1.0, 30.0], 4)[:, None]
        y = mu * means[label] + np.sqrt(variances[label]) * noise
        log_p, gradient, score, *_ = evaluate(
            ex.GaussianMixture(weights, means, stds), process, jnp.asarray(s), jnp.asarray(y)
        )
        expected, expected_score = explicit(weights, mu * means, variances, y)
        close(log_p, expected)
        scale = np.abs((y[:, None] - mu * means) / variances).max()
        close(gradient, expected_score, scale)
        close(score, expected_score, scale)


@hypothesis.given(mixture=mixtures(dim=1), s=st.floats(0.0, 1.0))
def test_density_integrates_to_one(mixture, s):
    """By Gauss-Legendre quadrature between points that lie as close as each component is narrow."""
    weights, means, stds = mixture
    nodes, shares = np.polynomial.legendre.leggauss(12)
    with double():
        process = PROCESS["vp"]()
        mu, var = float(process.scale(s)), float(process.var(s))
        widths = np.sqrt(mu**2 * stds**2 + var)
        ends = np.sort((mu * means + widths * np.linspace(-9, 9, 19)).ravel())
        half = np.diff(ends) / 2
        y = ((ends[1:] + ends[:-1]) / 2)[:, None] + half[:, None] * nodes
        log_p, *_ = evaluate(
            ex.GaussianMixture(weights, means, stds),
            process,
            jnp.asarray(s),
            jnp.asarray(y.reshape(-1, 1)),
        )
        total = np.sum(half[:, None] * shares * np.exp(np.asarray(log_p)).reshape(y.shape))
        assert total == pytest.approx(1, abs=1e-9)


@hypothesis.given(
    eigenvalues=st.lists(logs(-9, 9), min_size=3, max_size=3).map(np.exp),
    s=st.floats(0.0, 1.0),
    seed=st.integers(0, 2**16),
)
def test_gaussian(eigenvalues, s, seed):
    """Any covariance, up to a condition number of 1e8."""
    rng = np.random.default_rng(seed)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    covariance = (rotation * eigenvalues) @ rotation.T
    covariance = (covariance + covariance.T) / 2
    mean = rng.normal(size=3)
    with double():
        process = PROCESS["vp"]()
        mu, var = float(process.scale(s)), float(process.var(s))
        spread = mu**2 * covariance + var * np.eye(3)
        y = mu * mean + rng.normal(size=(5, 3)) @ np.linalg.cholesky(spread).T
        log_p, gradient, score, *_ = evaluate(
            ex.Gaussian(mean, covariance), process, jnp.asarray(s), jnp.asarray(y)
        )
        # Two ways to invert a matrix agree to its condition number, in units of rounding.
        rtol = 1e-14 * np.linalg.cond(spread) + 1e-12
        expected = scipy.stats.multivariate_normal(mu * mean, spread).logpdf(y)
        np.testing.assert_allclose(log_p, expected, rtol=10 * rtol, atol=100 * rtol)
        exact = -np.linalg.solve(spread, (y - mu * mean).T).T
        bound = 10 * rtol * np.abs(exact).max()
        np.testing.assert_allclose(gradient, exact, atol=bound)
        np.testing.assert_allclose(score, exact, atol=bound)


@quick_jit
def draw(mixture):
    return mixture.sample_labelled(4096, key=jax.random.key(0))


@hypothesis.given(mixture=mixtures())
@hypothesis.settings(max_examples=15)
def test_samples_of_a_mixture(mixture):
    """Shares of the components, and mean and variance within each, to five standard errors."""
    weights, means, stds = mixture
    with double():
        points, labels = map(np.asarray, draw(ex.GaussianMixture(weights, means, stds)))
    counts = np.bincount(labels, minlength=K)
    for count, weight in zip(counts, weights, strict=True):
        tail = min(scipy.stats.binom(4096, weight).cdf(count), 1.0)
        tail = min(tail, scipy.stats.binom(4096, weight).sf(count - 1))
        assert tail > 3e-7  # five standard errors, exact for rare components too
    z = (points - means[labels]) / stds[labels]
    for k in np.flatnonzero(counts > 100):
        inside = z[labels == k]
        assert np.abs(inside.mean(axis=0)).max() < 5 / np.sqrt(len(inside))
        assert np.abs(inside.var(axis=0) - 1).max() < 6 * np.sqrt(2 / len(inside))
