r"""Randomly shifted lattice rules, in integers.

Node k of a Korobov lattice of $n = 2^m$ nodes in d dimensions, shifted by $\Delta$ uniform in the
unit cube, is

$$u_k = T\left(\left\{\frac{kz}{n} + \Delta\right\}\right), \qquad z = (1, a, a^2, \ldots), \qquad
  T(u) = 1 - |2u - 1|,$$

with the fractional part {.}. Each node is uniform in the cube, and together they fill it evenly.
The baker's map T makes a smooth integrand periodic, for which the error falls faster. The mean over
the nodes is unbiased. Means over lattices with independent shifts are independent, so that their
spread gives the standard error. Node 0 alone is an independent draw.

A coordinate is held as 32 random bits: with $n = 2^m$ their arithmetic modulo $2^{32}$ is that of
fractional parts, without rounding.

References:
    Sloan, Joe, Lattice Methods for Multiple Integration (1994). Hickernell, Obtaining
    $O(N^{-2+\epsilon})$ convergence for lattice quadrature rules (2002), for the baker's map.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, UInt32

from entropix.estimators.reference import GaussianReference


# The multiplier a of 2^m nodes, m = 3, 4, ..., found by search: the smallest worst-case error in
# the Korobov space of smoothness 2 with weights 1/j, as a compromise between 3 to 16 dimensions.
# Its square is at most 2.5 times the smallest that the search found for any of them alone.
_MULTIPLIERS = (3, 5, 13, 11, 61, 13, 187, 131, 469, 1939, 2795, 3035, 1605, 31287, 27149, 96885)
LARGEST_DIM = 16
LEAST_COUNT, LARGEST_COUNT = 8, 2 ** (2 + len(_MULTIPLIERS))


def generator(log_count: int, dim: int) -> UInt32[Array, " dim"]:
    """The generating vector of 2^`log_count` nodes, as bits: node k is k times it."""
    steps = [pow(_MULTIPLIERS[log_count - 3], j, 2**log_count) for j in range(dim)]
    return jnp.asarray(np.asarray(steps, np.uint32) << (32 - log_count))


def lattice_bits(
    node: Int[Array, "*n"], generator: UInt32[Array, " dim"], shift: UInt32[Array, "... dim"]
) -> UInt32[Array, "*n dim"]:
    """The coordinates of shifted nodes, as bits, after the baker's map."""
    bits = node[..., None].astype(jnp.uint32) * generator + shift
    return (bits << 1) ^ (0 - (bits >> 31))


def open_unit(bits: UInt32[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    """Random bits as numbers strictly inside (0, 1)."""
    unused = 9 if jnp.finfo(dtype).bits < 64 else 0
    return ((bits >> unused).astype(dtype) + 0.5) / 2 ** (32 - unused)


def standard_normal(bits: UInt32[Array, "*n"], dtype: Any) -> Float[Array, "*n"]:
    """Random bits as standard normal numbers."""
    return np.sqrt(2).astype(dtype) * jax.lax.erf_inv(2 * open_unit(bits, dtype) - 1)


def below(bits: UInt32[Array, "*n"], count: int) -> Int[Array, "*n"]:
    """Random bits u as integers floor(u count): the upper half of the product of 64 bits."""
    high, low = bits >> 16, bits & 0xFFFF
    above, rest = jnp.uint32(count >> 16), jnp.uint32(count & 0xFFFF)
    middle = high * rest + (low * rest >> 16)
    carry = ((middle & 0xFFFF) + low * above) >> 16
    return (high * above + (middle >> 16) + carry).astype(jnp.int32)


def space_filling_order(
    data: Float[Array, "n *shape"], reference: GaussianReference
) -> Int[Array, " n"]:
    """The order of samples along a Morton curve through their three leading principal components.

    Neighbours in it are close in space: to move evenly along it is to stratify the data.
    """
    dim = min(3, reference.centre.shape[0])
    centred = jax.lax.stop_gradient(data.reshape(data.shape[0], -1)) - reference.centre
    scaled = centred @ reference.basis[:, -dim:] / jnp.sqrt(reference.spread[-dim:])
    bits = 30 // dim
    cells = jnp.floor(jax.scipy.stats.norm.cdf(scaled) * 2**bits)
    cells = jnp.clip(cells, 0, 2**bits - 1).astype(jnp.uint32)

    def interleave(b: Array, code: Array) -> Array:
        position = (b * dim + jnp.arange(dim)).astype(jnp.uint32)
        found = ((cells >> b.astype(jnp.uint32)) & 1) << position
        return code + jnp.sum(found, axis=1, dtype=jnp.uint32)

    code = jax.lax.fori_loop(0, bits, interleave, jnp.zeros(data.shape[0], jnp.uint32))
    return jnp.argsort(code)
