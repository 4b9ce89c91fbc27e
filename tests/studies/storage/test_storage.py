"""Storage: what networks are trained on, the record of small studies, and what is refused."""

import dataclasses
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import xarray

from entropix.cli import main
from entropix.datasets import Dataset
from entropix.studies import DataOptions, LabelOptions, OutputOptions, ProcessOptions
from entropix.studies.record import definition
from entropix.studies.storage import (
    StorageEstimation,
    StorageOptions,
    StorageTraining,
    prepare_storage,
    storage,
)
from entropix.studies.storage.study import SCHEMA


def options(out, *, training=None, data=None, process="vp", **output):
    """Small options, writing to `out`."""
    small = {"sizes": (16, 40, 80), "seeds": 2, "batch_size": 8, "widths": (8,)}
    small |= {} if "epochs" in (training or {}) else {"steps": (12,)}
    return StorageOptions(
        data=DataOptions(**({"held_out": 0.15} | (data or {}))),
        process=ProcessOptions(process=process),
        training=StorageTraining(**(small | (training or {}))),
        estimation=StorageEstimation(evaluations=256, samples=20, sampling_steps=4),
        output=OutputOptions(**({"out": str(out), "quiet": True, "plots": False} | output)),
    )


def test_all_sizes_are_seen_equally_and_in_fresh_noise(tmp_path):
    study = prepare_storage("digits", options(tmp_path / "out"))
    largest, least = study.training_rows(80), study.training_rows(16)
    assert largest.shape == least.shape == (80 * 32, 64)
    images = np.asarray(study.data.standardisation.inverse(least)).reshape(160, 16, 64)
    noise = images - study.data.dataset.points[study.data.order[1][:16]]
    assert noise.min() > -1e-4
    assert noise.max() < 1 + 1e-4
    assert len(np.unique(least, axis=0)) == len(least)
    # The samples of a smaller set are part of every larger one.
    np.testing.assert_array_equal(largest[:16], least[:16])


def test_networks_are_given_labels(tmp_path):
    asked = options(tmp_path / "out")
    asked = dataclasses.replace(asked, condition=LabelOptions(condition="labels"))
    study = prepare_storage("digits", asked)
    labels = study.data.dataset.labels[study.data.order[1][:16]]
    np.testing.assert_array_equal(study.training_conditions(16).argmax(axis=1), labels)
    rows = study.training_rows(16)
    model = study.make_model(rows)(jax.random.key(0))
    one = jax.ShapeDtypeStruct((10,), jnp.float32)
    field = jax.eval_shape(model.entropy_field, jnp.asarray(0.5), jnp.asarray(rows[0]), one)
    assert field.shape == (64,)
    assert study.attributes()["condition_text"].startswith("labels, 10 classes")


@pytest.mark.slow(reason="trains networks")
def test_entropies_given_labels(tmp_path):
    asked = options(tmp_path / "out", training={"sizes": (80,), "patience": 6})
    asked = dataclasses.replace(asked, condition=LabelOptions(condition="labels"))
    record = storage("mixture3", asked)
    assert np.isfinite(record["neural_entropy"]).all()
    assert "total_entropy" not in record  # known for the mixture only
    assert "Labels: labels, 5 classes" in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.slow(reason="trains networks")
@pytest.mark.parametrize("labels", [False, True])
def test_storage_of_tokens(tmp_path, labels):
    """Two sequences, each with a label, from which they are known."""
    words = np.array([[0, 1, 2, 0], [2, 2, 1, 0]])[np.arange(200) % 2]
    asked = options(tmp_path / "out", training={"steps": (400,), "learning_rate": 0.01})
    if labels:
        asked = dataclasses.replace(asked, condition=LabelOptions(condition="labels"))
    effort = StorageEstimation(evaluations=256, samples=20, sampling_steps=64)
    asked = dataclasses.replace(asked, process=ProcessOptions(), estimation=effort)
    data = Dataset.from_tokens(words, labels=np.arange(200) % 2 if labels else None)
    record = storage(data, asked)
    truth = 4 * np.log(3) - (0 if labels else np.log(2))
    for name in ("neural_entropy", "neural_entropy_train"):
        np.testing.assert_allclose(record[name], truth, rtol=0.15)
    assert (record["memorised"] > 0.7).all()
    report = (tmp_path / "out" / "report.md").read_text()
    assert ("given the label" in report) == labels
    assert "at which their tokens differ" in report


def test_default_sizes_are_doublings_and_nearly_all(tmp_path):
    study = prepare_storage("digits", options(tmp_path / "out", training={"sizes": ()}))
    assert study.sizes == (50, 100, 200, 400, 800, 1500)


def test_epochs_take_more_steps_of_larger_sets(tmp_path):
    training = {"sizes": (16, 80), "epochs": (2, 5)}
    study = prepare_storage("digits", options(tmp_path / "out", training=training))
    assert study.cells == {
        "N16-2-epochs": 4,
        "N16-5-epochs": 10,
        "N80-2-epochs": 20,
        "N80-5-epochs": 50,
    }


@pytest.mark.slow
def test_a_network_for_images_sees_their_shape(tmp_path):
    training = {"network": "unet", "sizes": (16, 32)}
    study = prepare_storage("digits", options(tmp_path / "out", training=training))
    rows = study.training_rows(16)
    assert rows.shape == (32 * 32, 8, 8)
    model = study.make_model(rows)(jax.random.key(0))
    field = jax.eval_shape(model.entropy_field, jnp.asarray(0.5), jnp.asarray(rows[0]))
    assert field.shape == (8, 8)


@pytest.mark.slow
def test_the_record_is_labelled_and_merges_what_there_is(tmp_path):
    """Rectified flow has no entropy without a cut-off; the mixture has a known one."""
    out = tmp_path / "out"
    small = options(out, process="rectified-flow", data={"num_samples": 120}, plots=True)
    storage("mixture2", small)
    with xarray.open_dataset(out / "results.nc", engine="h5netcdf") as record:
        record.load()
    assert {name for name in record.data_vars if not str(name).endswith("_stderr")} == set(SCHEMA)
    for name, variable in record.data_vars.items():
        dims, unit, meaning = definition(SCHEMA, name)
        assert variable.dims == dims
        assert variable.attrs == {"units": unit, "long_name": meaning}
        assert not np.isnan(variable).any()
    share = record["neural_entropy"] / record["total_entropy"]
    np.testing.assert_allclose(record["efficiency"], share, rtol=1e-6)
    assert record.attrs["cutoff"] > 0
    names = {p.name for p in out.iterdir() if not p.name.startswith(".")}
    figures = {"storage.png", "memorisation.png"}
    assert names == figures | {"results.nc", "report.md", "configuration.json", "cells"}
    assert "3 of 3 cells" in (out / "report.md").read_text()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("digits --sizes 1", "`sizes` must be"),
        ("digits --sizes 50 1600", "`sizes` must be at most the number of training samples, 1527"),
        ("digits --steps 0", "`steps` must be"),
        ("digits --steps 9 --epochs 2", "`steps` must be left out with `epochs`, got (9,)"),
        ("digits --batch-size 2000", "`batch_size` must be at most the largest of `sizes`, 1500"),
        ("mixture2 --num-samples 99 --network unet", "`network` must be mlp for data that are not"),
        ("digits --network transformer", "transformer"),
        ("digits --cutoff 7", "`cutoff` must be positive and below"),
        ("digits --samples 1", "`samples` must be"),
        ("nothing.npy", "nothing.npy"),
    ],
)
def test_bad_requests_end_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["storage", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not list(pathlib.Path().iterdir())
