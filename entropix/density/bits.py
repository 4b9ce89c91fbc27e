r"""Bits per dimension: of tokens, and of images with a continuous density as a bound.

Levels lie a width w apart. The probability that a density of dequantised images gives to one image
of D pixels is $P(x) = \int_{[0, w)^D} p(x + u)\,du$, and by Jensen's inequality (Theis, van den
Oord, Bethge, 1511.01844, equation 3)

$$-\frac{\log_2 P(x)}{D} \le -\frac{E_u\log p(x + u) + D\log w}{D\log 2},$$

with equality where p is constant in the cell of x. A model of standardised images $(x - m)/c$ has
$\log p(x + u) = \log p_{std}((x + u - m)/c) - \sum_i\log c_i$.

A model of tokens has probabilities itself: $-\log_2 P(x)/D$ bits per token, and the perplexity is
two to the power of their mean.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from entropix._core.arrays import DataLike, Key, as_float
from entropix._core.checks import (
    conditions,
    finite,
    positive,
    positive_integer,
    prng_key,
    samples,
)
from entropix._core.precision import full_precision
from entropix.density.log_prob import log_prob
from entropix.distributions import dequantise
from entropix.interfaces import (
    AbstractDensityMethod,
    AbstractModel,
    AbstractTokenProcess,
    SampleEstimates,
)


@full_precision
def bits_per_dimension(
    model: AbstractModel,
    images: DataLike,
    *,
    key: Key,
    width: DataLike = 1.0,
    transform: tuple[DataLike, DataLike] | None = None,
    num_draws: int = 4,
    method: AbstractDensityMethod | None = None,
    prior: Any = None,
    condition: PyTree = None,
    chunk_size: int = 4096,
    cutoff: DataLike | None = None,
) -> SampleEstimates:
    r"""Bits per dimension of images of discrete levels under a model of the dequantised ones.

    An upper bound on the bits, also where the log density is itself a lower bound (`PathBound`).
    Under a model of tokens they are bits per token, of the sequences as they are.

    Args:
        model: a model of images with uniform noise added (see `datasets.dequantise`), standardised
            as `transform` says; or a model of tokens, for which `width`, `transform` and
            `num_draws` have no meaning.
        images: shape (N, *shape), multiples of `width`; or sequences of tokens.
        key: PRNG key.
        width: distance of neighbouring levels, in the units of `images`: 1 for integers.
        transform: (shift m, scale c) of the standardisation $(x - m)/c$ in which the model was
            trained, numbers or arrays that fit one image; None where it was trained on the
            dequantised images as they are.
        num_draws: draws of the noise for each image, at least 2.
        method: how log densities are computed; default `PathBound()`.
        prior: see `log_prob`.
        condition: None, or conditions of the images: a pytree of arrays with leading axis N.
        chunk_size: evaluations held in memory at once.
        cutoff: see `log_prob`; what is bounded are then probabilities of images with that noise.

    Returns:
        `.value` and `.stderr`, shape (N,), in bits per dimension, and `.mean`, an `Estimate`. The
        errors include the noise of dequantisation.

    Raises:
        ValueError: if an argument is malformed, or the images are not multiples of `width`.

    Example:
        Bits per token, and the perplexity, of a spin that is up with probability 0.9:

        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> process = ex.Masking(2, ex.LinearSchedule())
        >>> model = ex.models.ExactDiscrete(jnp.log(jnp.array([0.1, 0.9])), process)
        >>> x = model.sample(1000, key=jax.random.key(0))
        >>> method = ex.density.AnyOrder(2)
        >>> bits = ex.density.bits_per_dimension(model, x, key=jax.random.key(1), method=method)
        >>> print(bool(abs(bits.mean.value - 0.469) < 4 * bits.mean.stderr))
        True
        >>> perplexity = 2.0**bits.mean.value
    """
    images = samples(images, "images", minimum=1)
    prng_key(key)
    draws = positive_integer(num_draws, "num_draws", 2)
    condition = conditions(condition, images.shape[0])
    density = {"method": method, "prior": prior, "chunk_size": chunk_size, "cutoff": cutoff}
    if isinstance(model.process, AbstractTokenProcess):
        if transform is not None:
            raise ValueError("`transform` must be None for models of tokens, got one.")
        result = log_prob(model, images, key=key, condition=condition, **density)
        value, stderr = _bits_of_tokens(result.value, result.stderr, images[0].size)
        return SampleEstimates(value, stderr, result.num_evaluations)
    shift, scale = _affine(transform, images)
    noise_key, density_key = jax.random.split(key)
    # Every draw of an image follows the last: (N * draws, *shape).
    repeated, condition = _repeated((images, condition), draws)
    noisy = dequantise(repeated, key=noise_key, width=width)
    result = log_prob(
        model,
        _standardised(noisy, shift, scale),
        key=density_key,
        condition=condition,
        **density,
    )
    value, stderr = _bits(result.value.reshape(-1, draws), as_float(width), scale)
    return SampleEstimates(value, stderr, result.num_evaluations * draws, result.cutoff)


@eqx.filter_jit
def _bits_of_tokens(value: Array, stderr: Array, dim: int) -> tuple[Array, Array]:
    return -value / (dim * jnp.log(2.0)), stderr / (dim * jnp.log(2.0))


@eqx.filter_jit
def _repeated(trees: Any, draws: int) -> Any:
    return jax.tree.map(lambda leaf: jnp.repeat(leaf, draws, axis=0), trees)


@jax.jit
def _standardised(x: Array, shift: Array, scale: Array) -> Array:
    return (x - shift) / scale


@jax.jit
def _bits(log_densities: Array, width: Array, scale: Array) -> tuple[Array, Array]:
    """Bits per dimension and their errors, of log densities of the draws of each image."""
    dim = scale.size
    # Per volume of one cell rather than of one unit of standardised space.
    cell = dim * jnp.log(width) - jnp.sum(jnp.log(scale))
    bits = -(log_densities + cell) / (dim * jnp.log(2.0))
    # The draws differ by the noise of dequantisation and by that of the method.
    count = bits.shape[1]
    return jnp.mean(bits, axis=1), jnp.std(bits, axis=1, ddof=1) / jnp.sqrt(count)


def _affine(transform: Any, images: Array) -> tuple[Array, Array]:
    """Shift and scale in the shape of one image."""
    if transform is None:
        return jnp.zeros_like(images[0]), jnp.ones_like(images[0])
    if not isinstance(transform, tuple) or len(transform) != 2:
        raise ValueError(
            f"`transform` must be None or a pair (shift, scale), got {type(transform).__name__}."
        )
    parts = finite(transform[0], "transform[0]"), positive(transform[1], "transform[1]")
    for i, part in enumerate(parts):
        fits = part.ndim < images.ndim and all(
            n in (1, m) for n, m in zip(part.shape[::-1], images.shape[:0:-1], strict=False)
        )
        if not fits:
            raise ValueError(
                f"`transform[{i}]` must fit the shape {images.shape[1:]} of one image, "
                f"got shape {part.shape}."
            )
    shift, scale = (jnp.broadcast_to(p, images.shape[1:]).astype(images.dtype) for p in parts)
    return shift, scale
