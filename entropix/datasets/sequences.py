"""Sequences of tokens: text and FASTA records, and the numbering of tokens.

| source | tokens | a sequence |
|---|---|---|
| text in UTF-8 | its characters, in the order of Unicode | a window of the text |
| FASTA | A, C, G, T where nine of ten letters are these, U or N; otherwise the 20 amino acids | a window of a record, without other letters |
| an array of integers of one axis | 0, ..., largest | a window |
| an array of integers of more axes | 0, ..., largest | an entry of the first axis |

Windows of one length do not overlap, and the rest at the end of a text is left out. In text,
characters that make up less than one in 100,000 become one token, shown as U+FFFD. At most 65,536
tokens are allowed; with `max_tokens` the most frequent ones are kept, and all others become the last
token. Tokens are stored in the smallest unsigned integers that hold them: a text of n characters
takes n bytes if at most 256 of them are different.
"""  # noqa: E501

import functools
import platform
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from entropix._core.checks import positive_integer
from entropix._core.memory import check_fits
from entropix.datasets.files import quoted, reading, unzipped


LENGTH = 64  # of a window
MOST_TOKENS = 2**16
# The names of the token for all others, for characters and for numbers.
OTHER, OTHERS = "\ufffd", "others"
TOPICS = "python-topics"
_RARE = 1e-5
# How many values are counted or renumbered at once; the size of the largest table of counts.
_CHUNK, _TABLE = 2**20, 2**24
_FASTA = (".fa", ".fasta", ".fna", ".ffn", ".faa", ".frn")
_NUCLEOTIDES, _AMINO_ACIDS = "ACGT", "ACDEFGHIKLMNPQRSTVWY"


class Windows(NamedTuple):
    """Sequences of one length, cut from texts.

    `tokens` has shape (N, D); `texts`, shape (N,), numbers the text that each is cut from:
    neighbours of one number adjoin.
    """

    tokens: np.ndarray
    texts: np.ndarray
    vocabulary: tuple[str, ...]
    notes: tuple[str, ...]


def is_fasta(path: Path) -> bool:
    """Whether the name of a file is that of a FASTA file, gzipped or not."""
    return path.is_file() and path.name.lower().removesuffix(".gz").endswith(_FASTA)


def read_text(path: Path, length: int | None, max_tokens: int | None) -> Windows:
    """The characters of a text file in UTF-8, gzipped or not."""
    subject = quoted(path)
    text = _decoded(path, "utf-8-sig", "text in UTF-8")
    if not text:
        raise ValueError(f"{subject} must be text, got an empty file.")
    return _of_characters([_codes(text)], length, max_tokens, subject)


def python_topics(length: int | None, max_tokens: int | None) -> Windows:
    """The help of Python on its language, in English, which is part of every Python.

    Many paragraphs appear under several topics; those that appear again are left out.
    """
    from pydoc_data.topics import topics

    paragraphs = (part for text in topics.values() for part in text.split("\n\n"))
    distinct = {" ".join(part.split()): part for part in reversed([*paragraphs])}
    text = "\n\n".join(reversed(distinct.values()))
    found = _of_characters([_codes(text)], length, max_tokens, repr(TOPICS))
    note = f"that of Python {platform.python_version()}, without paragraphs that appear again"
    return found._replace(notes=(note, *found.notes))


def read_fasta(path: Path, length: int | None) -> Windows:
    """The records of a FASTA file, gzipped or not."""
    subject = quoted(path)
    records: list[list[str]] = []
    for line in _decoded(path, "ascii", "FASTA in ASCII").splitlines():
        if line.startswith(">"):
            records.append([])
        elif records and not line.startswith(";"):
            records[-1].append(line.strip())
        elif line.strip() and not line.startswith(";"):
            raise ValueError(
                f"{subject} must be FASTA, whose records start with '>', got {line[:40]!r} before "
                "any record."
            )
    texts = [_codes("".join(lines).upper()) for lines in records]
    total = sum(map(len, texts))
    if total == 0:
        raise ValueError(f"{subject} must hold records of FASTA, got none.")
    of_dna = sum(int(np.isin(text, _codes("ACGTUN")).sum()) for text in texts)
    alphabet = _codes(_NUCLEOTIDES if of_dna >= 0.9 * total else _AMINO_ACIDS)
    if len(alphabet) == len(_NUCLEOTIDES):
        texts = [np.where(text == ord("U"), ord("T"), text) for text in texts]
    pieces = [piece for text in texts for piece in _divided(text, np.isin(text, alphabet))]
    left = total - sum(map(len, pieces))
    letters = "".join(map(chr, alphabet))
    notes = ()
    if left:
        notes = (f"{left} of {total} letters are none of {letters}; no window contains them",)
    table = small_integers(np.searchsorted(alphabet, np.arange(128)), len(alphabet) + 1)
    numbered = [renumbered(piece, table) for piece in pieces]
    return _cut(numbered, length, tuple(letters), notes, subject)


def cut(tokens: np.ndarray, length: int | None, subject: str) -> Windows:
    """The windows of one long sequence of numbers."""
    return _cut([tokens], length, (), (), subject)


def limited(
    values: np.ndarray, max_tokens: int | None, subject: str, rare: float = 0.0
) -> tuple[np.ndarray, np.ndarray, int]:
    """Values as the numbers of the most frequent ones, all others as the last token.

    Args:
        values: integers, of any shape.
        max_tokens: the largest number of tokens; None: 65,536, and more are refused.
        subject: the name of the data in errors.
        rare: values of a smaller share than this are others.

    Returns:
        The numbers; the values that are kept, in increasing order; and the number of entries that
        became the last token, 0 if there are no others.
    """
    found = np.arange(int(values.max(initial=0)) + 1)
    if len(found) > _TABLE:
        found, values = np.unique(values, return_inverse=True)
    counts = _counts(values, len(found))
    present = counts > 0
    most = MOST_TOKENS if max_tokens is None else positive_integer(max_tokens, "max_tokens", 2)
    if most > MOST_TOKENS:
        raise ValueError(f"`max_tokens` must be at most {MOST_TOKENS}, got {most}.")
    kept = present & (counts >= rare * values.size) & (found != ord(OTHER) if rare else True)
    if (present & ~kept).sum() == 1:  # a single other value needs no other name
        kept = present
    size = int(kept.sum() + (present & ~kept).any())
    if size > most:
        if max_tokens is None:
            raise ValueError(
                f"{subject} must have at most {most} tokens, got {size}: max_tokens=256 "
                "(--max-tokens 256) keeps the most frequent and makes one token of all others."
            )
        order = np.argsort(-np.where(kept, counts, 0), kind="stable")
        kept = kept & (np.argsort(order) < most - 1)
    numbers = small_integers(np.where(kept, np.cumsum(kept) - 1, kept.sum()), size)
    return renumbered(values, numbers), found[kept], int(counts[present & ~kept].sum())


def small_integers(tokens: np.ndarray, count: int) -> np.ndarray:
    """Numbers below `count` in the smallest unsigned integers that hold them."""
    return tokens.astype(np.min_scalar_type(max(count - 1, 0)), copy=False)


def renumbered(tokens: np.ndarray, table: np.ndarray) -> np.ndarray:
    """`table[tokens]` in chunks: indexing converts its indices to integers of eight bytes."""
    out = np.empty(tokens.size, table.dtype)
    flat = tokens.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        out[start : start + _CHUNK] = table[flat[start : start + _CHUNK]]
    return out.reshape(tokens.shape)


def _counts(values: np.ndarray, size: int) -> np.ndarray:
    """How often each number below `size` occurs."""
    flat, counts = values.reshape(-1), np.zeros(size, np.int64)
    for start in range(0, flat.size, _CHUNK):
        part = np.bincount(flat[start : start + _CHUNK])
        counts[: len(part)] += part
    return counts


def _of_characters(
    texts: Sequence[np.ndarray], length: int | None, max_tokens: int | None, subject: str
) -> Windows:
    sizes = np.cumsum([len(text) for text in texts])[:-1]
    whole = texts[0] if len(texts) == 1 else np.concatenate(texts)
    tokens, kept, others = limited(whole, max_tokens, subject, _RARE)
    vocabulary, notes = tuple(map(chr, kept)), ()
    if others:
        vocabulary += (OTHER,)
        notes = (f"{others} of {tokens.size} characters are rare and become one token, {OTHER}",)
    return _cut(np.split(tokens, sizes), length, vocabulary, notes, subject)


def _cut(
    texts: Sequence[np.ndarray],
    length: int | None,
    vocabulary: tuple[str, ...],
    notes: tuple[str, ...],
    subject: str,
) -> Windows:
    size = LENGTH if length is None else positive_integer(length, "length", 2)
    counts = [len(text) // size for text in texts]
    if sum(counts) < 2:
        raise ValueError(
            f"{subject} must hold at least two windows of `length` tokens, got {sum(counts)} of "
            f"{size} in {sum(map(len, texts))} tokens: a smaller length= (--length) makes more."
        )
    parts = [text[: n * size].reshape(n, size) for text, n in zip(texts, counts, strict=True)]
    numbers = np.repeat(np.arange(len(texts)), counts)
    windows = parts[0] if len(parts) == 1 else np.concatenate(parts)
    return Windows(windows, numbers, vocabulary, notes)


def _codes(text: str) -> np.ndarray:
    """The code points of characters."""
    if text.isascii():
        return np.frombuffer(text.encode("ascii"), np.uint8)
    return np.frombuffer(text.encode("utf-32-le"), "<u4")


def _divided(text: np.ndarray, inside: np.ndarray) -> list[np.ndarray]:
    """The longest parts of a text that are inside."""
    edges = np.flatnonzero(np.diff(inside.astype(np.int8), prepend=0, append=0))
    return [text[a:b] for a, b in edges.reshape(-1, 2)]


def _decoded(path: Path, encoding: str, expected: str) -> str:
    subject = quoted(path)
    check = functools.partial(_check_size, subject)
    with reading(path, expected):
        content = unzipped(path, check)
    try:
        return content.decode(encoding)
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{subject} must be {expected}, got byte 0x{content[error.start]:02x} at position "
            f"{error.start}: convert the file first (iconv -t utf-8)."
        ) from error


def _check_size(subject: str, size: int) -> None:
    check_fits(10 * size, subject, "text")  # as text, code points and tokens
