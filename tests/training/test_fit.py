"""What `fit` trains, what it leaves alone, and how it refuses."""

import dataclasses
import inspect

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix as ex
from entropix.interfaces import AbstractTimes
from entropix.training import (
    Callback,
    ClippedAdam,
    LogisticTimes,
    RelativeClip,
    UniformTimes,
    WarmupCosine,
    fit,
    fit_ensemble,
)
from entropix.training import run as training_run
from entropix.training.loop import donating_chunk
from entropix.training.source import epoch_order, epoch_orders, rows_of_steps
from tests.helpers import PROCESSES, as_shipped
from tests.training.common import (
    MODELS,
    Linear,
    assert_same,
    gaussian_data,
    parameters,
    small_model,
    small_network,
)


KEY = jax.random.key(0)
QUICK = {"steps": 12, "batch_size": 8, "loss": ex.Denoising(2)}


@pytest.mark.slow(reason="a training")
def test_learns_a_gaussian():
    """From nothing stored to most of S_tot, which the likelihood loss states in nats."""
    data = gaussian_data(512)
    model = small_model(data=data)
    result = fit(
        model, data, key=KEY, steps=400, batch_size=64, loss=ex.Denoising(4), learning_rate=1e-2
    )
    loss, gaussian = result.history.loss, ex.Gaussian(jnp.mean(data, 0), jnp.cov(data.T))
    total = total_entropy(gaussian, model.process)
    assert jnp.abs(loss[0]) < 1e-6  # a head of zeros has stored nothing
    assert jnp.mean(loss[-100:]) == pytest.approx(-total, rel=0.15)


def total_entropy(gaussian, process):
    """S_tot = KL(p_d || p_eq) - KL(p_T || p_eq) for a static equilibrium N(0, 1)."""

    def divergence(density):
        mean, values = density.mean, density.eigenvalues
        return (jnp.sum(mean**2) + jnp.sum(values - 1 - jnp.log(values))) / 2

    return float(divergence(gaussian) - divergence(gaussian.diffused(process, process.t1)))


@pytest.mark.parametrize("kind", MODELS)
def test_every_model_and_its_history(kind):
    data = gaussian_data()
    model = MODELS[kind](small_network(), PROCESSES["vp"]())
    result = fit(model, data, key=KEY, **QUICK)
    history = result.history
    assert type(result.model) is type(model)
    assert dict(history).keys() == set(history.keys())
    assert jnp.array_equal(history["step"], jnp.arange(1, 13))
    assert history.loss.shape == history.gradient_norm.shape == (12,)
    assert history.holdout_step.shape == history.holdout_loss.shape == (0,)
    assert jax.tree.structure(result.model) == jax.tree.structure(model)
    with pytest.raises(KeyError):
        history["nothing"]


def test_trains_the_network_alone():
    """Weight decay moves neither frequencies nor process nor scaling."""
    model = small_model()
    optimiser = optax.adamw(1e-2, weight_decay=10.0)
    trained = fit(model, gaussian_data(), key=KEY, optimiser=optimiser, **QUICK).model
    assert_same(trained.process, model.process)
    assert_same(trained.scaling, model.scaling)
    assert_same(trained.network.frequencies, model.network.frequencies)
    assert_same(trained.network.log_snr_scale, model.network.log_snr_scale)
    for before, after in zip(
        jax.tree.leaves(parameters(model)), jax.tree.leaves(parameters(trained)), strict=True
    ):
        assert not jnp.array_equal(before, after)


class Counting(eqx.Module):
    """A network that counts how often it is traced."""

    inner: ex.FourierMLP
    traces: list = eqx.field(static=True)

    def __call__(self, log_snr, y, condition=None):
        self.traces.append(1)
        return self.inner(log_snr, y)


class Traces(list):
    """Equal to any other, so that models which count compare equal."""

    def __eq__(self, other):
        return isinstance(other, Traces)

    def __hash__(self):
        return 0


def test_compiles_once_per_shape():
    """Other values, seeds, rates and lengths run the program that is there."""
    traces = Traces()

    def run(seed, steps, kappa, data, **kwargs):
        process = ex.VariancePreserving(ex.LinearSchedule(), kappa=kappa)
        scaling = ex.GaussianScaling.from_data(data, process)
        model = ex.EntropyMatching(Counting(small_network(seed=seed), traces), process, scaling)
        options = QUICK | {"steps": steps} | kwargs
        return fit(model, data, key=jax.random.key(seed), **options)

    data = gaussian_data()
    run(0, 12, 1.0, data)
    once = len(traces)
    assert once > 0
    run(1, 3, 0.5, data + 1)
    run(2, 17, 0.2, 3 * data, optimiser=ClippedAdam(WarmupCosine(1e-4, 17), 5.0))
    assert len(traces) == once
    optimiser = optax.adam(1e-3)
    run(0, 5, 1.0, data, optimiser=optimiser)
    again = len(traces)
    run(1, 9, 1.0, data, optimiser=optimiser)
    assert len(traces) == again


def test_rows_of_steps_are_those_of_their_epochs():
    """Two members of 10 and 7 examples, steps 3 to 7 of two examples each."""
    keys, limit = jax.random.split(KEY), jnp.array([10, 7])
    first = np.array([3 // 5, 3 // 3], np.int32)
    orders = epoch_orders(keys, first, 3, 10, limit)
    rows = rows_of_steps(orders, first, np.int32(3), 5, 2, limit)
    for member, (key, batches) in enumerate(zip(keys, (5, 3), strict=True)):
        for i, step in enumerate(range(3, 8)):
            order = epoch_order(key, np.int32(step // batches), 10, limit[member])
            at = step % batches * 2
            assert rows[member, i].tolist() == order[at : at + 2].tolist()


def test_the_loop_of_an_accelerator(monkeypatch):
    """No conditional, blocks of a known number of steps, and the same numbers."""
    programs = []

    def blocks(inputs, state):
        inputs = dataclasses.replace(inputs, block=4)
        if not programs:
            programs.append(donating_chunk.lower(inputs, state))
            programs.append(programs[0].compile())
        return programs[1](inputs, state)

    data = gaussian_data()
    model, options = small_model(data=data), QUICK | {"steps": 10}
    plain = fit(model, data, key=KEY, **options)
    monkeypatch.setattr("entropix.training.run.donating_chunk", blocks)
    assert_same(fit(model, data, key=KEY, **options), plain)
    assert "stablehlo.case" not in programs[0].as_text()
    assert 'known_trip_count":{"n":"4"}' in programs[1].compiled.as_text()


@pytest.mark.slow(reason="a run for each order")
def test_losses_that_nobody_waits_for_are_fetched_one_chunk_late(monkeypatch):
    order = []

    def logged(name, function):
        def wrapped(*args):
            order.append(name)
            return function(*args)

        return wrapped

    def run(**kwargs):
        order.clear()
        return fit(small_model(data=data), data, key=KEY, **QUICK | {"steps": 210} | kwargs)

    for name in ("donating_chunk", "_check_finite"):
        function = getattr(training_run, name)
        monkeypatch.setattr(training_run, name, logged(name[:6], function))
    data = gaussian_data()
    late = run()
    assert order == ["donati", "donati", "_check", "donati", "_check", "_check"]
    at_once = run(callback=lambda step, metrics: None)
    assert order == ["donati", "_check"] * 3
    assert_same(late, at_once)


def test_every_epoch_visits_every_sample_once():
    orders = [np.asarray(epoch_order(KEY, np.int32(e), 10)) for e in range(3)]
    for order in orders:
        assert sorted(order) == list(range(10))
    assert not np.array_equal(orders[0], orders[1])
    assert not np.array_equal(orders[1], orders[2])

    visits = []
    data = 10.0 * jnp.arange(12)[:, None] * jnp.ones(2)
    table = ex.EntropyMatching(Table(jnp.zeros(12)), PROCESSES["vp"]())
    options = {"batch_size": 3, "loss": ex.Denoising(1, times=AlmostClean())}
    for steps in (1, 2, 3, 4):
        trained = fit(table, data, key=KEY, steps=steps, optimiser=optax.sgd(1e-3), **options)
        visits.append(int(jnp.sum(trained.model.network.visits != 0)))
    assert visits == [3, 6, 9, 12]


class Table(eqx.Module):
    """A network with one parameter for each sample."""

    visits: jax.Array

    def __call__(self, log_snr, y, condition=None):
        index = jnp.round(y[0] / 10).astype(int)
        return self.visits[index] * jnp.ones_like(y)


class AlmostClean(AbstractTimes):
    """Always a time at which y is x within 0.02."""

    def __call__(self, process, u):
        return jnp.float32(1e-4), jnp.float32(1.0)


class Matching(eqx.Module):
    """A network that is NaN unless its condition belongs to its state."""

    weight: jax.Array

    def __call__(self, log_snr, y, condition=None):
        label, vector = condition["label"], condition["vector"]
        same = (jnp.abs(y[0] - label) < 0.3) & (jnp.abs(y[1] - vector[0]) < 0.3)
        return jnp.where(same, self.weight, jnp.nan) * y


def test_conditions_follow_their_samples():
    label = jnp.arange(20)
    data = jnp.stack([label, -label], axis=1).astype(float)
    condition = {"label": label, "vector": -label[:, None].astype(float)}
    model = ex.EntropyMatching(Matching(jnp.asarray(0.1)), PROCESSES["vp"]())
    options = QUICK | {"loss": ex.Denoising(2, times=AlmostClean()), "optimiser": optax.sgd(1e-9)}
    holdout = ex.Holdout(data[::2], jax.tree.map(lambda c: c[::2], condition))
    fit(model, data, key=KEY, condition=condition, holdout=holdout, **options)
    wrong = condition | {"label": label[::-1]}
    with pytest.raises(FloatingPointError, match="loss must stay finite, got nan at step 1"):
        fit(model, data, key=KEY, condition=wrong, **options)


class Dropping(eqx.Module):
    """A network with dropout: wants a key in training, none in inference mode."""

    linear: eqx.nn.Linear
    dropout: eqx.nn.Dropout

    def __call__(self, log_snr, y, condition=None, *, key=None):
        return self.linear(self.dropout(y, key=key))


@pytest.mark.slow
def test_dropout_has_a_key_in_training_and_none_on_the_holdout():
    network = Dropping(eqx.nn.Linear(2, 2, key=KEY), eqx.nn.Dropout(0.5))
    model = ex.EntropyMatching(network, PROCESSES["vp"]())
    options = QUICK | {"learning_rate": 1e-12, "holdout": ex.Holdout(gaussian_data(20), every=5)}
    history = fit(model, gaussian_data(), key=KEY, **options).history
    assert np.allclose(history.holdout_loss, history.holdout_loss[0], rtol=1e-5)


@pytest.mark.slow
def test_average_of_the_parameters():
    model, data = small_model(), gaussian_data()
    options = QUICK | {"learning_rate": lambda step: 1e-2}
    last = fit(model, data, key=KEY, **options)
    mean = fit(model, data, key=KEY, ema_decay=0.9, **options)
    none = fit(model, data, key=KEY, ema_decay=0.0, **options)
    assert jnp.array_equal(last.history.loss, mean.history.loss)
    assert_same(parameters(none.model), parameters(last.model))
    bias = lambda result: result.model.network.head.bias  # noqa: E731
    assert jnp.all(jnp.abs(bias(mean)) < jnp.abs(bias(last)))  # it starts at zero


def test_clipping_is_relative_to_the_usual_norm():
    """One batch with a loss 10^6 times the others' leaves the parameters where they were."""
    data = jnp.concatenate([gaussian_data(63), jnp.full((1, 2), 1e3)])
    model = ex.EntropyMatching(Linear(0.0), PROCESSES["vp"]())
    options = {"steps": 64, "batch_size": 1, "loss": ex.Denoising(2)}

    def distance(optimiser):
        result = fit(model, data, key=KEY, optimiser=optimiser, **options)
        return float(jnp.abs(result.model.network.a))

    assert distance(optax.chain(RelativeClip(2.0), optax.sgd(1e-4))) < 0.1
    assert distance(optax.sgd(1e-4)) > 1.0


def test_steps_do_not_depend_on_chunks():
    model, data = small_model(), gaussian_data()
    one, other = (
        fit(model, data, key=KEY, callback=Callback(lambda *_: None, every), **QUICK)
        for every in (5, 12)
    )
    assert_same(one, other)


def test_callback_between_chunks():
    seen = []
    result = fit(
        small_model(),
        gaussian_data(),
        key=KEY,
        callback=lambda step, metrics: seen.append((step, sorted(metrics))),
        holdout=ex.Holdout(gaussian_data(5), every=5),
        **QUICK,
    )
    assert jnp.array_equal(result.history.holdout_step, jnp.array([5, 10, 12]))
    assert result.history.holdout_loss.shape == (3,)
    names = ["gradient_norm", "holdout_loss", "loss"]
    assert seen == [(5, names), (10, names), (12, names)]


def scale(model):
    """A measurement: the square of the last layer's bias, and an error of a tenth of it."""
    value = jnp.sum(model.network.head.bias**2)
    return {"scale": ex.Estimate(value, value / 10, value / 20), "plain": value}


def test_a_callback_gets_the_model_and_may_stop():
    kept, data = {}, gaussian_data()

    def callback(step, metrics, model):
        kept[step] = model()  # a copy: the loop reuses the memory of its own parameters
        return step >= 8

    model, options = small_model(), QUICK | {"callback": Callback(callback, 4)}
    result = fit(model, data, key=KEY, **options)
    assert sorted(kept) == [4, 8]
    assert_same(kept[8], result.model)
    assert result.history.loss.shape == (8,)
    assert int(result.history.best_step) == 8
    assert jnp.any(kept[4].network.head.bias != result.model.network.head.bias)
    whole = fit(model, data, key=KEY, **QUICK)
    assert_same(result.history.loss, whole.history.loss[:8])


@pytest.mark.parametrize("how", ["callback", "patience"])
def test_a_run_that_stops_early_is_measured_at_its_end(how):
    """Its last step is that after which it stopped."""
    model, data, options = small_model(), gaussian_data(), QUICK
    if how == "callback":
        options = options | {"callback": Callback(lambda step, metrics: step >= 8, 4)}
    else:
        options = options | {
            "holdout": ex.Holdout(data, patience=1, every=4),
            "optimiser": optax.sgd(-1e-2),  # the wrong way
        }
    history = fit(model, data, key=KEY, measure=scale, **options).history
    assert history.measured_step.tolist() == [len(history.loss)] != [QUICK["steps"]]
    assert history.measured["scale"].value.shape == (1,)
    at = [4, QUICK["steps"]]
    some = fit(model, data, key=KEY, measure=scale, measure_at=at, **options).history
    assert some.measured_step.tolist() == [4]


def test_measurements_are_in_the_history():
    model, data = small_model(), gaussian_data()
    result = fit(model, data, key=KEY, measure=scale, measure_at=[12, 0, 7], **QUICK)
    history = result.history
    assert history.measured_step.tolist() == [0, 7, 12]
    found = history.measured["scale"]
    assert found.value.shape == found.stderr.shape == (3,)
    assert_same(found.value, history.measured["plain"])
    assert float(found.value[0]) == 0  # the last layer is zero at first
    assert float(found.value[2]) == float(scale(result.model)["plain"])
    record = history.to_xarray()
    assert record["measured_scale_stderr"].dims == ("measured_step",)
    assert record["loss"].attrs["units"] == "nats"
    assert_same(result.model, fit(model, data, key=KEY, **QUICK).model)  # nothing else changes
    last = fit(model, data, key=KEY, measure=lambda m: scale(m)["scale"], **QUICK).history
    assert last.measured_step.tolist() == [12]
    assert float(last.measured["estimate"].stderr[0]) == float(found.stderr[2])
    with pytest.raises(ValueError, match=r"`measure` must return .* got .* of shape \(2,\)"):
        fit(model, data, key=KEY, measure=lambda m: m.network.head.bias, **QUICK)


def test_small_data_have_a_batch_size():
    data = gaussian_data(20)
    few = {"steps": 12, "loss": ex.Denoising(2)}
    result, same = (fit(small_model(), data, key=KEY, **few, **o) for o in ({}, {"batch_size": 20}))
    assert_same(result, same)


def test_progress_bar(capsys):
    pytest.importorskip("tqdm")
    fit(small_model(), gaussian_data(), key=KEY, progress=True, **QUICK)
    shown = capsys.readouterr().err
    assert "12/12" in shown
    assert "loss=" in shown
    assert "step/s" in shown


@pytest.mark.parametrize("at", [0, 4, 11])
def test_a_loss_that_is_not_finite_names_the_step(at):
    """The rate is NaN at one step: the next loss is too, or the parameters it leaves behind."""
    options = QUICK | {"learning_rate": lambda step: jnp.where(step == at, jnp.nan, 1e-3)}
    options |= {"callback": Callback(lambda *_: None, every=5)}
    message = f"loss must stay finite, got nan at step {at + 2}:"
    if at in (4, 11):  # the end of a chunk
        message = f"parameters must stay finite, got nan at step {at + 1}:"
    with pytest.raises(FloatingPointError, match=message):
        fit(small_model(), gaussian_data(), key=KEY, **options)


def test_reduce_on_plateau_gets_the_loss():
    optimiser = optax.chain(optax.sgd(1e-3), optax.contrib.reduce_on_plateau())
    fit(small_model(), gaussian_data(), key=KEY, optimiser=optimiser, **QUICK)


def test_fit_and_fit_ensemble_share_their_arguments():
    one, many = (inspect.signature(f).parameters for f in (fit, fit_ensemble))
    assert len(one) <= 18
    shared = {name: p for name, p in one.items() if name not in ("model", "data", "key")}
    own = ("make_model", "data", "keys", "over", "members_at_once")
    assert {name: p for name, p in many.items() if name not in own} == shared


def test_default_objective():
    """Likelihood where the path KL is finite and the network scaled; the paper's otherwise."""
    data = gaussian_data()
    cases = [
        (small_model(), "likelihood", LogisticTimes),
        (small_model(PROCESSES["rf"]()), "uniform", UniformTimes),
        (ex.EntropyMatching(small_network(), PROCESSES["vp"]()), "uniform", UniformTimes),
        (ex.ScoreMatching(small_network(), PROCESSES["vp"]()), "uniform", UniformTimes),
    ]
    for model, weighting, times in cases:
        loss = ex.Denoising().for_model(model, data)
        assert loss.weighting == weighting
        assert isinstance(loss.times, times)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({"batch_size": 65}, "`batch_size` must be at most the number of samples, 64, got 65"),
        ({"steps": 0}, "`steps` must be an integer of at least 1, got 0"),
        ({"loss": "denoising"}, "`loss` must be None or a loss such as .*, got str"),
        ({"loss": ex.FlowLoss()}, "`loss` must be None or another than FlowLoss for EntropyM"),
        ({"optimiser": "adam"}, "`optimiser` must be an optax transformation, got str"),
        ({"optimiser": optax.adam(1e-3), "learning_rate": 0.1}, "`learning_rate` must be None"),
        ({"learning_rate": -1.0}, "`learning_rate` must be positive"),
        ({"ema_decay": 1.0}, r"`ema_decay` must be in \[0, 1\)"),
        ({"condition": jnp.zeros((3, 1))}, r"`condition` must have a leading axis of 64"),
        ({"holdout": jnp.zeros((3, 5))}, "`holdout` must have shape"),
        ({"callback": 3}, "`callback` must be callable"),
        ({"callback": lambda step: None}, r"`callback` must be .* or callback\(step, metrics, mod"),
        ({"callback": lambda step, metrics, m: None}, "`callback` must be callable as"),
        ({"measure": 3}, "`measure` must be a function of the model, got int"),
        ({"measure_at": [1]}, "`measure_at` must be None where no `measure` is given"),
        ({"measure": lambda m: 0.0, "measure_at": [2501]}, "`measure_at` must hold integers from"),
        ({"checkpoint": 7}, "`checkpoint` must be the path of a file, got int"),
        ({"key": 7}, "`key` must be made by jax.random.key, got int"),
        ({"key": jax.random.split(KEY)}, "`key` must be a single key"),
        ({"key": jnp.zeros(2)}, "`key` must be made by jax.random.key, got an array of float"),
    ],
)
def test_bad_arguments(kwargs, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        fit(small_model(), gaussian_data(), **({"key": KEY} | kwargs))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ex.Denoising(2.5), "`num_draws` must be an integer"),
        (lambda: ex.Denoising(3, antithetic=True), "`num_draws` must be even"),
        (lambda: ex.Denoising(weighting="elbo"), "`weighting` must be one of .*, got 'elbo'"),
        (lambda: ex.Denoising(weighting=3), "`weighting` must be 'likelihood', 'uniform' or a f"),
        (lambda: ex.Denoising(times="uniform"), "`times` must be a proposal of times"),
        (lambda: ex.Holdout([[0.0]], patience=0), "`patience` must be an integer of at least 1"),
        (lambda: ex.Holdout([[0.0]], every=2.5), "`every` must be an integer of at least 1"),
        (lambda: Callback(print, every=0), "`every` must be an integer of at least 1"),
        (lambda: ex.Checkpoint("run", every=0), "`every` must be an integer of at least 1"),
        (lambda: ex.Checkpoint(3), "`checkpoint` must be the path of a file, got int"),
        (lambda: RelativeClip(0.0), "`ratio` must be positive"),
        (lambda: ClippedAdam(1e-3), "`learning_rate` must be a function of the step"),
    ],
)
def test_bad_settings(make, message):
    with as_shipped(), pytest.raises(ValueError, match=message):
        make()


def test_bad_data_and_models():
    model, data = small_model(), gaussian_data()
    with pytest.raises(ValueError, match="`data` must be finite, got 1 entries"):
        fit(model, data.at[3, 1].set(jnp.nan), key=KEY)
    with pytest.raises(ValueError, match=r"`data` must have shape \(n, 2\), got \(64, 3\)"):
        fit(model, jnp.zeros((64, 3)), key=KEY)
    exact = ex.ExactModel(ex.Gaussian(jnp.zeros(2), jnp.eye(2)), PROCESSES["vp"]())
    with pytest.raises(ValueError, match="`model` must be a model with a network"):
        fit(exact, data, key=KEY)
    frozen = ex.EntropyMatching(lambda *args: args[1], PROCESSES["vp"]())
    with pytest.raises(ValueError, match="`model` must have a network with trainable arrays"):
        fit(frozen, data, key=KEY)
    with pytest.raises(TypeError, match="unexpected keyword"):
        fit_ensemble(lambda key: model, data, keys=jax.random.split(KEY), stepps=3)


@pytest.mark.slow  # trainings of its own
def test_legacy_keys_are_keys():
    model, data = small_model(), gaussian_data()
    one = fit(model, data, key=jax.random.key(5), **QUICK)
    other = fit(model, data, key=jax.random.PRNGKey(5), **QUICK)
    assert_same(one, other)
