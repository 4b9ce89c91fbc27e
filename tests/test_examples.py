"""Every example runs, at a small size, and shows what it claims."""

import importlib.util
from pathlib import Path

import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_quickstart(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    share = load_example("quickstart").main(out, steps=150, samples=512, evaluations=512)
    assert 0.5 < share < 1.1
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "S_NN" in capsys.readouterr().out


def test_maxwell_demon(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    share = load_example("maxwell_demon").main(out, steps=150, samples=512, num_steps=48)
    assert 0.8 < share < 1.2
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "spent" in capsys.readouterr().out


def test_double_well(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    ratios = load_example("double_well").main(out, samples=2000, num_steps=80)
    assert len(ratios) == 2
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values())
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "temperature 0.25" in capsys.readouterr().out


def test_mutual_information(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    error = load_example("mutual_information").main(out, steps=150, samples=512, evaluations=1024)
    assert error < 0.5
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "denoising form" in capsys.readouterr().out


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    text = Path(__file__).read_text()
    assert names, "no examples found"
    missing = {name for name in names if f'load_example("{name}")' not in text}
    assert not missing
