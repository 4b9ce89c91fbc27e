"""Every example runs at a small size and shows what it claims."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest


EXAMPLES = Path(__file__).parents[1] / "examples"
NOTEBOOKS = EXAMPLES.parent / "docs" / "notebooks"


def bridge(result):
    assert all(0.6 < found / exact < 1.5 for found, exact in result.values())


def double_well(ratios):
    assert len(ratios) == 2
    assert all(0.85 < ratio < 1.15 for ratio in ratios.values())


def inverse_ising(errors):
    assert errors["1000 true configurations"][0] < errors["100 configurations, prior"][0]
    assert min(errors["model"]) < errors["100 configurations"][0]


def ising_discrete(found):
    assert abs(float(found["total entropy production"].sigmas_from(found["truth"]))) < 4
    assert float(found["neural entropy"].value) < 1.3 * found["truth"]
    assert all(abs(sum(share) - 1) < 1e-5 for share in found["shares"].values())


def log_densities(errors):
    assert errors["flow, exact"] < 1e-3
    assert all(error < 0.6 for error in errors.values())


def maxwell_demon(share):
    assert 0.8 < share < 1.2


def masked_text(found):
    assert found["markov"] == sorted(found["markov"], reverse=True)  # the text has structure
    assert 0 <= float(found["stored"].value) < float(found["bound"].value)


def memorisation(found):
    assert found["copies"][0] < 0.01  # memorised
    novelty, off = found["inertia update"]
    assert novelty > 0.02
    assert off < found["stopped"][1]


def multi_seed(found):
    assert all(scatter > mc_stderr for _, scatter, mc_stderr in found.values())


def mutual_information(error):
    assert error < 0.5


def where_information_is(classes):
    assert abs(classes[-1] - np.log(10)) < 0.1
    assert classes[0] < classes[-1] + 0.5


def own_network(found):
    entropy, distance = found.popitem()[1]
    assert 0.6 < entropy < 1.6
    assert distance < 0.3


def guidance_information(found):
    assert 0 < found[1.0] < found[2.0] < found[4.0]
    assert np.isfinite(found["label"])


def pretrained_unet(found):
    assert found.keys() == {"diffusers", "entropix"}
    assert np.isfinite(list(found.values())).all()


def quickstart(share):
    assert 0.5 < share < 1.1


def schedule_optimisation(ratio):
    assert 0.999 < ratio < 1.05


def self_consuming(lost):
    mean, error = lost["perfect", "replaced"]
    assert abs(mean - lost["exact"]) < 4 * error
    assert lost["perfect", "accumulated"][0] > mean


def spectral_entropy(peaks):
    assert 0 < peaks["entropy"] < 5


def speed_accuracy(ratios):
    assert 0.9 < ratios["Gaussian OT"] < 1.1
    assert 0 < ratios["cosine"] < 0.95


def storage_digits(found):
    slope, error = found
    assert abs(slope) < 10
    assert error > 0


def straight_flows(result):
    assert result["coupled"][0] < result["independent"][0]


def subspace_dimension(found):
    for dim, (network, exact) in found.items():
        assert abs(exact - dim) < 0.1
        assert abs(network - dim) < 0.7


def transport_study(found):
    least, share = found
    assert least > -3
    assert 0.05 < share < 1.1


# For each example: a check of its result, words that it must print, and its sizes here.
CASES = {
    "double_well": (double_well, "temperature 0.25", {"samples": 2000, "num_steps": 80}),
    "inverse_ising": (inverse_ising, "rms error", {"many": 1000, "seeds": 2, "steps": (200,)}),
    "ising_discrete": (
        ising_discrete,
        "neural entropy",
        {"steps": 100, "samples": 1000, "evaluations": 2048},
    ),
    "log_densities": (
        log_densities,
        "slope is 2 ",
        {"samples": 40, "evaluations": 64, "pixels": 12},
    ),
    "maxwell_demon": (maxwell_demon, "spent", {"steps": 150, "samples": 512, "num_steps": 48}),
    "masked_text": (
        masked_text,
        "bits per character",
        {"steps": 20, "evaluations": 1024, "held_out": 32},
    ),
    "memorisation": (memorisation, "off the circle", {"points": 32, "samples": 100, "stops": 2}),
    "multi_seed": (multi_seed, "over seeds", {"seeds": 3, "steps": (60,), "samples": 512}),
    "mutual_information": (
        mutual_information,
        "denoising form",
        {"steps": 150, "samples": 512, "evaluations": 1024},
    ),
    "own_network": (
        own_network,
        "plain function",
        {"steps": 150, "samples": 512, "evaluations": 512, "beside": False},
    ),
    "guidance_information": (
        guidance_information,
        "S_NN by class",
        {"steps": 30, "width": 32, "evaluations": 4096, "samples": 50},
    ),
    "where_information_is": (  # the same training
        where_information_is,
        "half of the class entropy",
        {"steps": 30, "width": 32, "evaluations": 4096},
    ),
    "pretrained_unet": (
        pretrained_unet,
        "bits per pixel",
        {"steps": 20, "widths": (8, 16), "evaluations": 512, "samples": 8},
    ),
    "quickstart": (quickstart, "S_NN", {"steps": 150, "samples": 512, "evaluations": 512}),
    "schedule_optimisation": (
        schedule_optimisation,
        "squared length",
        {"steps": 80, "samples": 64, "knots": 12},
    ),
    "schroedinger_bridge": (
        bridge,
        "entropy production",
        {"steps": 60, "samples": 512, "iterations": 1},
    ),
    "self_consuming": (
        self_consuming,
        "accumulated",
        {"n": 32, "count": 2, "seeds": (40, 2), "steps": 20},
    ),
    "spectral_entropy": (
        spectral_entropy,
        "layer 3",
        {"steps": 150, "samples": 1024, "points": 80, "num": 5},
    ),
    "speed_accuracy": (
        speed_accuracy,
        "Gaussian OT",
        {
            "samples": 200,
            "num_steps": 16,
            "shifts": 2,
            "names": ("Gaussian OT", "cosine"),  # more in transport/test_speed_accuracy.py
        },
    ),
    "storage_digits": (
        storage_digits,
        "S_NN = a + b log N",
        {"sizes": (64, 256, 1024), "steps": 60, "seeds": 1, "samples": 20, "widths": (32,)},
    ),
    "straight_flows": (straight_flows, "bending", {"steps": 100, "samples": 512, "number": 200}),
    "subspace_dimension": (
        subspace_dimension,
        "by the network",
        {"dims": (2,), "steps": 300, "samples": 1024},
    ),
    "transport_study": (
        transport_study,
        "L decreases from one length of training",
        {"epochs": (1, 3), "samples": 1024, "evaluations": 512, "widths": (32,)},
    ),
}

NEEDS = {"pretrained_unet": ("torch", "diffusers")}


@pytest.mark.slow  # each trains or compiles separately
@pytest.mark.parametrize("name", CASES)
def test_example(name, tmp_path, capsys):
    for package in ("matplotlib", *NEEDS.get(name, ())):
        pytest.importorskip(package)
    check, says, sizes = CASES[name]
    spec = importlib.util.spec_from_file_location(name, EXAMPLES / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    out = tmp_path / "figure.png"
    found = module.main(out, **sizes)
    check(found)
    assert out.read_bytes().startswith(b"\x89PNG")
    assert says in capsys.readouterr().out


@pytest.mark.slow  # each trains and compiles
@pytest.mark.parametrize("name", ["double_well"])
def test_notebook(name, capsys):
    """The cells of a notebook run from top to bottom, with the settings of its example here."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    _, says, sizes = CASES[name]
    cells = json.loads((NOTEBOOKS / f"{name}.ipynb").read_text())["cells"]
    sources = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    assert sources[0].splitlines()[-1].startswith("%pip install ")
    scope = {"__name__": "__main__"}
    given = 0
    for source in sources[1:]:
        exec(compile(source, f"{name}.ipynb", "exec"), scope)
        if source.startswith(tuple(f"{size} = " for size in sizes)):
            scope |= sizes
            given += 1
    assert given == 1
    assert pyplot.get_fignums(), "a notebook leaves its figure open, to be shown"
    pyplot.close("all")
    assert says in capsys.readouterr().out


def test_every_example_is_tested():
    assert {path.stem for path in EXAMPLES.glob("*.py")} == CASES.keys()
