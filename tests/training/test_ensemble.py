"""Many seeds as one program are the single runs, side by side."""

import itertools

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix as ex
from entropix.training import Callback, fit, fit_ensemble
from entropix.training.source import epoch_order
from tests.helpers import PROCESSES, as_shipped
from tests.training.common import (
    assert_same,
    gaussian_data,
    largest_difference,
    parameters,
    small_network,
)


QUICK = {"steps": 20, "batch_size": 8, "loss": ex.Denoising(2)}
KEYS = 3
KEY = jax.random.key(7)


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
    # All at once, as on an accelerator: on a CPU they are single runs by default.
    both = {"holdout": ex.Holdout(data[:5], every=8), **QUICK, **options}
    fits = fit_ensemble(make_model, data, keys=keys, members_at_once=KEYS, **both)
    for i, key in enumerate(keys):
        single = fit(make_model(key), data, key=key, **both)
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

    # The axis of members is on every array.
    data = gaussian_data()
    one = maker(data)(jax.random.key(0))
    assert_same(fits.member(1).process, one.process)
    assert_same(fits.member(1).scaling, one.scaling)
    for stacked, single in zip(
        jax.tree.leaves(eqx.filter(fits.model, eqx.is_array)),
        jax.tree.leaves(eqx.filter(one, eqx.is_array)),
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
    by_hand = eqx.filter_vmap(lambda m: m.entropy_field(0.3, y))(fits.model)
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

    with pytest.raises(FloatingPointError, match="at step 1 of member 1"):
        fit_ensemble(make_model, data, keys=keys, **QUICK)


@pytest.mark.slow  # three trainings
def test_resumes_as_a_whole(tmp_path):
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), KEYS)
    checkpoint = ex.Checkpoint(tmp_path / "run", every=8, resume=True)
    measured = QUICK | {"measure": first_bias, "measure_at": [0, 6, 20]}
    options = measured | {"checkpoint": checkpoint}

    def interrupt(step, metrics, model):
        assert metrics["loss"].shape == (KEYS,)
        assert model().network.head.bias.shape == (KEYS, 2)
        if step == 16:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(maker(data), data, keys=keys, callback=Callback(interrupt, 8), **options)
    resumed = fit_ensemble(maker(data), data, keys=keys, **options)
    whole = fit_ensemble(maker(data), data, keys=keys, **measured)
    assert_same(resumed, whole)
    found = whole.history.measured["estimate"]
    assert found.value.shape == found.mc_stderr.shape == (KEYS, 3)
    assert_same(found.value[:, 2], whole.model.network.head.bias[:, 0])
    record = whole.record()
    assert record["measured_estimate_stderr"].dims == ("seed", "measured_step")
    assert record["measured_step"].values.tolist() == [0, 6, 20]
    options["checkpoint"] = ex.Checkpoint(tmp_path / "stopped", every=8)
    options["measure"] = lambda model: {"bias": first_bias(model), "two": 2.0}
    stopped = fit_ensemble(maker(data), data, keys=keys, callback=stop, **options)
    assert_same(stopped.history.loss, whole.history.loss[:, :8])
    assert stopped.history.measured["two"].tolist() == [[2.0, 2.0]] * KEYS


stop = Callback(lambda step, metrics: np.all(metrics["loss"] < np.inf), 8)


def first_bias(model):
    value = model.network.head.bias[0]
    return ex.Estimate(value, value, value)


def grid_maker(data):
    """Another kappa, and another scaling with it, for each member."""

    def make_model(key, kappa):
        return maker(data, ex.VariancePreserving(ex.LinearSchedule(), kappa=kappa))(key)

    return make_model


OVER = {"kappa": [1.0, 0.5], "learning_rate": [1e-3, 4e-3], "num_samples": [10, 64]}


@pytest.mark.slow(reason="two ensembles")
def test_hyper_parameters_as_one_program(x64):
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 2)
    options = QUICK | {"steps": 12}
    make_model = grid_maker(data)
    fits = fit_ensemble(make_model, data, keys=keys, over=OVER, **options)
    assert fits.dims == {"kappa": 2, "learning_rate": 2, "num_samples": 2, "seed": 2}
    assert fits.num_members == 16
    assert fits.model.process.kappa.shape == (16,)
    assert fits.model.process.schedule.beta_min.shape == (16,)
    points = itertools.product(*OVER.values(), keys)
    for i, (kappa, rate, count, key) in enumerate(points):
        if i % 3:  # every value of every name is met
            continue
        alone = {"kappa": [kappa], "num_samples": [count]}
        single = fit_ensemble(
            make_model, data, keys=[key], over=alone, learning_rate=rate, **options
        )
        single, member = single.member(0), fits.member(i)
        assert jax.tree.structure(member) == jax.tree.structure(single)
        assert largest_difference(parameters(member), parameters(single)) < 1e-10
        assert member.process.kappa == kappa


@pytest.mark.slow
def test_results_as_a_record_with_named_dimensions():
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 2)
    over = {"kappa": np.array([1.0, 0.5]), "num_samples": [16, 32, 64]}
    fits = fit_ensemble(grid_maker(data), data, keys=keys, over=over, **QUICK)
    entropy = fits.map(lambda m: ex.neural_entropy(m, data, key=KEY, num_evaluations=512))
    field, by_threes = (
        fits.map(lambda m: m.entropy_field(0.5, data[0]), batch_size=size) for size in (None, 3)
    )
    assert jnp.allclose(field, by_threes, rtol=1e-5)
    record = fits.record(entropy=entropy, field=field)
    assert fits.to_xarray()["loss"].equals(record["loss"])
    assert "kappa" in fits._repr_html_()
    assert len(repr(fits).splitlines()) < 40
    assert record["entropy"].dims == ("kappa", "num_samples", "seed")
    assert record["entropy_stderr"].shape == (2, 3, 2)
    assert record["field"].dims == ("kappa", "num_samples", "seed", "field_0")
    assert record["loss"].dims == ("kappa", "num_samples", "seed", "step")
    picked = record["entropy"].sel(kappa=0.5, num_samples=64, seed=1)
    assert float(picked) == float(entropy.value[-1])
    alone = ex.neural_entropy(fits.member(-1), data, key=KEY, num_evaluations=512)
    assert float(picked) == pytest.approx(float(alone.value), rel=1e-4)
    with pytest.raises(ValueError, match="`entropy` must have a leading axis of 12 members"):
        fits.record(entropy=entropy.value[:3])


@pytest.mark.slow
def test_many_at_once_are_one_after_the_other():
    """In groups, as on an accelerator; alone, as on a CPU: then as single runs, bit by bit."""
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 4)
    over = {"kappa": [1.0, 0.8, 0.6, 0.5]}
    holdout = ex.Holdout(data[:4], every=8)
    options = QUICK | {"keys": keys, "over": over, "holdout": holdout}
    alone = fit_ensemble(grid_maker(data), data, members_at_once=1, **options)
    together = fit_ensemble(grid_maker(data), data, members_at_once=4, **options)
    assert largest_difference(parameters(alone.model), parameters(together.model)) < 1e-4
    scale = float(jnp.max(jnp.abs(alone.history.loss)))
    for name in ("loss", "gradient_norm", "holdout_loss"):
        assert largest_difference(alone.history[name], together.history[name]) < 1e-4 * scale
    single = fit(grid_maker(data)(keys[2], 0.8), data, key=keys[2], holdout=holdout, **QUICK)
    assert_same(parameters(alone.member(6)), parameters(single.model))


@pytest.mark.slow
def test_schedules_side_by_side(x64):
    data = gaussian_data()

    def make_model(key, schedule):
        return maker(data, ex.VariancePreserving(schedule))(key)

    schedules = [ex.LinearSchedule(0.1, 16.0), ex.LinearSchedule(0.1, 10.0)]
    over = {"schedule": schedules}
    fits = fit_ensemble(make_model, data, keys=[KEY], over=over, **QUICK)
    for i, schedule in enumerate(schedules):
        single = fit(make_model(KEY, schedule), data, key=KEY, **QUICK)
        assert largest_difference(parameters(fits.member(i)), parameters(single.model)) < 1e-10
    assert fits.record().sizes["schedule"] == 2


@pytest.mark.slow(reason="two ensembles")
def test_a_limit_on_the_samples_is_a_limit():
    data = gaussian_data()
    spoilt = data.at[20:].set(1e3)
    make_model = maker(data)
    loss = ex.Denoising(2, weighting="likelihood", times=ex.training.UniformTimes())
    options = QUICK | {"loss": loss, "over": {"num_samples": [20]}}
    one, other = (fit_ensemble(make_model, x, keys=[KEY], **options) for x in (data, spoilt))
    assert_same(one, other)
    orders = [np.asarray(epoch_order(KEY, jnp.int32(e), 64, 20))[:20] for e in range(3)]
    assert all(sorted(order) == list(range(20)) for order in orders)
    assert len({tuple(order) for order in orders}) == 3


@pytest.mark.slow
def test_each_member_stops_by_itself(tmp_path):
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 4)
    options = {"steps": 60, "batch_size": 8, "loss": ex.Denoising(2), "learning_rate": 0.05}
    make_model = maker(data)
    options |= {"holdout": ex.Holdout(data[:9], patience=8, every=4)}
    fits = fit_ensemble(make_model, data, keys=keys, **options)
    history = fits.history
    assert len(set(np.asarray(history.best_step).tolist())) > 1
    for i, key in enumerate(keys):
        single = fit(make_model(key), data, key=key, **options)
        best = int(history.best_step[i])
        assert best == int(single.history.best_step)
        difference = largest_difference(parameters(fits.member(i)), parameters(single.model))
        assert difference < 1e-4
        # It stopped, and what came back is the minimum of the evaluations.
        found = np.asarray(single.history.holdout_loss)
        steps = np.asarray(single.history.holdout_step)
        assert best == steps[np.argmin(found)]
        assert steps[-1] == min(best + 8, 60)
    assert history.step[-1] == min(max(history.best_step) + 8, 60)

    def interrupt(step, metrics):
        if step == 12:
            raise KeyboardInterrupt

    options |= {"checkpoint": ex.Checkpoint(tmp_path / "run", resume=True)}
    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(make_model, data, keys=keys, callback=interrupt, **options)
    assert_same(fit_ensemble(make_model, data, keys=keys, **options), fits)
    assert_same(fit_ensemble(make_model, data, keys=keys, **options), fits)


def test_bad_ensembles():
    data, keys = gaussian_data(), jax.random.split(jax.random.key(0), 2)
    processes = iter(["vp", "sl"])

    def other_process(key):
        return maker(data, PROCESSES[next(processes)]())(key)

    with pytest.raises(ValueError, match="another structure of process and scaling for member 1"):
        fit_ensemble(other_process, data, keys=keys)
    widths = iter([4, 5])

    def other_network(key):
        return ex.EntropyMatching(small_network(widths=(next(widths),)), PROCESSES["vp"]())

    with pytest.raises(ValueError, match="got another structure of the network for member 1"):
        fit_ensemble(other_network, data, keys=keys)
    with pytest.raises(ValueError, match="`keys` must be a stack of keys"):
        fit_ensemble(maker(data), data, keys=keys[0])
    with pytest.raises(ValueError, match="`batch_size` must be at most"):
        fit_ensemble(maker(data), data, keys=keys, batch_size=100)
    for options, message in (
        ({"over": {"kappa": []}}, "`over` must give a sequence of values for 'kappa'"),
        ({"over": {"seed": [1]}}, "`over` must not name 'seed'"),
        (
            {"over": {"learning_rate": [1e-3]}, "learning_rate": 1e-3},
            "`learning_rate` must be left",
        ),
        (
            {"over": {"learning_rate": [1e-3]}, "optimiser": optax.sgd(1e-3)},
            "`optimiser` must be left",
        ),
        (
            {"over": {"num_samples": [31]}, "batch_size": 32},
            "must be an integer from the batch size, 32, to",
        ),
        ({"over": {"num_samples": [40, 65]}}, "to the number of samples, 64, got 65"),
        ({"precision": "exact"}, "`precision` must be one of"),
        ({"mesh": 8}, "`mesh` must be made by make_mesh, got int"),
    ):
        with as_shipped(), pytest.raises(ValueError, match=message):
            fit_ensemble(maker(data), data, keys=keys, **options)
