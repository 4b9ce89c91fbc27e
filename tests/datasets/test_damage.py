"""Damaged files: whatever the bytes, `load` returns valid data or says what is wrong."""

import gzip
import io
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pytest
from PIL import Image

from entropix.datasets import Dataset, load


ARRAY = np.random.default_rng(0).integers(0, 256, size=(6, 4, 3), dtype=np.uint8)


def content(save):
    buffer = io.BytesIO()
    save(buffer)
    return buffer.getvalue()


IDX = bytes([0, 0, 8, 3, 0, 0, 0, 6, 0, 0, 0, 4, 0, 0, 0, 3]) + ARRAY.tobytes()
VALID = {
    "x.idx": IDX,
    "x.idx.gz": gzip.compress(IDX, mtime=0),
    "x.npy": content(lambda file: np.save(file, ARRAY / 7)),
    "x.npz": content(lambda file: np.savez_compressed(file, x=ARRAY / 7)),
    "x.png": content(lambda file: Image.fromarray(ARRAY[0]).save(file, "PNG")),
    "x.csv": b"a,b,c\n1,2,3\n4,-5e-3,6\n" + b"7.25,8,9\n" * 4,
}
# Headers are short and matter most: half of the flips fall into the first 128 bytes.
flips = st.lists(
    st.tuples(st.one_of(st.integers(0, 127), st.integers(0, 10**4)), st.integers(1, 255)),
    max_size=4,
)
kept = st.one_of(st.just(1.0), st.floats(0.0, 1.0))


def damaged(valid, flips, kept):
    data = bytearray(valid[: round(kept * len(valid))])
    for place, bits in flips:
        if data:
            data[place % len(data)] ^= bits
    return bytes(data)


def valid_or_refused(name, data):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(data)
        if name.endswith(".png"):
            (Path(folder) / "a.png").write_bytes(VALID[name])
            path = Path(folder)
        try:
            result = load(path)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
            assert str(path) in str(error)  # noqa: PT017
            return None
        assert isinstance(result, Dataset)
        assert np.isfinite(result.points).all()
        return result


@pytest.mark.parametrize("name", VALID)
def test_undamaged(name):
    """The bytes that the others damage are valid: the copy of one image is refused as such."""
    if name == "x.png":
        with pytest.raises(ValueError, match="2 copies of one sample"):
            raise_if_refused(name)
    else:
        assert valid_or_refused(name, VALID[name]) is not None


def raise_if_refused(name):
    with tempfile.TemporaryDirectory() as folder:
        for copy in "ab":
            (Path(folder) / f"{copy}.png").write_bytes(VALID[name])
        load(folder)


@pytest.mark.parametrize("name", VALID)
@hypothesis.given(flips=flips, kept=kept)
@hypothesis.settings(max_examples=150)
def test_damaged(name, flips, kept):
    valid_or_refused(name, damaged(VALID[name], flips, kept))


@hypothesis.given(
    st.one_of(st.binary(max_size=64), st.text("0123456789.,;\n\t \"'eE+-ax#").map(str.encode))
)
@hypothesis.settings(max_examples=200)
def test_any_text_as_csv(data):
    valid_or_refused("x.csv", data)


def test_truncated_parquet():
    pandas = pytest.importorskip("pandas")
    valid = content(lambda file: pandas.DataFrame({"a": [1.0, 2.0]}).to_parquet(file))
    assert valid_or_refused("x.parquet", valid) is not None
    for length in np.linspace(0, len(valid) - 1, 40, dtype=int):
        assert valid_or_refused("x.parquet", valid[:length]) is None
