"""Available memory, and a check that files fit into it before they are read."""

import os
from pathlib import Path


_FALLBACK = 4 * 2**30  # if the system does not state it


def available_memory() -> int:
    """Bytes that this process can still allocate, given machine, container and process limits."""
    limits = [_of_machine(), *_of_container(), _of_process()]
    known = [limit for limit in limits if limit is not None]
    return max(0, min(known)) if known else _FALLBACK


def check_fits(size: int, subject: str, what: str) -> None:
    """Raise ValueError if `size` bytes exceed the available memory.

    Args:
        size: in bytes.
        subject: the name of the file in errors.
        what: the object of this size.
    """
    if size < 2**20:  # always available
        return
    there = available_memory()
    if size > there:
        raise ValueError(
            f"{subject} must fit into the memory that is available, {readable(there)}, "
            f"got {what} of {readable(size)}."
        )


def readable(size: int) -> str:
    """A number of bytes of any size in a few characters."""
    value, unit = float(min(size, 10**30)), "bytes"
    for larger in ("kB", "MB", "GB", "TB", "PB", "EB"):
        if value < 1000:
            break
        value, unit = value / 1000, larger
    return f"{value:.3g} {unit}"


def _of_machine() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, OSError, ValueError):
        return None


def _of_container() -> list[int]:
    """Bytes left by Linux control groups, version 2 and 1."""
    pairs = (
        ("memory.max", "memory.current"),
        ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes"),
    )
    found = []
    for limit, usage in pairs:
        try:
            folder = Path("/sys/fs/cgroup")
            most, used = (int((folder / name).read_text()) for name in (limit, usage))
            found.append(most - used)
        except (OSError, ValueError):  # no limit, or "max"
            continue
    return found


def _of_process() -> int | None:
    """Bytes left by a limit on the address space."""
    try:
        import resource

        limit, _ = resource.getrlimit(resource.RLIMIT_AS)
        if limit == resource.RLIM_INFINITY:
            return None
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        return limit - pages * resource.getpagesize()
    except (ImportError, OSError, ValueError):
        return None
