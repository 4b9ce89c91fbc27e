"""CIFAR-10 in its binary form: `cifar-10-binary.tar.gz`, or the folder in it.

The files `data_batch_1.bin` to `data_batch_5.bin` and `test_batch.bin` hold a row of 3073 bytes
for each image: its label, then three planes, red, green and blue, of 32 x 32 pixels, row by row.
Here images have the shape (32, 32, 3).

The other form, `cifar-10-python.tar.gz`, consists of pickles. A pickle is a program, so it is not
read: the binary form has the same content.

References:
    Krizhevsky, *Learning multiple layers of features from tiny images* (2009).
"""

import gzip
import io
import tarfile
from pathlib import Path

import numpy as np

from entropix._core.memory import readable
from entropix.datasets.files import GZIP_MAGIC, TRAIN_TEST, Raw, chosen, quoted, reading


_PIXELS = 3 * 32 * 32
_FILES = {"train": tuple(f"data_batch_{i}.bin" for i in range(1, 6)), "test": ("test_batch.bin",)}
_NAMES = (*_FILES["train"], *_FILES["test"])
_PICKLED = tuple(name.removesuffix(".bin") for name in _NAMES)
_LARGEST = 2**26  # bytes of one file; those of CIFAR-10 have 31 MB


def is_cifar(path: Path) -> bool:
    """Whether a path is an archive, or a folder with files of CIFAR's names."""
    if not path.is_dir():
        return path.name.lower().endswith((".tar.gz", ".tgz", ".tar"))
    return any((path / name).is_file() for name in (*_NAMES, *_PICKLED))


def read_cifar(path: Path, split: str | None) -> Raw:
    """Read images and labels of one split, or of both.

    Args:
        path: the archive or the folder.
        split: `"train"`, `"test"` or `"all"`; None for `"train"`.
    """
    wanted = [name for part in chosen(split, TRAIN_TEST, path) for name in _FILES[part]]
    found: dict[str, bytes] = {}
    pickled = False
    if path.is_dir():
        for name in wanted:
            if (path / name).is_file():
                with reading(path, f"a folder of CIFAR-10 whose {name!r} can be read"):
                    _check_size((path / name).stat().st_size, name)
                    found[name] = (path / name).read_bytes()
        pickled = any((path / name).is_file() for name in _PICKLED)
    else:
        with reading(path, "a tar archive, gzipped or not"), path.open("rb") as raw:
            zipped = raw.read(2) == GZIP_MAGIC
            raw.seek(0)
            plain = gzip.GzipFile(fileobj=raw) if zipped else raw
            with tarfile.open(fileobj=_Bounded(plain), mode="r:") as archive:
                for member in archive:  # in one pass, without writing any file
                    file = archive.extractfile(member) if member.isfile() else None
                    name = Path(member.name).name
                    pickled = pickled or name in _PICKLED
                    if file is not None and name in wanted:
                        _check_size(member.size, name)
                        found[name] = file.read()
    if pickled and not found:
        raise ValueError(
            f"{quoted(path)} must hold CIFAR-10 in its binary form, {_NAMES[0]!r} to "
            f"{_NAMES[-1]!r}, got pickles, which can run programs: take "
            f"'cifar-10-binary.tar.gz' from the same page, or load 'hf:cifar10'."
        )
    if not found:
        raise ValueError(
            f"{quoted(path)} must hold the files of CIFAR-10, {_NAMES[0]!r} to {_NAMES[-1]!r}, "
            f"got none of them."
        )
    missing = [name for name in wanted if name not in found]
    if missing:
        raise ValueError(
            f"{quoted(path)} must hold {missing[0]!r}, got only {', '.join(map(repr, found))}."
        )
    rows = np.concatenate([_rows(found[name], path, name) for name in wanted])
    images = np.moveaxis(rows[:, 1:].reshape(-1, 3, 32, 32), 1, -1)
    return Raw(np.ascontiguousarray(images), rows[:, 0], channels="last")


def _rows(content: bytes, path: Path, name: str) -> np.ndarray:
    if not content or len(content) % (1 + _PIXELS):
        raise ValueError(
            f"{quoted(path)} must hold rows of {1 + _PIXELS} bytes in {name!r}, "
            f"got {len(content)} bytes."
        )
    rows = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
    if (rows[:, 0] > 9).any():
        raise ValueError(
            f"{quoted(path)} must hold a label from 0 to 9 for each of the {len(rows)} images of "
            f"{name!r}, got {int(rows[:, 0].max())}."
        )
    return rows


class _Bounded(io.BufferedIOBase):
    """A file of which no more is read at once than a file of CIFAR-10 has.

    Gzipped data may unpack to a thousand times their size, and a tar archive may claim a name or a
    comment of any length.
    """

    def __init__(self, file: io.BufferedIOBase):
        self._file = file

    def read(self, size: int | None = -1, /) -> bytes:
        size = _LARGEST + 1 if size is None or size < 0 else size
        _check_size(size, "a part")
        return self._file.read(size)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()


def _check_size(size: int, name: str) -> None:
    if size > _LARGEST:
        raise ValueError(f"{name!r} must have at most {readable(_LARGEST)}, got {readable(size)}")
