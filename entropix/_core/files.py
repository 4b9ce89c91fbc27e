"""What is checked of a file before it is read: that it is one, and what its header claims."""

import math
import stat
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.memory import readable


def check_regular(path: Path, subject: str) -> None:
    """Refuse what is neither a file nor a folder: reading a FIFO or a device may never end.

    Raises:
        ValueError: naming what it is. What is not there is for whoever opens it.
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
    """Read the header of a `.npy` file, which must claim just the bytes that follow.

    NumPy takes memory for what a header claims before it reads any of it, wherever it cannot map
    the file.

    Args:
        file: at its beginning; left behind the header.
        size: of the file in bytes.

    Returns:
        Bytes of the array and of a floating copy.

    Raises:
        ValueError: if the header is damaged, names Python objects, or claims another size.
    """
    version = np.lib.format.read_magic(file)
    read = {
        (1, 0): np.lib.format.read_array_header_1_0,
        (2, 0): np.lib.format.read_array_header_2_0,
    }.get(version)
    if read is None:  # 3.0 is for names of fields alone, which no array of numbers has
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
    """Bytes of so many numbers, as they are stored and once more as floating numbers."""
    return count * (dtype.itemsize + (8 if dtype.itemsize >= 8 else 4))
