"""Maps over many examples in chunks of bounded memory, also under differentiation."""

from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.compiled import mapped
from entropix._core.mesh import spread


# Numbers that are held in float64 at once on the host.
_NUMBERS = 2**24
# Rows of products of matrices at a time. With more, a CPU takes up to twice as long for each: the
# results of a layer leave its cache (widths from 64 to 256).
_ROWS, _FEWEST = 2048, 16


def centred_chunks(points: np.ndarray, mean: np.ndarray) -> Iterator[np.ndarray]:
    """Rows of an array less their mean, in float64 on the host, in chunks of bounded memory."""
    rows = max(1, _NUMBERS // points.shape[1])
    for start in range(0, len(points), rows):
        yield np.asarray(points[start : start + rows], np.float64) - mean


def fewer_on_cpu(chunk: int, most: int) -> int:
    """`chunk`, on a CPU at most `most`."""
    return min(chunk, most) if jax.default_backend() == "cpu" else chunk


def in_cache(chunk: int, rows: int) -> int:
    """`chunk`, or fewer examples of so many rows each if a CPU computes these faster."""
    return fewer_on_cpu(chunk, max(_FEWEST, _ROWS // rows))


def in_chunks(fn: Callable[[Any, Array], Any], args: Any, count: int, chunk: int) -> Any:
    """Apply `fn(chunk of args, weight)` over `count` leading entries, chunk by chunk.

    Chunks have `chunk` entries or fewer, as equal in number as possible. The last one is filled up
    by repeating an entry; `weight` is one for entries and zero for those repeated. Chunks are
    recomputed under reverse-mode differentiation, so that only the memory of one chunk is needed.
    The entries of a chunk are spread over the `"data"` axis of the ambient mesh.

    Returns:
        The results of `fn`, with a leading axis of chunks.
    """
    chunks = -(-count // min(chunk, count))
    chunk = -(-count // chunks)
    if chunks * chunk == count:  # no padding: reshaping is enough, and compiles faster
        whole = jnp.ones(chunk)
        parts = jax.tree.map(lambda a: a.reshape(chunks, chunk, *a.shape[1:]), args)
        return mapped(lambda part: fn(*spread((part, whole))), parts, recompute=True)
    position = jnp.arange(chunks * chunk)
    weight = (position < count).astype(jnp.result_type(float)).reshape(chunks, chunk)
    position = jnp.minimum(position, count - 1).reshape(chunks, chunk)

    def body(where: tuple[Array, Array]) -> Any:
        entries, weight = spread(where)
        return fn(spread(jax.tree.map(lambda a: a[entries], args)), weight)

    return mapped(body, (position, weight), recompute=True)


def map_in_chunks(fn: Callable[[Any], Any], args: Any, chunk: int) -> Any:
    """`fn` of each entry of `args`, by `in_chunks`: one program for all of them."""
    count = jax.tree.leaves(args)[0].shape[0]
    found = in_chunks(lambda part, _: jax.vmap(fn)(part), args, count, chunk)
    return jax.tree.map(lambda a: unchunk(a, count), found)


def unchunk(x: Array, count: int) -> Array:
    """Undo the chunk axis of per-entry output and drop the padding."""
    return x.reshape((-1, *x.shape[2:]))[:count]
