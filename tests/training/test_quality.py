"""What ten epochs reach: the paper's D = 3 mixture and network, with the defaults of `fit`."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.training import fit_ensemble
from tests.helpers import PROCESSES
from tests.mixtures import mixture


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("optimised")]


@eqx.filter_jit
def integrals(model, exact, x, key):
    """S_NN, S_tot and L on the same draws, by 64 Gauss-Legendre nodes in log-SNR."""
    process = exact.process
    nodes, weights = np.polynomial.legendre.leggauss(64)
    lower = jnp.maximum(process.log_snr(process.t1), -14.0)
    length = 16.0 - lower
    weights = jnp.asarray(weights, x.dtype) * length / 2

    def at(log_snr, key):
        s = process.time_of_log_snr(log_snr)
        z = jax.random.normal(key, x.shape)
        y = process.scale(s) * x + process.std(s) * z
        field = jax.vmap(lambda y: model.entropy_field(s, y))(y)
        truth = jax.vmap(lambda y: exact.entropy_field(s, y))(y)
        squares = [jnp.sum(f**2, axis=1) for f in (field, truth, field - truth)]
        return process.var(s) / 2 * jnp.mean(jnp.stack(squares), axis=1)

    log_snr = lower + length * (jnp.asarray(nodes, x.dtype) + 1) / 2
    return weights @ jax.lax.map(lambda a: at(*a), (log_snr, jax.random.split(key, 64)))


def test_path_kl_after_ten_epochs():
    """Float32, one seed. S_NN is compared with S_tot on the same fresh samples."""
    process = PROCESSES["vp"]()
    data = mixture(3).sample(8192, key=jax.random.key(0))
    scaling = ex.GaussianScaling.from_data(data, process)

    def make_model(key):
        return ex.EntropyMatching(ex.FourierMLP(3, key=key), process, scaling)

    keys = jax.random.split(jax.random.key(1), 2)[:1]
    fits = fit_ensemble(make_model, data, keys=keys, steps=2560)
    fresh = mixture(3).sample(1024, key=jax.random.key(2))
    exact = ex.ExactModel(mixture(3), process)
    stored, total, path_kl = fits.map(integrals, exact, fresh, jax.random.key(3)).T
    assert jnp.all(path_kl < 0.012)
    assert jnp.all(jnp.abs(jnp.sqrt(stored) - jnp.sqrt(total)) <= jnp.sqrt(path_kl) + 1e-3)
    # The loss says the same in nats, L - S_tot, without a reference.
    reported = jnp.mean(fits.history.loss[:, -500:], axis=1)
    error = jnp.std(fits.history.loss[:, -500:], axis=1) / jnp.sqrt(500)
    in_sample = float(jnp.mean(total)) * 0.05  # of these 8192 points
    assert jnp.all(jnp.abs(reported + total) < path_kl + 4 * error + in_sample)


def test_digits():
    """64 dimensions: the loss falls on held-out images too, and no step is out of the ordinary."""
    sklearn = pytest.importorskip("sklearn.datasets")
    images = jnp.asarray(sklearn.load_digits().data, float)
    images = (images + jax.random.uniform(jax.random.key(0), images.shape)) / 17
    images = images - jnp.mean(images, axis=0)
    images = jax.random.permutation(jax.random.key(1), images / jnp.std(images))
    train, holdout = images[:1500], images[1500:]
    process = PROCESSES["vp"]()
    scaling = ex.GaussianScaling.from_data(train, process)
    fits = fit_ensemble(
        lambda key: ex.EntropyMatching(ex.FourierMLP(64, key=key), process, scaling),
        train,
        keys=jax.random.split(jax.random.key(2), 2)[:1],
        steps=1000,
        batch_size=128,
        loss=ex.Denoising(4),
        holdout=holdout,
    )
    history = fits.history
    assert jnp.all(history.holdout_loss[:, -1] < -50)
    assert jnp.all(jnp.diff(history.holdout_loss, axis=1)[:, :5] < 0)
    norms = history.gradient_norm[:, 100:]
    assert jnp.all(jnp.max(norms, axis=1) < 3 * jnp.median(norms, axis=1))
