r"""A multilayer perceptron with Fourier features of the noise level.

The network of the Neural Entropy experiments (2409.03817): fixed random Fourier features of time
(Tancik et al., 2006.10739; Song et al., 2011.13456), added at every layer, with LayerNorm (Ba et
al., 1607.06450). "Time" is here $\frac{2}{\pi}\arctan(\lambda/\lambda_0)$, a bounded and smooth
function of the log-SNR, so that the exact ends $\lambda = \pm\infty$ need no clipping.
"""

from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import exact_shape, optional_size, positive, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix.networks.embedding import check_condition, fourier_features
from entropix.networks.images import zeroed
from entropix.networks.parameters import Fixed
from entropix.networks.trace import (
    Normalised,
    derivative,
    normalised,
    trace_of_layers,
    without_mean,
)


class FourierMLP(eqx.Module):
    """`network(log_snr, y, condition=None) -> array of y's shape`, for vectors `y` of size `dim`.

    Args:
        dim: size of `y`, and of the output.
        widths: sizes of the hidden layers; the default is that of the Neural Entropy experiments.
        num_features: number of Fourier features of the noise level (sines and cosines together).
        feature_scale: standard deviation of the random frequencies.
        log_snr_scale: log-SNR at which the bounded embedding is 1/2.
        condition_dim: size of a condition vector, or None.
        activation: elementwise non-linearity.
        out_dim: size of the output if it is not `dim`, as for a `LatentCondition`.
        key: PRNG key of the initial weights and frequencies.

    The output layer is initially zero, so that an untrained network has stored nothing. The
    frequencies are `Fixed` and never trained.

    Raises:
        ValueError: if a size is not a positive integer, or a condition is missing or unexpected.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> network = ex.FourierMLP(3, key=jax.random.key(0), widths=(16, 16))
        >>> network(0.0, jnp.ones(3)).shape
        (3,)
    """

    dim: int = eqx.field(static=True)
    condition_dim: int | None = eqx.field(static=True)
    out_dim: int | None = eqx.field(static=True)
    activation: Callable[[Array], Array] = eqx.field(static=True)
    log_snr_scale: Fixed
    frequencies: Fixed
    layers: tuple[eqx.nn.Linear, ...]
    embeddings: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    head: eqx.nn.Linear

    def __init__(
        self,
        dim: int,
        *,
        key: Key,
        widths: Sequence[int] = (512, 256),
        num_features: int = 64,
        feature_scale: float = 2.0,
        log_snr_scale: float = 4.0,
        condition_dim: int | None = None,
        activation: Callable[[Array], Array] = jax.nn.silu,
        out_dim: int | None = None,
    ):
        self.dim = positive_integer(dim, "dim")
        if not isinstance(widths, Sequence) or len(widths) == 0:
            raise ValueError(f"`widths` must be a sequence of hidden sizes, got {widths!r}.")
        widths = tuple(positive_integer(w, "widths") for w in widths)
        if not callable(activation):
            raise ValueError(f"`activation` must be a function, got {activation!r}.")
        half = positive_integer(num_features, "num_features", 2) // 2
        self.condition_dim = optional_size(condition_dim, "condition_dim")
        self.out_dim = optional_size(out_dim, "out_dim")
        self.activation = activation
        self.log_snr_scale = Fixed(positive(log_snr_scale, "log_snr_scale", shape=()))
        spread = positive(feature_scale, "feature_scale", shape=())
        sizes = (self.dim + (condition_dim or 0), *widths, self.out_dim or self.dim)
        frequencies, self.layers, self.embeddings, self.norms, self.head = _initial(
            key, spread, sizes, half
        )
        self.frequencies = Fixed(frequencies)

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, " out"]:
        return self.head(self._hidden(log_snr, y, condition)[1])

    def divergence(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, ""]:
        r"""$\nabla_y\cdot\mathrm{network}(\lambda, y)$, in closed form.

        For one or two hidden layers at the cost of one to four evaluations in any dimension; for
        more, columns are carried through the layers between the first and the last.

        Raises:
            ValueError: if `out_dim` is not `dim`.
        """
        if self.out_dim not in (None, self.dim):
            raise ValueError(f"`out_dim` must be `dim` for a divergence, got {self.out_dim}.")
        slopes = []
        for z, norm in zip(self._hidden(log_snr, y, condition)[0], self.norms, strict=True):
            inner = normalised(norm, z)
            slope = derivative(self.activation, norm(z)) * inner.slope
            slopes.append(Normalised(slope, inner.unit))
        first, *others = (without_mean(layer.weight) for layer in self.layers)
        return trace_of_layers((first[:, : self.dim], *others), slopes, self.head.weight)

    def _hidden(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree
    ) -> tuple[list[Array], Array]:
        """What each normalisation receives, and the last hidden layer."""
        condition = check_condition(condition, self.condition_dim)
        exact_shape(y, (self.dim,), "y")
        features = fourier_features(log_snr, self.log_snr_scale.value, self.frequencies.value)
        features = features.astype(y.dtype)
        if condition is not None:
            y = jnp.concatenate([y, condition.astype(y.dtype)])
        hidden, inputs = y, []
        for layer, embedding, norm in zip(self.layers, self.embeddings, self.norms, strict=True):
            inputs.append(layer(hidden) + embedding(features))
            hidden = self.activation(norm(inputs[-1]))
        return inputs, hidden


@lightly_compiled
def _initial(key: Key, spread: Array, sizes: tuple[int, ...], half: int) -> tuple[Any, ...]:
    """The initial frequencies, layers, embeddings, norms and head, drawn by one program."""
    widths = sizes[1:-1]
    keys = jax.random.split(key, 2 * len(widths) + 2)
    frequencies = spread * jax.random.normal(keys[0], (half,))
    layers = tuple(
        eqx.nn.Linear(n_in, n_out, key=k)
        for n_in, n_out, k in zip(sizes[:-2], widths, keys[1::2], strict=False)
    )
    embeddings = tuple(
        eqx.nn.Linear(2 * half, n_out, use_bias=False, key=k)
        for n_out, k in zip(widths, keys[2::2], strict=False)
    )
    norms = tuple(eqx.nn.LayerNorm(n) for n in widths)
    head = zeroed(eqx.nn.Linear(widths[-1], sizes[-1], key=keys[-1]))
    return frequencies, layers, embeddings, norms, head
