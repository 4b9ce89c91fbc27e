"""A run that was killed and resumed equals, bit for bit, the run that was not."""

import os
import pathlib
import signal
import subprocess
import sys
import time

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import entropix
import entropix as ex
from entropix.training import Callback, ClippedAdam, LogisticTimes, WarmupCosine, fit
from tests.helpers import PROCESSES, quick_rows
from tests.training.common import Linear, assert_same, gaussian_data, small_model


KEY = jax.random.key(0)
# Five steps to an epoch: interruptions fall inside of epochs and between them.
OPTIONS = {"steps": 23, "batch_size": 12, "loss": ex.Denoising(2), "ema_decay": 0.9}


def interrupt_at(last, every=4):
    def callback(step, metrics):
        if step >= last:
            raise KeyboardInterrupt

    return Callback(callback, every)


@pytest.fixture(scope="module")
def whole():
    data = gaussian_data()
    return fit(small_model(), data, key=KEY, holdout=ex.Holdout(data[:9], every=4), **OPTIONS)


@pytest.mark.parametrize(
    ("stop", "every"),
    quick_rows([(20, 1), (12, 3)], [(4, 1), (4, 100), (12, 100), (20, 100)]),
)
def test_resumed_equals_uninterrupted(tmp_path, whole, stop, every):
    data = gaussian_data()
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, every=every, resume=True)}
    chunk = min(every, 4)  # the held-out loss is taken at the ends of chunks
    if every == 100:
        options["holdout"] = ex.Holdout(data[:9], every=chunk)
    with pytest.raises(KeyboardInterrupt):
        fit(small_model(), data, key=KEY, callback=interrupt_at(stop, chunk), **options)
    assert [p.name for p in tmp_path.iterdir()] == ["fit.ckpt"]  # nothing half written stays
    seen = []
    callback = Callback(lambda step, _: seen.append(step), chunk)
    resumed = fit(small_model(), data, key=KEY, callback=callback, **options)
    assert min(seen) > stop  # the chunk that was finished is not taken again
    assert_same(resumed.model, whole.model)
    for name in ("step", "loss", "gradient_norm"):
        assert_same(resumed.history[name], whole.history[name])
    if every == 100:
        assert_same(resumed.history, whole.history)


def test_an_interrupt_before_an_evaluation(tmp_path, whole, monkeypatch):
    """The steps are kept, and the run that resumes evaluates them first."""
    data = gaussian_data()
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, resume=True)}
    options["holdout"] = ex.Holdout(data[:9], every=4)

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("entropix.training.run.holdout_loss", interrupted)
        with pytest.raises(KeyboardInterrupt):
            fit(small_model(), data, key=KEY, **options)
    seen = []
    callback = Callback(lambda step, _: seen.append(step), 4)
    assert_same(fit(small_model(), data, key=KEY, callback=callback, **options), whole)
    assert seen == [8, 12, 16, 20, 23]


def test_resuming_a_finished_run_takes_no_step(tmp_path, whole):
    data = gaussian_data()
    checkpoint = ex.Checkpoint(tmp_path / "new" / "run.ckpt", resume=True)
    options = OPTIONS | {"checkpoint": checkpoint, "holdout": ex.Holdout(data[:9], every=4)}
    fit(small_model(), data, key=KEY, **options)  # nothing there: from the beginning
    again = fit(small_model(), data, key=KEY, callback=interrupt_at(0), **options)
    assert_same(again, whole)


def test_a_loss_that_is_not_finite_leaves_the_last_checkpoint(tmp_path, whole):
    data = gaussian_data()
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, every=4, resume=True)}
    options |= {"holdout": ex.Holdout(data[:9], every=4)}
    bad = optax.inject_hyperparams(optax.sgd)(
        learning_rate=lambda k: jnp.where(k > 9, jnp.nan, 1e-3)
    )
    with pytest.raises(FloatingPointError, match="at step 12"):
        fit(small_model(), data, key=KEY, optimiser=bad, **options)
    assert (tmp_path / "fit.ckpt").exists()
    with pytest.raises(FloatingPointError, match="at step 12"):
        fit(small_model(), data, key=KEY, optimiser=bad, **options)


@pytest.mark.slow(reason="five trainings")
def test_more_steps_extend_a_finished_run(tmp_path):
    """As one long run where the rate is a function of the step; else with a warning."""
    data = gaussian_data()
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, resume=True), "measure": bias}
    rate = {"learning_rate": constant_rate}
    fit(small_model(), data, key=KEY, **options | rate | {"steps": 12, "measure_at": [4, 12]})
    options |= {"measure_at": [4, 20]}
    longer = fit(small_model(), data, key=KEY, **options | rate)
    # With a checkpoint too: the same compiled loop.
    whole = fit(small_model(), data, key=KEY, checkpoint=tmp_path / "whole", **OPTIONS | rate)
    assert_same(longer.model, whole.model)
    assert_same(longer.history.loss, whole.history.loss)
    assert longer.history.measured_step.tolist() == [4, 12, 20]
    assert longer.history.measured["estimate"].shape == (3,)
    other = options | rate | {"steps": 24, "measure": lambda m: {"other": 0.0}, "measure_at": [24]}
    with pytest.raises(ValueError, match=r"`measure` must return what .* estimate .* got other"):
        fit(small_model(), data, key=KEY, **other)
    late = options | rate | {"steps": 25, "measure_at": [3, 4, 25]}
    with pytest.warns(UserWarning, match="`measure_at` names steps before .* step 2[34]: 3 will"):
        again = fit(small_model(), data, key=KEY, **late)
    assert again.history.measured_step.tolist() == [4, 12, 20, 25]

    options["checkpoint"] = ex.Checkpoint(tmp_path / "cosine", resume=True)
    fit(small_model(), data, key=KEY, **options | {"steps": 20})
    with pytest.warns(UserWarning, match="the run of 20 steps .* goes on to 23"):
        longer = fit(small_model(), data, key=KEY, **options)
    assert longer.history.loss.shape == (23,)
    assert jnp.all(jnp.isfinite(longer.history.loss))
    finished = fit(small_model(), data, key=KEY, **options)  # now a run of 23 steps
    assert_same(finished, longer)


def test_a_run_that_a_callback_stopped_goes_on(tmp_path, whole):
    data = gaussian_data()
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, resume=True)}
    stop = Callback(lambda step, metrics: metrics["loss"] < jnp.inf, 4)
    stopped = fit(small_model(), data, key=KEY, callback=stop, **options)
    assert stopped.history.loss.shape == (4,)
    assert_same(fit(small_model(), data, key=KEY, **options).model, whole.model)


def constant_rate(step):
    return 1e-3


def bias(model):
    return model.network.head.bias[0]


SCRIPT = """
import jax, entropix as ex
from tests.training.common import gaussian_data, small_model

ex.fit(small_model(), gaussian_data(), key=jax.random.key(0), steps={steps}, batch_size=12,
       loss=ex.Denoising(2), checkpoint=ex.Checkpoint({path!r}, every=4))
"""


def start(path, steps):
    roots = (pathlib.Path(entropix.__file__).parents[1], pathlib.Path(__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(path=str(path), steps=steps)],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(map(str, roots))},
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.slow(reason="a process of its own")
@pytest.mark.parametrize(
    "kill", [signal.SIGKILL, pytest.param(signal.SIGINT, marks=pytest.mark.slow)]
)
def test_killed_by_the_system(tmp_path, kill):
    """At whatever moment: between steps, or in the middle of writing a checkpoint."""
    path, steps = tmp_path / "run.ckpt", 4000
    process = start(path, steps)
    try:
        deadline = time.monotonic() + 300
        while not path.exists() and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.01)
        time.sleep(0.3)
        process.send_signal(kill)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode != 0
    if kill == signal.SIGINT:
        assert "KeyboardInterrupt" in errors
    options = {"steps": steps, "batch_size": 12, "loss": ex.Denoising(2)}
    seen = []
    resumed = fit(
        small_model(),
        gaussian_data(),
        key=KEY,
        checkpoint=ex.Checkpoint(path, resume=True),
        callback=lambda *args: seen.append(args[0]),
        **options,
    )
    assert 0 < len(seen) <= steps // 100
    assert_same(resumed, fit(small_model(), gaussian_data(), key=KEY, **options))


@pytest.mark.parametrize(("change", "same"), [(3e-7, True), (1e-3, False)])
def test_initial_weights_are_compared_up_to_rounding(change, same, tmp_path, whole):
    """Another device, or another version of JAX, rounds them differently."""
    model, data, noise = small_model(), gaussian_data(), np.random.default_rng(0)

    def rounded(leaf):
        return leaf * (1 + change * noise.uniform(-1, 1, leaf.shape)).astype(leaf.dtype)

    other = jax.tree.map(lambda leaf: rounded(leaf) if eqx.is_inexact_array(leaf) else leaf, model)
    options = OPTIONS | {"checkpoint": ex.Checkpoint(tmp_path, every=4, resume=True)}
    with pytest.raises(KeyboardInterrupt):
        fit(model, data, key=KEY, callback=interrupt_at(12), **options)
    if same:
        resumed = fit(other, data, key=KEY, **options)
        np.testing.assert_allclose(resumed.history["loss"], whole.history["loss"], rtol=1e-4)
    else:
        with pytest.raises(ValueError, match=r"another setup .*`model`\.$"):
            fit(other, data, key=KEY, **options)


@pytest.mark.slow(reason="several runs")
def test_another_run_is_refused(tmp_path):
    """Whatever shapes the run is part of its fingerprint."""
    data, path = gaussian_data(), tmp_path / "run.ckpt"
    process = PROCESSES["vp"]()
    base = {"model": ex.EntropyMatching(Linear(0.1), process), "data": data, "key": KEY}
    base |= {"steps": 8, "batch_size": 4, "loss": ex.Denoising(2)}
    fit(**base, checkpoint=path)
    before = path.read_bytes()
    other_process = ex.VariancePreserving(ex.LinearSchedule(), kappa=0.9)
    changes = {
        "batch_size": {"batch_size": 5},
        "num_draws": {"loss": ex.Denoising(4)},
        "antithetic": {"loss": ex.Denoising(2, antithetic=False)},
        "weighting": {"loss": ex.Denoising(2, weighting="likelihood")},
        "times": {"loss": ex.Denoising(2, times=LogisticTimes(0.5))},
        "optimiser": {"optimiser": optax.sgd(1e-3)},
        "learning_rate": {"learning_rate": 1e-3},
        "clip": {"optimiser": ClippedAdam(WarmupCosine(2e-3, 8), 3.0)},
        "ema_decay": {"ema_decay": 0.5},
        "model": {"model": ex.EntropyMatching(Linear(0.1), other_process)},
        "data": {"data": data.at[5, 1].add(1e-6)},
        "key": {"key": jax.random.key(1)},
    }
    for name, change in changes.items():
        with pytest.raises(ValueError, match=f"`resume` must continue the run of .*`{name}`"):
            fit(**base | change, checkpoint=ex.Checkpoint(path, resume=True))
    with pytest.raises(ValueError, match=r"run.ckpt: .*`steps` \(8 there, 7 here\)\."):
        fit(**base | {"steps": 7}, checkpoint=ex.Checkpoint(path, resume=True))
    assert path.read_bytes() == before
    fit(**base | {"steps": 9}, checkpoint=path)  # without `resume`, a new run takes its place
    assert path.read_bytes() != before
