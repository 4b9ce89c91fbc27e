import pytest

from entropix.studies.files import CONFIGURATION
from entropix.studies.folder import OutputFolder


CONFIG = {"steps": 10, "widths": (3, 4)}


def claimed(path):
    folder = OutputFolder(path)
    folder.check(resume=False, overwrite=False)
    assert not folder.claim(CONFIG, resume=False)
    return folder


def contents(path):
    return sorted(str(p.relative_to(path)) for p in path.rglob("*"))


def test_checking_touches_nothing(tmp_path):
    OutputFolder(tmp_path / "a" / "b").check(resume=False, overwrite=False)
    assert contents(tmp_path) == []


def test_files_appear_all_or_none(tmp_path):
    folder = claimed(tmp_path / "out")

    def half_way():
        with folder.staged() as staging:
            (staging / "one").write_text("1")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        half_way()
    assert contents(tmp_path / "out") == [CONFIGURATION]
    with folder.staged() as staging:
        (staging / "one").write_text("1")
    assert contents(tmp_path / "out") == [CONFIGURATION, "one"]


def test_what_a_killed_run_left_aside_is_removed(tmp_path):
    folder = claimed(tmp_path / "out")
    (folder.path / ".staging-left").mkdir()
    assert folder.claim(CONFIG, resume=True)
    assert contents(folder.path) == [CONFIGURATION]


def test_contents_are_not_overwritten_unasked(tmp_path):
    folder = claimed(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`out` must be a new or empty folder.*--resume"):
        folder.check(resume=False, overwrite=False)
    folder.check(resume=True, overwrite=False)
    folder.check(resume=False, overwrite=True)


def test_a_folder_of_something_else_is_never_overwritten(tmp_path):
    (tmp_path / "precious.txt").write_text("x")
    for resume, overwrite in ((False, False), (True, False), (False, True)):
        with pytest.raises(ValueError, match="`out` must be a new or empty folder"):
            OutputFolder(tmp_path).check(resume=resume, overwrite=overwrite)


def test_resume_and_overwrite_exclude_each_other(tmp_path):
    with pytest.raises(ValueError, match="`overwrite` must be left out"):
        OutputFolder(tmp_path).check(resume=True, overwrite=True)


def test_another_configuration_is_refused(tmp_path):
    folder = claimed(tmp_path / "out")
    with pytest.raises(ValueError, match=r"`steps` must be 10.*got 11"):
        folder.claim({**CONFIG, "steps": 11}, resume=True)


def test_a_damaged_configuration_is_refused(tmp_path):
    folder = claimed(tmp_path / "out")
    (folder.path / CONFIGURATION).write_text("{")
    with pytest.raises(ValueError, match=CONFIGURATION):
        folder.claim(CONFIG, resume=True)


@pytest.mark.parametrize("below", ["out", "a/b/out"])
def test_a_folder_that_cannot_be_made_leaves_nothing(tmp_path, below):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`out` must be a folder that can be written to"):
        OutputFolder(tmp_path / "file" / below).claim(CONFIG, resume=False)
    assert contents(tmp_path) == ["file"]


def test_a_file_is_no_folder(tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(ValueError, match="`out` must be a folder, got the file"):
        OutputFolder(tmp_path / "file").check(resume=False, overwrite=False)
