"""Splits: which part of data that come in parts, `"train"`, `"test"` or both.

`"all"` is every part, one after the other in their own order. Sources without parts refuse to be
asked for one.
"""

from collections.abc import Sequence
from pathlib import Path

from entropix.datasets.files import quoted


DEFAULT = "train"
ALL = "all"
TRAIN_TEST = ("train", "test")


def chosen(split: str | None, parts: Sequence[str], path: Path | str) -> tuple[str, ...]:
    """The parts that `split` asks for; None asks for `"train"`, or for the only part.

    Raises:
        ValueError: if there is no such part.
    """
    if split is None:
        split = parts[0] if len(parts) == 1 else DEFAULT
    if split in parts:
        return (split,)
    if split == ALL:
        return tuple(parts)
    allowed = ", ".join(repr(part) for part in (*parts, ALL))
    source = quoted(path) if isinstance(path, Path) else repr(path)
    raise ValueError(f"`split` must be one of {allowed} for {source}, got {split!r}.")
