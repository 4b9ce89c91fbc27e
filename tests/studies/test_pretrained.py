"""`measure --model`: the numbers of a model that was trained here, and what is refused."""

import dataclasses
import pathlib
from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.cli import main
from entropix.datasets import Dataset
from entropix.studies import ModelOptions, TrainingOptions, measure
from entropix.studies.data import prepare_data
from entropix.studies.estimates import Subject, with_relative_error
from entropix.studies.loaded import Layout, arranged, given_model, load_model
from entropix.studies.pretrained import prepare_pretrained
from tests.studies.common import DATA, ESTIMATION, options


def of_model(out, model, **groups):
    """Small options that measure a model of a file."""
    asked = ModelOptions(str(model), groups.pop("model_range", ()))
    request = dataclasses.replace(options(out, **groups), training=TrainingOptions())
    return dataclasses.replace(request, pretrained=asked)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Saved models, good and bad."""
    path = tmp_path_factory.mktemp("models")
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    points = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
    scaling = ex.GaussianScaling.from_data(points, process)
    network = ex.FourierMLP(2, widths=(16,), key=jax.random.key(0))
    good = ex.EntropyMatching(network, process, scaling)
    ex.save(path / "good.eqx", good)
    broken = jax.tree.map(
        lambda leaf: jnp.full_like(leaf, jnp.nan) if eqx.is_inexact_array(leaf) else leaf, network
    )
    ex.save(path / "nan.eqx", ex.EntropyMatching(broken, process, scaling))
    wrong = ex.FourierMLP(2, widths=(16,), out_dim=3, key=jax.random.key(0))
    ex.save(path / "wrong.eqx", ex.EntropyMatching(wrong, process, scaling))
    ex.save(path / "process.eqx", process)
    (path / "damaged.eqx").write_bytes((path / "good.eqx").read_bytes()[:-8])
    for suffix in ("pkl", "pt", "ckpt"):
        (path / f"weights.{suffix}").write_bytes(b"pickle")
    (path / "empty").mkdir()
    return path


# ------------------------------------------------------------------ a model that was saved


@pytest.mark.slow(reason="trains and measures")
def test_the_numbers_are_those_of_the_study_that_trained_it(tmp_path):
    trained = measure("mixture2", options(tmp_path / "trained"))
    again = measure("mixture2", of_model(tmp_path / "out", tmp_path / "trained" / "model-0.eqx"))
    for name in ("neural_entropy", "cumulative_entropy", "path_kl", "samples", "log_prob"):
        np.testing.assert_array_equal(again[name], trained[name], err_msg=name)
    assert {"loss", "loss_held_out"} & set(again.data_vars) == set()
    report = (tmp_path / "out" / "report.md").read_text()
    assert "model-0.eqx, EntropyMatching of a FourierMLP. Nothing was trained" in report
    assert "defined for log-SNR from" in report
    assert not (tmp_path / "out" / "model-0.eqx").exists()


@pytest.mark.slow  # two numbers of evaluations
def test_the_number_of_evaluations_follows_from_the_error():
    """The Monte Carlo error of an estimate with the chosen number is at most the one requested."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    mixture = ex.GaussianMixture([0.5, 0.5], [[-1.0, 0.0], [1.0, 0.0]], [[0.3, 0.3], [0.3, 0.3]])
    model = ex.ExactModel(mixture, process)
    dataset = Dataset(np.asarray(mixture.sample(160, key=jax.random.key(0))), name="mixture")
    data = prepare_data(dataset, dataclasses.replace(DATA, num_samples=None, standardise="none"))
    target = 0.01
    effort = dataclasses.replace(ESTIMATION, relative_error=target)
    subject = Subject(model, data, effort, np.zeros(1), None)
    chosen = with_relative_error(subject, jax.random.key(1)).options.evaluations
    assert chosen % 2 == 0
    estimate = ex.neural_entropy(
        model, data.held_out, key=jax.random.key(2), num_evaluations=chosen
    )
    reached = float(estimate.mc_stderr / estimate.value)
    assert 0.2 * target < reached < 1.1 * target  # it falls faster than with independent draws


# ------------------------------------------------------------------ order and range


@pytest.mark.parametrize(
    ("data", "model", "first"),
    [((2, 3, 4), (4, 2, 3), True), ((2, 3), (1, 2, 3), False), ((2, 3, 1), (2, 3), False)],
)
def test_images_are_brought_to_the_order_of_the_model(data, model, first):
    layout = Layout(data, model, first)
    flat = np.arange(np.prod(data))
    array = layout.array(jnp.asarray(flat))
    image = flat.reshape(data)
    np.testing.assert_array_equal(
        array, (np.moveaxis(image, -1, 0) if first else image).reshape(model)
    )
    np.testing.assert_array_equal(layout.flat(array), flat)


def test_a_model_of_images_as_one_of_vectors(tmp_path):
    """Fields and prior of the exact model of each pixel, whose order matters."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    network = ex.FourierMLP(6, widths=(8,), key=jax.random.key(0))
    model = ex.ScoreMatching(Images(network, (3, 1, 2)), process, shape=(3, 1, 2))
    ex.save(tmp_path / "model.eqx", ex.ScoreMatching(network, process))
    loaded = dataclasses.replace(load_model(str(tmp_path / "model.eqx")), model=model)
    flat = arranged(loaded, (1, 2, 3))
    assert flat.shape == (6,)
    assert flat.prior.sample(2, key=jax.random.key(2)).shape == (2, 6)
    y = jax.random.normal(jax.random.key(1), (6,))
    array = jnp.moveaxis(y.reshape(1, 2, 3), -1, 0)
    for field in ("score", "entropy_field", "velocity"):
        expected = jnp.moveaxis(getattr(model, field)(0.5, array), 0, -1).reshape(-1)
        np.testing.assert_allclose(getattr(flat, field)(0.5, y), expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"`model` must take samples of the shape.*`channels`"):
        arranged(loaded, (3, 2, 1))


class Images(eqx.Module):
    """A network of images made of one of vectors."""

    network: Callable
    shape: tuple[int, ...] = eqx.field(static=True)

    def __call__(self, level, y, condition=None):
        return self.network(level, y.reshape(-1), condition).reshape(self.shape)


def test_data_are_rescaled_to_the_range_of_the_model(tmp_path):
    """Levels 0 ... 16 at the centres of [-1, 1]; densities are per level."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    ex.save(
        tmp_path / "model.eqx",
        ex.ScoreMatching(ex.FourierMLP(64, widths=(8,), key=jax.random.key(0)), process),
    )
    request = of_model(tmp_path / "out", tmp_path / "model.eqx", model_range=(-1.0, 1.0))
    request = dataclasses.replace(request, data=dataclasses.replace(DATA, num_samples=None))
    study = prepare_pretrained("digits", request)
    held_out = np.asarray(study.data.held_out)
    assert -1.0625 <= held_out.min() < -0.9
    assert 0.9 < held_out.max() <= 1.0625
    assert study.data.log_jacobian(study.data.held_out[:1]) == pytest.approx(
        -64 * np.log(8), rel=1e-5
    )
    assert study.attributes()["coordinates_text"] == "[0, 16] of the data is [-1, 1] of the model"


# ------------------------------------------------------------------ what is refused

REFUSED = {
    "no file": ("none.eqx", [], "which does not exist"),
    "no pipeline": ("empty", [], "must hold a diffusers pipeline with a model_index.json"),
    "a process": ("process.eqx", [], "must hold a model, got a VariancePreserving"),
    "a pickle": ("weights.pkl", [], "a pickle may run any code"),
    "a checkpoint": ("weights.ckpt", [], "a pickle may run any code"),
    "a checkpoint of PyTorch": ("weights.pt", [], "save the network with `save_pretrained`"),
    "a precision": (
        "good.eqx",
        ["--model-precision", "bfloat16"],
        "`model_precision` must be omit",
    ),
    "an embedding": ("good.eqx", ["--model-condition", "x.npy"], "`model_condition` must be"),
    "damaged": ("damaged.eqx", [], "`model` must be"),
    "another size": ("good.eqx", ["digits"], "samples of the shape of the data"),
    "not finite": ("nan.eqx", [], "not finite"),
    "another shape": ("wrong.eqx", [], "must return an array of y's shape"),
    "no labels": ("good.eqx", ["--condition", "labels"], "must take the labels"),
    "steps": ("good.eqx", ["--steps", "5"], "`steps` must be omitted together with `model`"),
    "seeds": ("good.eqx", ["--seeds", "2"], "`seeds` must be omitted"),
    "process": ("good.eqx", ["--process", "sl"], "`process` must be omitted"),
    "dropout": ("good.eqx", ["--condition-dropout", "0.1"], "`condition_dropout` must be omitted"),
    "range": ("good.eqx", ["--model-range", "1", "-1"], "two numbers LOW < HIGH, got 1, -1"),
    "both scalings": (
        "good.eqx",
        ["--model-range", "-1", "1", "--standardise", "global"],
        "`standardise` must be none",
    ),
    "an error of zero": ("good.eqx", ["--relative-error", "0"], "`relative_error` must be"),
    "two numbers": (
        "good.eqx",
        ["--relative-error", "0.1", "--evaluations", "512"],
        "`evaluations` must be omitted",
    ),
}


def assert_refused(capsys, words, says):
    assert main(["measure", *words, "--out", "out"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert err.startswith("entropix: error: ")
    assert says in err
    assert not pathlib.Path("out").exists()


@pytest.mark.parametrize("case", REFUSED)
def test_bad_requests(capsys, tmp_path, monkeypatch, folder, case):
    monkeypatch.chdir(tmp_path)
    file, words, says = REFUSED[case]
    data = words if words[:1] == ["digits"] else ["mixture2", "--num-samples", "160", *words]
    assert_refused(capsys, [*data, "--model", str(folder / file)], says)


def test_a_model_given_in_python(tmp_path):
    """It must be given once; its fingerprint is that of its parameters."""
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    models = [
        ex.ScoreMatching(ex.FourierMLP(2, widths=(8,), key=jax.random.key(i)), process)
        for i in (0, 0, 1)
    ]
    one, same, other = (given_model(model).fingerprint for model in models)
    assert one == same != other
    with pytest.raises(ValueError, match=r"`model` must be given once, got 'x\.eqx'"):
        prepare_pretrained("mixture2", of_model(tmp_path, "x.eqx"), model=models[0])


def test_a_range_needs_a_model(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    words = ["mixture2", "--model-range", "-1", "1"]
    assert_refused(capsys, words, "`model_range` must be omitted without `model`")
