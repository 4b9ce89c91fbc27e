"""Training, estimates and checkpoints on eight devices, for the process of `test_devices.py`."""

import re
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.persistence import ShardedCheckpoint
from entropix.training import fit, fit_ensemble, loop, run
from tests.training.common import assert_same, gaussian_data, largest_difference, parameters
from tests.training.test_ensemble import grid_maker, maker


KEY = jax.random.key(7)
QUICK = {"steps": 20, "batch_size": 8, "loss": ex.Denoising(2)}

COLLECTIVE = re.compile(
    r"= \S+ (all-reduce|all-gather|all-to-all|collective-permute|reduce-scatter)(?:-start)?\("
)


def test_an_ensemble_is_the_same_on_a_mesh(x64):
    data, keys = gaussian_data(), jax.random.split(KEY, 3)  # three members: filled up
    options = QUICK | {"over": {"kappa": [1.0, 0.5], "num_samples": [30]}, "ema_decay": 0.9}
    options |= {"holdout": ex.Holdout(data[:5], every=8)}
    make_model = grid_maker(data)
    here = fit_ensemble(make_model, data, keys=keys, **options)
    mesh = ex.make_mesh(seed=2)
    assert dict(mesh.shape) == {"seed": 2, "data": 4}
    there = fit_ensemble(make_model, data, keys=keys, mesh=mesh, **options)
    assert there.history.loss.shape == (6, 20)
    assert largest_difference(parameters(here.model), parameters(there.model)) < 1e-10
    scale = float(jnp.max(jnp.abs(here.history.loss)))
    for name in ("loss", "holdout_loss", "gradient_norm"):
        assert largest_difference(here.history[name], there.history[name]) < 1e-10 * scale
    assert there.member(5).process.kappa == 0.5


def test_conditions_and_dropout_are_those_of_one_device(x64):
    data = gaussian_data()
    scaling = ex.GaussianScaling.from_data(data, ex.CosinePath())
    inside = ex.FourierMLP(2, key=KEY, widths=(8,), num_features=4, condition_dim=2)
    network = ex.networks.ConditionDropout(inside, 1, rate=0.5)
    model = ex.EntropyMatching(network, ex.CosinePath(), scaling)
    options = QUICK | {"condition": data[:, :1]}
    here = fit(model, data, key=KEY, **options)
    with jax.set_mesh(ex.make_mesh()):
        there = fit(model, data, key=KEY, **options)
    assert largest_difference(parameters(here.model), parameters(there.model)) < 1e-10


def test_seeds_need_no_communication_and_data_one_sum_a_step(monkeypatch):
    texts = []
    compiled = loop.donating_chunk

    def spy(inputs, state):
        texts.append(compiled.lower(inputs, state).compile().compiled.as_text())
        return compiled(inputs, state)

    monkeypatch.setattr(run, "donating_chunk", spy)
    data, keys = gaussian_data(), jax.random.split(KEY, 8)
    for mesh in (ex.make_mesh(seed=8), ex.make_mesh(seed=2)):
        fit_ensemble(maker(data), data, keys=keys, mesh=mesh, **QUICK | {"steps": 8})
    seeds, both = (COLLECTIVE.findall(text) for text in texts)
    assert seeds == []
    assert both == ["all-reduce"]  # inside of the loop over steps, of gradient and loss together
    assert not any("callback" in text for text in texts)


def test_estimates_are_spread(x64):
    data = gaussian_data()
    fits = fit_ensemble(maker(data), data, keys=jax.random.split(KEY, 3), **QUICK)
    model = fits.member(0)

    def everything(model):
        return (
            ex.neural_entropy(model, data, key=KEY, num_evaluations=1024).value,
            ex.sample(model, key=KEY, num_samples=16, num_steps=8),
            ex.log_prob(model, data[:16], key=KEY, method=ex.PathBound(num_evaluations=64)).value,
        )

    def work():
        """Operations of one device."""
        program = jax.jit(lambda key: ex.sample(model, key=key, num_samples=64, num_steps=8))
        return program.lower(KEY).compile().cost_analysis()["flops"]

    here = everything(model)
    with jax.set_mesh(ex.make_mesh()):
        there = everything(model)
        shared = work()
    assert largest_difference(here, there) < 1e-10
    assert shared < work() / 4


def test_a_checkpoint_is_taken_up_on_other_devices(tmp_path, x64):
    data, keys = gaussian_data(), jax.random.split(KEY, 6)
    options = QUICK | {"holdout": ex.Holdout(data[:4], every=4)}

    def interrupt(step, metrics):
        if step == 12:
            raise KeyboardInterrupt

    eight = ex.make_mesh(seed=8)
    options |= {"checkpoint": ShardedCheckpoint(tmp_path / "whole", every=4)}
    whole = fit_ensemble(maker(data), data, keys=keys, mesh=eight, **options)
    options |= {"checkpoint": ShardedCheckpoint(tmp_path / "run", every=4, resume=True)}
    with pytest.raises(KeyboardInterrupt):
        fit_ensemble(maker(data), data, keys=keys, mesh=eight, callback=interrupt, **options)
    shutil.copytree(tmp_path / "run", tmp_path / "copy")
    for devices, folder in ((8, "run"), (2, "copy")):
        options |= {"checkpoint": ShardedCheckpoint(tmp_path / folder, every=4, resume=True)}
        mesh = ex.make_mesh(seed=devices, devices=jax.devices()[:devices])
        resumed = fit_ensemble(maker(data), data, keys=keys, mesh=mesh, **options)
        if devices == 8:  # the same layout: the same bits
            assert_same(resumed.history, whole.history)
            assert_same(parameters(resumed.model), parameters(whole.model))
        pair = (jax.tree.map(np.asarray, parameters(fits.model)) for fits in (resumed, whole))
        assert largest_difference(*pair) < 1e-10
        assert resumed.history.loss.shape == (6, 20)


def test_bad_meshes():
    data = gaussian_data()
    make_model = maker(data)
    with pytest.raises(ValueError, match="must be the number of devices, 8, got 3 times 2"):
        ex.make_mesh(seed=3)
    with pytest.raises(ValueError, match="multiple of the devices along 'data', 8, got 12"):
        fit(make_model(KEY), data, key=KEY, batch_size=12, mesh=ex.make_mesh())
    other = jax.make_mesh((8,), ("x",))
    with pytest.raises(ValueError, match="`mesh` must have an axis 'seed' or 'data', got x"):
        fit(make_model(KEY), data, key=KEY, mesh=other)
    flow = ex.FlowMatching(make_model(KEY).network, ex.RectifiedFlow())
    options = {"batch_size": 8, "loss": ex.FlowLoss(ex.transport.MinibatchCoupling(), 1)}
    with pytest.raises(ValueError, match="`coupling` must be None where a batch is spread"):
        fit(flow, data, key=KEY, mesh=ex.make_mesh(), **options)
