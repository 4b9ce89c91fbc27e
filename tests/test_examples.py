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


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    text = Path(__file__).read_text()
    assert names, "no examples found"
    missing = {name for name in names if f'load_example("{name}")' not in text}
    assert not missing
