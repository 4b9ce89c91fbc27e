"""The output scaling is the size of the entropy field of a Gaussian, and is always finite."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from tests.helpers import (
    COLLAPSING,
    ENDS_IN_NOISE,
    FEW,
    KINDS,
    PROCESSES,
    all_finite,
    as_shipped,
    inner_times,
    quick,
    quick_jit,
)


DATA = [[0.3, 1.0], [-0.5, 0.2], [1.4, -0.3], [2.0, 0.1]]


@pytest.mark.parametrize("name", quick(FEW, PROCESSES))
def test_size_of_the_gaussian_entropy_field(name, x64):
    """Without floor: the root mean square per dimension of the exact field, by quadrature."""
    process = PROCESSES[name]()
    data = jnp.asarray(DATA)
    mean = jnp.mean(data, 0)
    variance = jnp.mean((data - mean) ** 2)
    gaussian = ex.Gaussian(mean, variance * jnp.eye(2))
    bare = ex.GaussianScaling.from_data(data, process, floor=1e-150)
    floored = ex.GaussianScaling.from_data(data, process, floor=0.3)
    # Three nodes per dimension integrate the square of a linear field exactly.
    nodes, weights = np.polynomial.hermite_e.hermegauss(3)
    z = jnp.stack(jnp.meshgrid(nodes, nodes), -1).reshape(-1, 2)
    weights = jnp.outer(weights, weights).ravel() / (2 * jnp.pi)

    @quick_jit
    @jax.vmap
    def compare(s):
        total = process.scale(s) ** 2 * variance + process.var(s)
        y = process.scale(s) * mean + jnp.sqrt(total) * z
        field = jax.vmap(gaussian.entropy_field, (None, None, 0))(process, s, y)
        floor = (process.scale(s) * floored.floor) ** 2 / total
        half = process.sigma_squared(s) / 2
        return (
            (bare(process, s) ** 2, weights @ jnp.mean(field**2, -1)),
            (floored(process, s) ** 2, bare(process, s) ** 2 + floor),
            (floored.over_scale(process, s) * process.scale(s), floored(process, s)),
            (bare.velocity(process, s), half * bare(process, s)),
            (floored.velocity(process, s), half * floored(process, s)),
            (floored.input_std(process, s) ** 2, weights @ jnp.mean(y**2, -1)),
        )

    for got, expected in compare(inner_times(process, 9)):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


@pytest.mark.parametrize("name", PROCESSES)
def test_at_the_ends(name, x32):
    """In float32: the velocity's scaling is finite at both, the field's is O(mu) in pure noise."""
    process = PROCESSES[name]()
    scaling = ex.GaussianScaling.from_data(DATA, process)

    @quick_jit
    def evaluate(s):
        functions = (scaling.velocity, scaling.input_std, scaling, scaling.over_scale)
        return [f(process, s) for f in functions]

    for s in (process.t0, process.t1):
        velocity, input_std, field, over_scale = evaluate(s)
        assert jnp.isfinite(velocity)
        # The rate of the cosine process vanishes at s = 0.
        assert velocity > 0 or process.sigma_squared(s) == 0
        assert jnp.isfinite(input_std)
        assert input_std > 0
        assert jnp.isfinite(field) == (name not in COLLAPSING or s == process.t1)
    assert jnp.isfinite(over_scale)
    assert (field == 0) == (name in ENDS_IN_NOISE)


def trained(process, scaling):
    """A scaled model with a head that is not zero."""
    network = eqx.filter_jit(ex.FourierMLP)(2, key=jax.random.key(0), widths=(8, 4))
    weight = jnp.cos(jnp.arange(8.0)).reshape(2, 4)
    network = eqx.tree_at(lambda n: n.head.weight, network, weight)
    return ex.EntropyMatching(network, process, scaling)


@pytest.mark.parametrize("name", quick(FEW, KINDS))
def test_scaled_model_at_the_ends(name, x32):
    """A network gives finite fields and gradients at s = 0 and s = 1."""
    process = PROCESSES[name]()
    model = trained(process, ex.GaussianScaling.from_data(DATA, process))
    y = jnp.asarray([0.3, -0.4])

    @eqx.filter_jit
    def fields(model, s):
        def loss(network):
            m = eqx.tree_at(lambda m: m.network, model, network)
            return jnp.sum(m.velocity(s, y) ** 2)

        return model.score(s, y), model.velocity(s, y), eqx.filter_grad(loss)(model.network)

    for s in (process.t0, process.t1):
        score, velocity, gradient = fields(model, s)
        assert all_finite((velocity, gradient))
        assert jnp.any(velocity != 0) or process.sigma_squared(s) == 0
        assert all_finite(score) == (name not in COLLAPSING or s == process.t1)


@pytest.mark.parametrize("name", ["vp", "sl", "cosine"])
def test_entropy_rate_vanishes_with_the_data(name, x64):
    """The entropy per log-SNR is O(mu^2) at the noise end, floor included: S_NN is finite."""
    process = PROCESSES[name]()
    scaling = ex.GaussianScaling.from_data(DATA, process)
    log_snr = jnp.asarray([-10.0, -14.0, -18.0]) if name != "vp" else jnp.asarray([-5.0, -7.0])
    s = process.time_of_log_snr(log_snr)
    rate = process.var(s) / 2 * jax.vmap(lambda s: scaling(process, s))(s) ** 2
    slope = jnp.diff(jnp.log(rate)) / jnp.diff(log_snr)
    np.testing.assert_allclose(slope, 1.0, rtol=0.01)


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda p: ex.GaussianScaling.from_data(np.ones(3), p), "data"),
        (lambda p: ex.GaussianScaling.from_data(np.ones((0, 2)), p), "data"),
        (lambda p: ex.GaussianScaling.from_data(np.eye(2)[:1], p), "data"),
        (lambda p: ex.GaussianScaling.from_data(np.ones((4, 2)), p), "data"),
        (lambda p: ex.GaussianScaling.from_data([[1.0, np.nan], [0.0, 1.0]], p), "data"),
        (lambda p: ex.GaussianScaling.from_data("digits", p), "data"),
        (lambda p: ex.GaussianScaling.from_data(DATA, "vp"), "process"),
        (lambda p: ex.GaussianScaling.from_data(DATA, p, floor=0.0), "floor"),
        (lambda p: ex.GaussianScaling.from_data(DATA, p, floor=-1.0), "floor"),
        (lambda p: ex.GaussianScaling.from_data(DATA, p, floor=[0.1, 0.2]), "floor"),
    ],
)
def test_static_mistakes(make, name):
    with as_shipped(), pytest.raises(ValueError, match=name):
        make(ex.CosinePath())


@pytest.mark.slow  # programs of five functions
def test_examples_of_any_shape():
    data = jax.random.normal(jax.random.key(0), (5, 2, 3))
    scaling = ex.GaussianScaling.from_data(data, ex.CosinePath())
    assert scaling.shape == (2, 3)
    centred = data - jnp.mean(data, 0)
    np.testing.assert_allclose(scaling.variance, jnp.mean(centred**2), rtol=1e-6)
