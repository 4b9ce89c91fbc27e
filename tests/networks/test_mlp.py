"""The Fourier-feature network: shapes, initial output, and infinite ends of the log-SNR."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import Fixed, trainable
from tests.helpers import all_finite, as_shipped, quick_jit


def network(dim=3, **options):
    options = {"widths": (16, 8), "num_features": 6} | options
    # One compilation, rather than one for each array.
    return eqx.filter_jit(ex.FourierMLP)(dim, key=jax.random.key(0), **options)


def with_head(net):
    """As after some training, with an output layer that is not zero."""
    weight = jnp.cos(jnp.arange(net.head.weight.size)).reshape(net.head.weight.shape)
    return eqx.tree_at(lambda n: n.head.weight, net, weight)


def test_shapes(x32):
    options = {"widths": (7, 11, 13), "num_features": 9, "condition_dim": 2}
    net = eqx.filter_eval_shape(network, dim=5, **options)
    assert [layer.weight.shape for layer in net.layers] == [(7, 7), (11, 7), (13, 11)]
    assert [layer.weight.shape for layer in net.embeddings] == [(7, 8), (11, 8), (13, 8)]
    assert net.frequencies.value.shape == (4,)

    def output(condition):
        return network(dim=5, **options)(jnp.asarray(0.3), jnp.ones(5), condition)

    for condition in (jnp.ones(2), jnp.ones((2, 1))):
        out = eqx.filter_eval_shape(output, condition)
        assert out.shape == (5,)
        assert out.dtype == jnp.float32
    paper = eqx.filter_eval_shape(ex.FourierMLP, 3, key=jax.random.key(0))
    assert [layer.out_features for layer in paper.layers] == [512, 256]


def test_starts_at_zero():
    y = jax.random.normal(jax.random.key(2), (4, 3))
    out = quick_jit(jax.vmap(network(), (None, 0)))(jnp.asarray(1.3), y)
    np.testing.assert_array_equal(out, 0.0)


def test_finite_at_exact_ends(x32):
    """Log-SNR of plus and minus infinity, in value and in the gradient with respect to weights."""
    net = with_head(network())
    dynamic, static = eqx.partition(net, eqx.is_inexact_array)

    @quick_jit
    def loss(dynamic, log_snr, y):
        def squared(dynamic, log_snr, y):
            return jnp.sum(eqx.combine(dynamic, static)(log_snr, y) ** 2)

        return jax.value_and_grad(squared, (0, 1, 2))(dynamic, log_snr, y)

    y = jnp.asarray([0.3, -1.0, 2.0])
    values = []
    for log_snr in (-jnp.inf, -1e4, 0.0, 1e4, jnp.inf):
        value, (weights, slope, field) = loss(dynamic, jnp.asarray(log_snr), y)
        assert all_finite((value, weights, slope, field))
        assert any(bool(jnp.any(g != 0)) for g in jax.tree.leaves(weights))
        values.append(float(value))
    # The embedding is continuous at its ends, and distinguishes them.
    np.testing.assert_allclose(values[0], values[1], rtol=1e-2)
    np.testing.assert_allclose(values[-1], values[-2], rtol=1e-2)
    assert abs(values[0] - values[-1]) > 1e-3 * abs(values[0])


def test_depends_on_all_its_inputs():
    net = with_head(network(condition_dim=2))
    inputs = jnp.asarray(0.7), jnp.asarray([0.3, -1.0, 2.0]), jnp.asarray([0.1, 0.9])
    jacobians = quick_jit(jax.jacrev(lambda *args: net(*args), (0, 1, 2)))(*inputs)
    assert jacobians[1].shape == (3, 3)
    for jacobian in jacobians:
        assert jnp.all(jnp.any(jacobian != 0, axis=0))


def test_trainable_leaves_out_what_is_fixed():
    net = network()
    marks = trainable(net)
    assert jax.tree.structure(marks) == jax.tree.structure(net)
    assert marks.frequencies.value is False
    assert marks.log_snr_scale.value is False
    trained = eqx.filter(net, marks)
    assert len(jax.tree.leaves(trained)) == len(jax.tree.leaves(net)) - 2
    assert trained.frequencies.value is None
    assert trained.head.weight is not None
    # Integers, functions and static parts are not trained either.
    tree = {"a": jnp.ones(2), "b": jnp.arange(2), "c": Fixed(jnp.ones(())), "d": "text"}
    assert jax.tree.leaves(trainable(tree)) == [True, False, False, False]


def test_dtype_under_x64(x64):
    net = with_head(network(condition_dim=1))
    for leaf in jax.tree.leaves(eqx.filter(net, eqx.is_array)):
        assert leaf.dtype == jnp.float64
    assert net(0.3, jnp.ones(3), jnp.ones(1)).dtype == jnp.float64


def test_keys_matter():
    make = eqx.filter_jit(ex.FourierMLP)
    one, two, same = (make(2, key=jax.random.key(k), widths=(4, 4)) for k in (0, 1, 0))
    assert eqx.tree_equal(one, same)
    assert jax.tree.structure(one) == jax.tree.structure(two)
    for a, b in zip(jax.tree.leaves(one.layers), jax.tree.leaves(two.layers), strict=True):
        assert not jnp.any(a == b)
    # No two arrays of one network come from the same key.
    assert not jnp.any(one.layers[1].weight == one.embeddings[1].weight[:, :4])


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"dim": 0}, "dim"),
        ({"dim": 2.0}, "dim"),
        ({"dim": True}, "dim"),
        ({"widths": ()}, "widths"),
        ({"widths": (8, 0)}, "widths"),
        ({"widths": 8}, "widths"),
        ({"num_features": 1}, "num_features"),
        ({"num_features": 3.0}, "num_features"),
        ({"condition_dim": 0}, "condition_dim"),
        ({"log_snr_scale": 0.0}, "log_snr_scale"),
        ({"feature_scale": -1.0}, "feature_scale"),
        ({"feature_scale": float("nan")}, "feature_scale"),
        ({"activation": "relu"}, "activation"),
    ],
)
def test_static_mistakes(options, name):
    with as_shipped(), pytest.raises(ValueError, match=name):
        network(**options)


def test_wrong_inputs():
    plain, conditional = network(), network(condition_dim=2)
    y = jnp.ones(3)
    with as_shipped():
        for call in (
            lambda: plain(0.1, y, jnp.ones(2)),
            lambda: conditional(0.1, y),
            lambda: conditional(0.1, y, jnp.ones(3)),
        ):
            with pytest.raises(ValueError, match="condition"):
                call()
        for shape in ((), (2,), (4,), (1,), (5, 3)):
            with pytest.raises(ValueError, match="`y`"):
                plain(0.1, jnp.ones(shape))
