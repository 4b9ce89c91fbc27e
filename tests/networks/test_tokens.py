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


def test_masks_are_told_apart_by_position():
    """Gradients of the output layer differ: marginals of positions can be learned."""
    network = ex.TokenTransformer((3,), 3, key=KEY, width=8, depth=1, heads=2, time_dependent=False)
    masks = jnp.tile(jnp.array([0.0, 0.0, 1.0]), (3, 1))

    @eqx.filter_jit
    def features(network):
        head = eqx.nn.Linear(8, 3, use_bias=False, key=KEY)
        return eqx.tree_at(lambda n: n.head, network, head)(0.0, masks)

    out = features(network)
    assert min(float(jnp.max(jnp.abs(out[i] - out[i - 1]))) for i in range(3)) > 1e-2
    assert network.embedding is None
    # Without an embedding the modulation of a block is 6 numbers of the width, not a layer.
    assert all(isinstance(block.modulation, jax.Array) for block in network.blocks)
    assert all(jax.tree.leaves(trainable(network.blocks[0].modulation)))


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
