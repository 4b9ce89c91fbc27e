"""The command line with random words: exit code 0 or 2, one line, never a traceback.

Nothing is trained: commands end after the check of the request.
"""

import pathlib
import shutil

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest

from entropix.cli import main


COMMANDS = ("measure", "information", "mutual-information", "schedule")


@pytest.fixture(scope="module")
def options():
    """Every option of every command, as its help has them."""
    import contextlib
    import io
    import re

    found = {}
    for command in COMMANDS:
        out = io.StringIO()
        with contextlib.redirect_stdout(out):
            assert main([command, "--help"]) == 0
        found[command] = sorted(set(re.findall(r"--[a-z][a-z0-9-]+", out.getvalue())))
        assert len(found[command]) > 10
    return found


@pytest.fixture
def folder(tmp_path, monkeypatch):
    """Small files of each kind, good and bad, and studies that end once they are checked."""
    rng = np.random.default_rng(0)
    monkeypatch.chdir(tmp_path)
    np.save("points.npy", rng.normal(size=(24, 3)))
    np.save("images.npy", rng.integers(0, 256, size=(12, 3, 3), dtype=np.uint8))
    np.save("labels.npy", np.arange(24) % 2)
    np.save("bad.npy", np.full((5, 2), np.nan))
    np.savez("two.npz", a=rng.normal(size=(24, 3)), b=np.arange(24) % 3)
    pathlib.Path("table.csv").write_text(
        "a,b,kind\n" + "".join(f"{i},{i * i},{'xy'[i % 2]}\n" for i in range(24))
    )
    pathlib.Path("empty").mkdir()
    monkeypatch.setattr("entropix.studies.study.AbstractStudy.run", lambda study: None)
    return tmp_path


SOURCES = (
    "points.npy",
    "images.npy",
    "bad.npy",
    "two.npz",
    "table.csv",
    "empty",
    "mixture2",
    "moons",
    "none.npy",
    "zebra",
)
small = st.one_of(st.integers(-2, 64), st.sampled_from([0.5, 1e-3, -0.1, 1e6]))
value = st.one_of(
    small.map(str),
    st.sampled_from(
        [*SOURCES, "labels.npy", "labels", "kind", "a", "auto", "none", "train", "nan"]
    ),
    st.sampled_from(["inf", "-1", "", " ", "--", "-", "1e400", "0x10", "vp", "sl", "ve", "global"]),
    st.text(max_size=8),
)


def run(words, capsys):
    """Exit code 0, or 2 with one line on stderr."""
    before = set(pathlib.Path().iterdir())
    code = main(words)
    out, err = capsys.readouterr()
    for made in set(pathlib.Path().iterdir()) - before:
        shutil.rmtree(made)  # the folder for the results: the next example may want the same
    assert code in (0, 2), words
    if code == 2:
        assert err.startswith("entropix: error: "), (words, err)
        assert err.count("\n") == 1, (words, err)
        assert "Traceback" not in err
        assert out == "", (words, out)


@hypothesis.given(words=st.lists(st.one_of(st.sampled_from(COMMANDS), value), max_size=5))
@hypothesis.settings(max_examples=8, suppress_health_check=list(hypothesis.HealthCheck))
def test_any_words(folder, capsys, words):
    run(words, capsys)


@pytest.mark.slow(reason="many commands")
@hypothesis.given(data=st.data())
@hypothesis.settings(max_examples=16, suppress_health_check=list(hypothesis.HealthCheck))
def test_options_of_any_value(folder, capsys, options, data):
    """Real options, of one command or another, each with a value or without."""
    command = data.draw(st.sampled_from(COMMANDS))
    # Of a pair the second may be missing.
    count = {"information": (2, 2), "mutual-information": (1, 2)}.get(command, (1, 1))
    words = [
        command,
        *data.draw(st.lists(st.sampled_from(SOURCES), min_size=count[0], max_size=count[1])),
    ]
    for _ in range(data.draw(st.integers(0, 4))):
        words.append(data.draw(st.sampled_from(options[command])))
        words += data.draw(st.lists(value, max_size=1))
    run(words, capsys)
