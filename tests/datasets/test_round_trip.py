"""What is written in any format is what is read, whatever the numbers."""

import gzip
import tempfile
from pathlib import Path

import hypothesis
import hypothesis.extra.numpy as hnp
import hypothesis.strategies as st
import numpy as np
import pytest

from entropix.datasets import load
from tests.datasets.sets import TRAIN, cifar_files, idx, save_cifar


def differ(array):
    """Two samples at least, no column constant: what a table must be."""
    return len(array) > 1 and not (array == array[0]).all(axis=0).any()


def tables(elements):
    shapes = hnp.array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=5)
    return hnp.arrays(np.float64, shapes, elements=elements).filter(differ)


doubles = st.floats(-1e300, 1e300)
floats = tables(doubles)
integers = tables(st.integers(-(2**53), 2**53).map(float))
numbers = st.one_of(floats, integers)
images = hnp.arrays(
    np.uint8,
    hnp.array_shapes(min_dims=3, max_dims=4, min_side=2, max_side=4),
    elements=st.integers(0, 255),
).filter(lambda array: (array != array[0]).any())


def read_back(name, write, **options):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / name
        write(path)
        return load(path, **options)


@hypothesis.given(array=st.one_of(numbers, images), compressed=st.booleans())
def test_numpy(array, compressed):
    save = np.savez_compressed if compressed else np.savez
    for name, write in (
        ("x.npy", lambda path: np.save(path, array)),
        ("x.npz", lambda path: save(path, points=array)),
    ):
        data = read_back(name, write, channels="last" if array.ndim > 2 else "auto")
        assert data.shape == array.shape[1:]
        assert data.levels == (256 if array.dtype == np.uint8 else None)
        np.testing.assert_array_equal(data.points.reshape(array.shape), array)
        assert data.points.dtype == (np.float32 if array.dtype == np.uint8 else np.float64)


names = st.text("abcXYZ _éß", min_size=1, max_size=4).filter(lambda name: name == name.strip())


@pytest.mark.parametrize("name", ["x.csv", "x.parquet"])
@hypothesis.given(array=numbers, data=st.data())
def test_tables(name, array, data):
    """To the last bit: text of 17 digits holds a double."""
    pandas = pytest.importorskip("pandas")
    width = array.shape[1]
    columns = data.draw(st.lists(names, min_size=width, max_size=width, unique=True))
    labels = data.draw(st.lists(st.integers(0, 3), min_size=len(array), max_size=len(array)))
    frame = pandas.DataFrame(array, columns=columns)
    frame["label"] = labels

    def write(path):
        if name == "x.csv":
            frame.to_csv(path, index=False)
        else:
            frame.to_parquet(path)

    found = read_back(name, write, labels="label")
    np.testing.assert_array_equal(found.points, array)
    assert found.columns == tuple(columns)
    assert found.labels.tolist() == labels


@hypothesis.given(array=images, compressed=st.booleans())
def test_idx(array, compressed):
    content = gzip.compress(idx(array), mtime=0) if compressed else idx(array)
    name = "x.idx.gz" if compressed else "x.idx"
    data = read_back(name, lambda path: path.write_bytes(content), channels="last")
    np.testing.assert_array_equal(data.points.reshape(array.shape), array)
    assert data.levels == 256


@hypothesis.given(
    counts=st.lists(st.integers(1, 3), min_size=6, max_size=6),
    seed=st.integers(0, 2**16),
    packed=st.booleans(),
)
def test_cifar(counts, seed, packed):
    rng = np.random.default_rng(seed)
    batches = {
        name: (rng.integers(0, 256, (n, 3072), np.uint8), rng.integers(0, 10, n).tolist())
        for name, n in zip((*TRAIN, "test_batch"), counts, strict=True)
    }
    files = cifar_files(batches)
    name = "x.tar" if packed else "x"
    data = read_back(name, lambda path: save_cifar(path, files), split="all")
    rows = np.concatenate([rows for rows, _ in batches.values()])
    images = data.points.reshape(-1, 32, 32, 3).transpose(0, 3, 1, 2)
    np.testing.assert_array_equal(images.reshape(-1, 3072), rows)
    labels = np.concatenate([labels for _, labels in batches.values()])
    np.testing.assert_array_equal(data.labels, labels)
