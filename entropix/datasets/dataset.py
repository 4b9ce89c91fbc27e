"""`Dataset`: samples, and what is known of them; the one place where data are validated.

Data are NumPy arrays on the host, not a pytree; they reach a device when a program uses them.

Four kinds of data differ in what their columns mean, and hence in what is allowed:

| kind | columns | a constant column |
|---|---|---|
| `table` | quantities, each with its own unit: standardise per feature | is refused |
| `image` | pixels of one unit: standardise on a global scale | is allowed |
| `points` | coordinates of one space and unit: standardise on a global scale | is allowed |
| `tokens` | names, from 0 to K - 1, of the symbols of a sequence: no scale | is allowed |
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np

from entropix._core.arrays import DataLike, real_array, rounded
from entropix._core.checks import choice, positive_integer
from entropix._core.formatting import listed
from entropix.datasets.pixels import channels_last, grey_levels
from entropix.datasets.sequences import (
    MOST_TOKENS,
    OTHER,
    OTHERS,
    cut,
    limited,
    renumbered,
    small_integers,
)
from entropix.interfaces import AbstractDistribution


KINDS = ("table", "image", "points", "tokens")


@dataclasses.dataclass(frozen=True, eq=False, repr=False)
class Dataset:
    """Samples of a distribution, validated when made.

    Attributes:
        points: shape (N, D), N >= 2, finite, read-only. float64 if made from float64 or from
            integers that float32 cannot hold, otherwise float32; tokens in the smallest unsigned
            integers that hold them, uint8 for up to 256.
        name: a short name.
        shape: shape of one example; its product is D. (D,) if empty.
        kind: `"table"`, `"image"`, `"points"` or `"tokens"`: what the columns mean.
        levels: of images quantised to the integers 0 ... levels - 1, their number (see
            `dequantise`); None for continuous data.
        labels: shape (N,), one label per sample, or None.
        columns: D names, or None.
        distribution: the exact distribution that the points were drawn from, or None if unknown.
        source: the file, or where the data come from; errors name it.
        notes: what was assumed as they were read, a sentence each.
        categories: of columns of text that were encoded as 0, 1, ..., the values in this order.
        num_tokens: the number K of different tokens; None for other kinds.
        vocabulary: K names of tokens, such as characters; empty where they are numbers.
        texts: for windows of texts, the number of the text of each, shape (N,): consecutive windows
            with the same number adjoin. None for independent samples.

    Raises:
        ValueError: on a wrong shape, fewer than two samples, entries that are not finite numbers,
            a constant column of a table, samples that are all the same, or tokens that are not
            integers from 0 to K - 1.
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
    num_tokens: int | None = None
    vocabulary: tuple[str, ...] = ()
    texts: np.ndarray | None = None

    def __post_init__(self):
        subject = repr(self.source) if self.source else "`points`"
        choice(self.kind, "kind", KINDS)
        of_tokens = self.kind == "tokens"
        points = (real_array if of_tokens else _floating)(self.points, subject)
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
        if of_tokens:
            points = self._as_tokens(points, subject)
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
        if kind == "tokens":
            raise ValueError("`kind` must be that of numbers, got 'tokens': use from_tokens.")
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

    @classmethod
    def from_tokens(
        cls,
        array: DataLike,
        *,
        name: str = "array",
        length: int | None = None,
        max_tokens: int | None = None,
        labels: np.ndarray | None = None,
        source: str = "",
        notes: tuple[str, ...] = (),
        categories: Mapping[str, tuple[str, ...]] | None = None,
    ) -> "Dataset":
        """Sequences of tokens from an array of integers from 0, K being the largest plus one.

        An array of one axis, or of one column, is a long sequence, and is cut into windows. Of any
        other, an entry of the first axis is a sequence, perhaps with axes of its own, as the pixels
        of images have.

        Args:
            array: integers from 0, of any real dtype.
            name: a short name.
            length: of the windows of a long sequence; None for 64.
            max_tokens: keeps the most frequent tokens, at most 65,536, and makes one token of all
                others. None: more are refused.
            labels: shape (N,), not of windows.
            source: what errors name; by default the argument `points`.
            notes: earlier assumptions.
            categories: of encoded columns.

        Raises:
            ValueError: as `Dataset`, or if an entry is no integer or negative.

        Example:
            >>> import entropix as ex
            >>> ex.datasets.Dataset.from_tokens([0, 2, 1, 1] * 8, length=4)
            Traceback (most recent call last):
            ValueError: `points` must hold samples that differ, got 8 copies of one sample.
            >>> ex.datasets.Dataset.from_tokens([0, 2, 1, 1, 2] * 8, length=4)
            Dataset('array': 10 x 4 uint8, tokens (4,), 3 tokens)
        """
        subject = repr(source) if source else "`points`"
        array = real_array(array, subject)
        wrong = np.empty(0)
        if array.dtype.kind not in "bu":
            wrong = array[~((array >= 0) & (array == np.round(array)))]
        if wrong.size:
            raise ValueError(
                f"{subject} must hold integers from 0 to be tokens, got {wrong.size} others of "
                f"{array.size}, such as {wrong.flat[0]}."
            )
        if array.size and float(array.max()) >= 2**53:
            raise ValueError(f"{subject} must hold integers below 2^53, got {array.max()}.")
        array = small_integers(array, int(array.max(initial=0)) + 1)
        vocabulary = ()
        count = int(array.max(initial=0)) + 1
        if count > (MOST_TOKENS if max_tokens is None else max_tokens):
            array, kept, others = limited(array, max_tokens, subject)
            vocabulary = (*map(str, kept), *([OTHERS] if others else []))
            count = len(vocabulary)
            if others:
                notes += (f"{others} of {array.size} tokens are rare and become one, others",)
        texts = None
        if array.ndim == 1 or array.shape[1:] == (1,):
            array, texts, *_ = cut(array.reshape(-1), length, subject)
        elif length is not None:
            raise ValueError(
                f"`length` must be None for {subject}, which holds sequences of shape "
                f"{array.shape[1:]}, got {length}."
            )
        return cls(
            points=array.reshape(len(array), -1),
            name=name,
            shape=array.shape[1:],
            kind="tokens",
            labels=labels,
            source=source,
            notes=notes,
            categories={} if categories is None else categories,
            num_tokens=count,
            vocabulary=vocabulary,
            texts=texts,
        )

    @property
    def has_characters(self) -> bool:
        """Whether all tokens are named by single characters."""
        return bool(self.vocabulary) and all(len(name) == 1 for name in self.vocabulary)

    def as_text(self, tokens: DataLike) -> list[str]:
        """Sequences of tokens as text: their names, with spaces between unless all are characters.

        Args:
            tokens: shape (n, D), integers from 0 to K - 1.
        """
        names = self.vocabulary or tuple(map(str, range(self.num_tokens or 0)))
        between = "" if self.has_characters else " "
        return [between.join(names[int(i)] for i in row) for row in np.asarray(tokens)]

    def with_vocabulary(self, vocabulary: Sequence[str]) -> "Dataset":
        """The same sequences, with the tokens numbered as in another data set or a model.

        Tokens without names are named by their numbers. Tokens that are not in the vocabulary
        become its token for all others, U+FFFD or "others", if it has one; a note says how many.

        Args:
            vocabulary: different names; the position of a name is its number.

        Raises:
            ValueError: if the data are not tokens, or a token is not in the vocabulary, which has
                none for all others.

        Example:
            >>> import entropix as ex
            >>> data = ex.datasets.Dataset.from_tokens([[0, 2], [2, 1]])
            >>> print(data.with_vocabulary(("1", "0", "2", "3")).points)
            [[1 2]
             [2 0]]
        """
        if self.num_tokens is None:
            raise ValueError(f"`kind` must be 'tokens' for a vocabulary, got {self.kind!r}.")
        numbers = {str(name): i for i, name in enumerate(vocabulary)}
        own = self.vocabulary or tuple(map(str, range(self.num_tokens)))
        rest = next((numbers[name] for name in (OTHER, OTHERS) if name in numbers), None)
        lacks = np.array([name not in numbers for name in own])
        unknown = renumbered(self.points, lacks) if lacks.any() else np.zeros(1, bool)
        notes = self.notes
        if unknown.any():
            lacking = [own[i] for i in np.unique(self.points[unknown])]
            if rest is None:
                raise ValueError(
                    f"`vocabulary` must hold all tokens of {self.name!r}, got {len(numbers)} names "
                    f"without {listed(list(map(repr, lacking)), 5)}: replace these tokens, or take "
                    "a model whose vocabulary has a token for all others."
                )
            lost = f"{unknown.sum()} of {unknown.size} tokens"
            notes += (f"{lost} are not in the vocabulary given",)
        table = np.array([numbers.get(name, 0 if rest is None else rest) for name in own])
        table = small_integers(table, len(numbers))
        return dataclasses.replace(
            self,
            points=renumbered(self.points, table),
            num_tokens=len(numbers),
            vocabulary=tuple(numbers),
            notes=notes,
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
        if self.num_tokens is not None:
            text += f", {self.num_tokens} tokens"
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

    def _as_tokens(self, points: np.ndarray, subject: str) -> np.ndarray:
        """The points as small integers; number, names and texts of the tokens are checked."""
        count = positive_integer(self.num_tokens, "num_tokens", 2)
        inside = points.min() >= 0 and points.max() < count
        if not inside or (points.dtype.kind == "f" and (points != np.round(points)).any()):
            raise ValueError(f"{subject} must hold integers from 0 to {count - 1}, got others.")
        if self.texts is not None and np.shape(self.texts) != (len(points),):
            raise ValueError(
                f"`texts` must have shape ({len(points)},), got {np.shape(self.texts)}."
            )
        if len(self.vocabulary) not in (0, count):
            raise ValueError(f"`vocabulary` must hold {count} names, got {len(self.vocabulary)}.")
        return small_integers(points, count)


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
