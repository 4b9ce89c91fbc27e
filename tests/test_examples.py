"""Every example runs, at a small size, and shows what it claims."""

import importlib.util
from pathlib import Path

import pytest

from tests.studies.common import quick_compilation


EXAMPLES = Path(__file__).parents[1] / "examples"


def load_example(name):
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow
def test_quickstart(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    share = load_example("quickstart").main(out, steps=150, samples=512, evaluations=512)
    assert 0.5 < share < 1.1
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "S_NN" in capsys.readouterr().out


@pytest.mark.slow
def test_maxwell_demon(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    share = load_example("maxwell_demon").main(out, steps=150, samples=512, num_steps=48)
    assert 0.8 < share < 1.2
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "spent" in capsys.readouterr().out


@pytest.mark.slow
def test_double_well(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    ratios = load_example("double_well").main(out, samples=2000, num_steps=80)
    assert len(ratios) == 2
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values())
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "temperature 0.25" in capsys.readouterr().out


@pytest.mark.slow
def test_log_densities(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    errors = load_example("log_densities").main(out, samples=40, evaluations=64, pixels=12)
    assert errors["flow, exact"] < 1e-3
    assert all(error < 0.6 for error in errors.values())
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "slope is 2 " in capsys.readouterr().out


@pytest.mark.slow
def test_mutual_information(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    error = load_example("mutual_information").main(out, steps=150, samples=512, evaluations=1024)
    assert error < 0.5
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "denoising form" in capsys.readouterr().out


@pytest.mark.slow
def test_speed_accuracy(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    ratios = load_example("speed_accuracy").main(out, samples=200, num_steps=16, shifts=2)
    assert 0.9 < ratios["Gaussian OT"] < 1.1
    assert all(0 < ratios[name] < 0.95 for name in ("cosine", "rectified flow", "VP"))
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "Gaussian OT" in capsys.readouterr().out


@pytest.mark.slow
def test_schroedinger_bridge(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    result = load_example("schroedinger_bridge").main(out, steps=60, samples=512, iterations=1)
    for found, exact in result.values():
        assert 0.6 < found / exact < 1.5
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "entropy production" in capsys.readouterr().out


@pytest.mark.slow
def test_straight_flows(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    result = load_example("straight_flows").main(out, steps=100, samples=512, number=200)
    assert result["coupled"][0] < result["independent"][0]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "bending" in capsys.readouterr().out


@pytest.mark.slow
def test_schedule_optimisation(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    ratio = load_example("schedule_optimisation").main(out, steps=80, samples=64, knots=12)
    assert 0.999 < ratio < 1.05
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "squared length" in capsys.readouterr().out


@pytest.mark.slow
def test_transport_study(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    with quick_compilation():
        least, share = load_example("transport_study").main(
            out, epochs=(1, 3), samples=1024, evaluations=512, widths=(32,)
        )
    assert least > -3
    assert 0.05 < share < 1.1
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "L falls from one length of training" in capsys.readouterr().out


@pytest.mark.slow
def test_storage_digits(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    with quick_compilation():
        slope, error = load_example("storage_digits").main(
            out, sizes=(64, 256, 1024), steps=60, seeds=2, samples=20, widths=(32,)
        )
    assert abs(slope) < 10
    assert error > 0
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "S_NN = a + b log N" in capsys.readouterr().out


@pytest.mark.slow
def test_memorisation(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    found = load_example("memorisation").main(out, points=32, samples=100, stops=2)
    assert found["copies"][0] < 0.01  # memorised
    novelty, off = found["inertia update"]
    assert novelty > 0.02
    assert off < found["stopped"][1]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "off the circle" in capsys.readouterr().out


@pytest.mark.slow
def test_self_consuming(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    lost = load_example("self_consuming").main(out, n=32, count=2, seeds=(40, 2), steps=20)
    mean, error = lost["perfect", "replaced"]
    assert abs(mean - lost["exact"]) < 4 * error
    assert lost["perfect", "accumulated"][0] > mean
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "accumulated" in capsys.readouterr().out


@pytest.mark.slow
def test_subspace_dimension(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    found = load_example("subspace_dimension").main(out, dims=(2,), steps=300, samples=1024)
    for dim, (network, exact) in found.items():
        assert abs(exact - dim) < 0.1
        assert abs(network - dim) < 0.7
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "by the network" in capsys.readouterr().out


@pytest.mark.slow
def test_inverse_ising(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    errors = load_example("inverse_ising").main(out, many=1000, seeds=2, steps=(200,))
    assert errors["1000 true configurations"][0] < errors["100 configurations, prior"][0]
    assert min(errors["model"]) < errors["100 configurations"][0]
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "rms error" in capsys.readouterr().out


@pytest.mark.slow
def test_spectral_entropy(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    peaks = load_example("spectral_entropy").main(out, steps=150, samples=1024, points=80, num=5)
    assert 0 < peaks["entropy"] < 5
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "layer 3" in capsys.readouterr().out


@pytest.mark.slow
def test_own_network(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    sizes = {"steps": 150, "samples": 512, "evaluations": 512}
    entropy, distance = load_example("own_network").main(out, **sizes, beside=False).popitem()[1]
    assert 0.6 < entropy < 1.6
    assert distance < 0.3
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "plain function" in capsys.readouterr().out


@pytest.mark.slow
def test_multi_seed(tmp_path, capsys):
    pytest.importorskip("matplotlib")
    out = tmp_path / "figure.png"
    found = load_example("multi_seed").main(out, seeds=3, steps=(60,), samples=512)
    assert all(scatter > mc_stderr for _, scatter, mc_stderr in found.values())
    assert out.read_bytes().startswith(b"\x89PNG")
    assert "over seeds" in capsys.readouterr().out


def test_every_example_is_run():
    names = {path.stem for path in EXAMPLES.glob("*.py")}
    text = Path(__file__).read_text()
    assert names, "no examples found"
    missing = {name for name in names if f'load_example("{name}")' not in text}
    assert not missing
