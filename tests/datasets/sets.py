"""Small data sets in the formats in which large ones are distributed, and Python 2's pickles."""

import gzip
import io
import pickle
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


def cifar_files(batches, form):
    """The contents of the files by name, `form` being "bin", a protocol, or "python2"."""
    files = {}
    for name, (rows, labels) in batches.items():
        if form == "bin":
            column = np.asarray(labels, np.uint8)[:, None]
            files[f"{name}.bin"] = np.concatenate([column, rows], axis=1).tobytes()
        elif form == "python2":
            files[name] = python2_pickle(rows, labels)
        else:
            contents = {b"batch_label": name.encode(), b"labels": labels, b"data": rows}
            files[name] = pickle.dumps(contents, protocol=form)
    extra = "batches.meta.txt" if form == "bin" else "batches.meta"
    return files | {extra: b"not read"}


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


def python2_pickle(rows, labels):
    """What Python 2 wrote by protocol 2: keys and contents are its strings, which are bytes."""

    def string(text):
        text = text if isinstance(text, bytes) else text.encode()
        return b"U" + bytes([len(text)]) + text if len(text) < 256 else long_string(text)

    def long_string(text):
        return b"T" + struct.pack("<I", len(text)) + text

    def integer(value):
        return b"K" + bytes([value]) if value < 256 else b"M" + struct.pack("<H", value)

    dtype = (
        b"cnumpy\ndtype\n" + string("u1") + b"K\x00K\x01\x87R"
        b"(K\x03" + string("|") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
    )
    array = (
        b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85"
        + string("b")
        + b"\x87R(K\x01"
        + (integer(rows.shape[0]) + integer(rows.shape[1]) + b"\x86")
        + dtype
        + (b"\x89" + long_string(rows.tobytes()) + b"tb")
    )
    listed = b"](" + b"".join(integer(label) for label in labels) + b"e"
    return b"\x80\x02}q\x01(" + string("labels") + listed + string("data") + array + b"u."


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
