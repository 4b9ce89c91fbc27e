r"""Scrambled digital nets, in integers.

A Sobol sequence in base 2 is a matrix of bits for each coordinate: the bits of a node's number
choose which of its columns are added, without carry. The first $n = 2^m$ nodes, with k/n as one
more coordinate of node k, fill the unit cube evenly: each box from a division of the cube into
equal boxes by halving has the same number of nodes, up to a factor that depends on the dimension.

A random scrambling swaps the halves of each coordinate, independently the halves of each half, and
so on. It keeps the net a net and makes each node uniform in the cube, so that the mean over the
nodes is unbiased. Its variance falls like $n^{-3}$ (up to logarithms) for smooth integrands, and is
never much above that of independent draws. Means over independently scrambled nets are
independent, so that their spread gives the standard error. Node 0 alone is an independent draw.

A coordinate is held as 32 random bits. Those of the net are held in reverse, the first bit lowest:
the scrambling is then a function whose every bit depends on the lower ones.

References:
    Joe, Kuo, Constructing Sobol sequences with better two-dimensional projections (2008). Owen,
    Scrambled net variance for integrals of smooth functions (1997). Burley, Practical hash-based
    Owen scrambling (2020), with the constants of Vegdahl.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, Int, UInt32

from entropix.estimators.reference import GaussianReference


# Of each coordinate after the first: the coefficients of a primitive polynomial, as bits, and the
# odd numbers that begin its recurrence.
_JOE_KUO = (
    (0b11, (1,)),
    (0b111, (1, 3)),
    (0b1011, (1, 3, 1)),
    (0b1101, (1, 1, 1)),
    (0b10011, (1, 1, 3, 3)),
    (0b11001, (1, 3, 5, 13)),
    (0b100101, (1, 1, 5, 5, 17)),
    (0b101001, (1, 1, 5, 5, 5)),
    (0b101111, (1, 1, 7, 11, 19)),
    (0b110111, (1, 1, 5, 1, 1)),
    (0b111011, (1, 1, 1, 3, 11)),
    (0b111101, (1, 3, 5, 5, 31)),
    (0b1000011, (1, 3, 3, 9, 7, 49)),
    (0b1011011, (1, 1, 1, 15, 21, 21)),
    (0b1100001, (1, 3, 1, 13, 27, 49)),
)
LARGEST_DIM = 1 + len(_JOE_KUO)
LEAST_COUNT = 8


def net_columns(log_count: int, dim: int) -> UInt32[Array, "dim columns"]:
    """The matrices of a net of 2^`log_count` nodes: their columns, as bits in reverse."""
    matrices = [[1 << j for j in range(log_count)]]
    for polynomial, start in _JOE_KUO[: dim - 1]:
        degree, numbers = len(start), list(start)
        for j in range(degree, log_count):
            number = numbers[j - degree]
            for i in range(1, degree + 1):
                number ^= (polynomial >> (degree - i) & 1) * numbers[j - i] << i
            numbers.append(number)
        # Number j has j + 1 bits, the first of which is the highest.
        matrices.append([int(f"{v:0{j + 1}b}"[::-1], 2) for j, v in enumerate(numbers[:log_count])])
    return jnp.asarray(np.asarray(matrices, np.uint32).reshape(dim, log_count))


def net_bits(
    node: Int[Array, "*n"],
    columns: UInt32[Array, "dim columns"],
    seeds: UInt32[Array, "... dim 2"],
) -> UInt32[Array, "*n dim"]:
    """The coordinates of nodes, as bits, scrambled by two random numbers for each coordinate."""
    chosen = node[..., None].astype(jnp.uint32) >> np.arange(columns.shape[1], dtype=np.uint32) & 1
    bits = jax.lax.reduce(
        chosen[..., None, :] * columns, np.uint32(0), jax.lax.bitwise_xor, (node.ndim + 1,)
    )
    # The first makes each node uniform. The others are one-to-one whatever the second is.
    bits, seed = bits ^ seeds[..., 0], seeds[..., 1]
    bits = bits ^ bits * np.uint32(0x3D20ADEA)
    bits = (bits + seed) * (seed >> 16 | 1)
    bits = bits ^ bits * np.uint32(0x05526C56)
    bits = bits ^ bits * np.uint32(0x53A22864)
    for width, mask in ((1, 0x55555555), (2, 0x33333333), (4, 0x0F0F0F0F), (8, 0x00FF00FF)):
        bits = bits >> width & np.uint32(mask) | (bits & np.uint32(mask)) << width
    return bits >> 16 | bits << 16


def open_unit(bits: UInt32[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    """Random bits as numbers strictly inside (0, 1)."""
    unused = 9 if jnp.finfo(dtype).bits < 64 else 0
    return ((bits >> unused).astype(dtype) + 0.5) / 2 ** (32 - unused)


def standard_normal(bits: UInt32[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    """Random bits as standard normal numbers."""
    return np.sqrt(2).astype(dtype) * jax.lax.erf_inv(2 * open_unit(bits, dtype) - 1)


def below(bits: UInt32[Array, "*n"], count: ArrayLike) -> Int[Array, "*n"]:
    """Random bits u as integers floor(u count): the upper half of the product of 64 bits."""
    count = jnp.asarray(count).astype(jnp.uint32)
    high, low = bits >> 16, bits & 0xFFFF
    above, rest = count >> 16, count & 0xFFFF
    middle = high * rest + (low * rest >> 16)
    carry = ((middle & 0xFFFF) + low * above) >> 16
    return (high * above + (middle >> 16) + carry).astype(jnp.int32)


def group_sizes(count: int, levels: int) -> tuple[int, ...]:
    """How many of `count` samples the groups have that `levels` coordinates choose from in turn."""
    return tuple(math.ceil(count ** (1 - j / levels)) for j in range(1, levels))


def grouped_order(
    data: Float[Array, "n *shape"], reference: GaussianReference, sizes: tuple[int, ...]
) -> Int[Array, " n"]:
    """Samples sorted by their first principal component, each group of these by the second, etc.

    The last of the groups that divide a group may be smaller.
    """
    flat = jax.lax.stop_gradient(data.reshape(data.shape[0], -1)) - reference.centre
    components = (flat @ reference.basis[:, ::-1][:, : len(sizes) + 1]).T
    order, shapes = jnp.argsort(components[0], stable=False)[None], []
    # Rows of equal length, which sort faster than all at once. A row that is too short ends with
    # numbers of no sample, whose components are infinite.
    for component, size in zip(components[1:], sizes, strict=True):
        shapes.append(order.shape)
        short = -order.shape[1] % size
        order = jnp.pad(order, ((0, 0), (0, short)), constant_values=data.shape[0])
        order = order.reshape(-1, size)
        last = jnp.append(component, jnp.inf)[order]
        order = jax.lax.sort((last, order), dimension=1, num_keys=1, is_stable=False)[1]
    for rows, length in reversed(shapes):
        order = order.reshape(rows, -1)[:, :length]
    return order.ravel()


def sample_at(
    bits: UInt32[Array, "*n levels"], order: Int[Array, " count"], sizes: tuple[int, ...]
) -> Int[Array, "*n"]:
    """The samples at coordinates along the principal components: each sample equally often."""
    start, count = jnp.zeros(bits.shape[:-1], jnp.int32), order.shape[0]
    for level, size in enumerate((*sizes, 1)):
        skipped = below(bits[..., level], count) // size * size
        start, count = start + skipped, jnp.minimum(count - skipped, size)
    return order[start]
