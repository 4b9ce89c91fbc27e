"""Sequences of tokens: texts, FASTA records, integers, and what is refused."""

import gzip

import numpy as np
import pandas as pd
import pytest

from entropix.datasets import Dataset, load


TEXT = "Déjà vu? Ja. " * 40


def test_characters_of_a_text(tmp_path):
    """The windows are the text, whatever its packing; the rest at its end is left out."""
    path = tmp_path / "text.txt"
    path.write_bytes(TEXT.encode("utf-8-sig"))
    data = load(path, tokens="char", length=16)
    assert (data.kind, data.shape, data.num_tokens) == ("tokens", (16,), len(set(TEXT)))
    assert data.vocabulary == tuple(sorted(set(TEXT)))
    assert "".join(data.as_text(data.points)) == TEXT[: len(TEXT) // 16 * 16]
    assert data.texts.tolist() == [0] * (len(TEXT) // 16)
    packed = tmp_path / "text.md.gz"
    packed.write_bytes(gzip.compress(TEXT.encode()))
    again = load(packed, tokens="char", length=16)
    np.testing.assert_array_equal(again.points, data.points)
    assert (again.name, data.name) == ("text", "text")


def test_rare_characters_become_one(tmp_path):
    path = tmp_path / "text.txt"
    path.write_text("ab" * 100_000 + "xyz" + "ab")
    data = load(path, tokens="char", length=2)
    assert data.vocabulary == ("a", "b", "�")
    assert data.as_text(data.points[100_000:]) == ["��", "�a"]
    assert "3 of 200005 characters are rare" in data.notes[0]
    few = load(path, tokens="char", length=5, max_tokens=2)
    assert few.vocabulary == ("a", "�")


def test_the_numbering_of_a_model(tmp_path):
    """The same text in a larger vocabulary; characters that it lacks are refused, or others."""
    (tmp_path / "text.txt").write_text("bcd" * 20 + "dd")
    data = load(tmp_path / "text.txt", tokens="char", length=4)
    moved = data.with_vocabulary("dcba")
    assert moved.as_text(moved.points) == data.as_text(data.points)
    assert (moved.num_tokens, moved.vocabulary, data.points[0, 0]) == (4, tuple("dcba"), 0)
    assert moved.points[0, 0] == 2
    with pytest.raises(ValueError, match=r"got 2 names without 'd': replace these tokens"):
        data.with_vocabulary("bc")
    others = data.with_vocabulary("bc\ufffd")
    assert others.as_text(others.points)[0] == "bc\ufffdb"
    assert others.notes[-1].endswith("tokens are not in the vocabulary given")
    numbers = Dataset.from_tokens([[0, 2], [2, 1]]).with_vocabulary(("2", "others"))
    assert numbers.points.tolist() == [[1, 0], [0, 1]]


def test_the_topics_of_python():
    data = load("python-topics", tokens="char")
    assert data.num_samples > 3000
    assert 60 < data.num_tokens < 200
    assert "assert" in "".join(data.as_text(data.points[:4]))
    rows = [row.tobytes() for row in data.points]
    assert len(set(rows)) > 0.99 * len(rows)  # paragraphs of several topics occur once


@pytest.mark.parametrize("packed", [False, True])
def test_fasta(tmp_path, packed):
    """Windows lie within a record and hold no other letter; u is T."""
    content = b">one\nACGTACGTNNACGTTTGG\nacgtacgu\n;a comment\n>two\nCCCC\n>three\nAC\n"
    path = tmp_path / ("genome.fa.gz" if packed else "genome.FASTA")
    path.write_bytes(gzip.compress(content) if packed else content)
    data = load(path, length=4)
    assert data.vocabulary == tuple("ACGT")
    windows = ["ACGT", "ACGT", "ACGT", "TTGG", "ACGT", "ACGT", "CCCC"]
    assert data.as_text(data.points) == windows
    assert data.texts.tolist() == [0, 0, 1, 1, 1, 1, 2]
    assert data.notes == ("2 of 32 letters are none of ACGT; no window contains them",)


def test_amino_acids(tmp_path):
    path = tmp_path / "protein.faa"
    path.write_text(">p\nMKVLAAGIVGLCXWYDEFHNPQRSTMKVL*\n")
    data = load(path, length=6)
    assert data.vocabulary == tuple("ACDEFGHIKLMNPQRSTVWY")
    assert data.as_text(data.points) == ["MKVLAA", "GIVGLC", "WYDEFH", "NPQRST"]


def test_integers(tmp_path):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 7, (20, 3, 4)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    data = load(tmp_path / "images.npy", tokens="int")
    assert (data.shape, data.num_tokens, data.texts) == ((3, 4), 7, None)
    np.testing.assert_array_equal(data.points.reshape(images.shape), images)
    long = rng.integers(0, 9, 101)
    np.savez(tmp_path / "long.npz", long)
    data = load(tmp_path / "long.npz", tokens="int", length=10)
    np.testing.assert_array_equal(data.points.reshape(-1), long[:100])
    assert data.as_text(data.points[:1]) == [" ".join(map(str, long[:10]))]
    many = Dataset.from_tokens(rng.geometric(0.1, 4000), length=4, max_tokens=4)
    assert many.vocabulary == ("1", "2", "3", "others")
    assert load("digits", tokens="int").num_tokens == 17


def test_categories_of_a_table(tmp_path):
    pd.DataFrame({"a": list("xyzx") * 5, "b": list("uvvv") * 5}).to_csv(tmp_path / "t.csv")
    data = load(tmp_path / "t.csv", tokens="int", encode=["a", "b"], columns=["a", "b"])
    assert (data.num_tokens, data.shape) == (3, (2,))
    assert data.categories["a"] == ("x", "y", "z")
    assert data.points[:2].tolist() == [[0, 0], [1, 1]]


def _array(values):
    return lambda path: np.save(path, values)


def _bytes(content):
    return lambda path: path.write_bytes(content)


_MANY = np.arange(4000).reshape(1000, 4)
_TOO_MANY = np.arange(65540).reshape(-1, 4)
BAD = {
    "empty": ("t.txt", _bytes(b""), {}, "must be text, got an empty file"),
    "one character": ("t.txt", _bytes(b"a" * 999), {}, "must hold samples that differ"),
    "bytes": ("t.txt", _bytes(b"abc\xff" * 99), {}, "must be text in UTF-8, got byte 0xff at .* 3"),
    "short": ("t.txt", _bytes(b"abc" * 20), {}, "at least two windows of `length` tokens, got 0"),
    "length": ("t.txt", _bytes(b"abc" * 20), {"length": 1}, "`length` must be an integer of at"),
    "split": ("t.txt", _bytes(b"abc" * 99), {"split": "test"}, "`split` must be None for text"),
    "ints": ("t.fa", _bytes(b">a\nACGT\n"), {"tokens": "int"}, "`tokens` must be 'char' or None"),
    "no records": ("t.fa", _bytes(b"\n"), {"tokens": None}, "must hold records of FASTA, got none"),
    "headless": ("t.fa", _bytes(b"ACGT\n"), {"tokens": None}, "start with '>', got 'ACGT'"),
    "negative": (
        "t.npy",
        _array(_MANY % 5 - 1),
        {"tokens": "int"},
        "from 0 .* such as -1",
    ),
    "fractions": (
        "t.npy",
        _array(_MANY / 8),
        {"tokens": "int"},
        "from 0 .* such as 0.125",
    ),
    "many": ("t.npy", _array(_TOO_MANY), {"tokens": "int"}, "at most 65536 tokens, got 65540: max"),
    "fixed": ("t.npy", _array(_MANY % 5), {"tokens": "int", "length": 4}, "`length` must be None"),
    "kind": ("t.npy", _array(_MANY % 5), {"tokens": "int", "kind": "image"}, "`kind` must be None"),
    "no tokens": ("t.npy", _array(_MANY), {"tokens": None, "length": 4}, "`length` must be None"),
    "a text": ("t.txt", _bytes(b"A cat. A dog?\n" * 9), {"tokens": None}, "tokens='char'"),
}


@pytest.mark.parametrize("case", BAD)
def test_refused(tmp_path, case):
    name, write, options, says = BAD[case]
    write(tmp_path / name)
    with pytest.raises(ValueError, match=says) as error:
        load(tmp_path / name, **{"tokens": "char"} | options)
    assert "\n" not in str(error.value)


def test_refused_by_the_constructor():
    points = np.array([[0, 1], [1, 2]])
    for changes, says in (
        ({}, "`num_tokens` must be an integer of at least 2, got None"),
        ({"num_tokens": 2}, "integers from 0 to 1"),
        ({"num_tokens": 3, "vocabulary": ("a",)}, "`vocabulary` must hold 3 names, got 1"),
    ):
        with pytest.raises(ValueError, match=says):
            Dataset(points, name="x", kind="tokens", **changes)
    with pytest.raises(ValueError, match="use from_tokens"):
        Dataset.from_array(points, kind="tokens")
