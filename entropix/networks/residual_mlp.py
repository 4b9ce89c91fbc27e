r"""A gated residual network for vectors, with the squared norms of its inputs among them.

$$h_0 = W_0\,u, \qquad
h_{k+1} = h_k + W_k''\,\big[\mathrm{silu}(a_k) \odot b_k\big], \qquad
(a_k, b_k) = W_k'\,\frac{h_k}{\mathrm{rms}(h_k)} + T_k\,f(\lambda),$$

with u the state, the condition and functions of their norms, and f features of the noise level. The
product of two linear maps (Shazeer, 2002.05202) represents squares and products of coordinates
exactly, through which variables often depend on one another; elementwise activations must
approximate them. The norms reveal a common scale of many coordinates.
"""

from functools import partial
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike
from entropix._core.checks import exact_shape, optional_size, positive, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix.networks.embedding import check_condition
from entropix.networks.images import zeroed
from entropix.networks.parameters import Fixed
from entropix.networks.trace import derivative, normalised, trace_of_columns


_LEVEL = 4.0  # log-SNR at which the bounded level is 1/2, as in FourierMLP


class ResidualMLP(eqx.Module):
    """`network(log_snr, y, condition=None) -> array of y's shape`, for vectors `y` of size `dim`.

    Args:
        dim: size of `y`, and of the output.
        condition_dim: size of a condition vector, or None.
        width: size of the hidden state.
        depth: number of residual blocks.
        num_features: number of features of the noise level.
        scale: of the coordinates of `y` and of the output, shape (dim,); None: 1.
        condition_scale: of those of the condition, shape (condition_dim,); None: 1.
        key: PRNG key of the initial weights.

    The output layer is initially zero, so that an untrained network changes nothing.

    Raises:
        ValueError: if a size is not a positive integer, a scale is not positive or has another
            shape, or a condition is missing or unexpected.

    References:
        Shazeer, 2002.05202 (gates); He et al., 1603.05027 (residual blocks that begin with the
        normalisation).

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> network = ex.networks.ResidualMLP(3, key=jax.random.key(0), width=16, depth=2)
        >>> network(0.0, jnp.ones(3)).shape
        (3,)
    """

    dim: int = eqx.field(static=True)
    condition_dim: int | None = eqx.field(static=True)
    num_features: int = eqx.field(static=True)
    first: eqx.nn.Linear
    norms: tuple[eqx.nn.RMSNorm, ...]
    gates: tuple[eqx.nn.Linear, ...]
    levels: tuple[eqx.nn.Linear, ...]
    outs: tuple[eqx.nn.Linear, ...]
    last_norm: eqx.nn.RMSNorm
    head: eqx.nn.Linear
    scale: Fixed | None
    condition_scale: Fixed | None

    def __init__(
        self,
        dim: int,
        *,
        key: Key,
        condition_dim: int | None = None,
        width: int = 64,
        depth: int = 3,
        num_features: int = 16,
        scale: DataLike | None = None,
        condition_scale: DataLike | None = None,
    ):
        self.dim = positive_integer(dim, "dim")
        self.condition_dim = optional_size(condition_dim, "condition_dim")
        self.num_features = positive_integer(num_features, "num_features", 2) // 2 * 2
        positive_integer(width, "width")
        positive_integer(depth, "depth")
        # Each vector enters with three functions of its norm.
        inputs = self.dim + 3 + (0 if condition_dim is None else condition_dim + 3)
        self.first, self.gates, self.levels, self.outs, self.head = _initial(
            key, (inputs, width, self.dim), depth, self.num_features
        )
        self.norms = tuple(eqx.nn.RMSNorm(width, use_bias=False) for _ in range(depth))
        self.last_norm = eqx.nn.RMSNorm(width, use_bias=False)
        self.scale = _fixed(scale, "scale", self.dim)
        self.condition_scale = _fixed(condition_scale, "condition_scale", self.condition_dim)

    def __call__(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, " dim"]:
        hidden = self._blocks(log_snr, y, condition)[1]
        return _scaled(self.head(self.last_norm(hidden)), self.scale)

    def divergence(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, ""]:
        r"""$\nabla_y\cdot\mathrm{network}(\lambda, y)$, exactly.

        Columns are carried through the blocks: as many as `dim` or `width`, whichever is less.
        """
        blocks, hidden = self._blocks(log_snr, y, condition)
        last = normalised(self.last_norm, hidden)
        width = hidden.shape[0]
        # Rows of the head and columns of the first layer carry the scales of the coordinates.
        head = _scaled(self.head.weight.T, self.scale).T

        def through(v: Array) -> Array:
            for (state, a, b), norm, gate, out in zip(
                blocks, self.norms, self.gates, self.outs, strict=True
            ):
                of_a, of_b = jnp.split(gate.weight @ normalised(norm, state)(v), 2)
                product = derivative(jax.nn.silu, a) * b * of_a + jax.nn.silu(a) * of_b
                v = v + out.weight @ product
            return last(v)

        # The first layer sees the state and three functions of its squared norm.
        weight = self.first.weight
        of_state = _scaled(weight[:, : self.dim], self.scale)
        rates = derivative(partial(_radial_of, self.dim), jnp.sum(y * y))
        radial = 2 * weight[:, self.dim : self.dim + 3] @ rates
        if self.dim <= width:
            first = of_state + radial[:, None] * y
            return trace_of_columns(through, first.T, head)
        around = of_state @ head + radial[:, None] * (y @ head)
        return trace_of_columns(through, around.T, jnp.eye(width, dtype=y.dtype))

    def _blocks(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree
    ) -> tuple[list[tuple[Array, Array, Array]], Array]:
        """The input of each block and the two factors of its product; and the last state."""
        condition = check_condition(condition, self.condition_dim)
        exact_shape(y, (self.dim,), "y")
        parts = [_scaled(y, self.scale), _radial(y)]
        if condition is not None:
            vector = condition.astype(y.dtype)
            parts += [_scaled(vector, self.condition_scale), _radial(vector)]
        hidden = self.first(jnp.concatenate(parts))
        level = _level_features(log_snr, self.num_features).astype(y.dtype)
        seen = []
        blocks = zip(self.norms, self.gates, self.levels, self.outs, strict=True)
        for norm, gate, of_level, out in blocks:
            a, b = jnp.split(gate(norm(hidden)) + of_level(level), 2)
            seen.append((hidden, a, b))
            hidden = hidden + out(jax.nn.silu(a) * b)
        return seen, hidden


def _fixed(scale: DataLike | None, name: str, size: int | None) -> Fixed | None:
    """A scale as an array that is not trained."""
    if scale is None:
        return None
    if size is None:
        raise ValueError(f"`{name}` must be None without `condition_dim`, got {scale}.")
    return Fixed(positive(scale, name, shape=(size,)))


def _scaled(v: Float[Array, "*rows n"], scale: Fixed | None) -> Float[Array, "*rows n"]:
    return v if scale is None else v * scale.value.astype(v.dtype)


def _radial(v: Float[Array, " n"]) -> Float[Array, "3"]:
    """The squared norm, the norm and its logarithm: of order one for a standard normal vector."""
    return _radial_of(v.shape[0], jnp.sum(v * v))


def _radial_of(n: int, square: Float[Array, ""]) -> Float[Array, "3"]:
    return jnp.stack(
        [
            (square - n) / jnp.sqrt(8.0 * n).astype(square.dtype),
            jnp.sqrt(square / n + 1e-6),  # differentiable at zero
            jnp.log((square + 1) / (n + 1)),
        ]
    )


def _level_features(log_snr: RealScalarLike, count: int) -> Float[Array, " count"]:
    """The bounded noise level, and its sines and cosines."""
    level = 2 / jnp.pi * jnp.arctan(jnp.asarray(log_snr) / _LEVEL)
    angles = jnp.pi / 2 * level * jnp.arange(1, count // 2)
    return jnp.concatenate(
        [jnp.stack([level, jnp.ones_like(level)]), jnp.sin(angles), jnp.cos(angles)]
    )


@lightly_compiled
def _initial(
    key: Key, sizes: tuple[int, int, int], depth: int, num_features: int
) -> tuple[Any, ...]:
    """The initial layers, drawn by one program."""
    inputs, width, dim = sizes
    keys = jax.random.split(key, 2 + 3 * depth)
    first = eqx.nn.Linear(inputs, width, key=keys[0])
    head = zeroed(eqx.nn.Linear(width, dim, key=keys[1]))
    gates = tuple(eqx.nn.Linear(width, 2 * width, key=k) for k in keys[2::3])
    levels = tuple(
        eqx.nn.Linear(num_features, 2 * width, use_bias=False, key=k) for k in keys[3::3]
    )
    outs = tuple(eqx.nn.Linear(width, width, key=k) for k in keys[4::3])
    return first, gates, levels, outs, head
