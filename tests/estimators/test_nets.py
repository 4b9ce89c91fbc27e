"""Scrambled nets: uniform nodes, smaller errors than of independent draws, honest ones."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from scipy.stats.qmc import Sobol

import entropix as ex
from entropix.estimators.nets import (
    LARGEST_DIM,
    below,
    group_sizes,
    grouped_order,
    net_bits,
    net_columns,
    open_unit,
    sample_at,
)
from entropix.estimators.places import NoiseSource, Places
from entropix.estimators.reference import GaussianReference
from tests.helpers import quick_rows
from tests.mixtures import mixture, process


def test_nodes_are_spread_evenly(getkey):
    """One in each stratum of each coordinate, and in each box of the first two, when scrambled."""
    nodes, dim = 64, LARGEST_DIM
    seeds = jax.random.bits(getkey(), (3, 1, dim, 2), jnp.uint32)
    node = jnp.broadcast_to(jnp.arange(nodes), (3, nodes))
    u = np.asarray(open_unit(net_bits(node, net_columns(6, dim), seeds), jnp.float32))
    assert u.shape == (3, nodes, dim)
    assert u.min() > 0
    assert u.max() < 1
    counts = np.apply_along_axis(np.bincount, 1, (u * nodes).astype(int), minlength=nodes)
    assert (counts == 1).all()
    for across in (2, 4, 8, 16, 32):
        box = (u[..., 0] * across).astype(int) + across * (u[..., 1] * nodes / across).astype(int)
        assert (np.sort(box) == np.arange(nodes)).all()


def test_columns_are_those_of_a_sobol_sequence():
    """Before scrambling; of SciPy, which numbers the nodes by a Gray code."""
    nodes, dim = 256, LARGEST_DIM
    number = np.arange(nodes)
    chosen = (number ^ number >> 1)[:, None, None] >> np.arange(8) & 1
    reverse = np.bitwise_xor.reduce(chosen * np.asarray(net_columns(8, dim)), axis=-1)
    u = sum((reverse >> j & 1) / 2.0 ** (j + 1) for j in range(8))
    np.testing.assert_array_equal(u, Sobol(dim, scramble=False).random(nodes))


def test_a_scrambled_node_is_uniform_and_pairs_are_independent_beyond_the_net(getkey):
    seeds = jax.random.bits(getkey(), (40_000, 1, 2, 2), jnp.uint32)
    node = jnp.broadcast_to(jnp.asarray([0, 1, 5]), (40_000, 3))
    u = np.asarray(open_unit(net_bits(node, net_columns(3, 2), seeds), jnp.float32))
    for sample in u.reshape(-1, 6).T:
        assert scipy.stats.kstest(sample, "uniform").pvalue > 1e-4
    # Nodes 0 and 1 lie in different halves, and anywhere there.
    halves = 2 * u[:, :2] % 1
    correlation = np.corrcoef(np.concatenate([halves[:, 0], halves[:, 1]], axis=1).T)
    np.testing.assert_allclose(correlation, np.eye(4), atol=0.025)


@pytest.mark.parametrize("count", [1, 3, 1797, 2**16 + 1, 10**9])
def test_bits_choose_each_number_equally_often(count, getkey):
    bits = jax.random.bits(getkey(), (200,), jnp.uint32)
    bits = jnp.concatenate([bits, jnp.asarray([0, 2**32 - 1], jnp.uint32)])
    expected = [(int(b) * count) >> 32 for b in np.asarray(bits)]
    np.testing.assert_array_equal(below(bits, count), expected)


QUICK = [(1, 2), (2, 3), (2, 103), (3, 10), (3, 103)]
OTHERS = [p for p in itertools.product((1, 2, 3), (2, 3, 10, 103)) if p not in QUICK]


@pytest.mark.parametrize(("levels", "count"), quick_rows(QUICK, OTHERS))
def test_each_sample_is_chosen_equally_often(levels, count, getkey):
    """And the first coordinate follows the first principal component."""
    data = jax.random.normal(getkey(), (count, 3)) * jnp.asarray([1.0, 5.0, 2.0])
    sizes = group_sizes(count, levels)
    order = grouped_order(data, GaussianReference.from_data(data), sizes)
    np.testing.assert_array_equal(np.sort(order), np.arange(count))
    bits = jax.random.bits(getkey(), (400 * count, levels), jnp.uint32)
    chosen = np.asarray(sample_at(bits, order, sizes))
    assert scipy.stats.chisquare(np.bincount(chosen, minlength=count)).pvalue > 1e-4
    along = np.argsort(bits[:, 0])
    if count > 100:
        component = np.abs(np.corrcoef(along.argsort(), np.asarray(data)[chosen, 1])[0, 1])
        assert component > 0.9


@pytest.mark.parametrize("dim", [3, 40])
def test_noise_is_standard_normal(dim):
    """Also where only the leading components are those of a net, and within one net."""
    basis = jnp.linalg.qr(jax.random.normal(jax.random.key(0), (dim, dim)))[0]
    columns = net_columns(11, 13)[:dim]
    source = NoiseSource(jax.random.key(1), columns, basis[:, : columns.shape[0]])
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
    assert float(jnp.var(total.value)) < 0.65 * 0.15 / total.num_evaluations
    scatter = jnp.std(curves.cumulative, axis=0)[2:]
    ratio = scatter / jnp.mean(curves.mc_stderr, axis=0)[2:]
    assert bool(jnp.all((ratio > 0.8) & (ratio < 1.25))), ratio
    ratio = jnp.std(curves.rate, axis=0) / jnp.mean(curves.rate_stderr, axis=0)
    assert bool(jnp.all((ratio[1:] > 0.7) & (ratio[1:] < 1.4))), ratio


@pytest.mark.slow(reason="a program and 200 estimates for each dimension")
@pytest.mark.parametrize("dim", [1, 2, 6, 20])
def test_errors_are_honest_for_drawn_mixtures(dim):
    """The error for the given samples of four mixtures."""
    path, keys = process("VP"), jax.random.split(jax.random.key(dim), 50)

    @jax.jit
    def run(distribution, data):
        model = ex.ExactModel(distribution, path)

        def one(key):
            found = ex.neural_entropy(model, data, key=key, num_evaluations=1024)
            return found.value, found.mc_stderr

        return jax.lax.map(one, keys)

    squares = []
    for seed in range(4):
        draw = np.random.default_rng([dim, seed])
        weights, means = draw.dirichlet(np.full(5, 2.0)), draw.normal(size=(5, dim))
        distribution = ex.GaussianMixture(weights, means, draw.uniform(0.3, 0.8, (5, dim)))
        value, error = run(distribution, distribution.sample(300, key=jax.random.key(seed)))
        squares.append((value - jnp.mean(value)) ** 2 / error**2)
    ratio = float(jnp.sqrt(jnp.mean(jnp.stack(squares)) * 50 / 49))
    assert 0.8 < ratio < 1.25, ratio
