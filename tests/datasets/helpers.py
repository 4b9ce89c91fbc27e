"""What the tests of file formats share."""

import numpy as np
import pytest
from PIL import Image

from entropix.datasets import load


_rng = np.random.default_rng(0)
TABLE = _rng.normal(size=(6, 3))
BYTES = _rng.integers(0, 256, size=(5, 4, 3), dtype=np.uint8)


def refused(source, message, **options):
    """`load` refuses the source, in one line that matches."""
    with pytest.raises((ValueError, ImportError), match=message) as caught:
        load(source, **options)
    assert "\n" not in str(caught.value)


def save_png(path, pixels, mode=None):
    path.parent.mkdir(exist_ok=True)
    image = Image.fromarray(pixels)
    image = image if mode is None else image.convert(mode)
    image.save(path)
