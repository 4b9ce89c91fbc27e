"""Small data sets in the formats in which large ones are distributed."""

import gzip
import io
import struct
import tarfile
from pathlib import Path

import numpy as np


TRAIN = tuple(f"data_batch_{i}" for i in range(1, 6))


def idx(array):
    """The bytes of an IDX file of unsigned bytes."""
    sizes = struct.pack(f">{array.ndim}I", *array.shape)
    return bytes([0, 0, 8, array.ndim]) + sizes + array.astype(np.uint8).tobytes()


def save_mnist(folder, *, train=6, test=4, size=5, compressed=False, seed=0):
    """A folder of four IDX files; the images and labels of the two splits, one after the other."""
    folder.mkdir(exist_ok=True, parents=True)
    rng = np.random.default_rng(seed)
    parts = []
    for prefix, count in (("train", train), ("t10k", test)):
        images = rng.integers(0, 256, size=(count, size, size), dtype=np.uint8)
        labels = rng.integers(0, 10, size=count, dtype=np.uint8)
        for name, array in ((f"{prefix}-images-idx3", images), (f"{prefix}-labels-idx1", labels)):
            content = idx(array)
            path = folder / f"{name}-ubyte{'.gz' * compressed}"
            path.write_bytes(gzip.compress(content, mtime=0) if compressed else content)
        parts.append((images, labels))
    return tuple(np.concatenate(halves) for halves in zip(*parts, strict=True))


def cifar_batches(count=2, seed=0):
    """Rows of 3072 bytes and labels for each file of CIFAR-10, and images and labels of all."""
    rng = np.random.default_rng(seed)
    batches = {
        name: (
            rng.integers(0, 256, size=(count, 3072), dtype=np.uint8),
            rng.integers(0, 10, size=count).tolist(),
        )
        for name in (*TRAIN, "test_batch")
    }
    rows = np.concatenate([rows for rows, _ in batches.values()])
    labels = np.concatenate([labels for _, labels in batches.values()])
    images = rows.reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1)
    return batches, images, labels


def cifar_files(batches):
    """The contents of the files by name."""
    files = {"batches.meta.txt": b"not read"}
    for name, (rows, labels) in batches.items():
        column = np.asarray(labels, np.uint8)[:, None]
        files[f"{name}.bin"] = np.concatenate([column, rows], axis=1).tobytes()
    return files


def save_cifar(path, files):
    """The files as a folder, or as an archive if the path ends in .tar.gz or .tar."""
    if not path.name.endswith((".tar.gz", ".tar")):
        path.mkdir(exist_ok=True, parents=True)
        for name, content in files.items():
            (path / name).write_bytes(content)
        return
    mode = "w:gz" if path.name.endswith(".gz") else "w"
    with tarfile.open(path, mode, format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(f"cifar-10-batches/{name}")
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def save_huggingface(path, columns, features=None, splits=None):
    """A dataset written by `save_to_disk`; `splits` maps names to the slices that they hold."""
    import datasets

    datasets.disable_progress_bars()
    whole = datasets.Dataset.from_dict(columns, features=features)
    if splits is not None:
        parts = {name: whole.select(range(*cut)) for name, cut in splits.items()}
        whole = datasets.DatasetDict(parts)
    whole.save_to_disk(str(path))
    return Path(path)
