"""The whole of a measurement, small: what is recorded, that it is right, and that it can resume."""

import errno
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import threading
import time

import jax
import numpy as np
import pytest
import xarray

import entropix as ex
import entropix.persistence.checkpoint
from entropix.cli import main
from entropix.persistence import read_archive
from entropix.studies import SCHEMA, measure, prepare_measure
from entropix.studies.folder import CHECKPOINT, CONFIGURATION
from entropix.studies.record import definition
from entropix.studies.training import Training
from tests.studies.common import (
    NUM_SAMPLES,
    WORDS,
    options,
)


HELD_OUT = NUM_SAMPLES // 5
NEEDS_CUTOFF = {"entropy_slope"}
NEEDS_LEVELS = {name for name in SCHEMA if name.startswith("bits_per_dim")}
OF_IMAGES = {name for name in SCHEMA if name.startswith("scale")}
_LABELS = ("mutual_information", "label_entropy", "class_", "half_class")
OF_LABELS = {name for name in SCHEMA if name.startswith(_LABELS)}
# The names of the columns label an axis.
OPTIONAL = NEEDS_CUTOFF | NEEDS_LEVELS | OF_IMAGES | {"coordinate"}


# Threads that compiled a program after the training of `mixture`.
COMPILED = []


def _listen(event, duration_secs, **_):
    if event == "/jax/core/compile/backend_compile_duration":
        COMPILED.append(threading.current_thread().name)


@pytest.fixture(scope="module")
def mixture(tmp_path_factory):
    """A record of two seeds on data whose truth is known, as read back from its file."""
    folder, fit = tmp_path_factory.mktemp("mixture") / "out", Training.fit

    def fit_and_wait(*args, **kwargs):
        result = fit(*args, **kwargs)
        for thread in threading.enumerate():
            if thread.name == "compiles ahead":
                thread.join()
        jax.monitoring.register_event_duration_secs_listener(_listen)
        return result

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Training, "fit", fit_and_wait)
        measure("mixture2", options(folder, training={"seeds": 2}, output={"plots": True}))
    jax.monitoring.unregister_event_duration_listener(_listen)
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as record:
        yield record.load()


def test_programs_are_compiled_beside_the_training(mixture):
    """All of more than fifty, but a few that concern the trained models alone."""
    del mixture
    assert len(COMPILED) < 8


# ------------------------------------------------------------------ what is recorded


def without_errors(record):
    """The variables that are not the standard error of another one."""
    return {name for name in record.data_vars if not str(name).endswith("_stderr")}


def test_the_record_is_its_schema(mixture):
    assert without_errors(mixture) == SCHEMA.keys() - OPTIONAL - OF_LABELS
    for name, variable in mixture.data_vars.items():
        dims, unit, meaning = definition(SCHEMA, name)
        assert variable.dims == dims
        assert variable.attrs == {"units": unit, "long_name": meaning}
        assert np.isfinite(variable).all() or name in ("log_snr", "edge_log_snr")


def test_the_promised_names_have_the_promised_axes(mixture):
    assert mixture["neural_entropy"].dims == mixture["neural_entropy_stderr"].dims == ("seed",)
    assert mixture["entropy_rate"].dims == ("seed", "time")
    assert mixture["log_snr"].dims == ("time",)
    assert mixture["loss"].dims == ("seed", "step")
    assert mixture["loss"].shape == (2, 60)
    assert mixture["seed"].values.tolist() == [0, 1]


def test_attributes_tell_what_was_done(mixture):
    attributes = mixture.attrs
    assert attributes["units"] == "nats"
    assert attributes["standardisation"] == "identity"
    assert attributes["cutoff"] == 0.0
    assert "VariancePreserving" in attributes["process_text"]
    assert jax.__version__ in attributes["versions"]
    assert '"steps": 60' in attributes["configuration"]
    assert attributes["num_held_out"] == HELD_OUT


def test_everything_is_written(mixture, tmp_path_factory):
    folder = next(p for p in tmp_path_factory.getbasetemp().glob("mixture*/out"))
    names = {p.name for p in folder.iterdir()} - {".lock"}
    figures = {"entropy.png", "samples.png", "information.png", "log_density.png", "loss.png"}
    models = {"model-0.eqx", "model-1.eqx"}
    other = {"results.nc", "report.md", "configuration.json", "training.ckpt"}
    assert names == figures | models | other
    report = (folder / "report.md").read_text()
    tables = ("## Critical times", "| speciation | ", "| collapse | ", "## S_NN by column")
    results = ("neural entropy S_NN, held-out data", "exact total entropy", "(entropy.png)")
    for text in results + tables:
        assert text in report
    model = ex.load(folder / "model-1.eqx")
    assert isinstance(model, ex.EntropyMatching)
    assert model.shape == (2,)


# ------------------------------------------------------------------ that it is right


def test_the_parts_sum_to_the_whole(mixture):
    parts, error = mixture["coordinate_entropy"], mixture["coordinate_entropy_stderr"]
    assert mixture["coordinate"].values.tolist() == ["x1", "x2"]
    gap = parts.sum("coordinate") - mixture["neural_entropy"]
    assert (
        abs(gap) < 4 * np.hypot(error.sum("coordinate"), mixture["neural_entropy_stderr"])
    ).all()
    intervals = mixture["coordinate_entropy_interval"].sum("interval")
    np.testing.assert_allclose(intervals, parts, rtol=1e-4)
    assert mixture.sizes["edge"] == mixture.sizes["interval"] + 1


def test_the_critical_times_agree_on_all_clocks(mixture):
    for name in ("speciation", "collapse"):
        log_snr, time, ou_time = (mixture[f"{name}_{c}"] for c in ("log_snr", "time", "ou_time"))
        np.testing.assert_allclose(ou_time, np.log1p(np.exp(-log_snr)) / 2, rtol=1e-4)
        np.testing.assert_allclose(
            np.interp(time, mixture["time"], mixture["log_snr"]), log_snr, atol=0.05
        )
    assert (mixture["speciation_log_snr"] < mixture["collapse_log_snr"]).all()


def test_the_curve_ends_in_the_total(mixture):
    for seed in (0, 1):
        curve = mixture["cumulative_entropy"][seed].values
        np.testing.assert_allclose(curve[-1], mixture["neural_entropy"][seed], rtol=1e-4)
        assert curve[0] == 0
    rate, log_snr = mixture["entropy_rate_log_snr"].values, mixture["log_snr"].values
    inside = np.isfinite(log_snr)
    integral = np.trapezoid(rate[:, inside], -log_snr[inside], axis=1)
    np.testing.assert_allclose(integral, mixture["neural_entropy"], rtol=0.02)


def test_entropies_lie_as_far_apart_as_the_path_kl_allows(mixture):
    gap = np.abs(np.sqrt(mixture["neural_entropy"]) - np.sqrt(mixture["total_entropy"]))
    slack = 4 * np.hypot(mixture["neural_entropy_mc_stderr"], mixture["path_kl_stderr"])
    assert (gap <= np.sqrt(mixture["path_kl"]) + slack).all()


def test_the_bound_on_log_p_lies_below_it_by_the_kl_bound(mixture):
    """E[log p - bound] = L + KL(p_T || prior), of the same held-out samples."""
    difference = mixture["log_prob_exact"] - mixture["log_prob"]
    gap = difference.mean("rated_sample")
    stderr = difference.std("rated_sample", ddof=1) / np.sqrt(difference.sizes["rated_sample"])
    error = np.hypot(stderr, mixture["kl_bound_stderr"])
    assert (np.abs(gap - mixture["kl_bound"]) < 4 * error).all()
    assert (mixture["kl_bound"] > mixture["path_kl"]).all()


def test_prior_kl_is_that_of_the_reference(mixture):
    """2.039e-4 nats for this mixture, by quadrature."""
    error = 4 * mixture["prior_kl_stderr"]
    assert abs(mixture["prior_kl"] - 2.039e-4) < error < 2e-5


# ------------------------------------------------------------------ one program for all seeds


@pytest.mark.slow(reason="two whole studies")
def test_a_seed_does_not_depend_on_other_seeds(mixture, tmp_path):
    alone = measure("mixture2", options(tmp_path / "out", training={"seed": 1}))
    pair = mixture.sel(seed=[1])
    np.testing.assert_allclose(alone["loss"], pair["loss"], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(alone["neural_entropy"], pair["neural_entropy"], rtol=0.01)
    assert (mixture["neural_entropy"][0] != mixture["neural_entropy"][1]).all()


# ------------------------------------------------------------------ resuming


def assert_same_numbers(folder, record):
    """All that is recorded, bit for bit."""
    with xarray.open_dataset(pathlib.Path(folder) / "results.nc", engine="h5netcdf") as other:
        assert other.variables.keys() == record.variables.keys()
        for name in record.variables:
            np.testing.assert_array_equal(other[name], record[name], err_msg=name)


def names(folder):
    """Of the files in a folder; hidden ones serve to keep processes apart."""
    return {p.name for p in pathlib.Path(folder).iterdir() if not p.name.startswith(".")}


COMMAND = ["measure", "mixture2", "--out", "out", "--seeds", "2", *WORDS]


def test_an_interrupted_run_resumes_to_the_same_numbers(mixture, tmp_path, monkeypatch, capsys):
    """Ctrl-C after the first checkpoint: exit code 130, and one line that names the way back."""
    monkeypatch.chdir(tmp_path)
    write = entropix.persistence.checkpoint.write_checkpoint

    def write_and_interrupt(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("entropix.persistence.checkpoint.write_checkpoint", write_and_interrupt)
        assert main([*COMMAND, "--quiet"]) == 130
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    again = f"entropix {' '.join(COMMAND)} --quiet --resume"
    assert err == f"entropix: interrupted; `{again}` continues the run\n"
    assert {CONFIGURATION, CHECKPOINT} == names("out")

    assert main([*COMMAND, "--resume"]) == 0
    out, err = capsys.readouterr()
    assert_same_numbers("out", mixture)
    assert "neural entropy S_NN, held-out data" in out
    assert "written to out" in out
    assert "training" in err  # the progress bar
    assert "measuring" in err


def ends_in_one_line(capsys, command, code, says):
    assert main([*command, "--quiet"]) == code
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert says in err


FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


@pytest.mark.slow(reason="four runs")
def test_a_full_disk_ends_in_one_line_and_what_was_saved_stays(
    mixture, tmp_path, monkeypatch, capsys
):
    """In a checkpoint of training, in the record, in a model; then there is room again."""
    monkeypatch.chdir(tmp_path)
    write = entropix.persistence.checkpoint.write_checkpoint

    def second_is_too_much(path, step, *rest):
        if step == 40:
            raise FULL
        write(path, step, *rest)

    def full(*_):
        raise FULL

    says = "No space left on device; what is finished is kept, and `--resume` continues from there"
    for name, failing, saved in (
        ("entropix.persistence.checkpoint.write_checkpoint", second_is_too_much, 20),
        ("pathlib.Path.write_bytes", full, 60),
        ("entropix.studies.study.save", full, 60),
    ):
        resume = ["--resume"] if pathlib.Path("out").exists() else []
        with monkeypatch.context() as patch:
            patch.setattr(name, failing)
            ends_in_one_line(capsys, [*COMMAND, *resume], 1, says)
        assert {CONFIGURATION, CHECKPOINT} == names("out")
        header, _ = read_archive(pathlib.Path("out") / CHECKPOINT, "entropix checkpoint")
        assert header["step"] == saved
    assert main([*COMMAND, "--resume", "--quiet"]) == 0
    assert_same_numbers("out", mixture)


def test_a_folder_removed_in_training_is_no_success(mixture, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write = entropix.persistence.checkpoint.write_checkpoint

    def write_and_remove(*arguments):
        write(*arguments)
        shutil.rmtree("out")

    with monkeypatch.context() as patch:
        patch.setattr("entropix.persistence.checkpoint.write_checkpoint", write_and_remove)
        ends_in_one_line(capsys, COMMAND, 1, "it was removed or replaced")
    assert not pathlib.Path("out").exists()


def test_a_second_command_in_a_folder_is_refused(tmp_path, monkeypatch, capsys):
    """While the first is at work, whatever it asks for; the first ends as it would alone."""
    monkeypatch.chdir(tmp_path)
    study = prepare_measure("mixture2", options("out"))
    other = ["information", "mixture2", "moons", "--out", "out", "--num-samples", "50"]
    for command in (COMMAND, other):
        for how in ([], ["--resume"], ["--overwrite"]):
            says = "no other process uses, got 'out': choose another with `--out`, or wait"
            ends_in_one_line(capsys, [*command, *how], 2, says)
    with study.workspace.folder.at_work():
        pass
    assert {CONFIGURATION} == names("out")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_numbers(mixture, tmp_path, monkeypatch, capsys):
    """kill -9 at the second checkpoint, in a process of its own; this one does the rest."""
    monkeypatch.chdir(tmp_path)
    program = (
        "import pathlib, sys, time, entropix.persistence.checkpoint as run, entropix.cli\n"
        "write = run.write_checkpoint\n"
        "def write_and_wait(path, step, *rest):\n"
        "    write(path, step, *rest)\n"
        "    if step == 40:\n"
        "        pathlib.Path('waiting').touch()\n"
        "        time.sleep(600)\n"
        "run.write_checkpoint = write_and_wait\n"
        "entropix.cli.main(sys.argv[1:])\n"
    )
    here = {"PYTHONPATH": str(pathlib.Path(ex.__file__).parents[1])}
    process = subprocess.Popen(
        [sys.executable, "-c", program, *COMMAND, "--quiet"],
        env=os.environ | here,
    )
    deadline = time.monotonic() + 300
    while not pathlib.Path("waiting").exists() and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    assert {CONFIGURATION, CHECKPOINT} == names("out")

    def refused(says, *words):
        assert main([*COMMAND, "--resume", *words]) == 2
        out, err = capsys.readouterr()
        assert (out, err.count("\n")) == ("", 1)
        assert says in err

    checkpoint = pathlib.Path("out") / CHECKPOINT
    good = checkpoint.read_bytes()
    refused("`steps` must be 60", "--steps", "80")
    checkpoint.write_bytes(good[: len(good) // 2])
    refused("damaged")
    checkpoint.write_bytes(good)
    assert main([*COMMAND, "--resume", "--quiet"]) == 0
    assert_same_numbers("out", mixture)
    assert capsys.readouterr() == ("", "")


@pytest.mark.slow(reason="measures twice")
def test_a_finished_run_can_be_measured_again(mixture, tmp_path):
    out = tmp_path / "out"
    measure("mixture2", options(out, training={"seeds": 2}))
    more = options(
        out,
        training={"seeds": 2},
        estimation={"sampling_steps": 4},
        output={"resume": True},
    )
    again = measure("mixture2", more)
    np.testing.assert_array_equal(again["loss"], mixture["loss"])
    np.testing.assert_array_equal(again["neural_entropy"], mixture["neural_entropy"])
    assert (again["samples"] != mixture["samples"]).any()


# ------------------------------------------------------------------ labels


@pytest.mark.slow
def test_labels_are_measured_and_survive_an_interruption(tmp_path, monkeypatch, capsys):
    """Two seeds with labels: interrupted and taken up to the numbers of the whole run."""
    monkeypatch.chdir(tmp_path)
    command = [*COMMAND, "--condition", "labels", "--quiet"]
    assert main([*command, "--out", "whole"]) == 0
    with xarray.open_dataset("whole/results.nc", engine="h5netcdf") as record:
        record.load()
    assert without_errors(record) == SCHEMA.keys() - OPTIONAL
    for name in OF_LABELS:
        assert record[name].dims == SCHEMA[name][0]
        # Infinite log-SNRs are those of the data themselves, and of what is not reached before.
        assert not np.isnan(record[name]).any()
        assert np.isfinite(record[name]).all() or "log_snr" in name
    assert "I(X; label), held-out data" in pathlib.Path("whole/report.md").read_text()
    assert "labels, 4 classes" in record.attrs["condition_text"]
    write = entropix.persistence.checkpoint.write_checkpoint

    def write_and_interrupt(*arguments):
        write(*arguments)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("entropix.persistence.checkpoint.write_checkpoint", write_and_interrupt)
        assert main(command) == 130
    assert main([*command, "--resume", "--shuffle-labels"]) == 2
    assert "`data_fingerprint` must be" in capsys.readouterr().err
    assert main([*command, "--resume"]) == 0
    assert_same_numbers("out", record)


# ------------------------------------------------------------------ units


@pytest.mark.slow(reason="a whole study")
def test_densities_are_in_the_units_of_the_data(tmp_path):
    """Rescaled data have the same network, and a log density lower by the log of the scale."""
    points = np.random.default_rng(0).normal(size=(NUM_SAMPLES, 2)) @ [[1.0, 0.5], [0.0, 0.3]]
    scale = np.array([8.0, 0.25])  # powers of two: standardised to the same digits
    records = []
    for name, data in (("plain", points), ("scaled", points * scale)):
        np.save(tmp_path / f"{name}.npy", data.astype(np.float32))
        request = options(tmp_path / name, data={"num_samples": None})
        records.append(measure(tmp_path / f"{name}.npy", request))
    plain, scaled = records
    assert plain.attrs["standardisation"] == "per-feature"
    np.testing.assert_allclose(plain["neural_entropy"], scaled["neural_entropy"], rtol=1e-5)
    shift = np.log(scale).sum()
    np.testing.assert_allclose(
        scaled["log_prob"] - plain["log_prob"], -shift, atol=1e-4 * abs(shift) + 1e-4
    )
    np.testing.assert_allclose(
        scaled["negative_log_likelihood"] - plain["negative_log_likelihood"], shift, atol=1e-3
    )
    np.testing.assert_allclose(plain["samples"] * scale, scaled["samples"], rtol=1e-3, atol=1e-3)
