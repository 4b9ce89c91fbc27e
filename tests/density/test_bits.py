"""Bits per dimension against exact probabilities of cells."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats

import entropix as ex
from entropix.interfaces import AbstractDensityMethod
from tests.helpers import as_shipped


class Known(AbstractDensityMethod):
    """The log density itself, with normal noise of a known size."""

    log_density: object = eqx.field(static=True)
    noise: float = 0.0

    def evaluate(self, model, x, *, prior, condition, cutoff, key, chunk_size):
        noise = self.noise * jax.random.normal(key, x.shape[:1])
        value = self.log_density(x, condition) + noise
        return ex.interfaces.SampleEstimates(value, jnp.full_like(noise, self.noise), 7)


MEANS, STDS, WEIGHTS = np.array([2.0, 7.0]), np.array([1.5, 4.0]), np.array([0.4, 0.6])


def mixture(dim, scale=1.0, shift=0.0):
    """The same two groups in every direction, in units of (x - shift) / scale."""
    spread = np.broadcast_to(STDS[:, None], (2, dim)) / scale
    centres = (np.broadcast_to(MEANS[:, None], (2, dim)) - shift) / scale
    return ex.GaussianMixture(WEIGHTS, centres, spread)


def cell_bits(x, width):
    """Exact -log2 P / D of the mixture integrated over cells [x, x + width)."""
    x = x.reshape(len(x), 1, -1)
    z = [(x + u - MEANS[:, None]) / STDS[:, None] for u in (0, width)]
    mass = np.prod(np.diff(scipy.stats.norm.cdf(z), axis=0)[0], axis=-1)
    return -np.log2(mass @ WEIGHTS) / x.shape[-1]


def anything(dim):
    return ex.ExactModel(mixture(dim), ex.CosinePath())


@pytest.mark.parametrize(("dim", "width"), [(1, 1.0), (2, 0.5), (3, 1.0)])
def test_bounds_cells_and_is_nearly_tight(dim, width):
    x = width * np.random.default_rng(0).integers(0, 12, (6, dim)).astype(float)
    density = mixture(dim).log_prob
    found = ex.density.bits_per_dimension(
        anything(dim),
        x,
        key=jax.random.key(0),
        width=width,
        num_draws=4000,
        method=Known(lambda x, _: density(x)),
    )
    gap = np.asarray(found.value) - cell_bits(x, width)
    assert np.all(gap > -4 * np.asarray(found.stderr))
    assert np.all(gap < 0.02 * width**2 + 4 * np.asarray(found.stderr))
    assert found.num_evaluations == 28_000
    assert found.mean.num_evaluations == 6 * 28_000


def test_exact_where_the_density_is_constant_in_a_cell():
    """A histogram of levels: what the cells weigh, to rounding."""
    mass = jnp.asarray([0.1, 0.2, 0.3, 0.4])

    def log_density(x, _):
        return jnp.sum(jnp.log(mass[jnp.floor(x / 0.25).astype(int)] / 0.25), axis=-1)

    x = 0.25 * np.array([[0, 3], [1, 2], [3, 3]])
    found = ex.density.bits_per_dimension(
        anything(2), x, key=jax.random.key(0), width=0.25, method=Known(log_density)
    )
    levels = np.round(x / 0.25).astype(int)
    np.testing.assert_allclose(found.value, -np.log2(mass[levels]).mean(axis=1), rtol=1e-6)
    np.testing.assert_allclose(found.stderr, 0.0, atol=1e-7)
    assert float(found.mean.mc_stderr) < 1e-6 < float(found.mean.stderr)


def test_standardised_images_under_conditions():
    """Images of shape (1, 2): the units cancel; each image is shifted by its own condition."""
    shift, scale = np.array([[1.0, -2.0]]), np.array([3.0, 0.5])
    density = ex.Gaussian(jnp.zeros(2), jnp.eye(2)).log_prob

    def log_density(x, condition):
        y = x.reshape(-1, 2) * scale + shift[0] - condition["mean"]
        return density(y / 20) - 2 * jnp.log(20.0) + jnp.sum(jnp.log(scale))

    x = np.arange(8.0).reshape(4, 1, 2)
    mean = np.linspace(-10, 10, 8).reshape(4, 2)
    found = ex.density.bits_per_dimension(
        ex.EntropyMatching(lambda *_: None, ex.CosinePath(), shape=(1, 2)),
        x,
        key=jax.random.key(0),
        transform=(shift, scale),
        num_draws=64,
        method=Known(log_density),
        condition={"mean": jnp.asarray(mean)},
    )
    z = (x.reshape(4, 2) - mean + np.array([[[0.0]], [[1.0]]])) / 20
    exact = -np.log2(np.diff(scipy.stats.norm.cdf(z), axis=0)[0]).mean(axis=-1)
    assert np.all(np.abs(found.value - exact) < 4 * found.stderr + 1e-3)
    assert float(jnp.max(found.stderr)) < 0.01


@pytest.mark.parametrize("noise", [0.0, 0.5])
def test_standard_errors_are_honest(noise):
    """Over 300 keys, with the noise of dequantisation alone and with that of the method."""
    x = np.array([[0.0, 1.0], [3.0, 2.0], [9.0, 4.0]])
    density = mixture(2).log_prob
    method = Known(lambda x, _: density(x), noise)

    @jax.jit
    def run(key):
        return ex.density.bits_per_dimension(anything(2), x, key=key, num_draws=6, method=method)

    found = jax.lax.map(run, jax.random.split(jax.random.key(0), 300))
    scatter = jnp.std(found.value, axis=0)
    ratio = np.asarray(scatter / jnp.sqrt(jnp.mean(found.stderr**2, axis=0)))
    assert np.all((ratio > 0.8) & (ratio < 1.25)), ratio
    means = jax.vmap(lambda f: f.mean.mc_stderr)(found)
    ratio = float(jnp.std(jnp.mean(found.value, axis=1)) / jnp.sqrt(jnp.mean(means**2)))
    assert 0.8 < ratio < 1.25


@pytest.mark.slow
@pytest.mark.parametrize("method", [ex.PathBound(128), ex.ProbabilityFlow()], ids=["bound", "flow"])
def test_of_a_diffusion_model(method):
    """The exact model of a standardised mixture, in three dimensions."""
    x = np.random.default_rng(0).integers(0, 12, (50, 3)).astype(float)
    model = ex.ExactModel(mixture(3, 4.0, 5.0), ex.CosinePath())
    found = ex.density.bits_per_dimension(
        model, x, key=jax.random.key(0), transform=(5.0, 4.0), num_draws=16, method=method
    )
    gap = np.asarray(found.value) - cell_bits(x, 1.0)
    assert -4 * float(found.mean.mc_stderr) < gap.mean() < 0.02 + 4 * float(found.mean.mc_stderr)
    assert float(found.mean.mc_stderr) < 0.01


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"images": np.full((2, 2), 0.5)}, "`points` must be multiples"),
        ({"num_draws": 1}, "`num_draws` must be an integer of at least 2"),
        ({"transform": 2.0}, r"`transform` must be None or a pair"),
        ({"transform": (np.zeros(3), 1.0)}, r"`transform\[0\]` must fit the shape \(2,\)"),
        ({"transform": (0.0, -1.0)}, r"`transform\[1\]` must be positive"),
        ({"width": 0.0}, "`width` must be positive"),
    ],
)
def test_bad_arguments(change, match):
    arguments = {"images": np.zeros((2, 2)), "key": jax.random.key(0)} | change
    images = arguments.pop("images")
    with as_shipped(), pytest.raises(ValueError, match=match):
        ex.density.bits_per_dimension(anything(2), images, **arguments)
