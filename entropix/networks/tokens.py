"""A bidirectional transformer for sequences of tokens."""

import math
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import choice, exact_shape, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix.networks.embedding import NoiseEmbedding
from entropix.networks.images import PRECISIONS, cast, zeroed
from entropix.networks.parameters import Fixed
from entropix.networks.transformer import (
    TransformerBlock,
    initial_modulation,
    modulations,
    position_angles,
    rowwise,
    sines_and_cosines,
)


# Number of blocks, and the width relative to that which the data suggest.
_SIZES = {"small": (2, 0.5), "medium": (4, 1.0), "large": (6, 2.0)}
_NARROWEST, _WIDEST, _HEAD = 64, 512, 32


class TokenTransformer(eqx.Module):
    """`network(log_snr, y, condition=None) -> array of y's shape`, a transformer over tokens.

    Every position attends to all others. Attention depends on their distance, by rotary encoding.
    Sines and cosines of the position itself are added to the tokens: to attention alone, all
    places in a sequence of masks are alike. The output layer is initially zero, so that an
    untrained network has stored nothing.

    Args:
        shape: of one sequence: (length,), or (height, width) of an image of tokens.
        num_states: the values that a token may take, `process.num_states`: with the mask.
        width: size of the vector of a token; `width / heads` must be a multiple of twice the number
            of axes.
        depth: number of blocks.
        heads: number of attention heads.
        time_dependent: whether scales, shifts and gates depend on the log-SNR. Under `Masking`
            nothing depends on it: False saves a third of the parameters.
        condition_dim: size of a condition vector (labels as `jax.nn.one_hot`), or None.
        precision: dtype of the computation, such as "bfloat16"; None for that of the input. The
            precision of the parameters does not change, and normalisation uses float32.
        num_features: number of Fourier features of the noise level.
        key: PRNG key of the initial weights.

    Attributes:
        shape: of the input, (*shape, num_states): one row for each position, with a one at its
            token.

    Raises:
        ValueError: if a size is not allowed, or a condition is missing or unexpected.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> process = ex.Masking(4, ex.LinearSchedule())
        >>> network = ex.TokenTransformer(
        ...     (8,), process.num_states, width=16, depth=1, heads=2, time_dependent=False,
        ...     key=jax.random.key(0),
        ... )
        >>> model = ex.MaskedDenoiser(network, process, shape=(8,))
        >>> model.entropy_field(0.5, jnp.full(8, 4.0)).shape
        (8, 4)

    References:
        Peebles and Xie, 2212.09748 (block); Su et al., 2104.09864 (rotary encoding); Sahoo et al.,
        2406.07524 (without time).
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    time_dependent: bool = eqx.field(static=True)
    precision: str | None = eqx.field(static=True)
    positions: Fixed
    angles: Fixed
    embedding: NoiseEmbedding | None
    entry: Float[Array, "num_states width"]
    blocks: tuple[TransformerBlock, ...]
    norm: eqx.nn.LayerNorm
    modulation: eqx.nn.Linear | Array
    head: eqx.nn.Linear

    def __init__(
        self,
        shape: Sequence[int],
        num_states: int,
        *,
        key: Key,
        width: int = 128,
        depth: int = 4,
        heads: int = 4,
        time_dependent: bool = True,
        condition_dim: int | None = None,
        precision: str | None = None,
        num_features: int = 64,
    ):
        if not isinstance(shape, tuple | list) or not shape:
            raise ValueError(f"`shape` must be (length,) or (height, width), got {shape!r}.")
        sites = tuple(positive_integer(size, "shape") for size in shape)
        self.shape = (*sites, positive_integer(num_states, "num_states", 2))
        positive_integer(depth, "depth")
        multiple = 2 * len(sites) * positive_integer(heads, "heads")
        if positive_integer(width, "width") % multiple:
            raise ValueError(
                f"`width` must be a multiple of {multiple}, twice the number of axes times "
                f"`heads`, got {width}."
            )
        self.precision = None if precision is None else choice(precision, "precision", PRECISIONS)
        positions = sines_and_cosines(position_angles(sites, width // 2))
        self.positions = Fixed(jnp.asarray(positions, float))
        self.angles = Fixed(jnp.asarray(position_angles(sites, width // heads // 2), float))
        self.time_dependent = bool(time_dependent)
        embedded = self.time_dependent or condition_dim is not None
        self.embedding, self.entry, self.blocks, self.modulation, self.head = _initial(
            key, num_states, width, depth, heads, embedded, condition_dim, num_features
        )
        self.norm = eqx.nn.LayerNorm(width, use_weight=False, use_bias=False)

    @classmethod
    def sized(
        cls,
        size: str,
        shape: Sequence[int],
        num_states: int,
        num_samples: int,
        **options: Any,
    ) -> "TokenTransformer":
        r"""A network whose size follows that of the data.

        The blocks of the medium size have about a quarter as many parameters as the data have nats,
        $12\,\mathrm{width}^2\,\mathrm{depth} = \frac14 N D\ln K$, with widths of powers of two
        from 64 to 512.

        Args:
            size: "small", "medium" or "large", of 2, 4 or 6 blocks; the width is half or twice the
                medium one.
            shape: of one sequence.
            num_states: the values that a token may take.
            num_samples: number N of training sequences.
            **options: further arguments of the class, with the `key`.

        Raises:
            ValueError: as the class, and if `size` is none of these.
        """
        depth, factor = _SIZES[choice(size, "size", tuple(_SIZES))]
        tokens = positive_integer(num_samples, "num_samples") * math.prod(shape)
        usual = math.sqrt(tokens * math.log(num_states) / (48 * _SIZES["medium"][0]))
        width = max(_NARROWEST, min(_WIDEST, int(factor * 2 ** round(math.log2(usual)))))
        options = {"width": width, "depth": depth, "heads": width // _HEAD, **options}
        return cls(shape, num_states, **options)

    __repr__ = short_repr

    def __call__(
        self,
        log_snr: RealScalarLike,
        y: Float[Array, "*shape num_states"],
        condition: PyTree = None,
    ) -> Float[Array, "*shape num_states"]:
        exact_shape(y, self.shape, "y")
        dtype = y.dtype if self.precision is None else jnp.dtype(self.precision)
        net = cast(self, dtype)
        embedding = None
        if net.embedding is not None:
            level = log_snr if self.time_dependent else jnp.zeros_like(log_snr, float)
            embedding = net.embedding(level, condition, dtype)
        rows = y.reshape(-1, self.shape[-1]).astype(dtype)
        tokens = rows @ net.entry + self.positions.value.astype(dtype)
        for block in net.blocks:
            tokens = block(tokens, embedding, self.angles.value)
        shift, scale = modulations(net.modulation, embedding, 2)
        rows = rowwise(net.head, jax.vmap(net.norm)(tokens) * (1 + scale) + shift)
        return rows.reshape(self.shape).astype(y.dtype)


@lightly_compiled
def _initial(
    key: Key,
    num_states: int,
    width: int,
    depth: int,
    heads: int,
    embedded: bool,
    condition_dim: int | None,
    num_features: int,
) -> tuple[Any, ...]:
    """The initial layers, drawn by one program."""
    keys = jax.random.split(key, depth + 4)
    embedding = None
    if embedded:
        embedding = NoiseEmbedding(
            width, condition_dim=condition_dim, num_features=num_features, key=keys[0]
        )
    entry = jax.random.normal(keys[1], (num_states, width))
    # Gates that start at zero open as slowly as the learning rate: after 600 steps the path KL to a
    # Markov chain was three times as large. The output is zero all the same.
    blocks = tuple(
        TransformerBlock(width, heads, embedded=embedded, gate=1.0, key=k) for k in keys[4:]
    )
    modulation = initial_modulation(width, (0.0, 0.0), embedded=embedded, key=keys[2])
    head = zeroed(eqx.nn.Linear(width, num_states, key=keys[3]))
    return embedding, entry, blocks, modulation, head
