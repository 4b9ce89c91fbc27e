"""The command line: help, and bad input in one line that leaves nothing behind."""

import gzip
import pathlib
import struct
import time

import numpy as np
import pytest
import xarray

import entropix
from entropix.cli import main
from entropix.cli.parsing import parse
from entropix.studies import FolderError
from tests.studies.common import NUM_SAMPLES


@pytest.fixture(autouse=True)
def _in_empty_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def run(capsys, *words):
    """Exit code, stdout and stderr of a command line."""
    code = main([str(word) for word in words])
    out, err = capsys.readouterr()
    return code, out, err


def assert_refused(capsys, *words, says, command="measure"):
    """One clear line, exit code 2, and nothing written."""
    before = sorted(pathlib.Path().rglob("*"))
    code, out, err = run(capsys, command, *words)
    assert code == 2
    assert out == ""
    assert err.startswith("entropix: error: ")
    assert err.count("\n") == 1
    assert says in err
    assert sorted(pathlib.Path().rglob("*")) == before


# ------------------------------------------------------------------ help


def test_version(capsys):
    assert run(capsys, "--version") == (0, f"entropix {entropix.__version__}\n", "")


def test_help_lists_the_commands(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert "measure" in out
    assert "information" in out
    assert "--version" in out


def test_help_explains_every_option(capsys):
    code, out, _ = run(capsys, "measure", "--help")
    assert code == 0
    for text in ("DATA", "mixture3", "--seeds INT", "--resume", "--out", "--kappa", "--cutoff"):
        assert text in out
    for jargon in ("None", "options.", "left out", "SOURCE"):
        assert jargon not in out


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["measure", "--steps", "many"], "--steps"),
        (["measure", "--stepz", "3"], "--stepz"),
        (["measure", "--process", "brownian"], "brownian"),
        (["mesure"], "mesure"),
        (["information", "digits"], "B"),
        ([], "measure"),
    ],
)
def test_invalid_words(capsys, words, says):
    code, out, err = run(capsys, *words)
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert err.startswith("entropix: error: ")
    assert says in err
    assert "--help" in err


def _first(steps: int = 1):
    """Do one thing."""
    return lambda: steps


def _second(rate: float = 1.0):
    """Do another."""
    return lambda: rate


@pytest.mark.parametrize("commands", [{"first": _first}, {"first": _first, "second": _second}])
def test_one_command_or_several(capsys, commands):
    """The hint names the command that was meant, and the whole program where none was."""
    assert parse(["first", "--steps", "3"], commands)() == 3
    assert parse(["first", "--help"], commands) == 0
    assert "--steps INT" in capsys.readouterr().out
    for words, says in (
        (["first", "--stepz", "3"], "--stepz.*; see `entropix first --help`.$"),
        (["first", "--steps", "x"], "--steps.*; see `entropix first --help`.$"),
        (["third"], "third.*; see `entropix --help`.$"),
        ([], "first.*; see `entropix --help`.$"),
    ):
        with pytest.raises(ValueError, match=says) as error:
            parse(words, commands)
        assert "\n" not in str(error.value)


# ------------------------------------------------------------------ bad input


def _npy(array):
    def write():
        np.save("data.npy", array)
        return "data.npy"

    return write


def _file(name, content):
    def write():
        pathlib.Path(name).write_bytes(content)
        return name

    return write


def _npz():
    np.savez("data.npz", a=np.eye(4), b=np.eye(4))
    return "data.npz"


def _with(value):
    points = np.random.default_rng(0).normal(size=(20, 3))
    points[3, 1] = value
    return points


_CONSTANT = np.random.default_rng(0).normal(size=(20, 3)) * [1, 0, 1]
_IDX = b"\x00\x00\x08\x03" + struct.pack(">3I", 10, 4, 4) + bytes(range(100))

BAD_DATA = {
    "wrong rank": (_npy(np.zeros((2, 2, 2, 2, 2))), "axes"),
    "one sample": (_npy(np.ones((1, 3))), "two samples"),
    "NaN": (_npy(_with(np.nan)), "NaN"),
    "infinite": (_npy(_with(np.inf)), "infinite"),
    "constant column": (_npy(_CONSTANT), "column 1"),
    "text": (_npy(np.array([["a", "b"]] * 5)), "numbers"),
    "missing file": (lambda: "missing.npy", "missing.npy"),
    "empty file": (_file("data.csv", b""), "empty"),
    "truncated IDX": (_file("data.idx", _IDX), "truncated"),
    "truncated gzip": (_file("data.idx.gz", gzip.compress(_IDX, mtime=0)[:40]), "IDX"),
    "unknown extension": (_file("data.xyz", b"?"), ".xyz"),
    "unknown name": (lambda: "digit", "did you mean 'digits'"),
    "several arrays": (_npz, "`array` must name"),
    "a folder without images": (lambda: ".", "PNG"),
}


@pytest.mark.parametrize("case", BAD_DATA)
def test_bad_data(capsys, case):
    make, says = BAD_DATA[case]
    assert_refused(capsys, make(), says=says)


BAD_OPTIONS = {
    "--array wrong": "`array` must be None",
    "--split test": "`split` must be None for data without splits, got 'test'",
    "--kappa 0": "`kappa` must be positive",
    "--process sl --sigma0 -0.1": "`sigma0` must be positive",
    "--process ve --sigma-min -1": "`sigma_min` must be positive",
    "--beta-min 2 --beta-max 1": "`beta_max` must be at least",
    "--process cosine --kappa 2": "`kappa` must be left out",
    "--batch-size 5000": "`batch_size` must be at most the number of training samples, 128",
    "--batch-size 0": "`batch_size` must be an integer",
    "--steps 0": "`steps` must be an integer",
    "--seeds 0": "`seeds` must be an integer",
    "--seed -1": "`seed` must be an integer",
    "--widths 0": "`widths` must be an integer",
    "--learning-rate nan": "`learning_rate` must be positive",
    "--learning-rate 0": "`learning_rate` must be positive",
    "--evaluations 10": "`evaluations` must be an integer of at least 256",
    "--density-evaluations 17": "`density_evaluations` must be even",
    "--samples 1": "`samples` must be an integer",
    "--cutoff 0": "`cutoff` must be positive",
    "--cutoff 3": "`cutoff` must be positive and below",
    "--held-out 1": "`held_out` must be a fraction",
    "--resume --overwrite": "`overwrite` must not be given",
}


@pytest.mark.parametrize("words", BAD_OPTIONS)
def test_bad_options(capsys, words):
    assert_refused(
        capsys, "mixture2", "--num-samples", NUM_SAMPLES, *words.split(), says=BAD_OPTIONS[words]
    )


def test_a_wrong_array_name(capsys):
    assert_refused(capsys, _npz(), "--array", "c", says="got 'c'")


def test_an_unwritable_folder(capsys):
    pathlib.Path("file").write_text("x")
    assert_refused(capsys, "mixture2", "--out", "file/out", says="`out` must be a folder")
    assert_refused(capsys, "mixture2", "--out", "file", says="got the file")


@pytest.mark.parametrize("out", ["x" * 300, "a/" * 3000, "nul\0", "", "/dev/null/out"])
def test_an_impossible_folder(capsys, out):
    for command, source in (("measure", "mixture2"), ("transport", None)):
        words = [*([source, "--num-samples", 50] if source else []), "--out", out]
        assert_refused(capsys, *words, says="`out` must be", command=command)


@pytest.mark.parametrize("content", ["[]", '{"steps"', "", '{"steps": []}'])
def test_a_bad_configuration(capsys, content):
    pathlib.Path("out").mkdir()
    pathlib.Path("out/configuration.json").write_text(content)
    for command, source in (("measure", "mixture2"), ("transport", None)):
        words = [*([source, "--num-samples", 50] if source else []), "--out", "out", "--resume"]
        assert_refused(capsys, *words, says="must be", command=command)


def test_a_folder_with_contents(capsys):
    pathlib.Path("mine").mkdir()
    pathlib.Path("mine/thesis.tex").write_text("x")
    for words in ([], ["--resume"], ["--overwrite"]):
        assert_refused(capsys, "mixture2", "--out", "mine", *words, says="new or empty folder")


BAD_LABELS = {
    "missing file": (["--condition", "labels.npy"], "got 'labels.npy'"),
    "none carried": (["--condition", "labels"], "a file that exists"),
    "wrong number": (["--condition", "short.npy"], "`labels` must have shape (20,)"),
    "NaN": (["--condition", "nan.npy"], "1 NaN or infinite of 20"),
    "constant": (["--condition", "ones.npy"], "labels that differ, got 20 times 1.0"),
    "one to each": (["--condition", "text.npy"], "two samples per class"),
    "without labels": (["--shuffle-labels"], "`shuffle_labels` must be left out"),
    "rate": (["--condition", "good.npy", "--condition-dropout", "1"], "`condition_dropout` must"),
}


@pytest.mark.parametrize("case", BAD_LABELS)
def test_bad_labels(capsys, case):
    rng = np.random.default_rng(0)
    np.save("data.npy", rng.normal(size=(20, 3)))
    np.save("good.npy", np.arange(20) % 2)
    np.save("short.npy", np.arange(19) % 2)
    np.save("nan.npy", np.where(np.arange(20) == 3, np.nan, 1.0))
    np.save("ones.npy", np.ones(20))
    np.save("text.npy", np.arange(20).astype(str))
    words, says = BAD_LABELS[case]
    assert_refused(capsys, "data.npy", *words, says=says)


def test_an_unknown_column(capsys):
    pathlib.Path("data.csv").write_text("a,b,kind\n1,2,x\n3,4,y\n2,1,x\n")
    words = ["data.csv", "--condition", "colour"]
    assert_refused(capsys, *words, says="'a', 'b', 'kind'; or a file that exists; got 'colour'")


BAD_PAIRS = {
    "another dimension": (_npy(np.random.default_rng(0).normal(size=(20, 3))), "the same shape"),
    "NaN": (_npy(_with(np.nan)), "NaN"),
    "missing file": (lambda: "missing.npy", "missing.npy"),
}


@pytest.mark.parametrize("case", BAD_PAIRS)
def test_bad_pairs(capsys, case):
    make, says = BAD_PAIRS[case]
    np.save("first.npy", np.random.default_rng(1).normal(size=(20, 2)))
    assert_refused(capsys, "first.npy", make(), says=says, command="information")
    words = ["first.npy", "first.npy", "--samples", "1"]
    assert_refused(capsys, *words, says="`samples` must be", command="information")


def test_an_error_of_the_program_is_not_reported_as_one_of_the_user(monkeypatch):
    def broken(study):
        raise ValueError("a bug")

    monkeypatch.setattr("entropix.studies.study.AbstractStudy.run", broken)
    with pytest.raises(ValueError, match="a bug"):
        main(["measure", "mixture2", "--num-samples", "50", "--out", "out"])


def test_a_training_that_diverges_is_reported_in_one_line(capsys, monkeypatch):
    def diverging(study):
        raise FloatingPointError("the loss must stay finite, got nan at step 3")

    monkeypatch.setattr("entropix.studies.study.AbstractStudy.run", diverging)
    code, _, err = run(capsys, "measure", "mixture2", "--num-samples", "50", "--out", "out")
    assert code == 1
    assert err == "entropix: error: the loss must stay finite, got nan at step 3\n"


def test_a_full_disk_ends_in_one_line(capsys, monkeypatch):
    message = "the output folder 'out' must be one that can be written to: no space left"

    def full(study):
        raise FolderError(message)

    monkeypatch.setattr("entropix.studies.study.AbstractStudy.run", full)
    code, _, err = run(capsys, "transport", "--out", "out")
    assert code == 1
    assert err == f"entropix: error: {message}\n"


# ------------------------------------------------------------------ the main job


@pytest.mark.slow
def test_digits_with_the_defaults(capsys):
    start = time.monotonic()
    code, out, _ = run(capsys, "measure", "digits")
    assert code == 0
    assert "neural entropy S_NN, held-out data" in out
    assert "bits per dimension" in out
    assert time.monotonic() - start < 600
    with xarray.open_dataset("entropix-digits/results.nc", engine="h5netcdf") as record:
        assert 80 < float(record["neural_entropy"][0]) < 120
        assert float(record["bits_per_dim"][0]) < 2.6
        assert float(record["wasserstein2"][0]) < 1.1 * float(record["wasserstein2_null"])


@pytest.mark.slow
@pytest.mark.parametrize("shuffled", [False, True])
def test_labels_of_digits(capsys, shuffled):
    """Between 1.8 nats and H(label) = ln 10; nothing if the labels are dealt out at random."""
    words = ["--widths", "256", "256", "--steps", "300" if shuffled else "1500"]
    words += ["--evaluations", "8192", "--samples", "64", "--no-plots"]
    control = ["--quiet", *(["--shuffle-labels"] if shuffled else [])]
    code, _, _ = run(capsys, "measure", "digits", "--condition", "labels", *words, *control)
    assert code == 0
    with xarray.open_dataset("entropix-digits/results.nc", engine="h5netcdf") as record:
        value, error = (
            float(record[name][0]) for name in ("mutual_information", "mutual_information_stderr")
        )
        assert error < 0.15
        assert float(record["label_entropy"]) == pytest.approx(np.log(10), abs=2e-3)
        if shuffled:
            assert abs(value) < max(4 * error, 0.1)
        else:
            assert 1.8 < value < np.log(10) + 3 * error
        assert (30 if shuffled else 60) < float(record["neural_entropy"][0]) < 120
