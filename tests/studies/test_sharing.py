"""Several processes in one folder, of which one is killed: the numbers of a single process.

The study is that of transport, as small as can be; what is tested are the cells of every study.
"""

import os
import pathlib
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import xarray

import entropix as ex
from entropix.cli import main


pytestmark = pytest.mark.slow

CELLS = {f"D2-vp-{epochs}-epochs" for epochs in (1, 2, 3)}
GRID = "--dimensions 2 --processes vp --epochs 1 2 3 --seeds 2 --num-samples 256"
SMALL = "--widths 8 --evaluations 256 --checkpoint-every 4 --no-plots --quiet --out out"
WORDS = f"transport {GRID} {SMALL}".split()
# Writes down which cells it computes; asked to, it falls asleep in the first one, half-way.
PROGRAM = """
import pathlib, sys, time
import entropix.cli, entropix.persistence.checkpoint as run
import entropix.studies.transport.study as study
name, sleeps, *words = sys.argv[1:]
log, measure, write = pathlib.Path(name), study.measure_cell, run.write_checkpoint
log.touch()
def measured(plan, cell, task):
    log.write_text(log.read_text() + task.name + chr(10))
    return measure(plan, cell, task)
def write_and_wait(path, step, *rest):
    write(path, step, *rest)
    if sleeps == "sleeps" and step == 12:
        pathlib.Path("asleep").touch()
        time.sleep(600)
study.measure_cell, run.write_checkpoint = measured, write_and_wait
sys.exit(entropix.cli.main(words))
"""


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """The folder of a process that had it for itself."""
    folder = tmp_path_factory.mktemp("alone")
    before = pathlib.Path.cwd()
    os.chdir(folder)
    try:
        assert main(WORDS) == 0
    finally:
        os.chdir(before)
    return folder / "out"


def start(name, how="works"):
    here = {"PYTHONPATH": str(pathlib.Path(ex.__file__).parents[1])}
    words = [sys.executable, "-c", PROGRAM, name, how, *WORDS, "--resume"]
    return subprocess.Popen(words, env=os.environ | here)


def wait_for(path, process):
    deadline = time.monotonic() + 300
    while not pathlib.Path(path).exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.05)


def assert_same(alone):
    """Bit for bit: the files of the cells, and the numbers of the record."""
    assert {p.stem for p in pathlib.Path("out/cells").glob("*.cell")} == CELLS
    assert not list(pathlib.Path("out/cells").glob("*.ckpt"))
    for cell in pathlib.Path("out/cells").glob("*.cell"):
        assert cell.read_bytes() == (alone / "cells" / cell.name).read_bytes()
    with (
        xarray.open_dataset("out/results.nc", engine="h5netcdf") as here,
        xarray.open_dataset(alone / "results.nc", engine="h5netcdf") as there,
    ):
        assert here.identical(there.assign_attrs(here.attrs))
        assert here.attrs["cells_finished"] == len(CELLS)
        assert not any(np.isnan(variable).any() for variable in here.data_vars.values())


def test_two_processes_share_the_cells(alone, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    both = [start("first"), start("second")]
    assert [process.wait(300) for process in both] == [0, 0]
    first, second = (pathlib.Path(name).read_text().split() for name in ("first", "second"))
    assert first
    assert second
    assert sorted(first + second) == sorted(CELLS)
    assert_same(alone)


def test_the_cell_of_a_killed_process_is_taken_over(alone, tmp_path, monkeypatch, capfd):
    """kill -9 half-way through a cell: another process, at work on others, does the rest."""
    monkeypatch.chdir(tmp_path)
    killed = start("killed", "sleeps")
    wait_for("asleep", killed)
    other = start("other")
    # It finds two cells free and one claimed, and is kept waiting for that one.
    for epochs in (2, 1):
        wait_for(f"out/cells/D2-vp-{epochs}-epochs.cell", other)
    assert other.poll() is None
    killed.kill()
    assert killed.wait(60) == -signal.SIGKILL
    assert other.wait(300) == 0
    assert pathlib.Path("killed").read_text().split() == ["D2-vp-3-epochs"]
    assert set(pathlib.Path("other").read_text().split()) == CELLS
    assert_same(alone)
    assert capfd.readouterr() == ("", "")
