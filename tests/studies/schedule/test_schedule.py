"""The whole of a study of schedules, small: what is recorded, written and refused."""

import pathlib

import numpy as np
import pytest
import xarray

import entropix as ex
from entropix.cli import main
from entropix.studies import DataOptions, OutputOptions, TrainingOptions
from entropix.studies.record import definition
from entropix.studies.schedule import ComparisonOptions, ScheduleOptions, SearchOptions, schedule
from entropix.studies.schedule.report import compare, excess
from entropix.studies.schedule.study import SCHEMA


HAND_MADE = ["linear", "cosine", "straight-line", "rectified-flow", "edm"]
RETRAINED = {name for name in SCHEMA if name.startswith("retrained")}


def options(
    out, *, objectives=("action", "sampler"), seeds=2, plots=False, data=None, **comparison
):
    """Small options, writing to `out`."""
    return ScheduleOptions(
        data=DataOptions(**({"num_samples": 200} if data is None else data)),
        search=SearchOptions(objectives, iterations=3, knots=16, target_steps=3),
        comparison=ComparisonOptions(
            **{"steps_compared": (3,), "samples": 24, "evaluations": 100, **comparison}
        ),
        training=TrainingOptions(seeds=seeds, steps=20, batch_size=16, widths=(8,)),
        output=OutputOptions(out=str(out), quiet=True, plots=plots),
    )


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """The record of a mixture, as read back from its file, and the folder."""
    folder = tmp_path_factory.mktemp("mixture") / "out"
    schedule("mixture2", options(folder, plots=True))
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as record:
        yield record.load(), folder


@pytest.mark.slow
def test_the_record_is_labelled(mixture):
    record, _ = mixture
    assert set(record.data_vars) == SCHEMA.keys() - RETRAINED | {"action_stderr"}
    for name, variable in record.data_vars.items():
        dims, unit, meaning = definition(SCHEMA, name)
        assert variable.dims == dims
        assert variable.attrs == {"units": unit, "long_name": meaning}
        assert not np.isnan(variable).any()
    assert record["schedule"].values.tolist() == ["action", "sampler", *HAND_MADE]
    assert record["steps"].values.tolist() == [3]
    assert record["wasserstein2"].shape == (7, 1, 2)
    assert record.attrs["model"] == "exact"


@pytest.mark.slow
def test_the_action_found_is_the_square_of_the_length(mixture):
    """At constant speed; the linear schedule goes the same way, at a price."""
    record, _ = mixture
    found = record.sel(schedule="action")
    np.testing.assert_allclose(found["action"], found["length"] ** 2, rtol=0.01)
    others = record["action"].sel(schedule=HAND_MADE)
    assert (found["action"] < others).all()


@pytest.mark.slow
def test_distances_to_many_steps_bound_those_of_samples(mixture):
    """W2 is a metric, and the samples are coupled by their noise."""
    record, _ = mixture
    gap = np.abs(record["wasserstein2"] - record["wasserstein2_limit"])
    assert (gap <= record["sampler_error"] * (1 + 1e-4) + 1e-5).all()


@pytest.mark.slow
def test_a_comparison_is_paired_by_seed(mixture):
    record, _ = mixture
    for comparison in compare(record, "sampler"):
        assert comparison.best in HAND_MADE
        more = excess(record).sel(steps=comparison.steps)
        gains = (more.sel(schedule=comparison.best) - more.sel(schedule="sampler")).values
        np.testing.assert_allclose(comparison.gain, gains.mean(), rtol=1e-6)
        np.testing.assert_allclose(comparison.stderr, gains.std(ddof=1) / 2**0.5, rtol=1e-6)


@pytest.mark.slow
def test_everything_is_written(mixture):
    _, folder = mixture
    names = {p.name for p in folder.iterdir()} - {".lock"}
    figures = {"schedules.png", "prices.png", "steps.png"}
    schedules = {f"schedule-{o}-{s}.eqx" for o in ("action", "sampler") for s in (0, 1)}
    assert names == figures | schedules | {"results.nc", "report.md", "configuration.json"}
    report = (folder / "report.md").read_text()
    for text in ("kinetic action", "rectified flow", "optimised: sampler", "(steps.png)"):
        assert text.lower() in report.lower()
    process = ex.load(folder / "schedule-sampler-1.eqx")
    assert isinstance(process, ex.VariancePreserving)
    assert isinstance(process.schedule, ex.MonotoneSchedule)


@pytest.mark.slow
def test_networks_are_trained_again_in_principal_components(tmp_path):
    """Digits, ten components: no exact model, and two schedules compared in training."""
    small = {"objectives": ("action",), "seeds": 1, "data": {"components": 10}}
    record = schedule("digits", options(tmp_path / "out", train=True, **small))
    assert record.attrs["components"] == 10
    assert 0.7 < record.attrs["explained_variance"] < 0.8
    assert record.attrs["model"] == "trained"
    assert record["training"].values.tolist() == ["linear", "action"]
    known = {name for name in record.data_vars if not str(name).endswith("_stderr")}
    assert known == SCHEMA.keys() - {"retrained_path_kl"}
    assert isinstance(ex.load(tmp_path / "out" / "model-0.eqx"), ex.EntropyMatching)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["mixture2", "--objective", "beauty"], "beauty"),
        (["mixture2", "--objective"], "objective"),
        (["mixture2", "--process", "rectified-flow"], "`process` must have an equilibrium"),
        (["mixture2", "--steps-compared", "1"], "`steps_compared`"),
        (["mixture2", "--iterations", "0"], "`iterations`"),
        (["mixture2", "--model", "exact", "--train"], "`model` must be auto or trained"),
        (["digits", "--model", "exact"], "`model` must be auto or trained"),
        (["digits", "--components", "65"], "`components` must be at most 64"),
        (["nothing.npy"], "nothing.npy"),
    ],
)
def test_bad_requests_end_in_one_line(words, says, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["schedule", *words]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err
    assert not list(pathlib.Path().iterdir())
