"""`Dataset`: samples, and what is known of them; the one place where data are validated.

Data are NumPy arrays on the host, not a pytree; they reach a device when a program uses them.

Three kinds of data differ in what their columns mean, and hence in what is allowed:

| kind | columns | a constant column |
|---|---|---|
| `table` | quantities, each with its own unit: standardise per feature | is refused |
| `image` | pixels of one unit: standardise on a global scale | is allowed |
| `points` | coordinates of one space and unit: standardise on a global scale | is allowed |
"""

import dataclasses
import math
from collections.abc import Mapping

import numpy as np

from entropix._core.arrays import DataLike, real_array, rounded
from entropix._core.checks import choice
from entropix._core.formatting import listed
from entropix.datasets.pixels import channels_last, grey_levels
from entropix.interfaces import AbstractDistribution


KINDS = ("table", "image", "points")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples of a distribution, validated when made.

    Attributes:
        points: shape (N, D), N >= 2, finite, read-only. float64 if made from float64 or from
            integers that float32 cannot hold, otherwise float32.
        name: a short name.
        shape: shape of one example; its product is D. (D,) if empty.
        kind: `"table"`, `"image"` or `"points"`: what the columns mean.
        levels: of images quantised to the integers 0 ... levels - 1, their number (see
            `dequantise`); None for continuous data.
        labels: shape (N,), one label per sample, or None.
        columns: D names, or None.
        distribution: the exact distribution that the points were drawn from, or None if unknown.
        source: the file, or where the data come from; errors name it.
        notes: what was assumed as they were read, a sentence each.
        categories: of columns of text that were encoded as 0, 1, ..., the values in this order.

    Raises:
        ValueError: on a wrong shape, fewer than two samples, entries that are not finite numbers,
            a constant column of a table, or samples that are all the same.
    """

    points: np.ndarray
    name: str
    shape: tuple[int, ...] = ()
    kind: str = "table"
    levels: int | None = None
    labels: np.ndarray | None = None
    columns: tuple[str, ...] | None = None
    distribution: AbstractDistribution | None = None
    source: str = ""
    notes: tuple[str, ...] = ()
    categories: Mapping[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        subject = repr(self.source) if self.source else "`points`"
        choice(self.kind, "kind", KINDS)
        points = _floating(self.points, subject)
        if points.ndim != 2 or 0 in points.shape[1:]:
            raise ValueError(f"{subject} must have shape (N, D), got shape {points.shape}.")
        n, dim = points.shape
        shape = tuple(int(size) for size in self.shape) or (dim,)
        if math.prod(shape) != dim:
            raise ValueError(f"`shape` must have {dim} entries in all, got {shape}.")
        if self.labels is not None and np.shape(self.labels) != (n,):
            raise ValueError(f"`labels` must have shape ({n},), got {np.shape(self.labels)}.")
        if self.columns is not None and len(self.columns) != dim:
            raise ValueError(f"`columns` must hold {dim} names, got {len(self.columns)}.")
        if n < 2:
            raise ValueError(f"{subject} must hold at least two samples, got {n}.")
        self._check_finite(points, subject)
        self._check_spread(points, subject)
        points = points.view()
        points.flags.writeable = False
        object.__setattr__(self, "points", points)
        object.__setattr__(self, "shape", shape)

    @classmethod
    def from_array(
        cls,
        array: DataLike,
        *,
        name: str = "array",
        kind: str | None = None,
        labels: np.ndarray | None = None,
        columns: tuple[str, ...] | None = None,
        source: str = "",
        levels: int | None = None,
        channels: str = "auto",
        notes: tuple[str, ...] = (),
        categories: Mapping[str, tuple[str, ...]] | None = None,
    ) -> "Dataset":
        """A data set from an array of any rank from one to four, its kind inferred.

        | shape | kind | shape of one example |
        |---|---|---|
        | (N,) | points | (1,) |
        | (N, D) | table | (D,) |
        | (N, H, W), (N, H, W, C) | image | (H, W), (H, W, C) |

        Images of unsigned integers are quantised: uint8 to 256 levels, uint16 to 65536; bool to
        2; other integers, none of them negative, to the largest value plus one. Floating values
        are taken for continuous; a note reports where they seem to be levels.

        Args:
            array: real numbers, the samples along the first axis; see [Data](../data.md).
            name: a short name.
            kind: overrides the inferred kind.
            labels: shape (N,).
            columns: D names.
            source: what errors name; by default the argument `points`.
            levels: the number L of grey levels of images. The values are k = 0 ... L - 1, or
                k/(L - 1), or 2k/(L - 1) - 1, and become 0 ... L - 1. None: as above.
            channels: for images with four axes, `"last"` for (N, H, W, C), or `"first"` for
                (N, C, H, W), which becomes the other; `"auto"`: the axis of 1, 3 or 4 entries.
            notes: earlier assumptions.
            categories: of encoded columns.

        Raises:
            ValueError: as `Dataset`, or on a wrong rank, or `levels` on which the values do not
                lie.
        """
        subject = repr(source) if source else "`points`"
        array = real_array(array, subject)
        if not 1 <= array.ndim <= 4:
            raise ValueError(
                f"{subject} must have between one and four axes, samples first, "
                f"got shape {array.shape}."
            )
        inferred = ("points", "table", "image", "image")[array.ndim - 1]
        kind = inferred if kind is None else choice(kind, "kind", KINDS)
        said: list[str | None] = [*notes]
        if levels is not None and kind != "image":
            raise ValueError(f"`levels` must be None unless `kind` is 'image', got {levels!r}.")
        if kind == "image" and array.ndim == 4:
            array, note = channels_last(array, channels, subject)
            said.append(note)
        if kind == "image":
            array, levels, note = grey_levels(array, levels, subject)
            said.append(note)
        n, *rest = array.shape
        shape = tuple(rest) or (1,)
        return cls(
            points=array.reshape(n, math.prod(shape)),
            name=name,
            shape=shape,
            kind=kind,
            levels=levels,
            labels=labels,
            columns=columns,
            source=source,
            notes=tuple(note for note in said if note is not None),
            categories={} if categories is None else categories,
        )

    @property
    def num_samples(self) -> int:
        """N."""
        return self.points.shape[0]

    @property
    def dim(self) -> int:
        """D."""
        return self.points.shape[1]

    def __repr__(self) -> str:
        text = f"Dataset({self.name!r}: {self.num_samples} x {self.dim} {self.points.dtype}"
        text += f", {self.kind} {self.shape}"
        if self.levels is not None:
            text += f", {self.levels} levels"
        if self.labels is not None:
            text += f", {len(np.unique(self.labels))} labels"
        if self.distribution is not None:
            text += f", drawn from a {type(self.distribution).__name__}"
        return text + ")"

    def __str__(self) -> str:
        return "\n".join([repr(self), *(f"  note: {note}" for note in self.notes)])

    def _column(self, index: int) -> str:
        return f"column {index}" if self.columns is None else f"column {self.columns[index]!r}"

    def _check_finite(self, points: np.ndarray, subject: str) -> None:
        finite = np.isfinite(points)
        if finite.all():
            return
        row, column = (int(i) for i in np.argwhere(~finite)[0])
        missing = int(np.isnan(points).sum())
        infinite = int((~finite).sum()) - missing
        parts = []
        if missing:
            parts.append(f"{missing} NaN or missing")
        if infinite:
            parts.append(f"{infinite} infinite")
        hint = ""
        if missing and self.source:
            gaps = np.isnan(points)
            rows, empty = int(gaps.any(axis=1).sum()), np.flatnonzero(gaps.all(axis=0))
            hint = f": drop_missing=True (--drop-missing) leaves out {rows} of {len(points)} rows"
            if len(empty):
                names = listed([self._column(int(i)) for i in empty], 5)
                hint = f": leave out {names}, without any value (drop=, --drop)"
            elif rows == len(points):
                worst = int(gaps.sum(axis=0).argmax())
                hint = f": leave out columns such as {self._column(worst)} (drop=, --drop)"
        raise ValueError(
            f"{subject} must hold finite numbers, got {' and '.join(parts)} of {points.size}, "
            f"the first in sample {row}, {self._column(column)} (counted from 0){hint}."
        )

    def _check_spread(self, points: np.ndarray, subject: str) -> None:
        constant = np.flatnonzero((points == points[0]).all(axis=0))
        if len(constant) == points.shape[1]:
            raise ValueError(
                f"{subject} must hold samples that differ, got {len(points)} copies of one sample."
            )
        if len(constant) and self.kind == "table":
            first = int(constant[0])
            others = listed([self._column(int(i)) for i in constant[1:]], 4)
            others = f", nor {others}" if others else ""
            raise ValueError(
                f"{subject} must have no constant column, got {self._column(first)}, all "
                f"{points[0, first]:.6g}{others}: leave out what is constant (drop=, --drop), or "
                f"pass kind='image' (constant pixels) or kind='points' (coordinates of one space)."
            )


def _floating(array: DataLike, subject: str) -> np.ndarray:
    """Real numbers as float32, or as float64 where float32 would lose given digits.

    Raises:
        ValueError: if they are none, or float64 does not hold them.
    """
    array = real_array(array, subject)
    exact_in_float32 = 2**24
    if array.dtype.kind == "f":
        wide = array.dtype.itemsize >= 8
    else:
        wide = (
            array.dtype.itemsize >= 4
            and array.size > 0
            and max(abs(int(array.min())), abs(int(array.max()))) > exact_in_float32
        )
    return rounded(array, np.float64 if wide else np.float32, subject)
