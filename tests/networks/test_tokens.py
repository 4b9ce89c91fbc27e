"""The transformer for tokens; what it shares with the networks for images is tested there."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import trainable
from entropix.networks.transformer import position_angles, rotated
from tests.helpers import as_shipped


KEY = jax.random.key(0)


def test_rotary_products_depend_on_distances(getkey):
    """In images too: along each axis."""
    x = jnp.broadcast_to(jax.random.normal(getkey(), (2, 1, 1, 8)), (2, 12, 1, 8))
    first, second = (rotated(row, jnp.asarray(position_angles((3, 4), 4))) for row in x)
    products = (first[:, 0] @ second[:, 0].T).reshape(3, 4, 3, 4)
    np.testing.assert_allclose(products[:2, :3, :2, :3], products[1:, 1:, 1:, 1:], atol=1e-5)
    assert abs(products[0, 0, 0, 1] - products[0, 0, 1, 0]) > 1e-4  # the axes are told apart


@eqx.filter_jit
def of_masks(network, log_snr=0.0, condition=None):
    """The output for a sequence of masks, the layers that are initially zero drawn."""

    def zeros(network):
        layers = [network.head, *([] if network.embedding is None else [network.modulation])]
        return [layer.weight for layer in layers]

    drawn = [jax.random.normal(KEY, weight.shape) for weight in zeros(network)]
    network = eqx.tree_at(zeros, network, drawn)
    return network(log_snr, jnp.tile(jnp.array([0.0, 0.0, 1.0]), (3, 1)), condition)


def make(**options):
    return ex.TokenTransformer((3,), 3, key=KEY, width=8, depth=1, heads=2, **options)


def test_masks_are_told_apart_by_position():
    """Marginals of positions can be learned; and without time, nor a layer that computes it."""
    network = make(time_dependent=False)
    out = of_masks(network)
    assert min(float(jnp.max(jnp.abs(out[i] - out[i - 1]))) for i in range(3)) > 1e-2
    assert network.embedding is None
    assert network.blocks[0].modulation.shape == (48,)
    assert trainable(network).blocks[0].modulation


def test_time_is_left_out_and_a_condition_enters():
    network, first = make(time_dependent=False, condition_dim=2), jnp.array([1.0, 0.0])
    levels = jnp.array([0.0, 3.0])
    out = of_masks(network, levels[0], first)
    np.testing.assert_array_equal(out, of_masks(network, levels[1], first))
    assert jnp.max(jnp.abs(out - of_masks(network, levels[0], 1 - first))) > 1e-3


def test_sizes_follow_the_data():
    """A quarter of the nats of the data, to a power of two, within bounds."""

    def sizes(size, number):
        sized = eqx.filter_eval_shape(
            ex.TokenTransformer.sized, size, (64,), 28, number, key=KEY, time_dependent=False
        )
        return sized.entry.shape[1], len(sized.blocks)

    assert sizes("medium", 20_000) == (128, 4)  # 4.3 million nats, 0.8 million parameters
    assert sizes("small", 20_000) == (64, 2)
    assert sizes("small", 10) == (64, 2)
    assert sizes("large", 10**9) == (512, 6)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"width": 10}, "`width` must be a multiple of 8"),
        ({"shape": 5}, "`shape` must be"),
        ({"num_states": 1}, "`num_states` must be"),
        ({"precision": "int8"}, "`precision` must be one of"),
    ],
)
def test_static_mistakes(options, message):
    options = {"shape": (5,), "num_states": 3, **options}
    with as_shipped(), pytest.raises(ValueError, match=message):
        ex.TokenTransformer(**options, key=KEY)
    with as_shipped(), pytest.raises(ValueError, match="`size` must be one of"):
        ex.TokenTransformer.sized("tiny", (5,), 3, 10, key=KEY)
