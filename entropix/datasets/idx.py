"""IDX, the format of MNIST and its relatives.

| bytes | meaning |
|---|---|
| 0, 1 | zero |
| 2 | type of the numbers, see `DTYPES` |
| 3 | number of axes |
| 4 ... | size of each axis, four bytes each, most significant first |
| rest | the numbers, most significant byte first, last axis fastest |

A gzipped file is recognised by its first two bytes, whatever its name.

References:
    LeCun, Cortes, Burges, *The MNIST database of handwritten digits*.
"""

import gzip
import math
import struct
from pathlib import Path

import numpy as np

from entropix._core.files import in_memory
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, quoted, reading


_EXPECTED = "an IDX file, gzipped or not"
GZIP_MAGIC = b"\x1f\x8b"
DTYPES = {
    0x08: np.dtype(">u1"),
    0x09: np.dtype(">i1"),
    0x0B: np.dtype(">i2"),
    0x0C: np.dtype(">i4"),
    0x0D: np.dtype(">f4"),
    0x0E: np.dtype(">f8"),
}


def read_idx(path: Path) -> Raw:
    """Read an IDX file, gzipped or not.

    Raises:
        ValueError: if the file is empty, has a wrong magic number, or is longer or shorter than
            its header says.
    """
    with reading(path, _EXPECTED), path.open("rb") as file:
        zipped = file.read(2) == GZIP_MAGIC
    with reading(path, _EXPECTED), gzip.open(path) if zipped else path.open("rb") as file:
        start = file.read(4 + 4 * 255)  # no header is longer
    subject = quoted(path)
    shape, dtype = _header(start, subject)
    count = math.prod(shape)
    offset = 4 + 4 * len(shape)
    size = offset + count * dtype.itemsize
    if not zipped:
        _check_size(path.stat().st_size, size, shape, subject)
    # A small gzipped file may unpack to any size: no more is unpacked than the header claims.
    check_fits(in_memory(count, dtype), subject, f"an array of shape {shape}")
    with reading(path, _EXPECTED), gzip.open(path) if zipped else path.open("rb") as file:
        content = file.read(size + 1)
    _check_size(len(content), size, shape, subject)
    array = np.frombuffer(content, dtype, offset=offset).reshape(shape)
    return Raw(array.astype(dtype.newbyteorder("=")))


def _check_size(found: int, size: int, shape: tuple[int, ...], subject: str) -> None:
    if found != size:
        state = "truncated" if found < size else "bytes left over"
        raise ValueError(
            f"{subject} must hold {size} bytes for an array of shape {shape}, got {found}: {state}."
        )


def _header(content: bytes, subject: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and dtype.

    Raises:
        ValueError: if the magic number is wrong, or the header is not all there.
    """
    if not content:
        raise ValueError(f"{subject} must be {_EXPECTED}, got an empty file.")
    magic = content[:4]
    if len(magic) < 4 or magic[:2] != b"\x00\x00" or magic[2] not in DTYPES or magic[3] == 0:
        raise ValueError(
            f"{subject} must be {_EXPECTED}, got the magic number 0x{magic.hex()} "
            f"(allowed: 0x0000, a type of {_codes()}, a number of axes)."
        )
    dtype, ndim = DTYPES[magic[2]], magic[3]
    header = 4 + 4 * ndim
    if len(content) < header:
        raise ValueError(
            f"{subject} must hold a header of {header} bytes for {ndim} axes, "
            f"got {len(content)} bytes: truncated."
        )
    shape = struct.unpack(f">{ndim}I", content[4:header])
    if ndim > 4:
        raise ValueError(f"{subject} must have at most four axes, got shape {shape}.")
    return shape, dtype


def _codes() -> str:
    return ", ".join(f"{code:02x}" for code in DTYPES)
