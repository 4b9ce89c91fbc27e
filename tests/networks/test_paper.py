"""The networks of the paper: their sizes, their layers by other means, and what they refuse."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import Fixed, PaperConvNet, PaperMLP
from entropix.networks.images import strided, transposed


KEY = jax.random.key(0)
PROCESS = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))


def parameters(make):
    """Their number, without drawing them; frequencies and process are not counted."""
    shapes = eqx.filter_eval_shape(make, KEY)
    leaves = jax.tree.leaves(shapes, is_leaf=lambda leaf: isinstance(leaf, Fixed))
    return sum(leaf.size for leaf in leaves if not isinstance(leaf, Fixed))


@pytest.mark.parametrize(
    ("make", "count"),
    [
        (lambda key: PaperMLP(3, PROCESS, key=key), 1_315_587),  # 1.32 million
        (lambda key: PaperConvNet((28, 28), PROCESS, key=key), 1_115_297),  # 1.115 million
    ],
)
def test_sizes(make, count):
    assert parameters(make) == count


def test_the_network_for_vectors_sees_the_time_of_its_process():
    network = PaperMLP(2, PROCESS, key=KEY, widths=(8, 4), num_frequencies=3)
    s, y = jnp.asarray(0.3), jnp.array([0.2, -0.1])

    def features(phases):
        return np.concatenate([np.sin(2 * np.pi * phases), np.cos(2 * np.pi * phases)])

    def sigmoid(x):
        return 1 / (1 + np.exp(-x))

    def dense(layer, x):
        return np.asarray(layer.weight) @ x + np.asarray(layer.bias)

    time = sigmoid(dense(network.of_time, features(np.asarray(network.time_frequencies.value) * s)))
    hidden = sigmoid(dense(network.of_state, features(np.asarray(network.frequencies.value) @ y)))
    for layer, embedding in zip(network.layers, network.embeddings, strict=True):
        x = dense(layer, hidden) + dense(embedding, time)
        hidden = sigmoid((x - x.mean()) / np.sqrt(x.var() + 1e-6))
    out = eqx.filter_jit(network)(PROCESS.log_snr(s), y)
    np.testing.assert_allclose(out, dense(network.head, hidden), rtol=1e-3, atol=1e-4)


def test_convolutions_with_strides_as_products():
    """Values are those of the layers of JAX, further rows are zero; derivatives."""
    x = jax.random.normal(KEY, (5, 7, 3))
    layout = ("NHWC", "OIHW", "NHWC")
    kernel = jax.random.normal(jax.random.key(1), (2, 3, 3, 3))

    @jax.jit
    def both(kernel, x):
        found, back = jax.vjp(
            lambda k, x: (strided(k, x, 2), transposed(k, x, 2, (11, 16))), kernel, x
        )
        return found, back(found)

    (down, up), gradient = both(kernel, x)
    expected = jax.lax.conv_general_dilated(
        x[None], kernel, (2, 2), "VALID", dimension_numbers=layout
    )[0]
    np.testing.assert_allclose(down, expected, rtol=1e-4, atol=1e-4)
    expected = jax.lax.conv_transpose(
        x[None], jnp.flip(kernel, (2, 3)), (2, 2), "VALID", dimension_numbers=layout
    )[0]
    np.testing.assert_allclose(up[:, :15], expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(up[:, 15:], 0)
    # The maps y are linear in kernel and image: <y, y> = <K, dK> = <x, dx> for the cotangent y.
    total = jnp.vdot(down, down) + jnp.vdot(up, up)
    for part, of in zip(gradient, (kernel, x), strict=True):
        np.testing.assert_allclose(jnp.vdot(part, of), total, rtol=1e-4)


@pytest.mark.slow  # a network of full size
def test_the_network_for_images_takes_labels_and_refuses_small_images():
    network = PaperConvNet((17, 19, 2), PROCESS, key=KEY, condition_dim=3)
    y, labels = jnp.ones((17, 19, 2)), jnp.eye(3)
    call = eqx.filter_jit(network)
    first, second = call(0.0, y, labels[0]), call(0.0, y, labels[1])
    assert first.shape == y.shape
    assert jnp.max(jnp.abs(first - second)) > 1e-3
    with pytest.raises(ValueError, match="`shape` must be at least 17 x 17"):
        PaperConvNet((16, 28), PROCESS, key=KEY)
    with pytest.raises(ValueError, match="`widths` must be four multiples of 32"):
        PaperConvNet((17, 17), PROCESS, key=KEY, widths=(32, 64, 128))
