"""Without an extra: one line that names what is missing and how to install it."""

import ast
import re
import sys
import tomllib
from pathlib import Path

import numpy as np
import pytest

import entropix as ex
from entropix._core.extras import DISTRIBUTION, install
from entropix.cli import main
from entropix.datasets import load, stream


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def says(message, package, extra):
    assert message.count("\n") == 0
    assert package in message
    assert f"pip install 'entropix-jax[{extra}]'" in message


ROOT = Path(__file__).parents[1]
source_tree = pytest.mark.skipif(not (ROOT / "pyproject.toml").exists(), reason="not a source tree")
TEXT = {".md", ".py", ".yml"}
WORDS = r"['\"]?entropix(?P<jax>-jax)?\[(?P<extras>[a-z, ]+)\]"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def requirements(extra):
    """The packages of an extra, with those of the extras of this project that it contains."""
    found = set()
    for requirement in project()["optional-dependencies"][extra]:
        if own := re.fullmatch(rf"{DISTRIBUTION}\[(.+)\]", requirement):
            found |= set.union(*map(requirements, own[1].split(",")))
        else:
            found.add(re.match(r"[\w-]+", requirement)[0])
    return found


@source_tree
def test_the_distribution_is_the_one_of_pyproject():
    assert project()["name"] == DISTRIBUTION
    assert install("data") == "python -m pip install 'entropix-jax[data]'"


@source_tree
def test_code_names_extras_that_exist_and_contain_the_package():
    seen = 0
    for path in sorted((ROOT / "entropix").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            name = getattr(getattr(node, "func", None), "id", None)
            if name not in {"needed", "install"}:
                continue
            given = [argument.value for argument in node.args if isinstance(argument, ast.Constant)]
            if not isinstance(node.args[-1], ast.Constant):
                assert path.name == "extras.py"  # where one calls the other
                continue
            assert given[-1] in project()["optional-dependencies"], path
            if name == "needed":
                assert given[-2] in requirements(given[-1]), (path, given)
            seen += 1
    assert seen > 15


@source_tree
def test_no_text_names_an_extra_that_does_not_exist():
    files = [ROOT / name for name in ("pyproject.toml", "README.md", "CONTRIBUTING.md")]
    for folder in ("docs", "entropix", "benchmarks", "examples", ".github"):
        files += [
            path for path in (ROOT / folder).rglob("*") if path.suffix in {".md", ".py", ".yml"}
        ]
    known = project()["optional-dependencies"].keys()
    seen = 0
    for path in files:
        text = path.read_text()
        for found in re.finditer(WORDS, text):
            assert found["jax"], f"{path}: {found[0]} is another project's package"
            assert set(re.split(", ?", found["extras"])) <= known, f"{path}: {found[0]}"
            seen += 1
        assert not re.search(r"pip install ['\"]?entropix(?!-jax)", text), path
        for extras in re.findall(r"pip install (?:-e |--editable )?['\"]?\.\[([a-z,]+)\]", text):
            assert set(extras.split(",")) <= known, f"{path}: .[{extras}]"
    assert seen


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
    assert main(["measure", "mixture2", "--num-samples", "64", "--no-plots", "--quiet"]) == 0


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
    with pytest.raises(ImportError, match="needs") as caught:
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
    with pytest.raises(ImportError, match="needs") as caught:
        stream(np.eye(4) if source is None else source, batch_size=2)
    says(str(caught.value), module.partition(".")[0], extra)


def test_a_progress_bar(monkeypatch, getkey):
    monkeypatch.setitem(sys.modules, "tqdm", None)
    process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
    model = ex.ScoreMatching(ex.FourierMLP(2, key=getkey(), widths=(4,)), process)
    with pytest.raises(ImportError, match="tqdm") as caught:
        ex.fit(model, np.eye(4, 2), key=getkey(), steps=1, batch_size=2, progress=True)
    says(str(caught.value), "tqdm", "studies")
