"""Transport: the triangle inequality and its error, the mixtures, and what is refused."""

import dataclasses
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from entropix.cli import main
from entropix.distributions import Gaussian
from entropix.interfaces import Estimate
from entropix.models import ExactModel
from entropix.networks import PaperMLP
from entropix.processes import StraightLine
from entropix.studies.options import OutputOptions
from entropix.studies.paper import measured
from entropix.studies.training import Training
from entropix.studies.transport import (
    MixtureOptions,
    TransportEstimation,
    TransportOptions,
    TransportTraining,
    prepare_transport,
    transport,
)
from entropix.studies.transport.measurement import gap
from entropix.studies.transport.mixtures import choose_mixtures, drawn_mixture, read_mixtures
from tests.helpers import paper_mixture


def estimate(value, error=0.0):
    """One number for each of several seeds."""
    value = jnp.atleast_1d(jnp.asarray(value))
    return Estimate(value, jnp.full_like(value, 10 * error), jnp.full_like(value, error))


@pytest.mark.parametrize("c", [0.0, 0.5, 1.0, 1.5])
def test_fields_in_proportion_leave_no_gap(x64, c):
    """e = c e*: S_NN = c^2 S_tot, L = (1 - c)^2 S_tot."""
    total = 7.0
    value, _ = gap(estimate(c**2 * total), estimate(total), estimate((1 - c) ** 2 * total))
    np.testing.assert_allclose(value, 0.0, atol=1e-7)


def test_the_error_of_a_gap_is_honest(x64):
    rng = np.random.default_rng(0)
    truth, errors = np.array([200.0, 220.0, 3.0]), np.array([0.3, 0.2, 0.1])
    draws = truth + errors * rng.normal(size=(2000, 3))
    values, reported = gap(*(estimate(draws[:, i], errors[i]) for i in range(3)))
    exact = np.sqrt(3.0) - (np.sqrt(220.0) - np.sqrt(200.0))
    assert 0.8 < values.std() / reported.mean() < 1.25
    assert abs(values.mean() - exact) < 4 * values.std() / np.sqrt(len(values))


def test_mixtures_are_embedded_or_drawn_or_read(tmp_path):
    found, sources = choose_mixtures((2, 6, 9), None, 0, ())
    np.testing.assert_array_equal(found[2].means, paper_mixture(2).means)
    assert sources == {2: "paper", 6: "paper", 9: "drawn with seed 0"}
    # The differential entropy of the mixture in six dimensions is 8.40947.
    points = found[6].sample(20_000, key=jax.random.key(0))
    surprise = -np.asarray(found[6].log_prob(points))
    assert abs(surprise.mean() - 8.40947) < 4 * surprise.std() / np.sqrt(20_000)
    assert found[9].means.shape == (5, 9)
    np.testing.assert_array_equal(found[9].means, drawn_mixture(9, 0).means)
    assert not np.allclose(found[9].means, drawn_mixture(9, 1).means)

    file = tmp_path / "mixtures.json"
    given = {"weights": [1, 3], "means": [[0.0], [2.0]], "stds": [0.5, 1.0], "S_tot": 1.0}
    file.write_text(json.dumps({"about": "two", "1": given}))
    found, sources = choose_mixtures((), str(file), 0, (2, 3))
    assert list(found) == [1]
    np.testing.assert_allclose(found[1].weights, [0.25, 0.75], rtol=1e-6)
    np.testing.assert_array_equal(found[1].stds, [[0.5], [1.0]])
    with pytest.raises(ValueError, match=r"`dimensions` must be among those of .*, 1, got 3"):
        choose_mixtures((3,), str(file), 0, ())
    with pytest.raises(ValueError, match=r"`mixture_seed` must be left out .* dimensions 2, 3 are"):
        choose_mixtures((2, 3), None, 1, ())


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("{", "`mixtures` must be a JSON file"),
        ("[]", "under the name of each dimension"),
        ('{"2": {"weights": [1]}}', "`mixtures` must hold weights, means and stds of dimension 2"),
        ('{"2": {"weights": [1], "means": [[0]], "stds": [[1]]}}', "means of shape (K, 2)"),
        ('{"1": {"weights": [-1], "means": [[0]], "stds": [[1]]}}', "`weights` must be positive"),
    ],
)
def test_a_file_that_is_no_mixture_is_refused(tmp_path, content, says):
    file = tmp_path / "mixtures.json"
    file.write_text(content)
    with pytest.raises(ValueError, match="`") as error:
        read_mixtures(str(file))
    assert says in str(error.value)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("--processes ve", "ve"),
        ("--processes", "`processes` must name"),
        ("--epochs 0", "`epochs` must be"),
        ("--dimensions 0", "`dimensions` must be"),
        ("--seeds 0", "`seeds` must be"),
        ("--num-samples 16", "`batch_size` must be at most `num_samples`"),
        ("--evaluations 10", "`evaluations` must be"),
        ("--learning-rate 0", "`learning_rate` must be positive"),
        ("--mixtures none.json", "none.json"),
        ("--resume --overwrite", "`overwrite` must not be given"),
        ("--paper --best", "`best` must be left out with `paper`"),
        ("--paper --learning-rate 1e-3", "`learning_rate` must be left out with `paper`"),
        ("--paper --full", "`full` must be left out with `paper`"),
        ("--best --full", "`full` must be left out with `best`"),
    ],
)
def test_bad_requests_end_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["transport", *words.split()]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not list(pathlib.Path().iterdir())


def asked(out, **training):
    return TransportOptions(
        mixtures=MixtureOptions(dimensions=(3,), num_samples=96),
        training=TransportTraining(epochs=(1, 2), seeds=1, **training),
        estimation=TransportEstimation(evaluations=256),
        output=OutputOptions(out=str(out), quiet=True, plots=False),
    )


def test_the_settings_of_the_paper(tmp_path):
    whole = TransportOptions(
        training=TransportTraining(paper=True), output=OutputOptions(out=str(tmp_path / "paper"))
    )
    study = prepare_transport(whole)
    assert list(study.mixtures) == [3, 6]
    assert list(study.processes) == ["vp", "vpx", "sl"]
    assert study.epochs == (5, 10, 20, 30, 40, 80, 120, 160, 200)
    expected = Training((1, 7, 17, 23), 32, 10, 1e-4, 500, plain=True)
    assert dataclasses.asdict(study.training) == dataclasses.asdict(expected)
    assert study.grid["D6-vpx-200-epochs"].steps == 200 * 8192 // 32
    assert set(study.runs.values()) == {f"D{d}-{p}" for d in (3, 6) for p in ("vp", "vpx", "sl")}
    assert tuple(len(points) for points in study.samples(3)) == (8192, 10_000)
    cell = study.grid["D3-vpx-5-epochs"]
    model = jax.eval_shape(study.make_model(cell, np.zeros((2, 3))), jax.random.key(0))
    assert model.scaling is None
    assert isinstance(model.network, PaperMLP)
    loss, rate = study.training.objective(study.processes["vpx"])
    assert (loss.weighting, loss.antithetic, loss.num_draws) == ("uniform", False, 10)
    assert "learning_rate" not in rate

    best = dataclasses.replace(whole, training=TransportTraining(best=True, processes=("vp",)))
    best = dataclasses.replace(best, output=OutputOptions(out=str(tmp_path / "best")))
    other = prepare_transport(best)
    assert {name: other.cells[name] for name in other.cells} == {
        name: steps for name, steps in study.cells.items() if "-vp-" in name
    }
    assert other.runs is None
    assert not other.training.plain


def test_sl_is_measured_as_its_equal_in_log_snr():
    """Up to s = 0.99: the entropy of the exact model lacks what is left there."""
    exact = ExactModel(Gaussian([0.5], [[1.0]]), StraightLine(0.1))
    shorter = measured(exact)
    s = jnp.asarray(0.3)
    same = shorter.process.time_of_log_snr(exact.process.log_snr(s))
    for name in ("scale", "std"):
        there, here = (getattr(m.process, name) for m in (shorter, exact))
        np.testing.assert_allclose(there(same), here(s), rtol=1e-5)
    np.testing.assert_allclose(
        shorter.process.log_snr(shorter.process.t1), exact.process.log_snr(0.99), rtol=1e-4
    )


@pytest.mark.slow(reason="trains networks of the paper")
def test_lengths_along_one_run_are_those_of_separate_runs(tmp_path):
    """Interrupted or not; and SL has finite entropies."""
    record = transport(asked(tmp_path / "both", paper=True, processes=("vpx", "sl")))
    assert np.isfinite(record["neural_entropy"]).all()
    assert record["loss"].dims == ("dimension", "process", "epochs", "seed")
    single = asked(tmp_path / "one", paper=True, processes=("vpx",))
    training = dataclasses.replace(single.training, epochs=(2,))
    one = transport(dataclasses.replace(single, training=training))
    for name in ("neural_entropy", "path_kl", "loss"):
        both = record[name].sel(process="vpx", epochs=2).values
        np.testing.assert_array_equal(both, one[name].values[:, 0, 0])
    assert not list((tmp_path / "both" / "cells").glob("*.ckpt"))
    assert "0.97, 0.92 and 0.85" in (tmp_path / "both" / "report.md").read_text()
