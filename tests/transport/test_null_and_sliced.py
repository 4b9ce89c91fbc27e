"""Distances of samples of one population, and sliced distances."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix.transport import sliced_wasserstein, wasserstein, wasserstein_null
from tests.helpers import finite_difference, quick_jit


@pytest.mark.slow(reason="repeated distances")
def test_null_is_what_fresh_samples_have(x64):
    x = jax.random.normal(jax.random.key(0), (160, 3))
    null = wasserstein_null(x, key=jax.random.key(1), num_splits=40)
    pairs = jax.random.normal(jax.random.key(2), (120, 2, 80, 3))
    fresh = np.asarray(quick_jit(jax.vmap(lambda pair: wasserstein(*pair).value))(pairs))
    assert (null.num_samples, null.method, null.values.shape) == (80, "assignment", (40,))
    # Splits of one sample know the mean no better than one distance does.
    assert abs(float(null) - fresh.mean()) < 2 * fresh.std()
    assert 0.6 < float(null.scatter) / fresh.std() < 1.6
    assert float(null.p_value(wasserstein(x[:80], 2 + x[80:]))) == pytest.approx(1 / 41)
    assert 0.02 < float(null.p_value(fresh[0])) <= 1
    assert "40 splits" in str(null)


def test_a_permutation_test_is_fair(x64):
    """Under the null its p-values are uniform."""
    keys = jax.random.split(jax.random.key(0), 80)

    @quick_jit
    @jax.vmap
    def p_value(key):
        data_key, key = jax.random.split(key)
        z = jax.random.normal(data_key, (60, 1))
        null = wasserstein_null(z, 1, key=key, num_splits=9)
        return null.p_value(wasserstein(z[:30], z[30:], 1))

    values = np.asarray(p_value(keys))
    assert abs(values.mean() - 0.55) < 4 * 0.29 / 80**0.5  # of 0.1, 0.2, ..., 1


def gaussians(key, n, m, dim):
    a, b = jax.random.split(key)
    shift = jnp.arange(1.0, dim + 1) / 3
    return 1.5 * jax.random.normal(a, (n, dim)), shift + 0.6 * jax.random.normal(b, (m, dim))


@pytest.mark.slow
def test_sliced_closed_form(x64):
    """|m|^2/D + (a - b)^2; a shift alone without any error of the directions."""
    x, y = gaussians(jax.random.key(0), 600, 500, 3)
    found = sliced_wasserstein(x, y, key=jax.random.key(1), num_projections=64)
    exact = (14 / 9 / 3 + 0.9**2) ** 0.5
    assert abs(float(found) - exact) < 4 * float(found.stderr)
    assert float(found.mc_stderr) < float(found.stderr) < 0.06
    shifted = sliced_wasserstein(x, x + jnp.asarray([3.0, 0.0, 0.0]), key=jax.random.key(1))
    assert float(shifted) == pytest.approx(3**0.5)
    assert float(shifted.mc_stderr) < 1e-7
    x, y = x[:9, 0], y[:7, 0]
    line = sliced_wasserstein(x, y, 1, key=jax.random.key(2), num_projections=3)
    assert float(line) == pytest.approx(float(wasserstein(x, y, 1)))
    assert float(line.mc_stderr) < 1e-7


@pytest.mark.parametrize("p", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_sliced_honest_errors(x64, p):
    """Over new samples and directions by `stderr`, over directions alone by `mc_stderr`."""

    def run(key, direction_key):
        x, y = gaussians(key, 100, 70, 3)
        found = sliced_wasserstein(x, y, p, key=direction_key, num_projections=12)
        return found.value, found.stderr, found.mc_stderr

    keys = jax.random.split(jax.random.key(0), 250)
    again = quick_jit(jax.vmap(run))
    values, errors, _ = again(keys, keys)
    assert 0.8 < float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values)) < 1.25
    values, _, errors = again(jnp.broadcast_to(keys[:1], keys.shape), keys)
    assert 0.8 < float(jnp.sqrt(jnp.mean(errors**2)) / jnp.std(values)) < 1.25


def test_sliced_gradient(x64, getkey):
    x, y = gaussians(getkey(), 4, 5, 2)
    flat = jnp.concatenate([x.ravel(), y.ravel()])
    key = getkey()

    @quick_jit
    @jax.value_and_grad
    def distance(v):
        x, y = v[:8].reshape(4, 2), v[8:].reshape(5, 2)
        return sliced_wasserstein(x, y, key=key, num_projections=5, chunk_size=2).value

    expected = finite_difference(
        lambda batch: jnp.stack([distance(v)[0] for v in batch]), flat, 1e-5
    )
    np.testing.assert_allclose(distance(flat)[1], expected, rtol=1e-5, atol=1e-8)


def test_refusals():
    x = jnp.ones((5, 2))
    key = jax.random.key(0)
    with pytest.raises(ValueError, match="`num_samples` must be at most half"):
        wasserstein_null(x, key=key, num_samples=3)
    with pytest.raises(ValueError, match="`num_splits`"):
        wasserstein_null(x, key=key, num_splits=1)
    with pytest.raises(ValueError, match="`num_projections`"):
        sliced_wasserstein(x, x, key=key, num_projections=1)
    with pytest.raises(ValueError, match="`y` must have samples of the same size"):
        sliced_wasserstein(x, x[:, :1], key=key)
