"""Tables: what goes in comes out, and every fault is named."""

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
    refused(path, "no constant column, got column 'a', all 0: drop it")
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


def test_csv_of_another_encoding(tmp_path):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe1,2\n3,4\n")
    refused(tmp_path / "x.csv", "cannot be read: 'utf-8' codec can't decode")


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
