"""Divergences that networks offer: those of their Jacobians, in value and gradient."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.networks import ConditionDropout, GaussianPlusResidual, LinearSkip, ResidualMLP
from tests.helpers import as_shipped, quick_jit, quick_rows


# One, two and more hidden layers, and columns carried through them in every way.
PERCEPTRONS = {
    "one": (3, (5,), None),
    "one-dimensional": (1, (4, 3), 2),
    "two": (3, (8, 6), 2),
    "two-narrow": (9, (5, 4), None),
    "three": (3, (6, 5, 4), 1),
    "three-narrow": (20, (5, 4, 3), None),
    "blocks": (18, (20, 4, 19), None),
}
RESIDUAL = {"wide": (3, 8, 2, 2), "narrow": (10, 4, 1, None), "blocks": (18, 20, 1, None)}


def filled(network):
    """All parameters drawn anew: initial ones are zero, or one, or without effect."""
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    leaves, tree = jax.tree.flatten(arrays)
    rng = np.random.default_rng(0)
    new = [jnp.asarray(rng.normal(size=x.shape) / max(x.shape[-1:] + (1,)) ** 0.5) for x in leaves]
    return eqx.combine(jax.tree.unflatten(tree, new), static)


def make(kind, name):
    if kind == "fourier":
        dim, widths, condition = PERCEPTRONS[name]
        make = eqx.filter_jit(ex.FourierMLP)
        options = {"widths": widths, "num_features": 4, "activation": jnp.tanh}
    else:
        dim, width, depth, condition = RESIDUAL[name]
        make = eqx.filter_jit(ResidualMLP)
        options = {"width": width, "depth": depth, "num_features": 4}
        options["scale"] = jnp.linspace(0.5, 2.0, dim)
    return filled(make(dim, key=jax.random.key(0), condition_dim=condition, **options)), condition


def by_jacobian(network, log_snr, y, condition=None):
    return jnp.trace(jax.jacfwd(lambda y: network(log_snr, y, condition))(y))


def offered(network, log_snr, y, condition=None):
    return network.divergence(log_snr, y, condition)


def check(network, *conditions, gradients=True):
    """The trace, and its derivative in a direction of parameters, state and noise level."""
    y = jax.random.normal(jax.random.key(1), (network.dim,))
    arrays, static = eqx.partition(network, eqx.is_inexact_array)
    args = (arrays, jnp.asarray(0.3), y)
    directions = jax.tree.map(jnp.cos, args)

    def values(divergence, condition):
        def value(arrays, *args):
            return divergence(eqx.combine(arrays, static), *args, condition)

        return jax.jvp(value, args, directions) if gradients else value(*args)

    both = quick_jit(lambda c: (values(offered, c), values(by_jacobian, c)))
    for condition in conditions:
        np.testing.assert_allclose(*both(condition), rtol=1e-9)


QUICK = [("fourier", "two"), ("residual", "blocks")]
NAMES = ("one", "two-narrow", "blocks", "one-dimensional", "three", "three-narrow")
OTHERS = [*(("fourier", name) for name in NAMES), ("residual", "narrow"), ("residual", "wide")]


@pytest.mark.parametrize(("kind", "name"), quick_rows(QUICK, OTHERS))
def test_trace_of_the_jacobian(kind, name, x64):
    network, size = make(kind, name)
    condition = None if size is None else jnp.linspace(-1.0, 1.0, size)
    check(network, condition, gradients=name in ("two", "three", "wide"))


def test_networks_around_networks(x64):
    """A condition that may be left out, an exact Gaussian part, and linear maps."""
    make = eqx.filter_jit(ex.FourierMLP)
    inner = filled(make(2, key=jax.random.key(0), widths=(3,), condition_dim=2, num_features=2))
    pair = ConditionDropout(GaussianPlusResidual(inner, [0.8, -0.3]), 1)
    make = eqx.filter_jit(LinearSkip)
    options = {"condition_dim": 2, "num_flags": 1, "num_maps": 2, "width": 3}
    skip = ConditionDropout(filled(make(inner, 2, key=jax.random.key(1), **options)), 1)
    key = jax.random.key(3)  # of what is left out in training
    y, given = jnp.asarray([0.4, -1.0]), jnp.asarray([0.4])

    @quick_jit
    def both(log_snr):
        cases = [(pair, None, None), (pair, given, None), (pair, given, key), (skip, given, None)]
        return [
            (
                network.divergence(log_snr, y, condition, key=key),
                jnp.trace(
                    jax.jacfwd(
                        lambda y, a=(network, condition, key): a[0](log_snr, y, a[1], key=a[2])
                    )(y)
                ),
            )
            for network, condition, key in cases
        ]

    for one, two in both(0.3):
        np.testing.assert_allclose(one, two, rtol=1e-10)


def test_not_offered_around_a_network_that_does_not():
    def plain(log_snr, y, condition=None):
        return y

    assert ConditionDropout(plain, 1).divergence is None
    assert GaussianPlusResidual(plain, [0.5]).divergence is None
    assert LinearSkip(plain, 1, key=jax.random.key(0)).divergence is None
    guess = eqx.filter_jit(ex.FourierMLP)(2, key=jax.random.key(0), widths=(4,), out_dim=3)
    with as_shipped(), pytest.raises(ValueError, match="`out_dim` must be"):
        guess.divergence(0.0, jnp.ones(2))


@pytest.mark.slow(reason="programs of four networks")
def test_rounding_and_vmap_in_single_precision(x32):
    network = filled(eqx.filter_jit(ex.FourierMLP)(24, key=jax.random.key(0), widths=(40, 30)))
    y = jax.random.normal(jax.random.key(1), (5, 24))

    @quick_jit
    def both(y):
        return jax.vmap(lambda y: (offered(network, 0.3, y), by_jacobian(network, 0.3, y)))(y)

    one, two = both(y)
    np.testing.assert_allclose(one, two, atol=2e-6 * float(jnp.max(jnp.abs(two))) + 2e-6)
