"""Memory is bounded by the argument that says so, however many evaluations, samples or seeds."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import entropix as ex
from entropix.training.layout import map_members
from tests.training.common import gaussian_data


KEY = jax.random.key(0)
DIM = 8


def model():
    network = ex.FourierMLP(DIM, key=KEY, widths=(512, 512))
    data = gaussian_data(64, DIM)
    process = ex.CosinePath()
    return ex.EntropyMatching(network, process, ex.GaussianScaling.from_data(data, process))


def memory(fn, *args):
    """Bytes that the compiled program holds besides its arguments."""
    stats = jax.jit(fn).lower(*args).compile().memory_analysis()
    return stats.temp_size_in_bytes + stats.output_size_in_bytes


# Bytes of the network's activations for one evaluation: what must not be held for each.
ONE = 2 * 512 * 4


def entropy(count):
    data = gaussian_data(64, DIM)
    return memory(
        lambda k: ex.neural_entropy(model(), data, key=k, num_evaluations=count, chunk_size=256),
        KEY,
    )


def curve(count):
    data, times = gaussian_data(2048, DIM), jnp.linspace(0.01, 0.99, count)
    options = {"num_evaluations": 2048, "chunk_size": 256}
    return memory(
        lambda k: ex.entropy_curve(model(), data, key=k, times=times, **options).stderr, KEY
    )


def samples(count):
    return memory(
        lambda k: ex.sample(model(), key=k, num_samples=count, num_steps=4, chunk_size=32), KEY
    )


def densities(count):
    x = gaussian_data(count, DIM)
    method = ex.PathBound(num_evaluations=64, reference=gaussian_data(64, DIM))
    return memory(
        lambda x: ex.log_prob(model(), x, key=KEY, method=method, chunk_size=256).value, x
    )


def members(count):
    arrays, rest = eqx.partition(model(), eqx.is_array)
    stacked = jax.tree.map(lambda a: jax.ShapeDtypeStruct((count, *a.shape), a.dtype), arrays)

    def sampled(arrays):
        one = eqx.combine(arrays, rest)
        return ex.sample(one, key=KEY, num_samples=64, num_steps=4)

    return memory(lambda a: map_members(sampled, a, (), batch_size=2), stacked)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("need", "few", "each"),
    [
        (entropy, 1024, 128),  # a few numbers for each evaluation
        (curve, 16, 2048),  # less than a number for each sample
        (samples, 64, 16 * DIM),
        (densities, 16, 16 * DIM),
        (members, 4, 16 * 64 * DIM),
    ],
    ids=["evaluations", "edges", "samples", "densities", "members"],
)
def test_a_hundredfold(need, few, each):
    growth = (need(100 * few) - need(few)) / (99 * few)
    assert growth < each
    assert each < ONE or need is members  # otherwise the bound would say nothing


@pytest.mark.slow
def test_without_the_argument_it_grows():
    """The bound is the argument's doing."""

    def all_at_once(count):
        return memory(lambda k: ex.sample(model(), key=k, num_samples=count, num_steps=4), KEY)

    assert (all_at_once(1024) - all_at_once(64)) / 960 > 4 * 16 * DIM


def test_what_is_counted():
    assert memory(lambda x: jnp.outer(x, x), jnp.zeros(100)) >= 40_000
