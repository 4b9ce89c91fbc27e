"""The output folder: who may work in it, and what is in it however the work ends."""

import errno
import json
import os
import pathlib
import shutil
import subprocess
import sys

import pytest

from entropix.studies import (
    InformationOptions,
    MeasureOptions,
    OutputOptions,
    prepare_information,
    prepare_measure,
)
from entropix.studies.folder import CONFIGURATION, FIGURES, FolderError, OutputFolder
from entropix.studies.schedule import ScheduleOptions, prepare_schedule
from entropix.studies.storage import StorageOptions, prepare_storage
from entropix.studies.transport import TransportOptions, prepare_transport


CONFIG = {"steps": 10, "widths": (3, 4)}
FULL = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def claimed(path, **how):
    folder = OutputFolder(path)
    folder.check(resume=False, overwrite=False)
    assert not folder.claim(CONFIG, **how)
    return folder


def left(path):
    """A folder that nobody works in any more."""
    with claimed(path).at_work():
        pass
    return OutputFolder(path)


def contents(path):
    """Without what is hidden: the lock stays."""
    return sorted(str(p.relative_to(path)) for p in path.rglob("*") if p.name[0] != ".")


def hidden(path):
    return sorted(p.name for p in path.iterdir() if p.name[0] == ".")


def test_checking_touches_nothing(tmp_path):
    OutputFolder(tmp_path / "a" / "b").check(resume=False, overwrite=False)
    assert contents(tmp_path) == []


def test_files_appear_all_or_none(tmp_path):
    folder = claimed(tmp_path / "out")

    def half_way():
        with folder.staged() as staging:
            (staging / "one").write_text("1")
            raise RuntimeError("half way")

    with folder.at_work():
        with pytest.raises(RuntimeError, match="half way"):
            half_way()
        assert contents(tmp_path / "out") == [CONFIGURATION]
        with folder.staged() as staging:
            (staging / "one").write_text("1")
    assert contents(tmp_path / "out") == [CONFIGURATION, "one"]
    assert hidden(tmp_path / "out") == [".lock"]


def test_what_a_killed_run_left_aside_is_removed(tmp_path):
    folder = left(tmp_path / "out")
    (folder.path / ".staging-left").mkdir()
    (folder.path / ".at-work-left").touch()
    (folder.path / "training.ckpt.1.tmp").touch()
    assert folder.claim(CONFIG, resume=True)
    assert contents(folder.path) == [CONFIGURATION]
    with folder.at_work():
        pass
    assert hidden(folder.path) == [".lock"]


def test_contents_are_not_overwritten_unasked(tmp_path):
    folder = left(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`out` must be a new or empty folder.*--resume"):
        folder.check(resume=False, overwrite=False)
    folder.check(resume=True, overwrite=False)
    folder.check(resume=False, overwrite=True)


def test_overwriting_leaves_nothing_of_any_study(tmp_path):
    folder = left(tmp_path / "out")
    (folder.path / "cells").mkdir()
    for name in ("cells/a.cell", "cells/a.lock", "results.nc", "model-3.eqx", "epochs.png", "mine"):
        (folder.path / name).touch()
    assert not folder.claim({"steps": 11}, overwrite=True)
    assert contents(folder.path) == ["cells", CONFIGURATION, "mine"]
    assert json.loads((folder.path / CONFIGURATION).read_text()) == {"steps": 11}


PREPARE = {
    "measure": lambda output: prepare_measure("mixture2", MeasureOptions(output=output)),
    "information": lambda output: prepare_information(
        "mixture2", "mixture2", InformationOptions(output=output)
    ),
    "schedule": lambda output: prepare_schedule("mixture2", ScheduleOptions(output=output)),
    "storage": lambda output: prepare_storage("mixture2", StorageOptions(output=output)),
    "transport": lambda output: prepare_transport(TransportOptions(output=output)),
}


@pytest.mark.slow(reason="whole studies")
@pytest.mark.parametrize("name", PREPARE)
def test_overwriting_removes_every_figure(tmp_path, name):
    study = PREPARE[name](OutputOptions(out=str(tmp_path / "out")))
    assert study.figures().keys() <= {f"{figure}.png" for figure in FIGURES}


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(ValueError, match="`out` must be a new or empty folder"):
            OutputFolder(tmp_path).check(resume=resume, overwrite=overwrite)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="`overwrite` must not be given"):
        OutputFolder(tmp_path).check(resume=True, overwrite=True)


# ------------------------------------------------------------------ one process at a time

USED = r"`out` must be a folder that no other process uses.*--out`, or wait"


@pytest.mark.parametrize("resume", [False, True])
@pytest.mark.parametrize("overwrite", [False, True])
def test_a_second_run_is_refused_and_touches_nothing(tmp_path, resume, overwrite):
    folder = claimed(tmp_path / "out")
    staging = folder.path / ".staging-of-the-first"
    staging.mkdir()
    before = hidden(folder.path), contents(folder.path)
    with pytest.raises(ValueError, match="`overwrite` must" if resume and overwrite else USED):
        OutputFolder(folder.path).check(resume=resume, overwrite=overwrite)
    if not (resume and overwrite):
        for configuration in (CONFIG, {"steps": 10}):  # the second is refused in its own words
            with pytest.raises(ValueError, match=r"`widths` must be|" + USED):
                OutputFolder(folder.path).claim(configuration, resume=resume, overwrite=overwrite)
    assert (hidden(folder.path), contents(folder.path)) == before
    with folder.at_work():
        pass
    assert OutputFolder(folder.path).claim(CONFIG, resume=True)


def test_a_claim_is_taken_again_unless_another_has_come(tmp_path):
    """A plan may be run twice, and after an exception."""
    folder = claimed(tmp_path / "out")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt), folder.at_work():
            raise KeyboardInterrupt
    other = OutputFolder(folder.path)
    other.claim(CONFIG, resume=True)
    with pytest.raises(ValueError, match=USED), folder.at_work():
        pass
    with other.at_work(), other.staged() as staging:
        (staging / "one").write_text("1")


def test_a_process_that_is_killed_loses_its_claim(tmp_path):
    folder = left(tmp_path / "out")
    program = (
        "import sys, time, filelock\n"
        "lock = filelock.FileLock(sys.argv[1])\n"
        "lock.acquire()\n"
        "print('held', flush=True)\n"
        "time.sleep(600)\n"
    )
    words = [sys.executable, "-c", program, str(folder.path / ".at-work-elsewhere")]
    with subprocess.Popen(words, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        with pytest.raises(ValueError, match=USED):
            folder.claim(CONFIG, resume=True)
        process.kill()
    assert folder.claim(CONFIG, resume=True)
    assert ".at-work-elsewhere" not in hidden(folder.path)


# ------------------------------------------------------------------ while it works


def removed(path):
    shutil.rmtree(path)


def made_again(path):
    shutil.rmtree(path)
    path.mkdir()


def moved(path):
    path.rename(path.with_name("elsewhere"))


def made_a_file(path):
    shutil.rmtree(path)
    path.write_text("x")


@pytest.mark.parametrize("happens", [removed, made_again, moved, made_a_file])
@pytest.mark.parametrize("inside", [False, True])
def test_a_folder_that_is_gone_is_an_error(tmp_path, happens, inside):
    """Before anything is written, and while it is; nothing is made in its place."""
    folder = claimed(tmp_path / "out")

    def write():
        with folder.at_work():
            if not inside:
                happens(folder.path)
            with folder.staged() as staging:
                (staging / "one").write_text("1")
                if inside:
                    happens(folder.path)

    with pytest.raises(FolderError, match=r"must stay where it is .* removed or replaced"):
        write()
    assert "out/one" not in contents(tmp_path)
    if happens in (removed, moved):
        assert not folder.path.exists()


@pytest.mark.parametrize("call", ["fsync", "replace"])
def test_a_disk_that_fails_at_the_last_leaves_what_was_there(tmp_path, monkeypatch, call):
    folder = claimed(tmp_path / "out")

    def fail(*_):
        raise FULL

    def write(text):
        with folder.staged() as staging:
            (staging / "one").write_text(text)

    with folder.at_work():
        write("old")
        with monkeypatch.context() as patch:
            patch.setattr(f"entropix.studies.folder.os.{call}", fail)
            with pytest.raises(FolderError, match=r"No space left on device; .*`--resume`"):
                write("new")
    assert (folder.path / "one").read_text() == "old"
    assert hidden(folder.path) == [".lock"]


def test_a_target_that_is_a_folder_leaves_the_other_files(tmp_path):
    folder = claimed(tmp_path / "out")
    (folder.path / "two").mkdir()

    def write():
        with folder.staged() as staging:
            for name in ("one", "two"):
                (staging / name).write_text("1")

    with pytest.raises(FolderError, match="Is a directory"):
        write()
    assert contents(folder.path) == [CONFIGURATION, "two"]


# ------------------------------------------------------------------ configurations


def test_another_configuration_is_refused(tmp_path):
    folder = left(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`steps` must be 10.*got 11"):
        folder.claim({**CONFIG, "steps": 11}, resume=True)


BAD_CONFIGURATIONS = {
    "truncated": b'{"steps": 1',
    "empty": b"",
    "list": b"[]",
    "null": b"null",
    "number": b"3",
    "text": b'"steps"',
    "not text": b"\xff\xfe\x00",
    "deep": b"[" * 100_000,
}


@pytest.mark.parametrize("case", BAD_CONFIGURATIONS)
def test_a_damaged_configuration_is_refused(tmp_path, case):
    folder = left(tmp_path / "out")
    (folder.path / CONFIGURATION).write_bytes(BAD_CONFIGURATIONS[case])
    with pytest.raises(ValueError, match=CONFIGURATION + ".*must be.*`--overwrite`") as error:
        folder.claim(CONFIG, resume=True)
    assert len(str(error.value)) < 400
    assert not folder.claim(CONFIG, overwrite=True)


@pytest.mark.parametrize("kind", ["folder", "pipe", "unreadable", "dangling"])
def test_a_configuration_that_is_no_file_is_refused(tmp_path, monkeypatch, kind):
    folder = left(tmp_path / "out")
    file = folder.path / CONFIGURATION
    if kind != "unreadable":
        file.unlink()
    if kind == "folder":
        file.mkdir()
    elif kind == "pipe":
        os.mkfifo(file)
    elif kind == "dangling":
        file.symlink_to("nowhere")
    else:

        def unreadable(*_, **__):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

        monkeypatch.setattr(pathlib.Path, "read_text", unreadable)
    with pytest.raises(ValueError, match=CONFIGURATION + ".*must be the configuration of a run"):
        folder.claim(CONFIG, resume=True)


def test_a_configuration_of_other_types_is_refused(tmp_path):
    folder = left(tmp_path / "out")
    (folder.path / CONFIGURATION).write_text(json.dumps({"steps": ["x"] * 1000, "widths": {}}))
    with pytest.raises(ValueError, match=r"`steps` must be .* got 10") as error:
        folder.claim(CONFIG, resume=True)
    assert len(str(error.value)) < 400


# ------------------------------------------------------------------ paths


@pytest.mark.parametrize("below", ["out", "a/b/out"])
def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`out` must be a folder that can be written to"):
        OutputFolder(tmp_path / "file" / below).claim(CONFIG)
    assert contents(tmp_path) == ["file"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`out` must be a folder, got the file"):
        OutputFolder(tmp_path / "file").check(resume=False, overwrite=False)


def test_a_disk_that_is_full_from_the_start_leaves_nothing(tmp_path, monkeypatch):
    def full(*_):
        raise FULL

    monkeypatch.setattr("entropix.studies.folder.os.fsync", full)
    with pytest.raises(ValueError, match=r"`out` must be a folder that can .*No space left"):
        OutputFolder(tmp_path / "a" / "b").claim(CONFIG)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "says"),
    [
        ("x" * 300, "File name too long"),
        ("a/" * 3000, "File name too long"),
        ("a/" + "x" * 300 + "/b", "File name too long"),
        ("nul\0byte", "path of a folder"),
        ("surrogate\ud800", "path of a folder"),
        ("", "path of a folder"),
        ("/proc/none/out", "No such file"),
        ("/dev/null/out", "Not a directory"),
        ("dangling", "File exists|No such file"),
        ("loop", "Too many levels of symbolic links|File exists"),
    ],
)
@pytest.mark.parametrize("resume", [False, True])
def test_impossible_paths_are_refused(tmp_path, monkeypatch, path, says, resume):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dangling").symlink_to("nowhere")
    (tmp_path / "loop").symlink_to("loop")
    before = sorted(os.listdir())

    def use():
        folder = OutputFolder(path)
        folder.check(resume=resume, overwrite=False)
        folder.claim(CONFIG, resume=resume)

    with pytest.raises(ValueError, match=f"`out` must be.*({says})"):
        use()
    assert sorted(os.listdir()) == before


@pytest.mark.parametrize("call", ["listdir", "open", "mkdir"])
def test_a_folder_without_permission_is_refused(tmp_path, monkeypatch, call):
    if call == "listdir":
        (tmp_path / "out").mkdir()

    def denied(*_, **__):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))

    def use():
        folder = OutputFolder(tmp_path / "out")
        folder.check(resume=False, overwrite=False)
        folder.claim(CONFIG)

    with monkeypatch.context() as patch:
        patch.setattr(f"os.{call}", denied)
        with pytest.raises(ValueError, match=r"`out` must be a folder .*: Permission denied"):
            use()
    assert contents(tmp_path) == (["out"] if call == "listdir" else [])
