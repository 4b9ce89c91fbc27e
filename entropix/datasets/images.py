"""Folders of PNG images of one size: the files in the folder, or in a subfolder per label."""

import io
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from entropix._core.extras import needed
from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, quoted, reading


_MOST_PIXELS = 2**26


def read_folder(path: Path) -> Raw:
    """Read a folder of PNG images: grey (H, W) or RGB (H, W, 3), 8 bits per channel.

    The images lie either directly in the folder, or in subfolders, whose names become the labels;
    both are taken in alphabetical order, and other files and hidden ones are passed over.
    """
    with reading(path, "a folder of PNG images"):
        direct = _png_files(path)
        nested = [
            (folder.name, file)
            for folder in sorted(path.iterdir())
            if folder.is_dir() and not folder.name.startswith(".")
            for file in _png_files(folder)
        ]
    if not direct and not nested:
        raise ValueError(
            f"{quoted(path)} must hold PNG files, in itself or in one subfolder per label, "
            f"got none."
        )
    if direct and nested:
        raise ValueError(
            f"{quoted(path)} must hold PNG files either in itself or in subfolders, "
            f"got {len(direct)} and {len(nested)}."
        )
    files = direct or [file for _, file in nested]
    first = pixels(files[0], quoted(files[0]), "a PNG image", ["PNG"])
    check_fits(5 * len(files) * first.size, quoted(path), f"{len(files)} images")
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = pixels(file, quoted(file), "a PNG image", ["PNG"]) if i else first
        if image.shape != first.shape:
            raise ValueError(
                f"{quoted(file)} must have the shape {first.shape} of {quoted(files[0])}, "
                f"got {image.shape}."
            )
        images[i] = image
    labels = np.array([name for name, _ in nested]) if nested else None
    return Raw(images, labels, channels="last")


def _png_files(folder: Path) -> list[Path]:
    return sorted(
        file
        for file in folder.iterdir()
        if file.suffix.lower() == ".png" and not file.name.startswith(".") and file.is_file()
    )


def pixels(
    file: Path | str | io.BytesIO,
    subject: str,
    expected: str = "an image",
    formats: Sequence[str] | None = None,
) -> np.ndarray:
    """The pixels of an image: grey (H, W) or RGB (H, W, 3), 8 bits per channel.

    Palettes are expanded to RGB, black-and-white images to grey; an opaque alpha channel is
    dropped.

    Args:
        file: what Pillow opens.
        subject: what errors name.
        expected: what it must be.
        formats: those that are allowed; None for all.
    """
    pillow = needed("PIL.Image", "reading images", "pillow", "data")
    with reading(subject, expected), pillow.open(file, formats=formats) as opened:
        width, height = opened.size
        if width * height > _MOST_PIXELS:  # an image may be a thousand times as large as its file
            raise ValueError(
                f"its header claims {width} x {height} pixels, of which a sample may have "
                f"{_MOST_PIXELS}"
            )
        image = opened.copy()
    mode, transparent = image.mode, image.has_transparency_data
    if mode == "1":
        image = image.convert("L")
    elif transparent:
        image = image.convert("LA" if mode in ("L", "LA") else "RGBA")
    elif mode == "P":
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f"{subject} must have 8 bits per channel, got the mode {mode}.")
    if not transparent:
        return array
    if (array[..., -1] < 255).any():
        raise ValueError(
            f"{subject} must be opaque, got transparent pixels: "
            f"flatten the image onto a background."
        )
    array = array[..., :-1]
    return array[..., 0] if array.shape[-1] == 1 else array
