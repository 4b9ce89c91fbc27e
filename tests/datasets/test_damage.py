"""Damaged files: whatever the bytes, `load` returns valid data or says what is wrong."""

import gzip
import io
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.strategies as st
import numpy as np
import pandas as pd
import pytest
from PIL import Image

from entropix.datasets import Dataset, load, stream
from tests.datasets.sets import cifar_batches, cifar_files, idx, save_cifar, save_huggingface


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


PARQUET = content(
    lambda file: pd.DataFrame({"a": [1.0, 2.0, 3.5], "b": [4, 5, 7]}).to_parquet(file)
)


def test_truncated_parquet():
    assert valid_or_refused("x.parquet", PARQUET) is not None
    for length in np.linspace(0, len(PARQUET) - 1, 40, dtype=int):
        assert valid_or_refused("x.parquet", PARQUET[:length]) is None


# ---------------------------------------------------------------------------- several files


def archive(name):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        save_cifar(path, cifar_files(cifar_batches(1)[0]))
        return path.read_bytes()


BATCHES = cifar_batches(1)[0]


def files_of(name):
    """The files of a data set in a folder, and the one that is damaged."""
    if name == "mnist":
        files = {
            "t10k-images-idx3-ubyte": idx(ARRAY),
            "t10k-labels-idx1-ubyte": idx(np.arange(6) % 3),
        }
        return files, "t10k-labels-idx1-ubyte"
    if name == "cifar":
        return cifar_files(BATCHES), "data_batch_2.bin"
    with tempfile.TemporaryDirectory() as folder:
        path = save_huggingface(Path(folder) / "x", {"x": ARRAY.reshape(6, 12).tolist()})
        files = {file.name: file.read_bytes() for file in path.iterdir()}
    return files, next(file for file in files if file.endswith(name))


@pytest.mark.parametrize(
    "name",
    ["mnist", "cifar", "state.json", "info.json", ".arrow"],
)
@hypothesis.given(flips=flips, kept=kept)
@hypothesis.settings(max_examples=25)
def test_damaged_folder(name, flips, kept):
    """A data set of several files, one of them damaged."""
    files, victim = files_of(name)
    with tempfile.TemporaryDirectory() as folder:
        for file, valid in files.items():
            data = damaged(valid, flips, kept) if file == victim else valid
            (Path(folder) / file).write_bytes(data)
        loads_or_refused(Path(folder))


@pytest.mark.parametrize("name", ["x.tar.gz", "x.tar"])
@hypothesis.given(flips=flips, kept=kept)
@hypothesis.settings(max_examples=20)
def test_damaged_archive(name, flips, kept):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(damaged(ARCHIVES[name], flips, kept))
        loads_or_refused(path)


ARCHIVES = {name: archive(name) for name in ("x.tar.gz", "x.tar")}


def loads_or_refused(path):
    try:
        result = load(path)
    except ValueError as error:
        assert len(str(error).splitlines()) == 1  # noqa: PT017
    else:
        assert np.isfinite(result.points).all()


def records():
    module = pytest.importorskip("array_record.python.array_record_module")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.array_record"
        writer = module.ArrayRecordWriter(str(path), "group_size:1")
        for row in ARRAY.reshape(6, 12):
            writer.write(row.tobytes())
        writer.close()
        return path.read_bytes()


@pytest.mark.parametrize("name", ["x.parquet", "x.array_record", "x.npy", "x.arrow"])
@hypothesis.given(flips=flips, kept=kept)
@hypothesis.settings(max_examples=20)
def test_damaged_stream(name, flips, kept):
    """The same of streams, which find some damage only when they come to it."""
    pytest.importorskip("grain")
    options = {}
    if name == "x.parquet":
        valid = PARQUET
    elif name == "x.npy":
        valid = VALID[name]
    elif name == "x.arrow":
        files, victim = files_of(".arrow")
        valid = files[victim]
    else:
        valid, options = records(), {"shape": (12,), "dtype": "u1"}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        path.write_bytes(damaged(valid, flips, kept))
        if name == "x.arrow":  # beside the other files of its data set, as one of them
            for file, content in files.items():
                (path.parent / file).write_bytes(content)
            path = path.rename(path.with_name(victim)).parent
        try:
            points, _ = stream(path, batch_size=2, **options).head(6)
        except ValueError as error:
            assert len(str(error).splitlines()) == 1  # noqa: PT017
        else:
            assert np.isfinite(points).all()
