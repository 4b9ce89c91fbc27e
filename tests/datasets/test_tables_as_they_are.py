"""Tables as people have them: what pandas writes is read back, and a refusal has a way out."""

import csv
import importlib.util

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

import entropix as ex
from entropix.datasets import load
from tests.datasets.helpers import refused
from tests.datasets.sets import save_huggingface


def penguins(n=60, seed=0):
    """A table of three text columns, four measures, a year, and missing values."""
    rng = np.random.default_rng(seed)
    species = rng.choice(["Adelie", "Chinstrap", "Gentoo"], n)
    frame = pd.DataFrame(
        {
            "species": species,
            "island": rng.choice(["Biscoe", "Dream"], n),
            "bill_length_mm": np.round(rng.normal(44, 5, n), 1),
            "bill_depth_mm": np.round(rng.normal(17, 2, n), 1),
            "body_mass_g": 25.0 * np.round(rng.normal(168, 32, n)),
            "sex": rng.choice(["female", "male"], n),
            "year": rng.choice([2007, 2008, 2009], n),
        }
    )
    frame.loc[[3, 17], ["bill_length_mm", "bill_depth_mm", "body_mass_g"]] = np.nan
    frame.loc[[3, 8, 17], "sex"] = None
    return frame


MEASURES = ["bill_length_mm", "bill_depth_mm", "body_mass_g"]


# ------------------------------------------------------------------ round trips

NAMES = ["a", "b c", "3", "größe", "x;y", "p,q", 'say "x"', "a", "", "2019", "T (°C)", "|"]


@st.composite
def tables(draw):
    """A frame of numbers, how to write it, and what to leave out as it is read."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    rows, width = draw(st.integers(3, 12)), draw(st.integers(1, 4))
    kinds = draw(st.lists(st.sampled_from(KINDS), min_size=width, max_size=width))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=width, max_size=width))
    numbers = [KINDS_OF[kind](rng, rows) for kind in kinds]
    how = {
        "sep": draw(st.sampled_from([",", ";", "\t", "|"])),
        "decimal": draw(st.sampled_from([".", ","])),
        "lineterminator": draw(st.sampled_from(["\n", "\r\n"])),
        "encoding": draw(st.sampled_from(["utf-8", "utf-8-sig", "latin-1", "utf-16"])),
        "quoting": draw(st.sampled_from([csv.QUOTE_MINIMAL, csv.QUOTE_ALL, csv.QUOTE_NONNUMERIC])),
        "index": draw(st.booleans()),
    }
    extra = draw(st.sampled_from([None, "text", "date", "empty", "missing"]))
    # A first line of numbers alone is no header.
    assume(extra in EXTRAS or not all(name.isdigit() or not name for name in names))
    return numbers, names, how, extra


KINDS_OF = {
    "float": lambda rng, n: rng.normal(0, 10.0 ** rng.integers(-3, 6), n),
    "rounded": lambda rng, n: np.round(rng.normal(0, 3, n), 2) + np.arange(n),
    "integer": lambda rng, n: rng.permutation(n) + int(rng.integers(-50, 10**6)),
    "large": lambda rng, n: rng.permutation(n) + 2**52,
    "flag": lambda rng, n: np.arange(n) % 2 == 0,
}
KINDS = tuple(KINDS_OF)
EXTRAS = {
    "text": lambda n: [f'a, b; "c"\t{i}' for i in range(n)],
    "date": lambda n: pd.date_range("2020-02-01", periods=n).astype(str),
    "empty": lambda n: [np.nan] * n,
}


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(tables())
def test_what_pandas_writes_is_read_back(tmp_path_factory, table):
    numbers, names, how, extra = table
    rows = len(numbers[0])
    frame = pd.DataFrame(dict(enumerate(numbers)))
    frame.columns = names
    options, kept = {}, np.ones(rows, bool)
    if extra in EXTRAS:
        frame["extra"] = EXTRAS[extra](rows)
        options["drop"] = "extra"
    if extra == "missing":
        frame = frame.astype(object)
        frame.iloc[0, -1] = None
        options["drop_missing"] = True
        kept[0] = rows < 4  # a table of two rows is none to speak of
        if rows < 4:
            frame.iloc[0, -1] = numbers[-1][0]
            options = {}
    path = tmp_path_factory.mktemp("t") / "x.csv"
    frame.to_csv(path, errors="replace", **how)
    data = load(path, **options)
    want = np.stack([np.asarray(column, np.float64) for column in numbers], axis=-1)[kept]
    # A nameless column of different values is an index.
    index = [
        name == "" and len(frame.columns) > 1 and len(set(column[kept])) == kept.sum()
        for name, column in zip(names, numbers, strict=True)
    ]
    if data.dim != want.shape[1]:
        assert any(index)
        want = want[:, ~np.array(index)]
    np.testing.assert_allclose(data.points, want, rtol=1e-14)


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_the_same_from_other_formats(tmp_path, suffix):
    if suffix == ".xlsx" and importlib.util.find_spec("openpyxl") is None:
        pytest.skip("openpyxl is not installed")
    path, frame = tmp_path / f"x{suffix}", penguins()
    frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_parquet(path)
    data = load(path, columns=MEASURES, drop_missing=True, labels="species")
    whole = frame.dropna(subset=MEASURES)
    np.testing.assert_allclose(data.points, whole[MEASURES].to_numpy())
    assert data.labels.tolist() == whole["species"].tolist()
    assert "2 of 60 rows" in data.notes[-1]
    refused(path, "numeric columns, got column 'species': 'Adelie'|'Gentoo'|'Chinstrap'")
    refused(path, "`delimiter` must be None", delimiter=",")


@pytest.mark.parametrize("suffix", [".xlsx", ".parquet"])
def test_numbers_that_are_stored_as_text_follow_the_rule_of_text_files(tmp_path, suffix):
    pytest.importorskip("openpyxl")
    path = tmp_path / f"x{suffix}"

    def written(values):
        frame = pd.DataFrame({"a": values, "b": [1.5, 2.0]})
        frame.to_excel(path, index=False) if suffix == ".xlsx" else frame.to_parquet(path)
        return path

    data = load(written(["1,257", "5,678"]))
    np.testing.assert_allclose(data.points, [[1.257, 1.5], [5.678, 2]])
    assert "read with a decimal comma: decimal='.' (--decimal .) reads" in data.notes[0]
    np.testing.assert_allclose(load(path, decimal=".").points[:, 0], [1257, 5678])
    np.testing.assert_allclose(load(written(["1,257.5", "2"])).points[:, 0], [1257.5, 2])
    np.testing.assert_allclose(load(written(["1.257,5", "2"])).points[:, 0], [1257.5, 2])
    refused(path, "`decimal` must be '.' or ','", decimal="'")


def test_spreadsheets(tmp_path):
    pytest.importorskip("openpyxl")
    frame = pd.DataFrame(np.random.default_rng(0).normal(size=(9, 2)), columns=["a", "b"])
    with pd.ExcelWriter(tmp_path / "x.xlsx") as file:
        frame.to_excel(file, sheet_name="one")
        (frame + 1).to_excel(file, sheet_name="two", header=False, index=False)
    data = load(tmp_path / "x.xlsx")
    np.testing.assert_allclose(data.points, frame)
    assert "has 2 sheets, of which the first is read" in data.notes[0]
    np.testing.assert_allclose(load(tmp_path / "x.xlsx", array="two").points, frame + 1)
    refused(
        tmp_path / "x.xlsx", "`array` must be a sheet .*'one', 'two'; got 'three'", array="three"
    )


# ------------------------------------------------------------------ text as it is found

FOUND = {
    "tabs": "a\tb\n1.5\t2\n3\t4\n",
    "semicolons and decimal commas": "a;b\n1,5;2,0\n3,0;4,0\n",
    "tabs and decimal commas, no header": "1,5\t2,0\n3,0\t4,0\n",
    "commas in quotes": 'a,b\n"1,5","2,0"\n"3,0","4,0"\n',
    "bars": "a|b\n1.5|2\n3|4\n",
    "white space": "a   b\n1.5 2\n3    4\n",
    "white space, no header": "  1.5   2\n  3  4\n",
    "text with delimiters": 'a;b;c\n1.5;2;"x;y, z"\n3;4;"u"\n',
    "a header of counts": "2,2,no,yes\n1.5,2,0\n3,4,1\n",
    "text without a header": "1.5,2,no\n3,4,no\n",
    "line ends of Windows and a byte order mark": "\ufeffa;b\r\n1,5;2\r\n3;4\r\n",
    "blank lines": "\n\na,b\n\n1.5,2\n\n3,4\n\n",
    "marks of missing values": "a,b\n1.5,2\n?,1\n-,1\n3,4\n",
    "missing values in the first line, no header": "?,7\n1.5,2\nNA,9\n3,4\n",
    "names of rows, as R writes them": '"a" "b"\n"1" 1.5 2\n"2" 3 4\n',
    "names of rows between commas": "a,b\nu,1.5,2\nv,3,4\n",
    "numbers of rows, as pandas prints them": "     a  b\n0  1.5  2\n1    3  4\n",
    "comments, and names in the last, as NumPy writes them": "# by me\n# a b\n1.5 2\n3 4\n",
    "comments before a header": "# by me, 2024\n\na,b\n1.5,2\n3,4\n",
    "a comment that names nothing": "# from one of the many runs\n1.5 2\n3 4\n",
    "blanks around names and numbers": "a , b \n1.5 , 2 \n3 , 4 \n",
    "a delimiter at each end of line, no header": "1.5\t2\t\n3\t4\t\n",
    "the delimiter in a first line, for Excel": "sep=:\r\na:b\r\n1.5:2\r\n3:4\r\n",
    "quoted numbers and white space, no header": '"1.5" "2"\n"3" "4"\n',
}


@pytest.mark.parametrize("name", FOUND)
def test_text_as_it_is_found(tmp_path, name):
    (tmp_path / "x.csv").write_text(FOUND[name], newline="")
    drop = {"text with delimiters": ["c"], "text without a header": ["2"]}.get(name, [])
    data = load(tmp_path / "x.csv", drop=drop, drop_missing="missing" in name)
    np.testing.assert_array_equal(data.points, [[1.5, 2], [3, 4]])
    assert (data.labels is None) == ("counts" not in name)
    assert data.columns in (("a", "b") if FOUND[name].count("a") else None, None)


YEARS = {
    "1990;1991;1992\n1.5;2;3\n4;5;6\n": True,
    ";1990;1991;1992\n0;15;2;3\n1;4;5;6\n": True,
    "1990;2000;2010\n15;2;3\n4;5;6\n": True,
    "1990;1991;1992\n1991;1992;1993\n4;5;6\n": False,  # rows of years
    "1990;1991;1993\n15;2;3\n4;5;6\n": False,
    "1990;1991\n15;2\n4;5\n": False,
    "990;991;992\n15;2;3\n4;5;6\n": False,
}


@pytest.mark.parametrize("suffix", [".csv", ".xlsx"])
@pytest.mark.parametrize("text", YEARS)
def test_years_above_numbers_are_a_header(tmp_path, text, suffix):
    path = tmp_path / f"x{suffix}"
    path.write_text(text)
    if suffix == ".xlsx":
        pytest.importorskip("openpyxl")
        rows = [[float(v) if v else None for v in line.split(";")] for line in text.split()]
        pd.DataFrame(rows).to_excel(path, header=False, index=False)
    data = load(path)
    assert data.num_samples == (2 if YEARS[text] else 3)
    assert (data.columns is not None) == YEARS[text]
    if YEARS[text]:
        assert data.columns[0] == "1990"
        assert f"the first line of {str(path)!r}, 1990, " in data.notes[0]


def test_gzipped_text(tmp_path):
    path, frame = tmp_path / "x.csv.gz", penguins()
    frame.to_csv(path, index=False)
    data = load(path, columns=MEASURES, drop_missing=True, labels="species")
    assert (data.name, data.points.shape) == ("x", (58, 3))
    frame[["species"]].to_csv(tmp_path / "labels.tsv.gz", index=False, sep="\t")
    again = load(path, columns=MEASURES, drop_missing=True, labels=tmp_path / "labels.tsv.gz")
    assert [*again.labels] == [*data.labels]
    frame.to_csv(path, index=False, na_rep="NA", columns=["sex", "year"])
    data = load(path, labels="sex", keep_na=True)
    assert sorted(set(data.labels)) == ["NA", "female", "male"]
    path.write_bytes(path.read_bytes()[:-20])
    refused(path, "must be a .csv table, got one that cannot be read")


def test_repeated_samples_are_dropped_on_request(tmp_path):
    rows = np.array([[1.5, 2], [3, 4], [1.5, 2], [0.0, 1], [-0.0, 1], [3, 4]])
    np.save(tmp_path / "x.npy", rows)
    data = load(tmp_path / "x.npy", drop_repeated=True)
    np.testing.assert_array_equal(data.points, rows[[0, 1, 3]])
    assert "3 of 6 samples of" in data.notes[-1]
    np.save(tmp_path / "labels.npy", [0, 1, 0, 0, 1, 0])  # equal samples of another class stay
    data = load(tmp_path / "x.npy", labels=tmp_path / "labels.npy", drop_repeated=True)
    assert [*data.labels] == [0, 1, 0, 1, 0]
    np.save(tmp_path / "x.npy", rows[[0, 1]])
    assert load(tmp_path / "x.npy", drop_repeated=True).notes == ()
    images = np.arange(32, dtype=np.uint8).reshape(2, 4, 4)[[0, 1, 0]]
    np.save(tmp_path / "x.npy", images)
    assert load(tmp_path / "x.npy", drop_repeated=True).num_samples == 2
    refused("digits", "`drop_repeated` must be None for embedded data", drop_repeated=True)


def test_channels_are_those_of_images(tmp_path):
    (tmp_path / "x.csv").write_text("a,b\n1.5,2\n3,4\n")
    for source in (tmp_path / "x.csv", "digits", "moons"):
        refused(source, "`channels` must be 'auto' unless the data are images", channels="last")


def test_blanks_are_no_part_of_names_and_labels(tmp_path):
    (tmp_path / "x.csv").write_text("a , c \n 1,u \n2, u\n4,v  \n")
    data = load(tmp_path / "x.csv", labels="c")
    assert data.columns == ("a",)
    assert [*data.labels] == ["u", "u", "v"]
    assert load(tmp_path / "x.csv", encode="c").categories == {"c": ("u", "v")}


def test_marks_of_thousands(tmp_path):
    path = tmp_path / "x.csv"
    for text in (
        'a;b\n"1,234";0.5\n"12,345,678.5";7\n999;1\n',
        "a;b\n1.234;0,5\n12.345.678,5;7\n999;1\n",
        'a,b\n"1,234",0.5\n"12,345,678.5",7\n999,1\n',
    ):
        path.write_text(text)
        np.testing.assert_allclose(load(path).points, [[1234, 0.5], [12345678.5, 7], [999, 1]])
    path.write_text("a;b\n1,234;2\n5,678;4\n")
    data = load(path)
    np.testing.assert_allclose(data.points[:, 0], [1.234, 5.678])
    assert "read with a decimal comma: decimal='.' (--decimal .) reads" in data.notes[0]
    np.testing.assert_allclose(load(path, decimal=".").points[:, 0], [1234, 5678])
    path.write_text("a;b\n1.5;0,5\n2.25;7,5\n")  # both marks in one file
    refused(path, "numeric columns, got column '[ab]'")


def test_the_marks_may_be_given(tmp_path):
    path = tmp_path / "x.tsv"
    path.write_text("a\tb\n1,5\t2,0\n3,0\t4,0\n")
    np.testing.assert_array_equal(
        load(path, delimiter="tab", decimal=",").points, [[1.5, 2], [3, 4]]
    )
    path.write_text("a:b\n1.5:2\n3:4\n")
    np.testing.assert_array_equal(load(path, delimiter=":").points, [[1.5, 2], [3, 4]])
    refused(path, "`delimiter` must be one character", delimiter="::")
    refused(path, "`decimal` must be '.' or ','", decimal="'")


def test_text_of_other_encodings(tmp_path):
    path, text = tmp_path / "x.csv", "größe;b\n1,5;2\n3;4\n"
    for encoding in ("latin-1", "utf-16", "utf-8-sig"):
        path.write_bytes(text.encode(encoding))
        data = load(path)
        assert data.columns == ("größe", "b")
        np.testing.assert_array_equal(data.points, [[1.5, 2], [3, 4]])
        assert [*data.notes] == [
            f"{str(path)!r} is not UTF-8 (byte 0xf6) and is read as Latin-1"
        ] * (encoding == "latin-1")


# ------------------------------------------------------------------ columns and rows


@pytest.fixture
def file(tmp_path):
    penguins().to_csv(tmp_path / "penguins.csv", index=False)
    return tmp_path / "penguins.csv"


def test_a_refusal_names_the_options_that_help(file):
    refused(
        file,
        r"column 'species': '\w+' in sample 0 .*; column 'island': .*; column 'sex': .*: "
        r"drop=\['species', 'island', 'sex'\] \(--drop species island sex\) leaves them out; "
        r"a column of text can be the label, labels='species' \(measure --condition species\), "
        r"or be numbered, encode=\['species'\] \(--encode species\)",
    )
    text = ["species", "island", "sex"]
    refused(
        file,
        r"got 6 NaN or missing of 240.*: drop_missing=True \(--drop-missing\) leaves out 2 of 60",
        drop=text,
    )
    data = load(file, drop=text, drop_missing=True)
    assert data.columns == (*MEASURES, "year")
    assert data.num_samples == 58
    refused(file, "`drop` must name columns of .*'species', 'island'.*; got 'kind'", drop="kind")
    refused(file, "`columns` must not hold that of the labels", columns="sex", labels="sex")


def test_labels_follow_their_rows(file, tmp_path):
    frame = penguins()
    data = load(file, columns=MEASURES, drop_missing=True, labels="sex")
    kept = frame.dropna()
    np.testing.assert_allclose(data.points, kept[MEASURES])
    assert data.labels.tolist() == kept["sex"].tolist()
    np.save(tmp_path / "labels.npy", np.arange(60))
    data = load(file, columns=MEASURES, drop_missing=True, labels=tmp_path / "labels.npy")
    assert data.labels.tolist() == [i for i in range(60) if i not in (3, 17)]
    refused(file, "a label for every sample, got 3 missing .*drop_missing=True", labels="sex")


def test_text_becomes_numbers_on_request(file):
    data = load(file, columns=[*MEASURES, "sex"], drop_missing=True, encode="sex")
    assert data.categories == {"sex": ("female", "male")}
    assert data.notes[-1].endswith("is numbered: 0 female, 1 male")
    want = penguins().dropna()["sex"] == "male"
    np.testing.assert_array_equal(data.points[:, 3], want)
    refused(file, "column 'sex' of .* to be encoded, got 3 missing", columns="sex", encode="sex")
    refused(file, "`encode` must name columns that are used", drop="sex", encode="sex")


@pytest.mark.parametrize(
    ("text", "options", "message"),
    [
        (
            "a,b\n1,\n2,\n3,\n",
            {"drop_missing": True},
            r"without any value: drop=\['b'\] \(--drop b\)",
        ),
        ("a,b\n1,\n,2\n,3\n", {"drop_missing": True}, "a missing value in each of the 3 rows"),
        ("a,b\n1,\n2,\n", {}, r"leave out column 'b', without any value .*--drop"),
        ("id,b\n9007199254740993,1\n9007199254740992,2\n", {}, r"column 'id' of .*--drop id"),
        ("a,b\n1,2\n", {}, "at least two samples, got 1"),
        ("a,b\n1,7\n2,7\n", {}, r"no constant column, got column 'b', all 7: .*--drop"),
        ("a,b\n1,2020-01-01\n2,2020-01-02\n", {}, r"'2020-01-01' in sample 0 .*--drop b"),
        ("a,b c\n1,x\n2,y\n", {}, r"drop=\['b c'\] \(--drop 'b c'\)"),
        ("a,b\n1,2\n3,4\n", {"drop": ["a", "b"]}, "got 2 rows and 0 columns"),
    ],
)
def test_refusals(tmp_path, text, options, message):
    (tmp_path / "x.csv").write_text(text)
    refused(tmp_path / "x.csv", message, **options)


def test_options_hold_for_any_data_of_two_axes(tmp_path):
    points = np.random.default_rng(0).normal(size=(6, 3))
    points[2, 1] = np.nan
    np.save(tmp_path / "x.npy", points)
    np.savez(tmp_path / "x.npz", x=points, y=np.arange(6))
    want = np.delete(points, 2, axis=0)
    data = load(tmp_path / "x.npy", drop=0, drop_missing=True)
    np.testing.assert_array_equal(data.points, want[:, 1:])
    data = load(tmp_path / "x.npz", array="x", labels="y", drop_missing=True)
    np.testing.assert_array_equal(data.points, want)
    assert data.labels.tolist() == [0, 1, 3, 4, 5]
    refused(tmp_path / "x.npy", "1 NaN or missing .*leaves out 1 of 6 rows")
    np.save(tmp_path / "images.npy", np.zeros((5, 4, 4)))
    refused(
        tmp_path / "images.npy", "`drop` must be left out for data that are not a table", drop="0"
    )
    refused("digits", "`columns` must be left out for data that are not a table", columns="0")


def test_tables_of_hugging_face(tmp_path):
    pytest.importorskip("datasets")
    frame = penguins()
    columns = {k: frame[k].astype(object).where(frame[k].notna(), None).tolist() for k in frame}
    folder = save_huggingface(tmp_path / "saved", columns)
    data = load(folder, columns=MEASURES, drop_missing=True, labels="species")
    whole = frame.dropna(subset=MEASURES)
    np.testing.assert_allclose(data.points, whole[MEASURES])
    assert data.labels.tolist() == whole["species"].tolist()
    data = load(folder, drop=["year", "body_mass_g"], drop_missing=True, encode="island")
    assert data.columns == ("bill_length_mm", "bill_depth_mm", "island")
    refused(folder, "6 NaN or missing .*drop_missing=True")


def test_the_tables_of_scikit_learn():
    """As they lie in the package, with a first line of counts and classes."""
    datasets = pytest.importorskip("sklearn.datasets")
    folder = datasets.__path__[0] + "/data"
    for name, file in (("iris", "iris"), ("wine", "wine_data"), ("breast_cancer", "breast_cancer")):
        bunch = getattr(datasets, f"load_{name}")()
        data = ex.datasets.load(f"{folder}/{file}.csv")
        np.testing.assert_array_equal(data.points, bunch.data)
        assert data.labels.tolist() == bunch.target_names[bunch.target].tolist()
