"""What a time budget allows, and that a resumed run keeps it."""

import dataclasses
import json
import time

import numpy as np
import pytest

from entropix.datasets import Dataset
from entropix.studies import (
    BudgetOptions,
    DataOptions,
    EstimationOptions,
    MeasureOptions,
    OutputOptions,
    ProcessOptions,
    TrainingOptions,
    budget,
    measure,
    prepare_measure,
)
from entropix.studies.budget import Pace, Work, planned, reduced, resumed_plan
from entropix.studies.data import prepare_data
from entropix.studies.folder import CONFIGURATION
from entropix.studies.training import checked_training, make_process
from tests.studies.common import ESTIMATION, TRAINING


POINTS = np.random.default_rng(0).normal(size=(8000, 2)).astype(np.float32)
PROCESS = make_process(ProcessOptions())


@pytest.fixture(scope="module")
def data():
    return prepare_data(Dataset.from_array(POINTS, name="case", kind="points"), DataOptions())


def plan(data, pace, minutes, effort=EstimationOptions(), **training):
    settings = checked_training(TrainingOptions(**training), data, PROCESS)
    now = time.perf_counter()
    return planned(pace, settings, effort, minutes, Work.of(data), patience=None, since=now)


@pytest.mark.parametrize("minutes", [2.0, 10.0, 60.0])
@pytest.mark.parametrize("evaluation", [1e-6, 1e-3])
def test_the_expected_time_is_the_budget_less_a_reserve(data, minutes, evaluation):
    pace = Pace(compilation=5.0, step=0.2, evaluation=evaluation)
    found = plan(data, pace, minutes)
    expected = sum(found.expected)
    assert 0.8 * 60 * minutes < expected <= 0.95 * 60 * minutes
    assert found.settings.steps * pace.step == pytest.approx(found.expected[0])
    assert found.settings.patience == found.settings.steps // 4
    if evaluation > 1e-4:
        # A third of what is left after compilation and figures, and never more than asked for.
        assert found.expected[1] < max(0.34 * 60 * minutes + 40, 90)
        assert found.effort.evaluations < 65_536


def test_a_fast_machine_stops_after_enough_passes(data):
    found = plan(data, Pace(1.0, 1e-5, 1e-9), 60.0)
    assert found.settings.steps == 2000 * 6400 // 128
    assert found.effort == EstimationOptions()


def test_without_a_budget_nothing_changes(data):
    found = plan(data, Pace(1.0, 1.0, 1.0), None)
    assert (found.settings.steps, found.effort) == (6000, EstimationOptions())
    assert found.expected[0] == 6000
    assert found.deadline is None
    assert found.configuration(None) == {}
    assert "of training" in found.attributes()["expected_text"]


def test_what_is_asked_for_is_not_reduced():
    effort = reduced(EstimationOptions(samples=500), 0.25)
    assert (effort.samples, effort.evaluations, effort.density_evaluations) == (500, 16384, 128)
    least = reduced(EstimationOptions(), 0.0)
    assert (least.evaluations, least.samples, least.sampling_steps) == (4096, 64, 50)
    assert reduced(EstimationOptions(), 2.0) == EstimationOptions()


def test_a_resumed_run_keeps_what_was_planned(data):
    found = plan(data, Pace(5.0, 0.2, 1e-3), 10.0)
    stored = json.loads(json.dumps(dataclasses.asdict(found.settings) | found.configuration(10.0)))
    other = checked_training(TrainingOptions(), data, PROCESS)
    again = resumed_plan(other, EstimationOptions(), stored)
    assert (again.settings, again.effort) == (found.settings, found.effort)
    assert resumed_plan(other, EstimationOptions(), {}).settings == other


def request(out, **options):
    limit = BudgetOptions(minutes=options.pop("minutes", None))
    output = OutputOptions(out=str(out), quiet=True, plots=False, **options.pop("output", {}))
    training = dataclasses.replace(TRAINING, **{"steps": None} | options)
    return MeasureOptions(training=training, output=output, estimation=ESTIMATION, budget=limit)


@pytest.mark.parametrize(
    ("name", "options"),
    [("minutes", {"minutes": -1.0}), ("steps", {"minutes": 1.0, "steps": 10})],
)
def test_what_does_not_fit_is_refused(tmp_path, name, options):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        prepare_measure(Dataset(POINTS[:160], "case"), request(tmp_path / "out", **options))
    assert not (tmp_path / "out").exists()


@pytest.mark.slow(reason="times, trains and measures")
def test_a_budget_is_kept_and_survives_an_interruption(tmp_path, monkeypatch):
    monkeypatch.setattr(budget, "_IMPORTS", 0.0)
    monkeypatch.setattr(budget, "_REST", 1.0)  # no figures
    began = time.process_time()  # does not depend on what else the machine does
    data, out = Dataset(POINTS[:160], "case"), tmp_path / "out"
    record = measure(data, request(out, minutes=0.25))
    assert time.process_time() - began < 60
    stored = json.loads((out / CONFIGURATION).read_text())
    assert stored["minutes"] == 0.25
    assert record.sizes["step"] <= stored["steps"]
    again = measure(data, request(out, minutes=0.25, output={"resume": True}))
    taken = record.sizes["step"]  # on a busy machine the deadline ends the first run
    np.testing.assert_array_equal(again["loss"][:, :taken], record["loss"])
