"""`load`: names, extensions, options, and dependencies that are missing."""

import sys

import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.helpers import BYTES, TABLE, refused, save_png
from tests.helpers import as_shipped


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("digit", r"one of digits, mixture2.*got 'digit' \(did you mean 'digits'\?\)"),
        ("Eight_Gaussians", r"did you mean 'eight-gaussians'\?"),
        ("", "`source` must be a path that exists or one of .*got ''"),
        ("zebra", "got 'zebra'.$"),
        ("x\0y", "`source` must be a path that exists"),
        ("x" * 5000, "`source` must be a path that exists"),
        ("nowhere/x.npy", "`source` must be a file or folder that exists, got 'nowhere/x.npy'"),
        ("x.csv", "must be a file or folder that exists, got 'x.csv'"),
    ],
)
def test_unknown_sources(source, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(source, message)


def test_arrays_are_no_sources(tmp_path):
    np.save(tmp_path / "x.npy", TABLE)
    with as_shipped():
        refused(TABLE, "`source` must be a name or a path, got ndarray: `Dataset.from_array` takes")
        for labels in ([0, 1, 0, 1, 0, 1], 0):
            refused(tmp_path / "x.npy", "`labels` must be a name or a path", labels=labels)


def test_unknown_extension(tmp_path):
    for name, extension in [("x.mat", ".mat"), ("x", ""), ("x.npy.gz", ".gz")]:
        (tmp_path / name).write_bytes(b"")
        refused(tmp_path / name, f"{name}' must be one of .npy.*got the extension '{extension}'")


def test_a_name_wins_over_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for i in range(2):
        save_png(tmp_path / "digits" / f"{i}.png", BYTES[i])
    assert load("digits").num_samples == 1797
    assert load("./digits").num_samples == 2
    assert load((tmp_path / "digits").relative_to(tmp_path)).num_samples == 2


def test_options_that_do_not_apply(tmp_path):
    np.save(tmp_path / "x.npy", TABLE)
    refused(tmp_path / "x.npy", "`num_samples` must be None .* got 3", num_samples=3)
    refused(tmp_path / "x.npy", "`array` must be None unless .* got 'a'", array="a")
    refused(tmp_path / "x.npy", "`kind` must be one of .* got 'graph'", kind="graph")
    refused("digits", "`array` must be None unless .* got 'a'", array="a")
    assert load(tmp_path / "x.npy", kind="points").kind == "points"


@pytest.mark.parametrize(
    ("module", "name", "message"),
    [
        (
            "pandas",
            "x.csv",
            r"reading .csv needs pandas: python -m pip install 'entropix-jax\[data\]'",
        ),
        (
            "pyarrow",
            "x.parquet",
            r"reading .parquet needs pyarrow: python -m pip install 'entropix-jax\[data\]'",
        ),
        (
            "PIL.Image",
            "images",
            r"reading images needs pillow: python -m pip install 'entropix-jax\[data\]'",
        ),
        ("sklearn.datasets", "digits", r"'digits' needs scikit-learn: .*entropix-jax\[studies\]"),
    ],
)
def test_missing_dependencies(tmp_path, monkeypatch, module, name, message):
    (tmp_path / "x.csv").write_text("1,2\n3,4\n")
    (tmp_path / "x.parquet").write_bytes(b"")
    save_png(tmp_path / "images" / "0.png", BYTES[0])
    monkeypatch.setitem(sys.modules, module, None)
    refused(name if name == "digits" else tmp_path / name, message)


def test_unreadable(tmp_path, monkeypatch):
    path = tmp_path / "x.npy"
    np.save(path, TABLE)

    def denied(*args, **kwargs):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(type(path), "open", denied)
    refused(path, "x.npy' must be a NumPy .npy file, got one that cannot be read: .*denied")
