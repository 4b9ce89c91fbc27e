"""The exact field of a Gaussian pair plus a residual network."""

import functools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex


RHO = np.array([0.8, 0.3, 0.0], np.float32)


def pair(key=0, network=None):
    inner = ex.networks.ResidualMLP(3, key=jax.random.key(key), condition_dim=3, width=8, depth=2)
    residual = ex.networks.GaussianPlusResidual(inner if network is None else network, RHO)
    return ex.networks.ConditionDropout(residual, 2)


def test_untrained_it_is_the_field_of_the_gaussian(getkey):
    y, c = jax.random.normal(getkey(), (3,)), jax.random.normal(getkey(), (2,))
    process = ex.CosinePath()
    model = ex.EntropyMatching(pair(), process)
    mean = np.append(RHO[:2] * np.asarray(c), 0.0)
    exact = ex.ExactModel(ex.Gaussian(mean, np.diag(1 - RHO**2)), process)
    for s in (0.0, 0.2, 0.7, 1.0):
        np.testing.assert_allclose(
            model.entropy_field(s, y, c), exact.entropy_field(s, y), rtol=2e-4, atol=2e-5
        )
        np.testing.assert_array_equal(model.entropy_field(s, y), jnp.zeros(3))


def test_the_network_is_of_the_order_of_the_noise_and_bounded_at_the_data_end():
    def ones(log_snr, y, condition):
        return jnp.ones_like(y)

    network = ex.networks.GaussianPlusResidual(ones, np.zeros(3), width=0.1)
    log_snr = jnp.array([-jnp.inf, 0.0, jnp.inf])
    found = jax.vmap(network, in_axes=(0, None))(log_snr, jnp.zeros(3))[:, 0]
    np.testing.assert_allclose(found, [0.0, 1 / np.sqrt(1.01), 10.0], rtol=1e-5, atol=1e-8)


def test_gradients_are_finite_at_both_ends():
    network = pair()

    def total(y, log_snr):
        return jnp.sum(network(log_snr, y, jnp.zeros(2)) ** 2)

    for log_snr in (-jnp.inf, 0.0, jnp.inf):
        assert np.isfinite(jax.grad(total)(jnp.zeros(3), log_snr)).all()


@pytest.mark.parametrize(
    ("arguments", "name"),
    [
        ({"correlations": [1.0]}, "correlations"),
        ({"correlations": [[0.5]]}, "correlations"),
        ({"correlations": [0.5], "width": 0.0}, "width"),
    ],
)
def test_invalid_arguments_are_refused(arguments, name):
    with pytest.raises(ValueError, match=f"`{name}` must"):
        ex.networks.GaussianPlusResidual(jnp.sin, **arguments)


def test_a_residual_network_starts_at_zero_and_checks_its_input(getkey):
    network = ex.networks.ResidualMLP(3, key=getkey(), condition_dim=2, width=8, depth=2)
    for log_snr in (-jnp.inf, 0.3, jnp.inf):
        np.testing.assert_array_equal(network(log_snr, jnp.ones(3), jnp.ones(2)), jnp.zeros(3))
    with pytest.raises(ValueError, match="`condition` must be given"):
        network(0.0, jnp.ones(3))
    with pytest.raises(ValueError, match="`y` must have the shape"):
        network(0.0, jnp.ones(2), jnp.ones(2))
    with pytest.raises(ValueError, match="`depth` must be"):
        ex.networks.ResidualMLP(3, key=getkey(), depth=0)


def test_scales_multiply_coordinates_and_output_but_not_the_norms(getkey):
    key, scale, of_condition = getkey(), np.array([1.0, 0.5, 0.1]), np.array([0.2, 1.0])
    make = functools.partial(ex.networks.ResidualMLP, 3, key=key, condition_dim=2, width=8, depth=1)
    plain, scaled = (
        eqx.tree_at(lambda n: n.head.weight, n, jnp.ones((3, 8)))
        for n in (make(), make(scale=scale, condition_scale=of_condition))
    )
    # The same function, with weights that undo the scales.
    columns = np.concatenate([scale, np.ones(3), of_condition, np.ones(3)])
    undone = eqx.tree_at(
        lambda n: (n.first.weight, n.head.weight),
        scaled,
        (scaled.first.weight / columns, scaled.head.weight / scale[:, None]),
    )
    y, c = jnp.array([0.3, -1.0, 2.0]), jnp.array([1.5, -0.4])
    np.testing.assert_allclose(undone(0.5, y, c), plain(0.5, y, c), rtol=1e-4, atol=1e-5)
    assert not np.allclose(scaled(0.5, y, c), plain(0.5, y, c))
    for wrong in ({"scale": np.ones(2)}, {"scale": -np.ones(3)}, {"condition_scale": np.ones(3)}):
        (name,) = wrong
        with pytest.raises(ValueError, match=f"`{name}` must"):
            make(**wrong)
