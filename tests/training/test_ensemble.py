"""Many seeds as one program are the single runs, side by side."""

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

import entropix as ex
from entropix.training import fit, fit_ensemble
from tests.helpers import PROCESSES
from tests.training.common import (
    assert_same,
    gaussian_data,
    largest_difference,
    parameters,
    small_network,
)


QUICK = {"steps": 20, "batch_size": 8, "num_draws": 2, "chunk": 8}
KEYS = 3


def maker(data, process=None):
    process = PROCESSES["vpx"]() if process is None else process
    scaling = ex.GaussianScaling.from_data(data, process)

    def make_model(key):
        network = ex.FourierMLP(2, key=key, widths=(16,), num_features=4)
        return ex.EntropyMatching(network, process, scaling)

    return make_model


def check_against_singles(tolerance, **options):
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), KEYS)
    make_model = maker(data)
    fits = fit_ensemble(make_model, data, keys=keys, holdout=data[:5], **QUICK, **options)
    for i, key in enumerate(keys):
        single = fit(make_model(key), data, key=key, holdout=data[:5], **QUICK, **options)
        member = fits.member(i)
        assert jax.tree.structure(member) == jax.tree.structure(single.model)
        assert largest_difference(parameters(member), parameters(single.model)) < tolerance
        scale = jnp.max(jnp.abs(single.history.loss))
        assert largest_difference(fits.history.loss[i], single.history.loss) < tolerance * scale
        gap = jnp.abs(fits.history.holdout_loss[i] - single.history.holdout_loss)
        assert jnp.all(gap < tolerance * scale)
    return fits


@pytest.mark.slow
def test_equals_single_runs_in_float64(x64):
    check_against_singles(1e-10, ema_decay=0.9)


@pytest.mark.slow
def test_equals_single_runs_in_float32():
    fits = check_against_singles(1e-4)

    # The seed axis is on the arrays of the network and nowhere else.
    data = gaussian_data()
    one = maker(data)(jax.random.key(0))
    assert_same(fits.model.process, one.process)
    assert_same(fits.model.scaling, one.scaling)
    for stacked, single in zip(
        jax.tree.leaves(eqx.filter(fits.model.network, eqx.is_array)),
        jax.tree.leaves(eqx.filter(one.network, eqx.is_array)),
        strict=True,
    ):
        assert stacked.shape == (KEYS, *single.shape)
    frequencies = fits.model.network.frequencies.value
    assert not jnp.array_equal(frequencies[0], frequencies[1])
    assert fits.history.loss.shape == fits.history.gradient_norm.shape == (KEYS, 20)
    assert fits.history.holdout_loss.shape == (KEYS, 3)

    # Mapping over it.
    y = jnp.array([0.2, -0.7])
    mapped = fits.map(lambda model, y: model.entropy_field(0.3, y), y)
    by_hand = eqx.filter_vmap(lambda m: m.entropy_field(0.3, y), in_axes=(fits.axes,))(fits.model)
    singles = jnp.stack([fits.member(i).entropy_field(0.3, y) for i in range(KEYS)])
    assert jnp.allclose(mapped, singles, rtol=1e-5)
    assert jnp.allclose(mapped, by_hand)
    assert_same(fits.member(-1), fits.member(KEYS - 1))
    with pytest.raises(ValueError, match="`index` must be below 3, got 3"):
        fits.member(3)


def test_a_seed_that_diverges_is_named():
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), KEYS)
    make = maker(data)
    models = iter([make(key) for key in keys])

    def make_model(key):
        model = next(models)
        if jnp.array_equal(jax.random.key_data(key), jax.random.key_data(keys[1])):
            return eqx.tree_at(lambda m: m.network.head.bias, model, jnp.full(2, jnp.inf))
        return model

    with pytest.raises(FloatingPointError, match="at step 1 of seed 1"):
        fit_ensemble(make_model, data, keys=keys, **QUICK)


def test_resumes_as_a_whole(tmp_path):
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), KEYS)
    options = QUICK | {"checkpoint": tmp_path / "run", "checkpoint_every": 8}

    def interrupt(step, metrics):
        assert metrics["loss"].shape == (KEYS,)
        if step == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(maker(data), data, keys=keys, callback=interrupt, **options)
    resumed = fit_ensemble(maker(data), data, keys=keys, resume=True, **options)
    whole = fit_ensemble(maker(data), data, keys=keys, **QUICK)
    assert_same(resumed, whole)


def test_bad_ensembles():
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 2)
    kappas = iter([1.0, 0.5])

    def other_process(key):
        process = ex.VariancePreserving(ex.LinearSchedule(), kappa=next(kappas))
        return ex.EntropyMatching(small_network(), process)

    with pytest.raises(ValueError, match="got another process and scaling for key 1"):
        fit_ensemble(other_process, data, keys=keys)
    widths = iter([4, 5])

    def other_network(key):
        return ex.EntropyMatching(small_network(widths=(next(widths),)), PROCESSES["vp"]())

    with pytest.raises(ValueError, match="got another structure of the network for key 1"):
        fit_ensemble(other_network, data, keys=keys)
    with pytest.raises(ValueError, match="`keys` must be a stack of keys"):
        fit_ensemble(maker(data), data, keys=keys[0])
    with pytest.raises(ValueError, match="`batch_size` must be at most"):
        fit_ensemble(maker(data), data, keys=keys, batch_size=100)
