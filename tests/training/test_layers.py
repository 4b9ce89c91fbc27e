"""The layers of the training loss against those of Equinox: values and derivatives."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np

from entropix.training.layers import with_fast_derivatives
from tests.helpers import quick_jit


def test_layers_of_the_training_loss_are_those_of_equinox(x64):
    """Value, gradient by everything, and a gradient of a forward derivative, of pairs of rows."""
    keys = jax.random.split(jax.random.key(0), 6)
    linears = eqx.nn.Linear(3, 8, key=keys[0]), eqx.nn.Linear(8, 2, key=keys[1])
    norm = eqx.nn.LayerNorm(8)
    norm = eqx.tree_at(lambda n: n.weight, norm, jax.random.normal(keys[2], (8,)))
    layers = (linears[0], norm, linears[1], eqx.nn.Linear("scalar", 2, key=keys[5]))
    x, v = jax.random.normal(keys[3], (2, 4, 2, 3))

    def network(layers, x):
        first, norm, last, scalar = layers
        return last(jax.nn.silu(norm(first(x)))) + scalar(x[0])

    def loss(layers, x):
        def one(x, v):
            out, moved = jax.jvp(lambda x: network(layers, x), (x,), (v,))
            return jnp.sum(out**2) + jnp.sum(jnp.sin(moved))

        return jnp.sum(jax.vmap(jax.vmap(one))(x, v))

    def replaced(layers, x):
        return loss(with_fast_derivatives(layers), x)

    def several(loss):
        stacked = jax.tree.map(lambda a: jnp.stack([a, 2 * a]), eqx.filter(layers, eqx.is_array))
        rest = eqx.filter(layers, eqx.is_array, inverse=True)
        return jax.vmap(lambda a: jax.value_and_grad(lambda a: loss(eqx.combine(a, rest), x))(a))(
            stacked
        )

    found = quick_jit(lambda: (several(replaced), jax.grad(replaced, 1)(layers, x)))()
    expected = quick_jit(lambda: (several(loss), jax.grad(loss, 1)(layers, x)))()
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-12)


def test_the_normalisation_of_a_large_mean_keeps_its_digits(x32):
    x = 1e3 + jax.random.normal(jax.random.key(0), (64,))
    norm = with_fast_derivatives(eqx.nn.LayerNorm(64))
    exact = np.asarray(x, np.float64)
    exact = (exact - exact.mean()) / np.sqrt(exact.var() + 1e-5)
    np.testing.assert_allclose(norm(x), exact, atol=1e-3)
