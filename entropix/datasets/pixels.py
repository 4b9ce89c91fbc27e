"""What an array of images means: which axis holds the channels, and its grey levels.

Both are inferred from the shape and the values; a note reports what was assumed.

| values | levels L |
|---|---|
| bool | 2 |
| uint8, uint16 | 256, 65536 |
| other integers, none of them negative | the largest plus one |
| floating | none: taken for continuous |

A density fitted to grey levels grows without bound on them, so integers are dequantised. Floating
values that lie on levels, k, k/(L - 1) or 2k/(L - 1) - 1 with k = 0 ... L - 1, are recognised and
reported; with `levels=L` they are mapped to 0 ... L - 1 and treated as integers are.
"""

import numpy as np

from entropix._core.checks import choice, positive_integer
from entropix.distributions import dequantise as dequantise  # offered beside the levels


CHANNELS = ("auto", "first", "last")
_COUNTS = (1, 3, 4)  # grey, RGB, RGBA
_USUAL = (2, 4, 8, 16, 17, 32, 64, 128, 256, 1024, 4096, 65536)
_SAMPLE = 2**16  # values that are tested first
_FEW = 1024


def channels_last(array: np.ndarray, channels: str, subject: str) -> tuple[np.ndarray, str | None]:
    """Images (N, H, W, C), and a note where the axis of the channels was not clear.

    Args:
        array: four axes, samples first.
        channels: `"first"`, `"last"`, or `"auto"`: first if that axis has 1, 3 or 4 entries, and
            the last axis either has not, or would leave images that are not square.
        subject: what errors and notes name.
    """
    choice(channels, "channels", CHANNELS)
    _, a, b, c = array.shape
    if channels == "last":
        return array, None
    square = b == c and a != b
    if channels == "first" or (a in _COUNTS and (c not in _COUNTS or square)):
        moved = np.moveaxis(array, 1, -1)
        if channels == "first":
            return moved, None
        return moved, (
            f"{subject} has examples of shape {(a, b, c)}, taken for {b} x {c} pixels of "
            f"{_number(a)} and turned to {(b, c, a)}; {_option('channels', 'last')} keeps them"
        )
    if c in _COUNTS and a not in _COUNTS:
        return array, None
    return array, (
        f"{subject} has examples of shape {(a, b, c)}, taken for {a} x {b} pixels of {_number(c)}; "
        f"{_option('channels', 'first')} takes them for {_number(a)}"
    )


def _number(channels: int) -> str:
    return f"{channels} channel{'s' * (channels > 1)}"


def _option(name: str, value: object) -> str:
    return f"{name}={value!r} (--{name} {value})"


def grey_levels(
    array: np.ndarray, levels: int | None, subject: str
) -> tuple[np.ndarray, int | None, str | None]:
    """The images on levels 0 ... L - 1 where they are known, L or None, and a note.

    Args:
        array: images of real numbers.
        levels: L as given by the user, or None.
        subject: what errors and notes name.
    """
    if levels is not None:
        positive_integer(levels, "levels", 2)
        return _on_levels(array, levels, subject)
    if array.dtype.kind == "b":
        return array, 2, None
    if array.dtype in (np.uint8, np.uint16):
        return array, int(np.iinfo(array.dtype).max) + 1, None
    if array.dtype.kind in "iu":
        known = array.size > 0 and array.min() >= 0
        return array, int(array.max()) + 1 if known else None, None
    return array, None, _suspicion(array, subject)


def _on_levels(
    array: np.ndarray, levels: int, subject: str
) -> tuple[np.ndarray, int | None, str | None]:
    if array.size == 0 or not np.isfinite(array).all():  # refused elsewhere
        return array, levels, None
    for text, scale, shift in _maps(levels):
        if _fits(array, levels, scale, shift, allowed=0.25):
            if scale == 1:
                return array, levels, None
            whole = np.round((np.asarray(array, np.float64) - shift) * scale)
            note = f"{subject} holds {text}, brought to the integers 0 ... {levels - 1}"
            return whole.astype(np.float32), levels, note
    raise ValueError(
        f"`levels` must be the number L of grey levels of {subject}, whose values are then "
        f"0 ... L - 1, or these divided by L - 1, or twice that minus 1; got {levels} for values "
        f"from {array.min():.6g} to {array.max():.6g}."
    )


def _suspicion(array: np.ndarray, subject: str) -> str | None:
    """A note if floating values lie on levels."""
    if array.size == 0 or not np.isfinite(array).all():  # refused elsewhere
        return None
    some = array.reshape(-1)[:: max(1, array.size // _SAMPLE)]
    remedy = "their density would grow without bound"
    for levels in _USUAL:
        for text, scale, shift in _maps(levels):
            fit = _fits(some, levels, scale, shift) and _fits(array, levels, scale, shift)
            if fit and np.ptp(array) * scale > 0.5:
                return (
                    f"{subject} holds floating numbers that are {text}: grey levels, to which no "
                    f"noise is added, so that {remedy}; {_option('levels', levels)} "
                    f"dequantises them"
                )
    _, counts = np.unique(some, return_counts=True)
    distinct, others = len(counts), some.size - int(counts.max())  # apart from the background
    if 1 < distinct <= _FEW and 4 * (distinct - 1) <= others:
        return (
            f"{subject} holds floating numbers that take only {distinct} values in {some.size}: if "
            f"they are grey levels, {remedy}; bring them to 0 ... L - 1 and pass levels=L "
            f"(--levels L)"
        )
    return None


def _maps(levels: int) -> tuple[tuple[str, float, float], ...]:
    """Where levels may lie: a description, and (x - shift) * scale = 0 ... levels - 1."""
    top = levels - 1
    return (
        (f"integers from 0 to at most {top}", 1.0, 0.0),
        (f"multiples of 1/{top} in [0, 1]", float(top), 0.0),
        (f"multiples of 2/{top} in [-1, 1]", top / 2, -1.0),
    )


def _fits(
    array: np.ndarray, levels: int, scale: float, shift: float, allowed: float | None = None
) -> bool:
    """Whether values lie on levels, up to the fraction `allowed` of one level."""
    if allowed is None:  # the rounding of single precision, and small enough to exclude chance
        allowed = min(0.1, 1e-3 + 8 * float(np.finfo(np.float32).eps) * levels)
    low, high = (float(array.min()) - shift) * scale, (float(array.max()) - shift) * scale
    if low < -allowed or high > levels - 1 + allowed:
        return False
    values = (np.asarray(array, np.float64) - shift) * scale
    return bool((np.abs(values - np.round(values)) <= allowed).all())
