"""Without an extra: one line that names what is missing and how to install it."""

import sys

import numpy as np
import pytest

import entropix as ex
from entropix.cli import main
from entropix.datasets import load, stream


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def says(message, package, extra):
    assert message.count("\n") == 0
    assert package in message
    assert f"pip install 'entropix[{extra}]'" in message


STUDIES = ("tyro", "tqdm", "xarray", "h5netcdf", "matplotlib")


@pytest.mark.parametrize(
    ("module", "command"),
    [
        *((module, "measure") for module in STUDIES),
        ("tyro", "schedule"),
        ("xarray", "schedule"),
        ("xarray", "information"),
    ],
)
def test_the_command_line(module, command, capsys, monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, module, None)
    data = ["mixture2"] * (2 if command == "information" else 1)
    code = main([command, *data, "--num-samples", "64"])
    out, err = capsys.readouterr()
    assert (code, out) == (2, "")
    assert err.endswith("\n")
    says(err[:-1], module, "studies")
    assert not list(tmp_path.iterdir())


def test_without_plots_no_matplotlib_is_needed(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.setattr("entropix.studies.study.AbstractStudy.run", lambda study: None)
    assert main(["measure", "mixture2", "--num-samples", "64", "--no-plots"]) == 0


SOURCES = {
    "pandas": ("table.csv", "data"),
    "pyarrow": ("table.parquet", "data"),
    "sklearn.datasets": ("digits", "studies"),
    "datasets": ("hf:mnist", "streams"),
}


@pytest.mark.parametrize("module", SOURCES)
def test_data(module, monkeypatch, tmp_path):
    source, extra = SOURCES[module]
    (tmp_path / "table.csv").write_text("1,2\n3,4\n")
    (tmp_path / "table.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="needs") as caught:
        load(source)
    package = "scikit-learn" if module.startswith("sklearn") else module
    says(str(caught.value), package, extra)


@pytest.mark.parametrize(
    ("module", "source", "extra"),
    [
        ("grain", None, "streams"),
        ("datasets", "hf:mnist", "streams"),
        ("pyarrow.parquet", "table.parquet", "data"),
    ],
)
def test_streams(module, source, extra, monkeypatch, tmp_path):
    (tmp_path / "table.parquet").write_bytes(b"")
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(ValueError, match="needs") as caught:
        stream(np.eye(4) if source is None else source, batch_size=2)
    says(str(caught.value), module.partition(".")[0], extra)


def test_a_progress_bar(monkeypatch, getkey):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ScoreMatching(ex.FourierMLP(2, key=getkey(), widths=(4,)), process)
    with pytest.raises(ImportError, match="tqdm") as caught:
        ex.fit(model, np.eye(4, 2), key=getkey(), steps=1, batch_size=2, progress=True)
    says(str(caught.value), "tqdm", "studies")
