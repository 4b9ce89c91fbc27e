"""Tables as they are, from a file to a measurement in one command, with the right finding."""

import numpy as np
import pandas as pd
import pytest
import xarray

import entropix as ex
from entropix.cli import main
from entropix.studies import ConditionOptions, DataOptions, measure
from entropix.studies.cutoff import choose_cutoff
from entropix.studies.data import data_text, prepare_data, prepare_pair
from tests.datasets.helpers import save_png
from tests.datasets.sets import save_huggingface, save_mnist
from tests.datasets.test_tables_as_they_are import MEASURES, penguins
from tests.studies.common import WORDS, options


PROCESS = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
SMALL = [w for w in WORDS if w not in ("--num-samples", "160")]


def measured(source, folder, *words):
    """The record of a measurement by one command, small."""
    assert main(["measure", str(source), *SMALL, "--quiet", "--out", str(folder), *words]) == 0
    with xarray.open_dataset(folder / "results.nc", engine="h5netcdf") as record:
        return record.load()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    path = tmp_path_factory.mktemp("data") / "penguins.tsv"
    penguins(132).to_csv(path, index=False, sep="\t", decimal=",")
    return path


# ------------------------------------------------------------------ in one command


@pytest.mark.slow(reason="a whole study")
def test_penguins(file, tmp_path, capsys):
    """Tabs, decimal commas, text, missing values: refused with a way out, then measured."""
    assert main(["measure", str(file), *SMALL, "--out", str(tmp_path / "no")]) == 2
    assert "--drop species island sex" in capsys.readouterr().err
    # As many rows and columns as in the tests below, which therefore share its programs.
    columns = [*MEASURES, "year"]
    record = measured(file, tmp_path / "out", "--columns", *columns, "--drop-missing")
    text = record.attrs["data_text"]
    assert "130 rows of 4 columns" in text
    assert "2 of 132 rows" in text
    assert "no density, because values recur: " in text
    assert "chosen, because values of " in record.attrs["cutoff_text"]
    assert text in (tmp_path / "out" / "report.md").read_text()


@pytest.mark.parametrize("command", ["schedule", "storage", "information"])
def test_the_same_options_on_every_command(command, file, capsys):
    words = [str(file), str(file)] if command == "information" else [str(file)]
    assert main([command, *words, "--columns", *MEASURES]) == 2
    assert "--drop-missing" in capsys.readouterr().err
    assert main([command, *words, "--columns", *MEASURES, "--drop-missing", "--drop", "x"]) == 2
    assert "`drop` must name columns of" in capsys.readouterr().err
    assert main([command, *words, "--decimal", ";"]) == 2
    assert "`decimal` must be '.' or ','" in capsys.readouterr().err


FOUR_COLUMNS = {
    "iris": (0, 1, 2, 3),
    "wine": (0, 1, 3, 4),
    "breast_cancer": (1, 4, 6, 7),
    "diabetes": (0, 1, 2, 3),
}
SETS = ["iris", "wine", "breast_cancer", "diabetes"]


@pytest.mark.parametrize("name", SETS)
def test_the_tables_of_scikit_learn(name, tmp_path):
    datasets = pytest.importorskip("sklearn.datasets")
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    frame.to_csv(tmp_path / "x.csv", index=False)
    labelled = name != "diabetes"
    data = prepare_data(
        tmp_path / "x.csv", DataOptions(), ConditionOptions("target" if labelled else None)
    )
    if labelled:
        assert data.condition is not None
        assert data.condition.dim == 3 - (name == "breast_cancer")
    found, cutoff = data.description, choose_cutoff(None, PROCESS, data)
    assert found.discrete.any()
    assert cutoff.value == pytest.approx(0.01, rel=0.1)
    assert ("sex" in cutoff.reason) == (name == "diabetes")
    noisy = prepare_data(tmp_path / "x.csv", DataOptions(dequantise_columns=("all",)))
    levels = noisy.description.discrete.sum()
    assert levels == {"iris": 0, "wine": 0, "breast_cancer": 6, "diabetes": 1}[name]


@pytest.mark.slow(reason="whole studies")
@pytest.mark.parametrize("name", SETS)
def test_tables_measured(name, tmp_path):
    """130 rows of four columns of each, which share their programs."""
    datasets = pytest.importorskip("sklearn.datasets")
    frame = getattr(datasets, f"load_{name}")(as_frame=True).frame
    frame.sample(130, random_state=0).to_csv(tmp_path / "x.csv", index=False)
    columns = [frame.columns[i] for i in FOUR_COLUMNS[name]]
    record = measured(tmp_path / "x.csv", tmp_path / "out", "--columns", *columns)
    assert np.isfinite(record["neural_entropy"]).all()
    if name != "breast_cancer":  # whose values recur in the whole table only
        assert record.attrs["cutoff"] > 0
        assert "no density, because values recur: " in record.attrs["data_text"]


# Sets of the same numbers, 130 x 4 (as the tables above) and 40 x 36, share their programs.
def mnist(folder):
    save_mnist(folder, train=40, size=6)
    return folder, "40 images of 6 x 6, 256 integer levels, with uniform noise"


def pngs(folder):
    pixels = np.random.default_rng(0).integers(0, 256, (40, 3, 4, 3), dtype=np.uint8)
    for i, image in enumerate(pixels):
        save_png(folder / f"{i}.png", image)
    return folder, "40 images of 3 x 4 x 3, 256 integer levels, with uniform noise"


def parquet(folder):
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(130, 3)), columns=list("abc"))
    frame["d"] = frame["a"] - 2 * frame["b"]
    folder.mkdir()
    frame.to_parquet(folder / "x.parquet")
    return folder / "x.parquet", "4 columns lie in 3 dimensions"


def hugging_face(folder):
    pytest.importorskip("datasets")
    points = np.random.default_rng(0).standard_cauchy(size=(130, 4))
    columns = dict(zip("abcd", points.T.tolist(), strict=True))
    return save_huggingface(folder, columns), "heavy tails, of index"


FORMATS = [mnist, pngs, parquet, hugging_face]


@pytest.mark.parametrize("make", FORMATS)
def test_the_findings_of_other_formats(make, tmp_path):
    source, said = make(tmp_path / "data")
    data = prepare_data(source, DataOptions())
    assert said in data_text(data)
    cutoff = choose_cutoff(None, PROCESS, data)
    assert (cutoff.value is not None) == (make is parquet)


@pytest.mark.slow(reason="whole studies")
@pytest.mark.parametrize("make", FORMATS)
def test_other_formats_measured(make, tmp_path):
    source, said = make(tmp_path / "data")
    # With heavy tails, 1024 evaluations are too few to know the error.
    more = ["--evaluations", "8192"] if make is hugging_face else []
    record = measured(source, tmp_path / "out", *more)
    assert said in record.attrs["data_text"]
    assert np.isfinite(record["neural_entropy"]).all()
    dependent = make is parquet
    assert (record.attrs["cutoff"] > 0) == dependent
    assert ("lie in 3 dimensions" in record.attrs["cutoff_text"]) == dependent
    if make in (mnist, pngs):  # the same evaluations, divided by scale and by pixel
        square = make is mnist
        assert record["scale"].values.tolist() == (
            ["mean", "1", "2 to 3", "4 to 5"] if square else ["mean", "1", "2 to 3"]
        )
        for name in ("entropy", "entropy_interval"):
            scales, pixels = record[f"scale_{name}"], record[f"coordinate_{name}"]
            assert pixels.sizes["coordinate"] == 36
            np.testing.assert_allclose(scales.sum("scale"), pixels.sum("coordinate"), rtol=1e-4)
        assert "S_NN by scale" in (tmp_path / "out" / "report.md").read_text()


# ------------------------------------------------------------------ the pieces


def table(tmp_path, **columns):
    path = tmp_path / "x.csv"
    pd.DataFrame(columns).to_csv(path, index=False)
    return path


def test_noise_of_one_step_in_chosen_columns(tmp_path):
    rng = np.random.default_rng(0)
    path = table(
        tmp_path,
        x=rng.normal(size=200),
        half=rng.integers(0, 9, 200) / 2 - 1,
        word=rng.choice(["b", "a", "c"], 200),
    )
    data = prepare_data(
        path, DataOptions(encode=("word",), dequantise_columns=("half",), standardise="none")
    )
    raw = ex.datasets.load(path, encode="word").points
    for points, index in ((data.held_out, data.order[0]), (data.train, data.order[1])):
        noise = points - raw[index]
        np.testing.assert_allclose(noise[:, 0], 0, atol=1e-6)
        for column, step in ((1, 0.5), (2, 1.0)):
            assert noise[:, column].min() >= 0
            assert noise[:, column].max() < step
            assert noise[:, column].std() == pytest.approx(step / np.sqrt(12), rel=0.2)
    assert data.noise == (("half", 0.5), ("word", 1.0))
    assert data.noise_draws > 1
    assert data.description.has_density
    assert choose_cutoff(None, PROCESS, data).value is None
    with pytest.raises(ValueError, match="here 'half', 'word'; got 'x'"):
        prepare_data(path, DataOptions(encode=("word",), dequantise_columns=("x",)))


def test_two_tables_of_the_same_categories(tmp_path):
    rng = np.random.default_rng(0)
    one, other = (tmp_path / "one.csv", tmp_path / "other.csv")
    for path, words in ((one, ["a", "b"]), (other, ["a", "c"])):
        pd.DataFrame({"x": rng.normal(size=40), "w": rng.choice(words, 40)}).to_csv(
            path, index=False
        )
    with pytest.raises(ValueError, match="must have the same categories"):
        prepare_pair(one, other, DataOptions(encode=("w",)))
    here, there = prepare_pair(one, other, DataOptions(drop=("w",)))
    assert here.dim == there.dim == 1


@pytest.mark.slow(reason="a whole study")
def test_normal_scores_keep_the_units_of_log_densities(tmp_path):
    """-log of the Gaussian of normal scores is near the entropy of the data, in their units."""
    rng = np.random.default_rng(0)
    np.save(tmp_path / "x.npy", 5 * rng.standard_cauchy((130, 4)))
    data = prepare_data(tmp_path / "x.npy", DataOptions(standardise="ranks"))
    z, x = data.held_out, data.standardisation.inverse(data.held_out)
    np.testing.assert_allclose(data.log_jacobian(z), data.standardisation.log_jacobian(x))
    assert any("tail" in note for note in data.original.notes)
    small = options(tmp_path / "out", data={"num_samples": None, "standardise": "ranks"})
    measure(tmp_path / "x.npy", small)
    with xarray.open_dataset(tmp_path / "out" / "results.nc", engine="h5netcdf") as record:
        assert record.attrs["standardisation"] == "ranks"
        truth = 4 * np.log(4 * np.pi * 5)  # the entropy of four Cauchy variables of scale 5
        gaussian = record["negative_log_likelihood_gaussian"]
        assert abs(gaussian - truth) < 4 * record["negative_log_likelihood_gaussian_stderr"] + 0.2
        assert "normal scores" in record.attrs["coordinates_text"]
