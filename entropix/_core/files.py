"""Checks of a file before it is read: its kind, and the size stated in its header."""

import math
import stat
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.memory import readable


def check_regular(path: Path, subject: str) -> None:
    """Raise ValueError for a FIFO or a device, reading which may never end.

    A missing file is not an error here.
    """
    try:
        mode = path.stat().st_mode
    except OSError:
        return
    if stat.S_ISREG(mode) or stat.S_ISDIR(mode):
        return
    kinds = ((stat.S_ISFIFO, "a FIFO"), (stat.S_ISSOCK, "a socket"))
    given = next((name for is_kind, name in kinds if is_kind(mode)), "a device")
    raise ValueError(f"{subject} must be a file, got {given}: write what it gives to a file first.")


def check_npy(file: Any, size: int) -> int:
    """Read the header of a `.npy` file, and check that it describes exactly the bytes that follow.

    Unless NumPy can map the file, it allocates the stated size before it reads any data.

    Args:
        file: at its beginning; afterwards at the end of the header.
        size: of the file in bytes.

    Returns:
        Bytes of the array and of a floating copy.

    Raises:
        ValueError: if the header is damaged, has Python objects, or states another size.
    """
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:  # 3.0 is only used for field names, which arrays of numbers do not have
        raise ValueError(f"it is of version {version[0]}.{version[1]} of the format")
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("Object arrays cannot be loaded, and it holds Python objects")
    claimed, there = math.prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != there or any(n < 0 for n in shape):
        shown = str(shape) if len(str(shape)) < 80 else f"of {len(shape)} axes"
        raise ValueError(
            f"its header claims {readable(claimed)}, shape {shown} and dtype {dtype}, "
            f"where there are {readable(there)}"
        )
    return in_memory(math.prod(shape), dtype)


def in_memory(count: int, dtype: np.dtype) -> int:
    """Bytes of `count` numbers of `dtype` and of a floating copy."""
    return count * (dtype.itemsize + (8 if dtype.itemsize >= 8 else 4))
