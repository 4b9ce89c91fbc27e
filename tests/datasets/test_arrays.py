"""NumPy files: what goes in comes out, and every fault is named."""

import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.helpers import BYTES, TABLE, refused


@pytest.mark.parametrize("fortran", [False, True])
def test_npy(tmp_path, fortran):
    path = tmp_path / "mine.npy"
    np.save(path, np.asfortranarray(TABLE) if fortran else TABLE)
    data = load(str(path))
    np.testing.assert_array_equal(data.points, TABLE)
    assert (data.name, data.kind, data.source) == ("mine", "table", str(path))


def test_npy_of_bytes_is_images(tmp_path):
    np.save(tmp_path / "x.npy", BYTES)
    data = load(tmp_path / "x.npy")
    assert (data.kind, data.shape, data.levels) == ("image", (4, 3), 256)
    np.testing.assert_array_equal(data.points.reshape(BYTES.shape), BYTES)


def test_npz(tmp_path):
    one, many = tmp_path / "one.npz", tmp_path / "many.npz"
    np.savez(one, x=TABLE)
    np.savez_compressed(many, train=TABLE, test=BYTES)
    np.testing.assert_array_equal(load(one).points, TABLE)
    np.testing.assert_array_equal(load(many, array="train").points, TABLE)
    assert load(many, array="test").kind == "image"
    refused(many, "`array` must name one array of .*many.npz': 'train', 'test'; got None")
    refused(many, "'train', 'test'; got 'valid'", array="valid")
    refused(tmp_path / "one.npz", "'x'; got 'y'", array="y")


def test_numpy_refusals(tmp_path):
    path = tmp_path / "x.npy"
    np.save(path, np.array([{}, 1], dtype=object), allow_pickle=True)
    refused(path, "NumPy .npy file of numbers.*Python objects")
    np.save(path, TABLE)
    path.write_bytes(path.read_bytes()[:-1])
    refused(path, "x.npy' must be a NumPy .npy file of numbers, got one that cannot be read")
    path.write_bytes(b"")
    refused(path, "got an empty file")
    path.write_bytes(b"1,2\n3,4\n")
    refused(path, "got one that starts with b'1,2")
    np.save(path, np.zeros((0, 3)))
    refused(path, "x.npy' must hold at least two samples, got 0")
    np.save(path, np.zeros(3, dtype=[("a", float), ("b", int)]))
    refused(path, "real numbers, got dtype")

    path = tmp_path / "x.npz"
    np.savez(path, x=np.array([{}, 1], dtype=object), allow_pickle=True)
    refused(path, "Object arrays cannot be loaded", array="x")
    np.savez(path)
    refused(path, "at least one array, got none")
    np.savez(path, x=TABLE)
    path.write_bytes(path.read_bytes()[:100])
    refused(path, "x.npz' must be a NumPy .npz file of numbers, got one that cannot be read")
