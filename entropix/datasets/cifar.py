"""CIFAR-10, in either of its two forms, each as the archive or as the folder in it.

| archive | folder | files |
|---|---|---|
| `cifar-10-python.tar.gz` | `cifar-10-batches-py` | `data_batch_1` to `_5`, `test_batch` |
| `cifar-10-binary.tar.gz` | `cifar-10-batches-bin` | the same with `.bin` |

A pickled file is a dictionary of the images (`data`, one row of 3072 bytes each) and their
`labels`; a binary file a row of 3073 bytes for each image, its label first. The 3072 bytes are
three planes, red, green and blue, of 32 x 32 pixels, row by row. Here images have the shape
(32, 32, 3).

References:
    Krizhevsky, *Learning multiple layers of features from tiny images* (2009).
"""

import contextlib
import gzip
import io
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.memory import readable
from entropix.datasets.files import Raw, quoted, reading
from entropix.datasets.idx import GZIP_MAGIC
from entropix.datasets.pickles import read_pickle
from entropix.datasets.splits import TRAIN_TEST, chosen


_PLANES = (3, 32, 32)
_PIXELS = 3 * 32 * 32
_FILES = {"train": tuple(f"data_batch_{i}" for i in range(1, 6)), "test": ("test_batch",)}
_NAMES = tuple(name for names in _FILES.values() for name in names)
_MOST = 2**26  # bytes of a file
_ARCHIVES = (".tar.gz", ".tgz", ".tar")


def is_cifar(path: Path) -> bool:
    """Whether a path is an archive, or a folder with files of CIFAR's names."""
    if not path.is_dir():
        return path.name.lower().endswith(_ARCHIVES)
    return any((path / f"{name}{end}").is_file() for name in _NAMES for end in ("", ".bin"))


def read_cifar(path: Path, split: str | None) -> Raw:
    """Read images and labels of one split, or of both.

    Args:
        path: the archive or the folder.
        split: `"train"`, `"test"` or `"all"`; None for `"train"`.

    Raises:
        ValueError: if a file is missing, damaged, of a wrong length or holds a pickle of anything
            but arrays.
    """
    wanted = [name for part in chosen(split, TRAIN_TEST, path) for name in _FILES[part]]
    contents = _from_folder(path, wanted) if path.is_dir() else _from_archive(path, wanted)
    if not contents:
        raise ValueError(
            f"{quoted(path)} must hold the files of CIFAR-10, 'data_batch_1' to 'test_batch', "
            f"got none of them."
        )
    ending = ".bin" if all(name.endswith(".bin") for name in contents) else ""
    missing = [name + ending for name in wanted if name + ending not in contents]
    if missing:
        raise ValueError(
            f"{quoted(path)} must hold {missing[0]!r}, got only "
            f"{', '.join(repr(name) for name in sorted(contents))}."
        )
    read = _binary if ending else _pickled
    parts = [read(contents[name + ending], path, name + ending) for name in wanted]
    rows, labels = (np.concatenate(halves) for halves in zip(*parts, strict=True))
    images = np.moveaxis(rows.reshape(-1, *_PLANES), 1, -1)
    return Raw(np.ascontiguousarray(images), labels, channels="last")


def _from_folder(path: Path, wanted: list[str]) -> dict[str, bytes]:
    contents = {}
    for name in (name + ending for name in wanted for ending in ("", ".bin")):
        if (path / name).is_file():
            with reading(path, f"a folder of CIFAR-10 whose {name!r} can be read"):
                _check_size((path / name).stat().st_size, name)
                contents[name] = (path / name).read_bytes()
    return contents


def _from_archive(path: Path, wanted: list[str]) -> dict[str, bytes]:
    """The files in one pass, without writing any of them."""
    contents = {}
    names = {name + ending for name in wanted for ending in ("", ".bin")}
    with reading(path, "a tar archive, gzipped or not"), _opened(path) as archive:
        for member in archive:
            file = archive.extractfile(member) if member.isfile() else None
            name = Path(member.name).name
            if file is not None and name in names:
                _check_size(member.size, name)
                contents[name] = file.read()
    return contents


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[tarfile.TarFile]:
    with path.open("rb") as raw:
        zipped = raw.read(2) == GZIP_MAGIC
        raw.seek(0)
        plain = gzip.GzipFile(fileobj=raw) if zipped else raw
        with tarfile.open(fileobj=_Bounded(plain), mode="r:") as archive:
            yield archive


class _Bounded(io.BufferedIOBase):
    """A file of which no more is read at once than a file of CIFAR-10 has.

    What is gzipped may unpack to a thousand times its size, and a tar archive may claim a name or
    a comment of any length.
    """

    def __init__(self, file: Any):
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        _check_size(_MOST + 1 if size is None or size < 0 else size, "a part")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _check_size(size: int, name: str) -> None:
    """Refuse what is longer than the files of CIFAR-10, 31 MB each.

    Raises:
        ValueError: naming it.
    """
    if size > _MOST:
        raise ValueError(f"{name!r} must have at most {readable(_MOST)}, got {readable(size)}")


def _binary(content: bytes, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(
            f"{quoted(path)} must hold rows of {1 + _PIXELS} bytes in {name!r}, "
            f"got {len(content)} bytes."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    return rows[:, 1:], _checked(rows[:, 0], len(rows), path, name)


def _pickled(content: bytes, path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    batch = read_pickle(content, path, name)
    rows = batch.get(b"data")
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXELS:
        given = f"shape {rows.shape}" if isinstance(rows, np.ndarray) else type(rows).__name__
        raise ValueError(
            f"{quoted(path)} must hold 'data' of shape (N, {_PIXELS}) in {name!r}, got {given}."
        )
    return rows, _checked(batch.get(b"labels"), len(rows), path, name)


def _checked(labels: Any, count: int, path: Path, name: str) -> np.ndarray:
    """The labels as one array of integers.

    Raises:
        ValueError: if they are not `count` integers from 0 to 9.
    """
    array = np.asarray(labels) if isinstance(labels, np.ndarray) else None
    if isinstance(labels, list) and all(type(label) is int for label in labels):
        inside = all(0 <= label < 10 for label in labels)
        array = np.asarray(labels, np.uint8) if inside else None
    if array is None or array.shape != (count,) or (array > 9).any():
        raise ValueError(
            f"{quoted(path)} must hold a label from 0 to 9 for each of the {count} images of "
            f"{name!r}, got others."
        )
    return array
