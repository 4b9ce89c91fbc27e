"""NumPy files: `.npy` holds one array, `.npz` several by name. Pickled objects are never loaded."""

import zipfile
from pathlib import Path

import numpy as np

from entropix._core.files import check_npy
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, quoted, reading


def read_npy(path: Path) -> Raw:
    """Read the array of a `.npy` file."""
    _check_magic(path, b"\x93NUMPY", "a NumPy .npy file")
    expected = "a NumPy .npy file of numbers"
    with reading(path, expected), path.open("rb") as file:
        size = check_npy(file, path.stat().st_size)
    check_fits(size, quoted(path), "an array")
    with reading(path, expected):
        return Raw(np.load(path, allow_pickle=False))


def read_npz(path: Path, array: str | None, labels: str | None = None) -> Raw:
    """Read one array of a `.npz` file, perhaps with the labels that another holds.

    Args:
        path: the file.
        array: the name of the array; None if it is the only one besides that of the labels.
        labels: the name of the array of labels, or None.
    """
    _check_magic(path, b"PK", "a NumPy .npz file")
    expected = "a NumPy .npz file of numbers"
    with reading(path, expected), zipfile.ZipFile(path) as archive:
        names = [name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy")]
    if not names:
        raise ValueError(f"{quoted(path)} must hold at least one array, got none.")
    listed = ", ".join(repr(name) for name in names)
    if labels is not None and labels not in names:
        raise ValueError(
            f"`labels` must name one array of {quoted(path)}: {listed}; or a file that exists; "
            f"got {labels!r}."
        )
    others = [name for name in names if name != labels]
    if array is None and len(others) == 1:
        array = others[0]
    if array is None or array not in names:
        raise ValueError(f"`array` must name one array of {quoted(path)}: {listed}; got {array!r}.")
    size = 0
    with reading(path, expected), zipfile.ZipFile(path) as archive:
        for name in {array, labels} - {None}:
            member = archive.getinfo(f"{name}.npy")
            with archive.open(member) as file:
                size += check_npy(file, member.file_size)
    check_fits(size, quoted(path), "arrays")
    with reading(path, expected), np.load(path, allow_pickle=False) as archive:
        given = None if labels is None else np.asarray(archive[labels])
        return Raw(np.asarray(archive[array]), labels=given)


def _check_magic(path: Path, magic: bytes, expected: str) -> None:
    with reading(path, expected), path.open("rb") as file:
        start = file.read(len(magic))
    if start != magic:
        given = f"one that starts with {start!r}" if start else "an empty file"
        raise ValueError(f"{quoted(path)} must be {expected}, got {given}.")
