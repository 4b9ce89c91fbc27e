"""Tables: what goes in comes out, and every fault is named."""

import re

import numpy as np
import pandas as pd
import pytest

from entropix.datasets import load
from tests.datasets.helpers import TABLE, refused


@pytest.mark.parametrize(
    ("header", "index"),
    [
        (["a", "b c", "3"], False),
        (["a", "b c", "3"], True),
        (["0", "1", "2"], False),
        (["0", "1", "2"], True),
        (None, False),
    ],
)
@pytest.mark.parametrize("sep", [",", ";", "\t"])
def test_csv(tmp_path, header, index, sep):
    path = tmp_path / "mine.csv"
    pd.DataFrame(TABLE, columns=header).to_csv(
        path, sep=sep, index=index, header=header is not None
    )
    data = load(path)
    np.testing.assert_allclose(data.points, TABLE, rtol=3e-16)  # pandas < 3.1 may miss one bit
    assert data.columns == (None if header is None else tuple(header))
    assert data.kind == "table"


def test_csv_of_integers_has_no_header(tmp_path):
    path = tmp_path / "x.csv"
    path.write_text("0,1\n1,0\n1,1\n")
    np.testing.assert_array_equal(load(path).points, [[0, 1], [1, 0], [1, 1]])
    path.write_bytes(b"\xef\xbb\xbf\r\n0.5, 1e3\r\n\r\n-2, 7\r\n")  # a byte order mark, blanks
    np.testing.assert_array_equal(load(path).points, [[0.5, 1000], [-2, 7]])


def test_csv_of_pixels(tmp_path):
    path = tmp_path / "x.csv"
    pd.DataFrame([[0, 3, 9], [0, 1, 0]], columns=list("abc")).to_csv(path, index=False)
    refused(path, "no constant column, got column 'a', all 0: leave out what is constant")
    data = load(path, kind="image")
    assert (data.kind, data.shape, data.levels) == ("image", (3,), 10)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "must be a .csv table, got an empty file"),
        ("\n \n", "got an empty file"),
        ("a,b\n", "rows and columns of numbers, got 0 rows and 2 columns"),
        ("a,b\n1,2\n", "at least two samples, got 1"),
        ("a,b\n1,2\n3,4,5\n", "Expected 2 fields in line 3, saw 3"),
        ("a,b\n1,2,3\n3,4,5\n", "x.csv' must be a .csv table.*does not match"),
        ("a,b\n1,2\n3\n", "1 NaN or missing of 4, the first in sample 1, column 'b'"),
        ("1,2\n3,nan\n5,6\n", "1 NaN or missing of 6, the first in sample 1, column 1"),
        ("a,b\n1,2\n-inf,3\n", "1 infinite of 4, the first in sample 1, column 'a'"),
        ("a,b\n1,2\n3,4 km\n5,6\n", "numeric columns, got column 'b': '4 km' in sample 1"),
        ("a,b\n1,2020-01-01\n3,2020-01-02\n", "got column 'b': '2020-01-01' in sample 0"),
        ("1,x\n2,y\n3,z\n", "got column 'x': 'y' in sample 0"),
        ('a,b\n1,"2\n', "x.csv' must be a .csv table, got one that cannot be read"),
        ("\ufffe\x00", "x.csv'"),
    ],
)
def test_csv_refusals(tmp_path, text, message):
    path = tmp_path / "x.csv"
    path.write_text(text)
    refused(path, message)


def test_csv_of_no_text(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"1,2\n\xff\x00,4\n")
    refused(tmp_path / "x.csv", "cannot be read: it holds bytes of value zero")


def test_parquet(tmp_path):
    path = tmp_path / "mine.parquet"
    frame = pd.DataFrame(TABLE, columns=["a", "b", "c"])
    frame["n"] = pd.array([1, 2, 3, 4, 5, 6], dtype="Int64")
    frame["flag"] = [True, False] * 3
    frame.index = pd.Index(range(10, 16), name="row")
    frame.to_parquet(path)
    data = load(path)
    np.testing.assert_array_equal(data.points, frame.to_numpy(np.float64))
    assert data.columns == ("a", "b", "c", "n", "flag")

    frame.loc[12, "n"] = None
    frame.to_parquet(path)
    refused(path, "1 NaN or missing of 30, the first in sample 2, column 'n'")
    frame["n"] = pd.date_range("2020-01-01", periods=6)
    frame.to_parquet(path)
    refused(path, "got column 'n': dtype datetime64")
    frame["n"] = [[1.0], [2.0]] * 3
    frame.to_parquet(path)
    refused(path, "must have numeric columns, got column 'n'")
    frame[:0].to_parquet(path)
    refused(path, "got 0 rows and 5 columns")
    frame[[]].to_parquet(path, index=False)
    refused(path, "and 0 columns")
    path.write_bytes(b"")
    refused(path, "mine.parquet' must be a .parquet table, got one that cannot be read")


ROWS = pd.DataFrame(np.random.default_rng(1).normal(size=(12, 2)), columns=["a", "b"])
DROPPED = [3, 7, 9, 20, 21, 30, 44, 45, 46, 51, 60, 70]


def r_table(names):
    lines = [f'"{name}",{a},{b}' for name, (a, b) in zip(names, ROWS.to_numpy(), strict=True)]
    return "\n".join(['"","a","b"', *lines])


def joined(header, columns):
    return "\n".join([header, *(",".join(map(str, row)) for row in zip(*columns, strict=True))])


A, B = ROWS["a"], ROWS["b"]
INDEXED = {
    "after dropna": ROWS.set_index(pd.Index(DROPPED)).to_csv(),
    "shuffled": ROWS.set_index(pd.Index(DROPPED[::-1])).to_csv(),
    "whole": ROWS.to_csv(),
    "of R": r_table(range(1, 13)),
    "names of R": r_table(f"car {i}" for i in range(12)),
    "dates": ROWS.set_index(pd.date_range("2020", periods=12)).to_csv(),
    "whole floats": ROWS.set_index(pd.Index(np.array(DROPPED, float))).to_csv(),
    "saved twice": ROWS.set_index(pd.Index(DROPPED)).reset_index(names="Unnamed: 0").to_csv(),
    "not first": joined("a,,b", [A, DROPPED, B]),
    "an empty column": joined("a,b,", [A, B, [""] * 12]),
    "semicolons": ROWS.set_index(pd.Index(DROPPED)).to_csv(sep=";"),
    "beyond 64 bits": ROWS.set_index(pd.Index([10**30 + i for i in range(12)])).to_csv(),
}


@pytest.mark.parametrize("name", INDEXED)
def test_an_index_is_no_data(tmp_path, name):
    path = tmp_path / "x.csv"
    path.write_text(INDEXED[name])
    data = load(path)
    assert data.columns == ("a", "b")
    np.testing.assert_allclose(data.points, ROWS.to_numpy(), rtol=1e-14)
    assert data.notes
    assert all("x.csv' has no name and" in note and "dropped" in note for note in data.notes)


KEPT = {
    "numbers that recur": (joined(",a,b", [[i % 3 for i in range(12)], A, B]), "has no name"),
    "floats": (ROWS.set_index(pd.Index(np.linspace(0, 1, 12))).to_csv(), "has no name"),
    "a named count": (joined("id,a,b", [range(1, 13), A, B]), "column 'id' .* number the rows"),
    "no header": (joined("", [DROPPED, A, B]), "column 0 .* number the rows"),
}


@pytest.mark.parametrize("name", KEPT)
def test_what_may_be_an_index_is_kept_with_a_note(tmp_path, name):
    text, said = KEPT[name]
    (tmp_path / "x.csv").write_text(text)
    data = load(tmp_path / "x.csv")
    assert data.dim == 3
    assert len(data.notes) == 1
    assert re.search(said + ".* kept as data: drop=.* leaves it out", data.notes[0])


def test_a_plain_table_needs_no_note(tmp_path):
    for options in ({}, {"header": False}):
        ROWS.to_csv(tmp_path / "x.csv", index=False, **options)
        assert load(tmp_path / "x.csv").notes == ()


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("9007199254740992", "9007199254740993"),
        ("18446744073709551614", "18446744073709551615"),
        ("1" * 70, "1" * 69 + "2"),
        ("-9007199254740993", "-9007199254740992"),
    ],
)
@pytest.mark.parametrize("beside", ["0.5", "7"])
def test_long_integers_do_not_become_equal(tmp_path, first, second, beside):
    path = tmp_path / "x.csv"
    path.write_text(f"id,b\n{first},{beside}\n{second},3\n5,4\n")
    refused(path, "must hold integers that float64 can tell apart")
    data = load(path, labels="id")  # as labels, each is one of its own
    assert len(set(data.labels.tolist())) == 3
    if len(first) < 20:
        pd.DataFrame(
            {"id": pd.array([int(first), int(second), 5], dtype="Int64"), "b": [0.5, 2, 3]}
        ).to_parquet(tmp_path / "x.parquet")
        refused(tmp_path / "x.parquet", "column 'id' of .* integers that float64 can tell apart")


def test_integers_without_end(tmp_path):
    path = tmp_path / "x.csv"
    for digits, said in ((400, "column 'a' of .*more than 308 digits"), (5000, "column 'a'")):
        path.write_text(f"a,b\n{'1' * digits},2\n3,4\n5,6\n")
        refused(path, said)
        path.write_text(f"{'1' * digits},2\n3,4\n5,6\n")
        refused(path, "column 0")
    path.write_text(f"a,b\n{'1' * 30},2\n3,4\n5,6\n")
    assert load(path).points[0, 0] == float("1" * 30)
