r"""Orthogonal transforms of one example, and the partition of an inner product into their parts.

If W is orthogonal, $a\cdot b = \sum_i (Wa)_i(Wb)_i$: every integrand that is an inner product of
fields is a sum over coordinates, or over the coefficients of any orthonormal basis, or over bands
of them. The sum does not depend on the basis.

A transform is a function of one example that returns either an array, of which every entry is a
part, or a pytree of arrays, of which every leaf is a part (a band).
"""

import math
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.checks import is_concrete, optional_size
from entropix._core.compiled import error_if


# How far from orthogonal a transform may be, in units of the square root of the rounding error.
_TOLERANCE = 4.0


class Partition(eqx.Module):
    """How an inner product is divided into parts: by coordinate, coefficient or band.

    Attributes:
        matrix: the transform of a flattened example, `x @ matrix`, with orthonormal rows; None for
            coordinates.
        bands: the part to which each coefficient belongs; None where each is one.
        shape: the shape of the parts.
    """

    matrix: Float[Array, "dim coefficients"] | None
    bands: Array | None
    shape: tuple[int, ...] = eqx.field(static=True)

    @classmethod
    def of(cls, transform: bool | Callable, example: Float[Array, "*shape"]) -> "Partition":
        """The partition by coordinates (True), into one part (False), or by a transform.

        Args:
            transform: True, False, or an orthogonal transform of one example.
            example: an array of the shape and the dtype of one example.

        Raises:
            ValueError: if the transform is not linear and orthogonal.
        """
        if transform is True:
            return cls(None, None, example.shape)
        if transform is False:
            return cls(None, jnp.zeros(example.size, int), ())
        if not callable(transform):
            raise ValueError(
                "`per_coordinate` must be True, False or an orthogonal transform of one example, "
                f"got {type(transform).__name__}."
            )
        out = jax.eval_shape(transform, example)
        leaves = jax.tree.leaves(out)
        size = sum(math.prod(leaf.shape) for leaf in leaves)
        if size != example.size:
            raise ValueError(
                f"`per_coordinate` must return as many coefficients as an example has, "
                f"{example.size}, got {size}."
            )
        matrix, defect = _matrix(transform, example)
        if is_concrete(defect):
            if not float(defect) < _TOLERANCE * math.sqrt(jnp.finfo(example.dtype).eps):
                raise ValueError(
                    "`per_coordinate` must be a linear and orthogonal transform, got one that "
                    f"deviates by {float(defect):.2g}."
                )
        else:
            matrix = error_if(
                matrix,
                ~(defect < _TOLERANCE * math.sqrt(jnp.finfo(example.dtype).eps)),
                "`per_coordinate` must be a linear and orthogonal transform.",
            )
        if jax.tree.structure(out) == jax.tree.structure(0):  # an array
            return cls(matrix, None, leaves[0].shape)
        bands = np.repeat(np.arange(len(leaves)), [math.prod(leaf.shape) for leaf in leaves])
        return cls(matrix, jnp.asarray(bands), (len(leaves),))

    def inner(self, a: Float[Array, "*shape"], b: Float[Array, "*shape"]) -> Float[Array, "..."]:
        """The parts of an inner product of two fields, of shape `self.shape`."""
        a, b = a.reshape(-1), b.reshape(-1)
        if self.matrix is not None:
            a, b = a @ self.matrix, b @ self.matrix
        return self.group(a * b)

    def sites(self, values: Float[Array, "*shape"]) -> Float[Array, "..."]:
        """The parts, of shape `self.shape`, of values for each site of a sequence.

        Raises:
            ValueError: if the parts mix sites.
        """
        if self.matrix is not None:
            raise ValueError(
                "`per_coordinate` must be True or False for tokens, got a transform: the entropy "
                "of tokens is a sum over sites."
            )
        return self.group(values.reshape(-1))

    def turn(self, basis: Float[Array, "dim dim"]) -> Float[Array, "coefficients dim"]:
        """The matrix that turns coordinates in an orthonormal basis into the coefficients."""
        return basis if self.matrix is None else self.matrix.T @ basis

    def group(self, values: Float[Array, " dim"]) -> Float[Array, "..."]:
        """The parts, of shape `self.shape`, of values for each coefficient."""
        if self.bands is not None:
            values = jax.ops.segment_sum(values, self.bands, math.prod(self.shape))
        return values.reshape(self.shape)


@eqx.filter_jit
def _matrix(transform: Callable, example: Array) -> tuple[Array, Array]:
    """The matrix of a transform, and how far it is from linear and orthogonal."""

    def flat(x: Array) -> Array:
        leaves = jax.tree.leaves(transform(x.reshape(example.shape)))
        return jnp.concatenate([leaf.reshape(-1) for leaf in leaves]).astype(example.dtype)

    size = example.size
    identity = jnp.eye(size, dtype=example.dtype)
    matrix = jax.lax.map(flat, identity, batch_size=min(size, 256))
    defect = jnp.max(jnp.abs(matrix @ matrix.T - identity))
    probe = jnp.cos(1 + jnp.arange(size, dtype=example.dtype) ** 2)
    return matrix, jnp.maximum(defect, jnp.max(jnp.abs(flat(probe) - probe @ matrix)))


def _axes(axes: tuple[int, ...] | None, ndim: int) -> tuple[int, ...]:
    """The axes of an example with `ndim` axes, counted from the first."""
    if axes is None:
        return tuple(range(ndim))
    listed = isinstance(axes, tuple | list)
    found = [a % ndim for a in axes if -ndim <= a < ndim] if listed else []
    if not listed or len(set(found)) != len(axes):
        raise ValueError(
            f"`axes` must be None or a tuple of different axes of one example, which has {ndim} "
            f"(the axis of samples is not one of them), got {axes}."
        )
    return tuple(found)


def _in_bands(coefficients: Array, labels: np.ndarray) -> tuple[Array, ...]:
    """The coefficients of each label, in increasing order."""
    labels = np.broadcast_to(labels, coefficients.shape)
    flat = coefficients.reshape(-1)
    return tuple(flat[np.flatnonzero(labels == k)] for k in np.unique(labels))


def _octaves(frequencies: list[np.ndarray], axes: tuple[int, ...], ndim: int) -> np.ndarray:
    """0 for the mean, and $1 + floor(log2 k)$ for the largest frequency k of a coefficient."""
    largest = np.zeros((1,) * ndim, int)
    for k, axis in zip(frequencies, axes, strict=True):
        shape = [1] * ndim
        shape[axis] = -1
        largest = np.maximum(largest, k.reshape(shape))
    return np.where(largest > 0, 1 + np.floor(np.log2(np.maximum(largest, 1))), 0)


class CosineTransform(eqx.Module):
    r"""The orthonormal discrete cosine transform (DCT-II), of one example.

    Args:
        axes: along which to transform; None for all. Leave out the axis of channels.
        bands: whether to return the coefficients in octaves of the frequency index k (the largest
            of all axes), coarse to fine: the mean, k = 1, 2 to 3, 4 to 7, ...

    Example:
        >>> import jax.numpy as jnp, entropix as ex
        >>> x = jnp.ones((4, 4))
        >>> [band.size for band in ex.estimators.CosineTransform(bands=True)(x)]
        [1, 3, 12]

    References:
        Ahmed, Natarajan, Rao, IEEE Trans. Comput. C-23, 90 (1974).
    """

    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)
    bands: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "*shape"]) -> Any:
        """The coefficients of one example, an array of its shape or a tuple of bands."""
        axes = _axes(self.axes, x.ndim)
        for axis in axes:
            x = _along(x, axis, _cosines(x.shape[axis]))
        if not self.bands:
            return x
        return _in_bands(x, _octaves([np.arange(x.shape[a]) for a in axes], axes, x.ndim))


class FourierTransform(eqx.Module):
    r"""The real orthonormal discrete Fourier transform of one example.

    Along each axis of length n the coefficients are those of $1/\sqrt n$, of $\sqrt{2/n}\cos(2\pi
    jk/n)$ for k = 1, ..., n/2, and of $\sqrt{2/n}\sin(2\pi jk/n)$ for $k < n/2$, in this order.

    Args:
        axes: along which to transform; None for all. Leave out the axis of channels.
        bands: whether to return the coefficients in octaves of the frequency k (the largest of all
            axes), coarse to fine: the mean, k = 1, 2 to 3, 4 to 7, ...
    """

    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)
    bands: bool = eqx.field(static=True, default=False)

    def __call__(self, x: Float[Array, "*shape"]) -> Any:
        """The coefficients of one example, an array of its shape or a tuple of bands."""
        axes = _axes(self.axes, x.ndim)
        frequencies = []
        for axis in axes:
            matrix, k = _waves(x.shape[axis])
            x = _along(x, axis, matrix)
            frequencies.append(k)
        return x if not self.bands else _in_bands(x, _octaves(frequencies, axes, x.ndim))


class HaarTransform(eqx.Module):
    r"""The orthonormal Haar wavelet transform of one example.

    Each level replaces pairs of neighbours by $(a + b)/\sqrt 2$ and $(a - b)/\sqrt 2$ along all
    axes, and goes on with the sums. The last entry of an odd length is kept among the sums.

    Args:
        axes: along which to transform; None for all. Leave out the axis of channels.
        levels: how many, at least one; None for all.
        bands: whether to return the coefficients by level, coarse to fine: what is left of the
            sums, then the differences of the coarsest level to those of the finest.

    References:
        Mallat, IEEE Trans. PAMI 11, 674 (1989).
    """

    axes: tuple[int, ...] | None = eqx.field(static=True, default=None)
    levels: int | None = eqx.field(static=True, default=None)
    bands: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        optional_size(self.levels, "levels")

    def __call__(self, x: Float[Array, "*shape"]) -> Any:
        """The coefficients of one example, an array of its shape or a tuple of bands."""
        axes = _axes(self.axes, x.ndim)
        labels, lengths, level = np.zeros(x.shape, int), list(x.shape), 0
        while any(lengths[a] > 1 for a in axes) and (self.levels is None or level < self.levels):
            block = tuple(slice(n) for n in lengths)
            labels[block] = -level
            part = x[block]
            for axis in axes:
                part = _along(part, axis, _haar(lengths[axis]))
                lengths[axis] -= lengths[axis] // 2
            x = x.at[block].set(part)
            level += 1
            labels[tuple(slice(n) for n in lengths)] = -level
        return x if not self.bands else _in_bands(x, labels)


def _along(x: Array, axis: int, matrix: np.ndarray) -> Array:
    """A matrix applied along one axis."""
    out = jnp.tensordot(jnp.asarray(matrix, x.dtype), x, axes=(1, axis))
    return jnp.moveaxis(out, 0, axis)


def _cosines(n: int) -> np.ndarray:
    k, j = np.arange(n)[:, None], np.arange(n)[None]
    matrix = np.sqrt(2 / n) * np.cos(np.pi * k * (2 * j + 1) / (2 * n))
    matrix[0] /= np.sqrt(2)
    return matrix


def _waves(n: int) -> tuple[np.ndarray, np.ndarray]:
    j = np.arange(n)[None]
    cosines, sines = np.arange(n // 2 + 1), np.arange(1, (n + 1) // 2)
    phase = 2 * np.pi / n
    matrix = np.sqrt(2 / n) * np.concatenate(
        [np.cos(phase * cosines[:, None] * j), np.sin(phase * sines[:, None] * j)]
    )
    matrix[0] /= np.sqrt(2)
    if n % 2 == 0 and n > 1:
        matrix[n // 2] /= np.sqrt(2)
    return matrix, np.concatenate([cosines, sines])


def _haar(n: int) -> np.ndarray:
    half = n // 2
    matrix = np.zeros((n, n))
    for i in range(half):
        matrix[i, 2 * i : 2 * i + 2] = 1 / np.sqrt(2)
        matrix[n - half + i, 2 * i : 2 * i + 2] = 1 / np.sqrt(2), -1 / np.sqrt(2)
    if n % 2:
        matrix[half, -1] = 1.0
    return matrix
