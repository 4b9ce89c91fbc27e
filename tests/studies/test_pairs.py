"""`mutual-information`: files, columns and labels; what is written, and what is refused."""

import numpy as np
import pytest

from entropix.studies import MutualInformationOptions, OutputOptions, mutual_information
from entropix.studies.options import CrossFittingOptions, PairOptions
from entropix.studies.pairs import prepare_mutual_information


pytest.importorskip("xarray")

RNG = np.random.default_rng(0)
X = RNG.normal(size=(200, 2)).astype(np.float32)
Y = (0.8 * X + 0.6 * RNG.normal(size=X.shape)).astype(np.float32)


def options(folder, **pairs):
    return MutualInformationOptions(
        PairOptions(**pairs),
        CrossFittingOptions(folds=2, steps=20),
        OutputOptions(out=str(folder), quiet=True),
    )


@pytest.fixture
def files(tmp_path):
    np.save(tmp_path / "x.npy", X)
    np.save(tmp_path / "y.npy", Y)
    table = np.concatenate([X, Y], axis=1)
    np.savetxt(tmp_path / "t.csv", table, delimiter=",", header="a,b,c,d", comments="")
    return tmp_path


@pytest.mark.slow(reason="a whole study")
def test_two_files_give_record_report_and_figure(files):
    record = mutual_information(files / "x.npy", files / "y.npy", options(files / "out"))
    value = float(record["mutual_information"])
    error = float(record["mutual_information_stderr"]) + float(record["model_error"])
    assert abs(value + np.log(1 - 0.64)) < 4 * error
    assert record["pointwise"].sizes == {"sample": 200}
    assert record["fold_value"].sizes == {"fold": 2}
    assert "label_entropy" not in record
    report = (files / "out" / "report.md").read_text()
    assert "I(X; Y)" in report
    assert (files / "out" / "pointwise.png").exists()
    assert (files / "out" / "results.nc").exists()


def test_columns_of_one_table_are_the_same_pair(files):
    study = prepare_mutual_information(
        files / "t.csv", None, options(files / "out", x=("a", "b"), y=("c", "d"))
    )
    np.testing.assert_allclose(study.x, X, rtol=1e-5)
    np.testing.assert_allclose(study.y, Y, rtol=1e-5)
    assert study.names == ("a,b", "c,d")


def test_a_table_with_text_and_missing_values(files):
    words = np.where(X[:, 0] > 0, "up", "down")
    rows = [f"{w};{a};{b}" for w, (a, b) in zip(words, X.tolist(), strict=True)]
    rows[3] = "up;;1.5"
    (files / "t.csv").write_text("\n".join(["word;a;b", *rows]).replace(".", ","))
    kept = np.arange(200) != 3
    asked = {"condition": "word", "drop_missing": True}
    study = prepare_mutual_information(files / "t.csv", None, options(files / "out", **asked))
    np.testing.assert_allclose(study.x, X[kept], rtol=1e-5)
    assert study.y.tolist() == [int(word == "up") for word in words[kept]]
    assert study.names == ("t", "word")
    # Columns that are not asked for are not read.
    asked = {"x": ("b",), "y": ("a",), "drop_missing": True}
    study = prepare_mutual_information(files / "t.csv", None, options(files / "two", **asked))
    np.testing.assert_allclose(study.x[:, 0], X[kept, 1], rtol=1e-5)
    np.testing.assert_allclose(study.y[:, 0], X[kept, 0], rtol=1e-5)
    asked = {"x": ("1",), "y": ("0",)}  # numbers of columns without names
    study = prepare_mutual_information(files / "x.npy", None, options(files / "three", **asked))
    np.testing.assert_array_equal(study.x[:, 0], X[:, 1])


def test_labels_are_the_partner_of_a_data_set(tmp_path):
    study = prepare_mutual_information("digits", None, options(tmp_path / "out"))
    assert study.y.shape == (len(study.x),)
    assert set(study.y) == set(range(10))


@pytest.mark.parametrize(
    ("first", "second", "pairs", "says"),
    [
        ("x.npy", "short.npy", {}, "`Y` must have one row for each of X, 200, got 100"),
        ("x.npy", "x.npy", {}, "`Y` must not be determined by `x`"),
        ("x.npy", None, {}, "`Y` must be a second file"),
        ("t.csv", None, {"x": ("a",), "y": ("e",)}, "`columns` must name columns .* got 'e'"),
        ("t.csv", None, {"y": ("a",)}, "`--x` and `--y` must both"),
        ("t.csv", None, {"x": ("a",)}, "`Y` must be a second file, .*--condition: t has no labels"),
        ("t.csv", None, {"y": ("a",), "condition": "b"}, "`y` must be left out together"),
        ("t.csv", None, {"condition": "e"}, "`labels` must name one column .* got 'e'"),
        ("x.npy", "y.npy", {"x": ("a",)}, "`x` must be left out if X and Y are two files"),
        ("x.npy", "y.npy", {"condition": "labels"}, "`condition` must be left out if X and Y"),
        ("t.csv", None, {"x": ("a",), "y": ("b", "a")}, "`y` must name other columns .* got a in"),
        ("w.csv", None, {"x": ("a",), "condition": "same"}, "`condition` must .* 200 equal labels"),
        (
            "w.csv",
            None,
            {"x": ("a",), "condition": "name"},
            "`condition` must hold labels.* got 200 different ones .*--x and --y",
        ),
    ],
)
def test_invalid_requests_are_refused(files, first, second, pairs, says):
    np.save(files / "short.npy", Y[:100])
    rows = [f"word{i},word,{a}" for i, a in enumerate(X[:, 0])]
    (files / "w.csv").write_text("\n".join(["name,same,a", *rows]))
    partner = None if second is None else files / second
    with pytest.raises(ValueError, match=says):
        prepare_mutual_information(files / first, partner, options(files / "out", **pairs))
    assert not (files / "out").exists()


def test_divergence_has_its_former_name_too():
    from entropix.cli.subcommands import commands

    table = commands([])
    assert table["divergence"] is table["information"]
    assert "mutual-information" in table


@pytest.mark.parametrize("held_out", [20, 21])
def test_the_report_of_a_divergence_names_the_other_command_for_equal_counts(held_out):
    import xarray

    from entropix.studies.comparison import _warnings

    values = {name: ("seed", [0.1]) for name in ("kl_score", "kl_reverse_score")}
    counts = {"num_train": "[80, 80]", "num_held_out": f"[20, {held_out}]"}
    record = xarray.Dataset(values, attrs={"first": "a", "second": "b", **counts})
    said = " ".join(_warnings(record))
    assert ("`entropix mutual-information`" in said) == (held_out == 20)
