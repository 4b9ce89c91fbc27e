"""`measure` of tokens: baselines with known values, the split of texts, and a whole run."""

import itertools
import json
import pathlib

import numpy as np
import pytest
import xarray

import entropix as ex
from entropix.cli import main
from entropix.datasets import Dataset
from entropix.studies import (
    DataOptions,
    EstimationOptions,
    MeasureOptions,
    TrainingOptions,
    measure,
)
from entropix.studies.labels import LABEL_SCHEMA
from entropix.studies.record import TRAINING, definition
from entropix.studies.tokens import TOKEN_SCHEMA
from entropix.studies.tokens.baselines import (
    COMPRESSORS,
    baseline_names,
    markov_log_probs,
    measure_baselines,
)
from entropix.studies.tokens.data import split_tokens
from entropix.studies.tokens.figures import plot_baselines


LENGTH = 8
# Each letter is followed by the next one, or by itself with probability 1/4.
RATE = -(0.75 * np.log2(0.75) + 0.25 * np.log2(0.25))
FOLDER = "out"
WORDS = (
    "--steps 40 --patience 0 --batch-size 32 --num-draws 2 --network mlp "
    "--widths 16 --checkpoint-every 20 --learning-rate 0.01 --evaluations 512 "
    f"--density-evaluations 32 --samples 20 --sampling-steps 8 --quiet --out {FOLDER}"
).split()


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def chain(count, letters=5):
    """A Markov chain of first order, whose stationary law is uniform."""
    return np.cumsum(np.random.default_rng(0).random(count) < 0.75) % letters


def write_text(count=1600):
    pathlib.Path("text.txt").write_text("".join("abcde"[i] for i in chain(count)))


# ------------------------------------------------------------------ baselines


def test_markov_models_are_normalised():
    """Whatever the context, the probabilities of the next token sum to one, at every order."""
    texts = [chain(30, 3), chain(7, 4)]
    ends = np.array([[0, 1, 2, 0, k] for k in range(4)])
    p = np.exp(markov_log_probs(texts, ends, 4, 3)[..., -1])
    np.testing.assert_allclose(p.sum(axis=1), 1, rtol=1e-12)
    assert (p > 0).all()
    # By hand: after the context (0,), token k follows n times in the texts, u of them differ.
    after = [b for text in texts for a, b in itertools.pairwise(text) if a == 0]
    counts = np.bincount(after, minlength=4)
    different = (counts > 0).sum()
    expected = (counts + different * p[1]) / (counts.sum() + different)
    np.testing.assert_allclose(p[2], expected, rtol=1e-12)


def test_baselines_of_a_markov_chain():
    """From order 1 on the entropy rate, before it ln K; the marginals are uniform."""
    data = split_tokens(Dataset.from_tokens(chain(60_000), length=20), DataOptions())
    found = measure_baselines(data, len(data.held_out))
    bits = dict(zip(baseline_names(data), found["baseline_bits"], strict=True))
    start = (np.log2(5) - RATE) / 20  # the first token of a window has none before it
    assert bits["uniform"] == pytest.approx(np.log2(5), rel=1e-12)
    for name in ("marginals", "Markov, order 0"):
        assert bits[name] == pytest.approx(np.log2(5), rel=0.01)
    error = found["baseline_bits_stderr"][3]
    assert abs(bits["Markov, order 1"] - RATE - start) < 4 * error
    assert bits["Markov, order 4"] == pytest.approx(bits["Markov, order 1"], rel=0.02)
    packed = dict(zip(COMPRESSORS, found["compressed_bits"], strict=True))
    assert RATE < packed["xz"] < packed["gzip"] < 2 * RATE


# ------------------------------------------------------------------ data


def test_no_text_is_on_both_sides():
    """Every token is different, so that a window at any offset would be recognised."""
    tokens = np.arange(512)
    data = Dataset.from_tokens(tokens, length=4)
    for fraction in (0.2, 0.02, 0.9):
        split = split_tokens(data, DataOptions(held_out=fraction))
        assert not np.intersect1d(split.augmented, split.held_out).size
        assert split.held_out.size + split.train.size == tokens.size
        assert len(split.held_out_texts) <= 4
        steps = np.diff(split.augmented, axis=1)
        assert (steps == 1).all()  # within a text
        assert split.leaked[0] == 0
    assert len(split_tokens(data, DataOptions()).augmented) > 3 * len(split.train)
    repeated = Dataset.from_tokens(chain(400, 2) * 0 + np.arange(400) % 3, length=4)
    split = split_tokens(repeated, DataOptions())
    assert split.leaked == (len(split.held_out),) * 2


def test_the_bars_of_the_baselines_are_named(tmp_path, monkeypatch):
    values = {"bits_per_token": ("seed", [2.0]), "baseline_bits": ("baseline", [3.0])}
    record = xarray.Dataset(
        values | {"compressed_bits": ("compressor", [1.0])},
        {"baseline": ["uniform"], "compressor": ["gzip"]},
    )
    drawn = []
    monkeypatch.setattr("matplotlib.axes.Axes.barh", lambda _, *bars, **__: drawn.extend(bars))
    plot_baselines(record, tmp_path / "bars.png")
    assert [list(part) for part in drawn] == [["the model", "uniform", "gzip"], [2.0, 3.0, 1.0]]


# ------------------------------------------------------------------ the whole


@pytest.mark.slow  # trains a transformer, and measures
def test_a_text_is_measured():
    write_text()
    words = ["--tokens", "char", "--length", str(LENGTH), *WORDS]
    assert main(["measure", "text.txt", *words]) == 0
    folder = pathlib.Path(FOLDER)
    figures = {f"{name}.png" for name in ("entropy", "information", "baselines", "loss")}
    other = {"model-0.eqx", "results.nc", "report.md", "configuration.json", "training.ckpt"}
    assert {p.name for p in folder.iterdir()} - {".lock"} == figures | other
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as record:
        measured = {n for n in record.data_vars if not n.endswith("_stderr")}
        assert measured == TOKEN_SCHEMA.keys() - LABEL_SCHEMA.keys()
        for name, variable in record.data_vars.items():
            dims, unit, meaning = definition(TOKEN_SCHEMA, name)
            assert variable.dims == dims
            assert variable.attrs == {"units": unit, "long_name": meaning}
            assert np.isfinite(variable).all()
        per_token = 1 / (LENGTH * np.log(2))
        for nats, bits in (
            ("neural_entropy", "neural_entropy_bits"),
            ("negative_log_likelihood", "bits_per_token"),
        ):
            np.testing.assert_allclose(record[bits], record[nats] * per_token, rtol=1e-5)
        np.testing.assert_allclose(record["perplexity"], 2 ** record["bits_per_token"], rtol=1e-5)
        # The curve is that of S_NN, and the parts are too.
        total, error = (record[f"neural_entropy{s}"].item() for s in ("", "_mc_stderr"))
        np.testing.assert_allclose(record["cumulative_entropy"][0, -1], total, rtol=1e-4)
        mean = float(record["token_information"].values[0, 1:-1].mean()) / per_token
        assert abs(mean - total) < 0.2 * total
        parts = record["position_entropy"]
        spread = float(np.hypot(error, record["position_entropy_mc_stderr"].sum()))
        assert abs(float(parts.sum()) - total) < 4 * spread
        assert record["samples"].shape == (1, 20, LENGTH)
        assert set(np.unique(record["samples"])) <= set(range(5))
        assert "gaussian" not in " ".join(record.data_vars)
        verdict = json.loads(record.attrs["verdict"])
        assert verdict[-1] in ("worse than a baseline", "no better than a baseline")
        assert "Markov, order" in record.attrs["verdict_text"]
    report = (folder / "report.md").read_text()
    for text in ("| Markov, order 1 |", "| xz |", '| sample | "', "bits per token", "four blocks"):
        assert text in report


@pytest.mark.slow(reason="trains and measures, then measures again")
def test_a_saved_model_is_measured(capsys):
    """The same numbers as those of the study that trained it; other tokens are refused."""
    write_text()
    words = ["--tokens", "char", "--length", str(LENGTH), *WORDS]
    assert main(["measure", "text.txt", *words]) == 0
    model = ex.load(f"{FOLDER}/model-0.eqx")
    assert model.vocabulary == tuple("abcde")
    assert model.with_process(model.process).vocabulary == model.vocabulary
    asked = ["--model", f"{FOLDER}/model-0.eqx", *words[:4], *words[words.index("--evaluations") :]]
    asked[-1] = "again"
    assert main(["measure", "text.txt", *asked]) == 0
    first, again = (
        xarray.load_dataset(f"{name}/results.nc", engine="h5netcdf") for name in (FOLDER, "again")
    )
    for name in TOKEN_SCHEMA.keys() - TRAINING.keys() - LABEL_SCHEMA.keys():
        np.testing.assert_array_equal(again[name], first[name], err_msg=name)
    assert "Nothing was trained" in pathlib.Path("again/report.md").read_text()
    pathlib.Path("more.txt").write_text(pathlib.Path("text.txt").read_text() + "XY" * 20)
    errors = {
        "more.txt": "got 5 names without 'X', 'Y': replace these tokens",
        "text.txt --length 4": "shape of the data, (4,), got one of (8,): length=8 (--length 8)",
        "text.txt --steps 9": "`steps` must be omitted together with `model`",
        "text.txt --model-range 0 1": "`model_range` must be left out for tokens",
    }
    capsys.readouterr()
    for command, message in errors.items():
        assert main(["measure", *asked[:-1], "other", *command.split()]) == 2
        assert message in capsys.readouterr().err
    assert main(["measure", "mixture2", *asked[:2]]) == 2
    assert "`model` must be one of numbers for data of numbers" in capsys.readouterr().err


@pytest.mark.slow(reason="trains networks twice")
def test_images_of_tokens_under_both_processes():
    """A run that is resumed gives the same numbers; labels, and samples of images as a figure."""
    images = np.random.default_rng(0).integers(0, 3, (200, 2, 1)).repeat(4, axis=2)
    np.savez("images.npz", images=images, kind=images[:, 0, 0] == 0)
    words = [*WORDS, "--tokens", "int", "--process", "uniform-jumps", "--condition", "kind"]
    assert main(["measure", "images.npz", *words]) == 0
    with xarray.open_dataset("out/results.nc", engine="h5netcdf") as record:
        first = record.load()
    assert main(["measure", "images.npz", *words, "--resume"]) == 0
    with xarray.open_dataset("out/results.nc", engine="h5netcdf") as record:
        for name in ("neural_entropy", *LABEL_SCHEMA):
            np.testing.assert_array_equal(record[name], first[name])
    share = np.mean(images[:, 0, 0] == 0)
    entropy = -share * np.log(share) - (1 - share) * np.log(1 - share)
    assert first["label_entropy"].item() == pytest.approx(entropy, rel=1e-5)
    assert first["mutual_information"].item() < 4 * first["mutual_information_stderr"] + entropy
    assert "| H(label) |" in pathlib.Path("out/report.md").read_text()
    assert first.attrs["process"] == "uniform-jumps"
    assert pathlib.Path("out/samples.png").exists()


@pytest.mark.slow(reason="trains a network")
def test_a_markov_chain_is_learnt():
    """S_NN is D (ln K - rate) up to the first token, and the bound that of the chain."""
    data = Dataset.from_tokens(chain(40_000), length=LENGTH)
    training = TrainingOptions(widths=(128, 128), steps=2000)
    effort = EstimationOptions(evaluations=8192, samples=256, density_evaluations=64)
    record = measure(data, MeasureOptions(training=training, estimation=effort))
    entropy, uniform = (LENGTH - 1) * RATE + np.log2(5), LENGTH * np.log2(5)
    bits, stored = (
        record[name].item() / np.log(2) for name in ("negative_log_likelihood", "neural_entropy")
    )
    error = record["negative_log_likelihood_stderr"].item() / np.log(2)
    assert entropy - 4 * error < bits < 1.05 * entropy
    assert stored == pytest.approx(uniform - entropy, rel=0.05)
    assert bits + stored == pytest.approx(uniform, rel=0.03)


# ------------------------------------------------------------------ what is refused

REFUSED = {
    "--standardise global": "`standardise` must be left out for tokens",
    "--components 2": "`components` must be left out for tokens",
    "--no-dequantise": "`dequantise` must be left out for tokens",
    "--cutoff 0.1": "`cutoff` must be left out for tokens",
    "--kappa 0.1": "`kappa` must be left out for tokens",
    "--gaussian yes": "`gaussian` must be left out for tokens",
    "--process vp": "`process` must be one of 'auto', 'masking', 'uniform-jumps', got 'vp'",
    "--network unet": "`network` must be one of",
    "--network transformer --widths 16": "`widths` must be omitted",
    "--condition labels": "`labels` must be None for text",
    "--kind image": "`kind` must be None for text",
    "--held-out 1": "`held_out` must be a fraction",
}


@pytest.mark.parametrize("words", REFUSED)
def test_refused_options(capsys, words):
    write_text(200)
    assert main(["measure", "text.txt", "--tokens", "char", "--length", "8", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert REFUSED[words] in err
    assert not pathlib.Path("entropix-text").exists()


@pytest.mark.parametrize("command", ["schedule", "divergence", "mutual-information"])
def test_other_commands_take_numbers(capsys, command):
    letters = "".join("ACGT"[i] for i in chain(400, 4))
    pathlib.Path("genome.fa").write_text(f">a\n{letters}\n")
    sources = ["genome.fa"] * (1 + (command in ("divergence", "mutual-information")))
    assert main([command, *sources]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "`source` must hold numbers, got tokens for 'genome'" in err


def test_numbers_take_no_jumps(capsys):
    assert main(["measure", "mixture2", "--process", "masking"]) == 2
    assert "`process` must be one of diffusion for data of numbers" in capsys.readouterr().err
