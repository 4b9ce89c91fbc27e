"""Information of Gaussians, where everything is known: exact models, then trained ones."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix._core.interfaces import AbstractModel


def vp(beta_max=16.0):
    return ex.VariancePreserving(ex.LinearSchedule(0.1, beta_max))


class ConditionalGaussian(AbstractModel):
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

    def score(self, s, y, condition=None, *, key=None):
        return self.inner(condition).score(s, y)

    def entropy_field(self, s, y, condition=None, *, key=None):
        return self.inner(condition).entropy_field(s, y)

    def velocity(self, s, y, condition=None, *, key=None):
        return self.inner(condition).velocity(s, y)


def pair(rho, dim, n, key):
    x_key, c_key = jax.random.split(key)
    c = jax.random.normal(c_key, (n, dim))
    return rho * c + jnp.sqrt(1 - rho**2) * jax.random.normal(x_key, (n, dim)), c


def close(estimate, expected, factor=4.0):
    """Within four standard errors and 1% or 0.01 nats, the end term taken into account."""
    error = abs(float(estimate.value - estimate.bias) - expected)
    assert error < factor * float(estimate.stderr) + max(0.01 * expected, 0.01)
    assert float(estimate.stderr) < max(0.03 * expected, 0.03)


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


def test_the_end_term_is_what_a_short_process_leaves_out(x64):
    """B(1) = 1.05: a third of the signal is left, and with it most of a mean's difference."""
    process = vp(2.0)
    p, q = ex.Gaussian([0.5], [[1.0]]), ex.Gaussian([0.0], [[1.0]])
    estimate = ex.kl_divergence(
        ex.ExactModel(p, process),
        ex.ExactModel(q, process),
        p.sample(1000, key=jax.random.key(0)),
        key=jax.random.key(1),
    )
    left = process.scale(1.0) ** 2 * 0.5**2 / 2
    assert float(estimate.value) == pytest.approx(0.125 - float(left), rel=0.01)
    # Per unit log-SNR the rate is (Sigma^2 / 2) mu^2 m^2: the end term up to a factor Sigma^2.
    assert float(estimate.bias) == pytest.approx(-float(left * process.var(1.0)), rel=1e-6)


def test_information_of_a_gaussian_pair():
    process, rho = vp(), 0.8
    x, c = pair(rho, 1, 20_000, jax.random.key(0))
    estimate = ex.mutual_information(
        ConditionalGaussian(process, jnp.asarray(rho)),
        x,
        c,
        key=jax.random.key(1),
        marginal_model=ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process),
        num_evaluations=65_536,
    )
    close(estimate, 0.51082562376599)
    assert float(estimate.bias) == pytest.approx(-1.0210204360e-4, rel=0.1)


@pytest.mark.slow
@pytest.mark.parametrize(("rho", "dim"), [(0.0, 1), (0.5, 10), (0.99, 1), (0.8, 50)])
def test_information_of_gaussian_pairs(rho, dim):
    process = vp()
    x, c = pair(rho, dim, 50_000, jax.random.key(0))
    estimate = ex.mutual_information(
        ConditionalGaussian(process, jnp.asarray(rho)),
        x,
        c,
        key=jax.random.key(1),
        marginal_model=ex.ExactModel(ex.Gaussian(jnp.zeros(dim), jnp.eye(dim)), process),
        num_evaluations=65_536,
    )
    close(estimate, -dim / 2 * np.log(1 - rho**2))


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
    entropy = ex.differential_entropy(model, data, key=jax.random.key(2))
    exact = (3 * np.log(2 * np.pi * np.e) + logdet(covariance)[1]) / 2
    assert abs(float(entropy.value) - exact) < 4 * float(entropy.stderr)


@pytest.mark.slow
def test_one_trained_network_gives_mutual_information():
    rho, process = 0.8, vp()
    x, c = pair(rho, 2, 8192, jax.random.key(0))
    network_key, fit_key, key = jax.random.split(jax.random.key(1), 3)
    inner = ex.FourierMLP(2, condition_dim=3, widths=(256, 256), key=network_key)
    network = ex.ConditionDropout(inner, condition_dim=2, rate=0.3)
    scaling = ex.GaussianScaling.from_data(x, process)
    model = ex.EntropyMatching(network, process, scaling)
    model = ex.fit(model, x, condition=c, key=fit_key, steps=3000, batch_size=128).model
    fresh, fresh_c = pair(rho, 2, 8192, jax.random.key(2))
    estimate = ex.mutual_information(model, fresh, fresh_c, key=key)
    assert float(estimate.value) == pytest.approx(-np.log(1 - rho**2), rel=0.05)


def test_condition_dropout():
    """Told or not told; left out at random only where there is a key."""

    class Echo(eqx.Module):
        def __call__(self, log_snr, y, condition):
            return jnp.stack([condition[0], condition[1]])

    network = ex.ConditionDropout(Echo(), condition_dim=1, rate=0.25)
    y = jnp.zeros(2)
    np.testing.assert_array_equal(network(0.0, y), [0.0, 0.0])
    np.testing.assert_array_equal(network(0.0, y, jnp.array([5.0])), [5.0, 1.0])
    keys = jax.random.split(jax.random.key(0), 4000)
    told = jax.vmap(lambda k: network(0.0, y, jnp.array([5.0]), key=k))(keys)
    assert float(jnp.mean(told[:, 1])) == pytest.approx(0.75, abs=0.03)
    np.testing.assert_allclose(told[:, 0], 5 * told[:, 1])
    with pytest.raises(ValueError, match="`condition` must hold 1 numbers"):
        network(0.0, y, jnp.zeros(2))
    with pytest.raises(ValueError, match="`rate` must be between 0 and 1"):
        ex.ConditionDropout(Echo(), condition_dim=1, rate=1.0)


def test_bad_arguments():
    model = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), vp())
    other = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), vp(8.0))
    data, key = jnp.ones((4, 1)) * jnp.arange(4.0)[:, None], jax.random.key(0)
    with pytest.raises(ValueError, match="`reference_model` must run on the process"):
        ex.kl_divergence(model, other, data, key=key)
    with pytest.raises(ValueError, match="`condition` must be given"):
        ex.mutual_information(model, data, None, key=key)
    with pytest.raises(ValueError, match="`condition` must have a leading axis"):
        ex.mutual_information(model, data, jnp.zeros((3, 1)), key=key)
    with pytest.raises(ValueError, match="`marginal_models` must make up the 1 coordinates"):
        ex.total_correlation(model, [model, model], data, key=key)
