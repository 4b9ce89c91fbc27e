"""Folders of PNG images of one size: the files in the folder, or in a subfolder per label."""

from pathlib import Path
from typing import Any

import numpy as np

from entropix._core.memory import check_fits
from entropix.datasets.files import Raw, needed, quoted, reading


_MOST_PIXELS = 2**26


def read_folder(path: Path) -> Raw:
    """Read a folder of PNG images: grey (H, W) or RGB (H, W, 3), 8 bits per channel.

    The images lie either directly in the folder, or in subfolders, whose names become the labels;
    both are taken in alphabetical order, and other files and hidden ones are passed over. Palettes
    are expanded to RGB, black-and-white images to grey; an alpha channel is dropped if it is
    opaque.

    Raises:
        ValueError: if there are no PNG files, or both kinds of places hold some; or naming the
            file that is damaged, transparent, of 16 bits, or unlike the first in its shape.
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
    pillow = needed("PIL.Image", "reading .png", "pillow", "data")
    first = _read_png(files[0], pillow)
    check_fits(5 * len(files) * first.size, quoted(path), f"{len(files)} images")
    images = np.empty((len(files), *first.shape), np.uint8)
    for i, file in enumerate(files):
        image = _read_png(file, pillow) if i else first
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


def _read_png(path: Path, pillow: Any) -> np.ndarray:
    with reading(path, "a PNG image"), pillow.open(path, formats=["PNG"]) as image:
        loaded = decoded(image)
    return pixels(loaded, quoted(path))


def decoded(image: Any) -> Any:
    """The opened image with its pixels, which may be a thousand times as large as its file.

    Raises:
        ValueError: if its header claims more pixels than a sample can be expected to have.
    """
    width, height = image.size
    if width * height > _MOST_PIXELS:
        raise ValueError(
            f"its header claims {width} x {height} pixels, of which a sample may have "
            f"{_MOST_PIXELS}"
        )
    return image.copy()


def pixels(image: Any, subject: str) -> np.ndarray:
    """The pixels of an image of pillow: grey (H, W) or RGB (H, W, 3), 8 bits per channel.

    Raises:
        ValueError: if it has more bits, or is transparent; `subject` names it.
    """
    mode = image.mode
    transparent = image.has_transparency_data
    if mode == "1":
        image = image.convert("L")
    elif transparent:
        image = image.convert("LA" if mode in ("L", "LA") else "RGBA")
    elif mode == "P":
        image = image.convert("RGB")
    array = np.asarray(image)
    if array.dtype != np.uint8:
        raise ValueError(f"{subject} must have 8 bits per channel, got the mode {mode}.")
    if transparent:
        if (array[..., -1] < 255).any():
            raise ValueError(
                f"{subject} must be opaque, got transparent pixels: "
                f"flatten the image onto a background."
            )
        array = array[..., :-1]
        array = array[..., 0] if array.shape[-1] == 1 else array
    return array
