"""Shifted lattices: uniform nodes, smaller errors than of independent draws, honest ones."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.estimators.integral import NoiseSource, Places
from entropix.estimators.lattice import below, generator, lattice_bits, open_unit
from tests.mixtures import mixture, process


def test_nodes_are_spread_evenly(getkey):
    """Over each coordinate, after any shift: two in each stratum of twice the width."""
    nodes, dim = 64, 16
    shift = jax.random.bits(getkey(), (3, 1, dim), jnp.uint32)
    node = jnp.broadcast_to(jnp.arange(nodes), (3, nodes))
    u = np.asarray(open_unit(lattice_bits(node, generator(6, dim), shift), jnp.float32))
    assert u.shape == (3, nodes, dim)
    assert u.min() > 0
    assert u.max() < 1
    counts = np.apply_along_axis(np.bincount, 1, (u * nodes / 2).astype(int), minlength=nodes // 2)
    assert (counts == 2).all()


@pytest.mark.parametrize("count", [1, 3, 1797, 2**16 + 1, 10**9])
def test_bits_choose_each_number_equally_often(count, getkey):
    bits = jax.random.bits(getkey(), (200,), jnp.uint32)
    bits = jnp.concatenate([bits, jnp.asarray([0, 2**32 - 1], jnp.uint32)])
    expected = [(int(b) * count) >> 32 for b in np.asarray(bits)]
    np.testing.assert_array_equal(below(bits, count), expected)


@pytest.mark.parametrize("dim", [3, 40])
def test_noise_is_standard_normal(dim):
    """Also where only the leading components are those of a lattice, and within one lattice."""
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (dim, dim)))[0]
    vector = generator(12, 16)[2:][:dim]
    source = NoiseSource(jax.random.key(1), vector, basis[:, : vector.size])
    node = jnp.arange(4096)
    place = Places(jnp.zeros(4096), jnp.zeros_like(node), node // 2048, node % 2048)
    z = jax.vmap(lambda p: source(process("VP"), jnp.zeros(dim), p))(place)
    for half in (z[:2048], z[2048:]):
        covariance = half.T @ half / 2048
        np.testing.assert_allclose(covariance, np.eye(dim), atol=5 / 2048**0.5)


@pytest.mark.slow(reason="a hundred estimates")
def test_less_error_than_independent_draws_and_the_stated_one():
    """At each time of a curve. Independent draws have a variance of 0.15 per evaluation here."""
    model = ex.ExactModel(mixture(3), process("VP"))
    data = mixture(3).sample(500, key=jax.random.key(0))

    def run(key):
        return ex.entropy_curve(model, data, key=key, num_evaluations=2048, num_times=5)

    curves = jax.jit(lambda keys: jax.lax.map(run, keys))(jax.random.split(jax.random.key(1), 100))
    total = curves.total
    assert float(jnp.var(total.value)) < 0.8 * 0.15 / total.num_evaluations
    scatter = jnp.std(curves.cumulative, axis=0)[2:]
    ratio = scatter / jnp.mean(curves.mc_stderr, axis=0)[2:]
    assert bool(jnp.all((ratio > 0.8) & (ratio < 1.25))), ratio
    ratio = jnp.std(curves.rate, axis=0) / jnp.mean(curves.rate_stderr, axis=0)
    assert bool(jnp.all((ratio[1:] > 0.7) & (ratio[1:] < 1.4))), ratio
