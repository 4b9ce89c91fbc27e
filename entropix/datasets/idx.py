"""IDX, the format of MNIST and its relatives: one file, or a folder of them.

| bytes | meaning |
|---|---|
| 0, 1 | zero |
| 2 | type of the numbers, see `_DTYPES` |
| 3 | number of axes |
| 4 ... | size of each axis, four bytes each, most significant first |
| rest | the numbers, most significant byte first, last axis fastest |

A gzipped file is recognised by its first two bytes, whatever its name. A folder holds

| file | content |
|---|---|
| `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` | training images and their labels |
| `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` | test images and their labels |

each with `.gz` or without; `.idx3-ubyte` may stand for `-idx3-ubyte`. One of the splits may be
missing; labels may not.

References:
    LeCun, Cortes, Burges, *The MNIST database of handwritten digits*; Xiao, Rasul, Vollgraf,
    *Fashion-MNIST*, arXiv 1708.07747.
"""

import gzip
import math
import re
import struct
from pathlib import Path

import numpy as np

from entropix._core.files import in_memory
from entropix._core.memory import check_fits
from entropix.datasets.files import GZIP_MAGIC, TRAIN_TEST, Raw, chosen, quoted, reading


_EXPECTED = "an IDX file, gzipped or not"
_DTYPES = {0x08: ">u1", 0x09: ">i1", 0x0B: ">i2", 0x0C: ">i4", 0x0D: ">f4", 0x0E: ">f8"}


def read_idx(path: Path) -> Raw:
    """Read an IDX file, gzipped or not."""
    start, zipped = _first_bytes(path, 4 + 4 * 255)  # no header is longer
    subject = quoted(path)
    shape, dtype = _header(start, subject)
    count = math.prod(shape)
    offset = 4 + 4 * len(shape)
    size = offset + count * dtype.itemsize
    if not zipped:
        _check_size(path.stat().st_size, size, shape, subject)
    # A small gzipped file may unpack to any size: no more is unpacked than the header claims.
    check_fits(in_memory(count, dtype), subject, f"an array of shape {shape}")
    content, _ = _first_bytes(path, size + 1)
    _check_size(len(content), size, shape, subject)
    array = np.frombuffer(content, dtype, offset=offset).reshape(shape)
    return Raw(array.astype(dtype.newbyteorder("=")))


def _first_bytes(path: Path, size: int) -> tuple[bytes, bool]:
    """The first bytes of the content, and whether it is gzipped."""
    with reading(path, _EXPECTED), path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        return (gzip.GzipFile(fileobj=raw) if zipped else raw).read(size), zipped


def _check_size(found: int, size: int, shape: tuple[int, ...], subject: str) -> None:
    if found != size:
        state = "truncated" if found < size else "bytes left over"
        raise ValueError(
            f"{subject} must hold {size} bytes for an array of shape {shape}, got {found}: {state}."
        )


def _header(content: bytes, subject: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype."""
    if not content:
        raise ValueError(f"{subject} must be {_EXPECTED}, got an empty file.")
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in _DTYPES or magic[3] == 0:
        codes = ", ".join(f"{code:02x}" for code in _DTYPES)
        raise ValueError(
            f"{subject} must be {_EXPECTED}, got the magic number 0x{magic.hex()} "
            f"(allowed: 0x0000, a type of {codes}, a number of axes)."
        )
    ndim = magic[3]
    if len(content) < 4 + 4 * ndim:
        raise ValueError(
            f"{subject} must hold a header of {4 + 4 * ndim} bytes for {ndim} axes, "
            f"got {len(content)} bytes: truncated."
        )
    shape = struct.unpack(f">{ndim}I", content[4 : 4 + 4 * ndim])
    if ndim > 4:
        raise ValueError(f"{subject} must have at most four axes, got shape {shape}.")
    return shape, np.dtype(_DTYPES[magic[2]])


def is_idx_folder(path: Path) -> bool:
    """Whether a folder holds images under MNIST's names."""
    with reading(path, "a folder that can be listed"):
        return bool(_splits(path))


def read_idx_folder(path: Path, split: str | None) -> Raw:
    """Read images and labels of one split, or of both.

    Args:
        path: the folder.
        split: `"train"`, `"test"` or `"all"`; None for `"train"`.
    """
    halves = [_half(path, part) for part in chosen(split, _splits(path), path)]
    shapes = {images.shape[1:] for images, _ in halves}
    if len(shapes) > 1:
        raise ValueError(
            f"{quoted(path)} must hold images of one size in both splits, got {sorted(shapes)}."
        )
    images, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
    return Raw(images, labels)


def _splits(path: Path) -> list[str]:
    return [split for split in TRAIN_TEST if _member(path, split, "images", 3) is not None]


def _half(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for what, axes in (("images", 3), ("labels", 1)):
        file = _member(path, split, what, axes)
        if file is None:
            raise ValueError(
                f"{quoted(path)} must hold '{_prefix(split)}-{what}-idx{axes}-ubyte' beside its "
                f"images, with .gz or without, got none."
            )
        array = read_idx(file).array
        if array.ndim != axes:
            raise ValueError(f"{quoted(file)} must have {axes} axes, got shape {array.shape}.")
        arrays.append(array)
    images, labels = arrays
    if len(images) != len(labels):
        raise ValueError(
            f"{quoted(path)} must hold one label for each image, got {len(labels)} labels and "
            f"{len(images)} images in the split {split!r}."
        )
    return images, labels


def _member(path: Path, split: str, what: str, axes: int) -> Path | None:
    """The file of this content, the plain one rather than the gzipped one."""
    name = re.compile(rf"{_prefix(split)}-{what}[-.]idx{axes}-ubyte(\.gz)?", flags=re.IGNORECASE)
    found = sorted(file for file in path.iterdir() if name.fullmatch(file.name) and file.is_file())
    return min(found, key=lambda file: len(file.name), default=None)


def _prefix(split: str) -> str:
    return "t10k" if split == "test" else split
