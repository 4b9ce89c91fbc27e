"""Storage with the settings of the paper: data, networks, training and cut-off."""

import dataclasses

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import entropix as ex
from entropix.cli import main
from entropix.networks import Fixed, PaperConvNet
from entropix.studies import DataOptions, LabelOptions, OutputOptions
from entropix.studies.paper import is_colour, paper_images
from entropix.studies.storage import (
    StorageEstimation,
    StorageOptions,
    StorageTraining,
    prepare_storage,
    storage,
)
from entropix.studies.training import Training
from tests.datasets.sets import cifar_batches, cifar_files, idx, save_cifar


SIDE = 17


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """A folder like that of MNIST: 120 images of 17 x 17 for training and 1010 for the test."""
    folder = tmp_path_factory.mktemp("data") / "digits"
    folder.mkdir()
    rng = np.random.default_rng(0)
    for name, count in (("train", 120), ("t10k", 1010)):
        images = rng.integers(0, 256, (count, SIDE, SIDE), dtype=np.uint8)
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(images))
        labels = rng.permutation(np.arange(count) % 4).astype(np.uint8)
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(labels))
    return folder


def options(out, sizes=(), epochs=(), condition=None, **training):
    return StorageOptions(
        training=StorageTraining(sizes=sizes, epochs=epochs, **training),
        output=OutputOptions(out=str(out), quiet=True, plots=False),
        condition=LabelOptions(condition=condition),
    )


def untrained(study):
    """A model without its numbers."""
    return eqx.filter_eval_shape(
        study.make_model(study.training_rows(study.sizes[0])), jax.random.key(0)
    )


def test_the_settings_of_the_paper_for_mnist(digits, tmp_path):
    study = prepare_storage(digits, options(tmp_path / "out", paper=True))
    expected = Training((1, 7, 17, 23), 32, 1, 1e-4, 500, plain=True)
    assert dataclasses.asdict(study.training) == dataclasses.asdict(expected)
    assert (study.sizes, study.unit) == ((100, 120), "epochs")
    assert (study.lengths[0], study.lengths[-1]) == (5, 600)
    assert set(study.runs.values()) == {"N100", "N120"}
    # Cut off at the first of 500 uniform times after zero; an image has values in [0, 1].
    assert abs(study.cutoff.value - 0.0153) < 5e-5
    rows = study.training_rows(100)
    assert rows.shape[1:] == (SIDE, SIDE)
    np.testing.assert_allclose(255 * rows, np.round(255 * rows), atol=1e-4)
    assert 0 <= rows.min() < 0.1
    assert 0.9 < rows.max() <= 1
    # The first 25 of each class in their order, and the first 1000 images of the test.
    raw = ex.datasets.load(digits, split="train")
    first = np.concatenate([np.flatnonzero(raw.labels == label)[:25] for label in range(4)])
    found = {image.tobytes() for image in np.round(255 * rows[:100]).astype(int)}
    assert found == {
        image.tobytes() for image in raw.points[first].reshape(-1, SIDE, SIDE).astype(int)
    }
    test = ex.datasets.load(digits, split="test")
    np.testing.assert_allclose(255 * study.data.held_out, test.points[:1000], atol=1e-4)
    model = untrained(study)
    assert isinstance(model.network, PaperConvNet)
    assert model.network.condition_dim is None
    assert model.scaling is None


def test_the_best_settings_take_the_same_steps(digits, tmp_path):
    asked = options(tmp_path / "out", (40, 80), (2, 5), best=True, condition="labels")
    study = prepare_storage(digits, asked)
    assert study.cells == {
        "N40-2-epochs": 3,
        "N40-5-epochs": 7,
        "N80-2-epochs": 5,
        "N80-5-epochs": 13,
    }
    assert study.runs is None
    assert not study.training.plain
    assert study.data.dequantised
    assert abs(study.cutoff.value - 0.0153) < 5e-5
    model = untrained(study)
    assert isinstance(model.network, ex.UNet)
    assert model.scaling is not None
    assert study.training_conditions(40).shape == (40, 4)


def test_the_best_settings_with_the_network_of_the_paper(digits, tmp_path):
    asked = options(tmp_path / "out", (40,), (2,), best=True, network="paper", seeds=1)
    study = prepare_storage(digits, asked)
    model = untrained(study)
    assert isinstance(model.network, PaperConvNet)
    assert model.scaling is not None
    assert study.data.dequantised
    assert not study.training.plain
    assert study.shape == (SIDE, SIDE)
    assert "the network of the paper" in study.attributes()["training_text"]


@pytest.mark.parametrize("preset", ["paper", "best"])
def test_sizes_can_be_compared_at_equal_numbers_of_steps(preset, digits, tmp_path):
    asked = options(tmp_path / "out", (40, 80), steps=(7, 3), **{preset: True})
    study = prepare_storage(digits, asked)
    steps = {"N40-3-steps": 3, "N40-7-steps": 7, "N80-3-steps": 3, "N80-7-steps": 7}
    assert study.cells == steps
    assert study.attributes()["unit_of_length"] == "steps"
    along_one_run = {name: name.split("-")[0] for name in steps}
    assert study.runs == (along_one_run if preset == "paper" else None)


def test_the_settings_of_the_paper_for_cifar(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    save_cifar(folder, cifar_files(cifar_batches(8)[0]))
    first = paper_images(folder, DataOptions(channels="first"), ())[0]
    assert first.shape == ex.datasets.load(folder, channels="first").shape != (32, 32, 3)
    study = prepare_storage(folder, options(tmp_path / "out", paper=True))
    assert is_colour(study.shape)
    assert (study.training.learning_rate, study.training.batch_size) == (
        2e-4,
        min(32, study.sizes[-1]),
    )
    assert abs(study.cutoff.value - 1e-3) < 1e-5
    assert study.attributes()["condition_text"].startswith("labels")
    model = untrained(study)
    leaves = jax.tree.leaves(model.network, is_leaf=lambda leaf: isinstance(leaf, Fixed))
    count = sum(
        leaf.size for leaf in leaves if not isinstance(leaf, Fixed) and hasattr(leaf, "shape")
    )
    assert abs(count / 42.1e6 - 1) < 0.03
    dim = study.data.condition.dim
    one = jax.ShapeDtypeStruct((dim,), jnp.float32)
    field = eqx.filter_eval_shape(
        model.entropy_field, jnp.asarray(0.5), jnp.zeros((32, 32, 3)), one
    )
    assert field.shape == (32, 32, 3)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("digits --paper", "`split` must"),
        ("DATA --paper --best", "`best` must be left out with `paper`"),
        ("DATA --paper --network unet", "`network` must be left out with `paper`"),
        ("digits --network paper", "`shape` must be at least 17 x 17"),
        ("mixture3 --network paper", "`network` must be mlp for data that are not images"),
        ("DATA --best --network transformer", "`network` must be one of 'mlp', 'unet', 'paper'"),
        ("DATA --paper --no-dequantise", "`dequantise` must be left out with `paper`"),
        ("DATA --paper --sizes 121", "`sizes` must be at most"),
        ("DATA --paper --condition others.npy", "`condition` must be 'labels' for `paper`"),
        ("DATA --best --condition others.npy", "`condition` must be 'labels' for `best`"),
    ],
)
def test_bad_requests_end_in_one_line(words, says, digits, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    np.save("others.npy", np.arange(120) % 3)
    assert main(["storage", *words.replace("DATA", str(digits)).split()]) == 2
    assert says in capsys.readouterr().err


@pytest.mark.slow(reason="trains the network of the paper")
def test_all_lengths_are_measured_along_one_run(digits, tmp_path):
    asked = options(tmp_path / "out", (32, 64), (1, 2), paper=True, seeds=1)
    asked = dataclasses.replace(asked, estimation=StorageEstimation(256, 4, 2))
    record = storage(digits, asked)
    assert np.isfinite(record["neural_entropy"]).all()
    assert record.attrs["cutoff"] > 0.015
    assert "1.40, 1.72, 2.22" in (tmp_path / "out" / "report.md").read_text()
