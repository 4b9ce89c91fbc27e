"""Data sets in their distributed form: values, labels and splits; what is missing or damaged."""

import pickle
import shutil
import sys

import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.helpers import refused
from tests.datasets.sets import (
    TRAIN,
    cifar_batches,
    cifar_files,
    idx,
    save_cifar,
    save_huggingface,
    save_mnist,
)


def assert_split(path, split, images, labels):
    data = load(path, split=split)
    assert (data.kind, data.levels, data.shape) == ("image", 256, images.shape[1:])
    np.testing.assert_array_equal(data.points.reshape(images.shape), images)
    np.testing.assert_array_equal(data.labels, labels)


# ---------------------------------------------------------------------------- MNIST


@pytest.mark.parametrize("compressed", [False, True])
def test_mnist(tmp_path, compressed):
    images, labels = save_mnist(tmp_path / "raw", compressed=compressed)
    assert_split(tmp_path / "raw", None, images[:6], labels[:6])
    assert_split(tmp_path / "raw", "train", images[:6], labels[:6])
    assert_split(tmp_path / "raw", "test", images[6:], labels[6:])
    assert_split(tmp_path / "raw", "all", images, labels)
    assert load(tmp_path / "raw").name == "raw"
    assert load(tmp_path / "raw", labels="labels").labels is not None


def test_mnist_under_other_names(tmp_path):
    images, labels = save_mnist(tmp_path)
    for file in list(tmp_path.iterdir()):
        file.rename(tmp_path / file.name.replace("-idx", ".idx"))
    assert_split(tmp_path, "all", images, labels)
    for file in tmp_path.glob("train*"):
        file.unlink()
    assert_split(tmp_path, None, images[6:], labels[6:])  # the only split
    refused(tmp_path, "`split` must be one of 'test', 'all' for .* got 'train'", split="train")


def test_mnist_that_is_not_whole(tmp_path):
    save_mnist(tmp_path)
    refused(tmp_path, "`split` must be one of 'train', 'test', 'all' .* got 'x'", split="x")
    refused(tmp_path, "`labels` must be 'labels' or a file", labels="y")
    refused(tmp_path, "`array` must be None unless", array="x")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros(5)))
    refused(tmp_path, "one label for each image, got 5 labels and 6 images in the split 'train'")
    (tmp_path / "train-labels-idx1-ubyte").write_bytes(idx(np.zeros((6, 1))))
    refused(tmp_path, "must have 1 axes, got shape")
    (tmp_path / "train-labels-idx1-ubyte").unlink()
    refused(tmp_path, "must hold 'train-labels-idx1-ubyte' beside its images, .* got none")
    (tmp_path / "train-images-idx3-ubyte").write_bytes(b"\0\0\x08\x03")
    refused(tmp_path, "truncated")
    save_mnist(tmp_path)
    (tmp_path / "t10k-images-idx3-ubyte").write_bytes(idx(np.zeros((4, 3, 3))))
    refused(tmp_path, "images of one size in both splits", split="all")


# ---------------------------------------------------------------------------- CIFAR-10


@pytest.mark.parametrize("name", ["cifar.tar.gz", "cifar.tar", "cifar-10-batches"])
def test_cifar(tmp_path, name):
    batches, images, labels = cifar_batches()
    save_cifar(tmp_path / name, cifar_files(batches))
    assert_split(tmp_path / name, None, images[:10], labels[:10])
    assert_split(tmp_path / name, "test", images[10:], labels[10:])
    assert_split(tmp_path / name, "all", images, labels)


def test_cifar_that_is_not_whole(tmp_path):
    batches, *_ = cifar_batches()
    files = cifar_files(batches)
    missing = dict(files)
    del missing["data_batch_3.bin"]
    for name in ("x.tar.gz", "folder"):
        save_cifar(tmp_path / name, missing)
        refused(tmp_path / name, "must hold 'data_batch_3.bin', got only 'data_batch_1")
        assert load(tmp_path / name, split="test").num_samples == 2
    save_cifar(tmp_path / "other.tar", {"notes.txt": b"x"})
    refused(tmp_path / "other.tar", "must hold the files of CIFAR-10, .* got none of them")
    save_cifar(tmp_path / "cut", files | {"test_batch.bin": files["test_batch.bin"][:-1]})
    refused(tmp_path / "cut", "rows of 3073 bytes in 'test_batch.bin'", split="test")
    labelled = bytes([10]) + files["test_batch.bin"][1:]
    save_cifar(tmp_path / "label", files | {"test_batch.bin": labelled})
    refused(tmp_path / "label", "a label from 0 to 9 for each of the 2 images", split="test")
    whole = tmp_path / "whole.tar.gz"
    save_cifar(whole, files)
    whole.write_bytes(whole.read_bytes()[:3000])
    refused(whole, "must be a tar archive, gzipped or not, got one that cannot be read")


CALLED = []


class Malicious:
    """Its pickle calls a function when it is loaded."""

    def __reduce__(self):
        return exec, ("import tests.datasets.test_splits as t; t.CALLED.append(1)",)


@pytest.mark.parametrize("name", ["x.tar.gz", "x"])
def test_pickled_batches_are_not_read(tmp_path, name):
    """Whatever a pickle holds: the message names the binary form and the Hugging Face hub."""
    content = pickle.dumps(Malicious())
    save_cifar(tmp_path / name, dict.fromkeys((*TRAIN, "test_batch"), content))
    for split in (None, "test", "all"):
        refused(
            tmp_path / name,
            "CIFAR-10 in its binary form, .* got pickles, .* 'cifar-10-binary.tar.gz' .* or load "
            "'hf:cifar10'",
            split=split,
        )
    assert not CALLED


# ---------------------------------------------------------------------------- Hugging Face


N = 6
rng = np.random.default_rng(0)
IMAGES = rng.integers(0, 256, size=(N, 4, 3, 3), dtype=np.uint8)
POINTS = rng.normal(size=(N, 2, 3))
CUTS = {"train": (0, 3), "test": (3, 5), "validation": (5, 6)}


@pytest.fixture
def hf():
    return pytest.importorskip("datasets")


def image_set(hf, path, splits=CUTS, images=IMAGES):
    from PIL import Image

    features = hf.Features(
        {"img": hf.Image(), "fine": hf.ClassLabel(names=["cat", "dog"]), "note": hf.Value("string")}
    )
    columns = {
        "img": [Image.fromarray(image) for image in images],
        "fine": [0, 1] * 3,
        "note": ["x"] * N,
    }
    return save_huggingface(path, columns, features, splits)


def test_huggingface_images(hf, tmp_path):
    path = image_set(hf, tmp_path / "animals")
    labels = np.arange(N) % 2
    assert_split(path, None, IMAGES[:3], labels[:3])
    assert_split(path, "test", IMAGES[3:5], labels[3:5])
    assert_split(path, "all", IMAGES, labels)
    assert load(path, labels="note", split="all").labels.tolist() == ["x"] * N
    refused(path, "`split` must be one of 'train', 'test', 'validation', 'all'", split="x")
    refused(path, "`label` must be a column of .*: 'img', 'fine', 'note'; got 'x'", labels="x")


def test_huggingface_arrays_and_tables(hf, tmp_path):
    columns = {"x": POINTS.tolist(), "label": list("abcabc"), "y": [1.5, 2, 3, 4, 5, 6]}
    path = save_huggingface(tmp_path / "arrays", columns)
    data = load(path)
    assert (data.kind, data.shape) == ("image", (2, 3))
    np.testing.assert_array_equal(data.points, POINTS.reshape(N, 6))
    assert data.labels.tolist() == list("abcabc")
    refused(path, "`split` must be None for a dataset without splits, got 'train'", split="train")
    refused(path, "`columns` must be columns of numbers, .* got 'label'", array="label")
    assert load(path, array="y").columns == ("y",)
    table = {"a": POINTS[:, 0, 0], "b": np.arange(N), "label": [0, 1] * 3}
    data = load(save_huggingface(tmp_path / "table", table))
    assert (data.kind, data.columns) == ("table", ("a", "b"))
    np.testing.assert_array_equal(data.points, np.stack([table["a"], table["b"]], axis=-1))


def test_huggingface_array_features(hf, tmp_path):
    """Arrays of a declared shape, and lists of a declared length."""
    features = hf.Features({"x": hf.Array2D((2, 3), "float32"), "label": hf.Value("int8")})
    path = save_huggingface(tmp_path / "x", {"x": POINTS.tolist(), "label": [1] * N}, features)
    np.testing.assert_array_equal(load(path).points, POINTS.reshape(N, 6).astype(np.float32))


def test_huggingface_that_cannot_be_read(hf, tmp_path):
    ragged = save_huggingface(tmp_path / "ragged", {"x": [[1.0], [1.0, 2.0]]})
    refused(ragged, r"column 'x' of .* must hold examples of one size, got \[1, 2\]")
    gaps = save_huggingface(tmp_path / "gaps", {"x": [1.0, None, 2.0]})
    refused(gaps, "1 NaN or missing")
    two = save_huggingface(tmp_path / "two", {"x": [[1.0]], "y": [[1.0]], "t": ["a"]})
    refused(two, "`columns` must say which columns of .* make up an example: 'x', 'y', 't'")
    shapes = image_set(hf, tmp_path / "shapes", None, [*IMAGES[:-1], IMAGES[0, :2]])
    refused(shapes, r"must hold examples of one size, got \[\(2, 3, 3\), \(4, 3, 3\)\]")
    for path in sorted(two.glob("*.json")):
        content = path.read_bytes()
        path.write_bytes(content[: len(content) // 2])
        refused(two, "must be a Hugging Face dataset saved by save_to_disk, got one that cannot")
        path.write_bytes(content)
    shutil.copytree(two, tmp_path / "cut")
    for path in (tmp_path / "cut").glob("*.arrow"):
        path.write_bytes(path.read_bytes()[:200])
    refused(tmp_path / "cut", "cannot be read")


def test_huggingface_by_name(hf, tmp_path, monkeypatch):
    """What `load_dataset` is asked for, and what is made of its answer; no network."""
    asked = []

    def load_dataset(*arguments):
        asked.append(arguments)
        if "missing" in arguments[0]:
            raise hf.exceptions.DatasetNotFoundError("Dataset 'missing'\ndoesn't exist on the Hub.")
        return hf.load_from_disk(str(tmp_path / "animals"))

    image_set(hf, tmp_path / "animals")
    monkeypatch.setattr(hf, "load_dataset", load_dataset)
    assert_split("hf:animals", "test", IMAGES[3:5], [1, 0])
    data = load("hf:user/animals:large", labels="labels")
    assert (data.name, data.num_samples) == ("large", 3)
    assert load("hf:user/animals").name == "animals"
    assert asked == [("animals", None), ("user/animals", "large"), ("user/animals", None)]
    refused("hf:missing", "'hf:missing' must be a dataset of the Hugging Face hub, .*doesn't exist")
    refused("hf:", "`source` must be 'hf:name'")
    refused("hf:a/b/c", "`source` must be 'hf:name'")
    refused("hf:animals", "`num_samples` must be None for data that", num_samples=3)


def test_without_the_library(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    says = (
        r"reading a Hugging Face dataset needs datasets: "
        r"python -m pip install 'entropix-jax\[streams\]'"
    )
    refused("hf:mnist", says)
    (tmp_path / "dataset_dict.json").write_text("{}")
    refused(tmp_path, says)


def test_a_split_of_data_without_splits(tmp_path):
    np.save(tmp_path / "x.npy", POINTS)
    for source in (tmp_path / "x.npy", "digits"):
        refused(source, "`split` must be None for data without splits, got 'test'", split="test")
