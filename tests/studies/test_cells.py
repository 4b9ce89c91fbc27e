"""Cells that several processes share: claimed, finished, damaged, and a disk that is full."""

import errno
import shutil
import threading

import numpy as np
import pytest
import xarray
from filelock import FileLock

from entropix.persistence import write_archive
from entropix.studies.cells import Cells, stacked
from entropix.studies.folder import FolderError, OutputFolder
from entropix.studies.options import OutputOptions
from entropix.studies.record import assemble
from entropix.studies.report import Report
from entropix.studies.study import AbstractStudy, Outcome, Workspace


SIZES = {"small": 1, "large": 3, "middle": 2}
CONFIG = {"steps": 10, "widths": (3, 4)}


class Work:
    """Cells whose result follows from their name; keeps count of what it did."""

    def __init__(self):
        self.done = []

    def __call__(self, task):
        self.done.append(task.name)
        task.advance(1)
        return {"value": np.arange(2.0) + SIZES[task.name], "count": np.asarray(1)}


def cells(folder, configuration=CONFIG):
    return Cells(folder, SIZES, configuration)


def computed(folder):
    cells(folder).compute(Work(), progress=False)
    return folder / "cells"


def test_each_cell_is_computed_once_the_largest_first(tmp_path):
    work = Work()
    first = cells(tmp_path)
    first.compute(work, progress=False)
    assert work.done == ["large", "middle", "small"]
    cells(tmp_path).compute(work, progress=False)
    assert len(work.done) == 3
    found = cells(tmp_path).finished()
    assert list(found) == list(SIZES)
    for name, arrays in found.items():
        np.testing.assert_array_equal(arrays["value"], [SIZES[name], SIZES[name] + 1])


def test_cells_along_one_run_follow_one_another(tmp_path, monkeypatch):
    """In the order of their steps, from one checkpoint, whose lock they wait for."""
    monkeypatch.setattr("entropix.studies.cells._WAIT", 0.01)
    runs = {"small": "run", "middle": "run", "large": "other"}
    seen = []

    def work(task):
        seen.append((task.name, task.checkpoint.name, task.checkpoint.exists()))
        write_archive(task.checkpoint, "entropix checkpoint", {"step": SIZES[task.name]}, {})
        return {"value": np.zeros(1)}

    (tmp_path / "cells").mkdir()
    lock = FileLock(tmp_path / "cells" / "run.lock", thread_local=False)
    lock.acquire()
    threading.Timer(0.1, lock.release).start()
    Cells(tmp_path, SIZES, CONFIG, runs).compute(work, progress=False)
    assert seen[0] == ("large", "other.ckpt", False)
    assert seen[1:] == [("small", "run.ckpt", False), ("middle", "run.ckpt", True)]
    assert not list((tmp_path / "cells").glob("*.ckpt"))

    # Without its first cell, a run that is further starts again.
    write_archive(tmp_path / "cells" / "run.ckpt", "entropix checkpoint", {"step": 2}, {})
    (tmp_path / "cells" / "small.cell").unlink()
    Cells(tmp_path, SIZES, CONFIG, runs).compute(work, progress=False)
    assert seen[3:] == [("small", "run.ckpt", False)]


def test_a_claimed_cell_is_left_to_its_owner_and_waited_for(tmp_path, monkeypatch):
    """Another process has the first cell and finishes it while this one does the others."""
    monkeypatch.setattr("entropix.studies.cells._WAIT", 0.01)
    (tmp_path / "cells").mkdir()
    owner = FileLock(tmp_path / "cells" / "large.lock", thread_local=False)
    owner.acquire()
    others_done, work = threading.Event(), Work()

    def mine(task):
        if len(work.done) == 1:
            others_done.set()
        return work(task)

    def finish():
        others_done.wait(20)
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        done = computed(elsewhere) / "large.cell"
        done.rename(tmp_path / "cells" / "large.cell")
        owner.release()

    thread = threading.Thread(target=finish)
    thread.start()
    cells(tmp_path).compute(mine, progress=False)
    thread.join()
    assert work.done == ["middle", "small"]
    assert set(cells(tmp_path).finished()) == set(SIZES)


def test_a_claim_that_is_given_up_is_taken_over(tmp_path, monkeypatch):
    monkeypatch.setattr("entropix.studies.cells._WAIT", 0.01)
    (tmp_path / "cells").mkdir()
    owner = FileLock(tmp_path / "cells" / "small.lock", thread_local=False)
    owner.acquire()
    threading.Timer(0.1, owner.release).start()
    work = Work()
    cells(tmp_path).compute(work, progress=False)
    assert work.done == ["large", "middle", "small"]


@pytest.mark.parametrize("how", ["truncated", "empty", "flipped", "other cell", "other run"])
def test_a_damaged_cell_is_computed_again_and_no_other(tmp_path, capsys, how):
    folder = computed(tmp_path)
    file = folder / "middle.cell"
    good = file.read_bytes()
    configuration = CONFIG
    if how == "truncated":
        file.write_bytes(good[: len(good) // 2])
    elif how == "empty":
        file.write_bytes(b"")
    elif how == "flipped":
        at = len(good) - 3  # among the numbers
        file.write_bytes(good[:at] + bytes([good[at] ^ 1]) + good[at + 1 :])
    elif how == "other cell":
        file.write_bytes((folder / "large.cell").read_bytes())
    else:
        elsewhere = tmp_path / "elsewhere"
        elsewhere.mkdir()
        cells(elsewhere, {**CONFIG, "steps": 11}).compute(Work(), progress=False)
        file.write_bytes((elsewhere / "cells" / "middle.cell").read_bytes())
    assert set(cells(tmp_path, configuration).finished()) == {"small", "large"}
    work = Work()
    cells(tmp_path, configuration).compute(work, progress=False)
    assert work.done == ["middle"]
    assert file.read_bytes() == good
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert "middle.cell is damaged or of another run" in err


def test_a_full_disk_keeps_what_is_finished(tmp_path, monkeypatch):
    from entropix.studies import cells as module

    write = module.write_archive

    def full(path, *arguments):
        if path.name == "middle.cell":
            raise OSError(errno.ENOSPC, "No space left on device")
        write(path, *arguments)

    monkeypatch.setattr(module, "write_archive", full)
    with pytest.raises(OSError, match="No space left on device"):
        cells(tmp_path).compute(Work(), progress=False)
    monkeypatch.undo()
    work = Work()
    cells(tmp_path).compute(work, progress=False)
    assert work.done == ["middle", "small"]


def test_a_damaged_checkpoint_begins_again(tmp_path, capsys):
    (tmp_path / "cells").mkdir()
    checkpoint = tmp_path / "cells" / "large.ckpt"
    checkpoint.write_bytes(b"half")
    computed(tmp_path)
    assert "large.ckpt is damaged: training starts again" in capsys.readouterr().err
    assert not checkpoint.exists()


def test_what_is_missing_is_nan():
    found = {"b": {"x": np.array([1.0, 2.0])}}
    np.testing.assert_array_equal(stacked(["a", "b"], found)["x"], [[np.nan] * 2, [1, 2]])


# ------------------------------------------------------------------ the folder


def share(path, configuration=CONFIG, **how):
    """The folder, and whether there was a run to join."""
    folder = OutputFolder(path, shared=True)
    return folder, folder.claim(configuration, **how)


def test_a_shared_folder_is_joined_by_the_same_configuration_alone(tmp_path):
    out = tmp_path / "out"
    first, joined = share(out, resume=True)
    assert not joined  # whoever comes first
    second, joined = share(out, resume=True)
    assert joined
    with pytest.raises(ValueError, match=r"`steps` must be 10.*got 11"):
        share(out, {**CONFIG, "steps": 11}, resume=True)
    with pytest.raises(ValueError, match=r"new or empty folder.*--resume"):
        OutputFolder(out, shared=True).check(resume=False, overwrite=False)
    for folder in (first, second):  # both write, one after the other
        with folder.at_work(), folder.staged() as staging:
            (staging / "report.md").write_text("same")


def test_a_folder_that_others_work_in_is_not_overwritten(tmp_path):
    out = tmp_path / "out"
    folder, _ = share(out)
    computed(out)
    for shared in (False, True):  # by the same study, or one that has the folder to itself
        with pytest.raises(ValueError, match="no other process uses"):
            OutputFolder(out, shared=shared).claim(CONFIG, overwrite=True)
    with pytest.raises(ValueError, match="no other process uses"):
        OutputFolder(out).claim(CONFIG, resume=True)
    assert set(cells(out).finished()) == set(SIZES)
    with folder.at_work():
        pass
    share(out, {**CONFIG, "steps": 11}, overwrite=True)
    assert cells(out).finished() == {}


class Study(AbstractStudy):
    """A study of the cells above, whose record is their values."""

    cells, runs = SIZES, None

    def __init__(self, folder, work):
        output = OutputOptions(quiet=True, plots=False)
        self.workspace = Workspace(output, folder, ("entropix",), CONFIG | {"versions": {}})
        self.work, self.at_the_end = work, lambda: None

    def attributes(self):
        return {"title": "cells"}

    def measure(self, task):
        return Outcome(self.work(task))

    def record(self, found, attributes):
        self.at_the_end()
        values = {"value": np.stack([values["value"] for values in found.values()])}
        schema = {"value": (("cell", "place"), "1", "a number")}
        return assemble(schema, values, {"cell": (list(found), "cell")}, attributes)

    def figures(self):
        return {}

    def report(self, record):
        return Report(record, "cells", [], [], [], [])


@pytest.mark.parametrize("when", ["before", "during", "at the end"])
def test_a_folder_that_is_removed_is_an_error(tmp_path, when):
    """Of the command, not a success; and nothing is made in its place."""
    folder, _ = share(tmp_path / "out")
    if when == "before":
        shutil.rmtree(folder.path)
    work = Work()

    def removing(task):
        if when == "during":
            shutil.rmtree(folder.path)
        return work(task)

    study = Study(folder, removing)
    if when == "at the end":
        study.at_the_end = lambda: shutil.rmtree(folder.path)
    with pytest.raises(FolderError, match="removed or replaced"):
        study.run()
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_run_sums_up_what_is_finished(tmp_path):
    folder, _ = share(tmp_path / "out")
    work = Work()

    def interrupted(task):
        if task.name == "small":
            raise KeyboardInterrupt
        return work(task)

    with pytest.raises(KeyboardInterrupt):
        Study(folder, interrupted).run()
    with xarray.open_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf") as record:
        assert record["cell"].values.tolist() == ["large", "middle"]
        assert record.attrs["cells_finished"] == 2
    assert Study(folder, work).run()["cell"].values.tolist() == list(SIZES)
    assert work.done == ["large", "middle", "small"]
