"""Folders of IDX files, as MNIST and Fashion-MNIST are distributed.

| file | holds |
|---|---|
| `train-images-idx3-ubyte`, `train-labels-idx1-ubyte` | the images to train on, and their labels |
| `t10k-images-idx3-ubyte`, `t10k-labels-idx1-ubyte` | those to test on |

Each may be gzipped (`.gz`), and `.idx3-ubyte` may stand for `-idx3-ubyte`. A folder of one half
alone is read as that half; a file of labels may not be missing.

References:
    Xiao, Rasul, Vollgraf, *Fashion-MNIST*, arXiv 1708.07747.
"""

import re
from pathlib import Path

import numpy as np

from entropix.datasets.files import Raw, quoted, reading
from entropix.datasets.idx import read_idx
from entropix.datasets.splits import TRAIN_TEST, chosen


_PREFIX: dict[str, str] = {"train": "train", "test": "t10k"}


def is_idx_folder(path: Path) -> bool:
    """Whether a folder holds images of MNIST's names."""
    with reading(path, "a folder that can be listed"):
        return any(_member(path, split, "images", 3) is not None for split in TRAIN_TEST)


def read_idx_folder(path: Path, split: str | None) -> Raw:
    """Read images and labels of one split, or of both.

    Args:
        path: the folder.
        split: `"train"`, `"test"` or `"all"`; None for `"train"`.

    Raises:
        ValueError: if the split or its labels are not there, a file is damaged, or there are not
            as many labels as images.
    """
    there = [split for split in TRAIN_TEST if _member(path, split, "images", 3) is not None]
    halves = [_half(path, part) for part in chosen(split, there, path)]
    shapes = {images.shape[1:] for images, _ in halves}
    if len(shapes) > 1:
        raise ValueError(
            f"{quoted(path)} must hold images of one size in both splits, got {sorted(shapes)}."
        )
    images, labels = (np.concatenate(parts) for parts in zip(*halves, strict=True))
    return Raw(images, labels)


def _half(path: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    arrays = []
    for what, axes in (("images", 3), ("labels", 1)):
        file = _member(path, split, what, axes)
        if file is None:
            raise ValueError(
                f"{quoted(path)} must hold '{_PREFIX[split]}-{what}-idx{axes}-ubyte' beside its "
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
    """The file of this content, the plain one before the gzipped one."""
    name = re.compile(rf"{_PREFIX[split]}-{what}[-.]idx{axes}-ubyte(\.gz)?", flags=re.IGNORECASE)
    found = sorted(file for file in path.iterdir() if name.fullmatch(file.name) and file.is_file())
    return min(found, key=lambda file: len(file.name), default=None)
