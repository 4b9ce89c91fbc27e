"""IDX files, written byte by byte."""

import gzip
import struct

import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.helpers import BYTES, refused


def idx(array, code):
    """An IDX file, byte by byte."""
    header = bytes([0, 0, code, array.ndim]) + b"".join(struct.pack(">I", n) for n in array.shape)
    return header + array.astype(array.dtype.newbyteorder(">")).tobytes()


@pytest.mark.parametrize("name", ["x.idx", "x.idx3-ubyte", "x-images-idx3-ubyte", "x-ubyte"])
@pytest.mark.parametrize("zipped", [False, True])
def test_idx_names(tmp_path, name, zipped):
    path = tmp_path / (name + ".gz" * zipped)
    content = idx(BYTES, 0x08)
    path.write_bytes(gzip.compress(content, mtime=0) if zipped else content)
    data = load(path)
    assert (data.kind, data.shape, data.levels) == ("image", (4, 3), 256)
    assert data.name in ("x", "x-images-idx3-ubyte", "x-ubyte")
    np.testing.assert_array_equal(data.points.reshape(BYTES.shape), BYTES)


@pytest.mark.parametrize(
    ("code", "dtype"),
    [(0x08, "u1"), (0x09, "i1"), (0x0B, "i2"), (0x0C, "i4"), (0x0D, "f4"), (0x0E, "f8")],
)
@pytest.mark.parametrize("shape", [(7,), (5, 3), (4, 2, 3), (3, 2, 2, 3)])
def test_idx_types(tmp_path, code, dtype, shape):
    array = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    if dtype in ("i2", "i4", "f4", "f8"):
        array = array * 300 - 1000  # more than one byte, and a sign
    path = tmp_path / "x.idx"
    path.write_bytes(idx(array, code))
    data = load(path)
    assert data.points.dtype == (np.float64 if dtype == "f8" else np.float32)
    np.testing.assert_array_equal(data.points.reshape(shape), array)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "must be an IDX file, gzipped or not, got an empty file"),
        (gzip.compress(b"", mtime=0), "got an empty file"),
        (b"\x00\x00\x08", "magic number 0x000008"),
        (b"\x89PNG....", "magic number 0x89504e47"),
        (b"\x00\x00\x0a\x01\x00\x00\x00\x02ab", "magic number 0x00000a01"),
        (b"\x00\x00\x08\x00a", "magic number 0x00000800"),
        (idx(BYTES, 0x08)[:9], "header of 16 bytes for 3 axes, got 9 bytes: truncated"),
        (idx(BYTES, 0x08)[:-1], r"76 bytes for an array of shape \(5, 4, 3\), got 75: truncated"),
        (idx(BYTES, 0x08) + b"a", "got 77: bytes left over"),
        (
            idx(BYTES.reshape(5, 4, 3, 1, 1), 0x08),
            r"at most four axes, got shape \(5, 4, 3, 1",
        ),
        (gzip.compress(idx(BYTES, 0x08), mtime=0)[:-9], "got one that cannot be read"),
        (idx(np.array([[1, np.nan], [2, 3.0]]), 0x0E), "1 NaN or missing of 4"),
    ],
)
def test_idx_refusals(tmp_path, content, message):
    path = tmp_path / "x.idx"
    path.write_bytes(content)
    refused(path, message)
