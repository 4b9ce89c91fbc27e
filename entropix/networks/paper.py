r"""The networks of the Neural Entropy experiments, as their authors built them.

Both see the time s of their process, not the log-SNR, through fixed random Fourier features,

$$\phi(v) = \big[\sin(2\pi W v), \cos(2\pi W v)\big], \qquad W_{ij} \sim N(0, \omega^2),$$

and neither scales its output: the first layers and the last are initialised alike (LeCun normal
weights, zero biases), so that an untrained network is not zero. `FourierMLP` and `UNet` are the
networks to use; these serve to repeat the experiments.

References:
    Premkumar, *Neural Entropy*, arXiv 2409.03817. The network for images is that of the tutorial of
    Song et al., *Score-Based Generative Modeling through Stochastic Differential Equations*,
    2011.13456.
"""

import itertools
from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.checks import exact_shape, optional_size, positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.formatting import short_repr
from entropix.interfaces import AbstractGaussianProcess
from entropix.networks.embedding import check_condition
from entropix.networks.images import (
    as_image,
    image_shape,
    normalised,
    strided,
    transposed,
)
from entropix.networks.parameters import Fixed


_EPSILON = 1e-6  # of the normalisations, the default of Flax


class PaperMLP(eqx.Module):
    r"""The network for vectors: `network(log_snr, y) -> array of y's shape`.

    $$h_0 = \varsigma(A\,\phi(y)), \qquad \tau = \varsigma(B\,\phi(s)), \qquad
      h_{k+1} = \varsigma\,\mathrm{LayerNorm}(C_k h_k + D_k \tau), \qquad
      \text{output} = E\,h_K,$$

    with $\varsigma$ the logistic function and s the time of the process at the given log-SNR. The
    authors state a scale of 10 and multiply it with normal numbers that Flax draws with its default
    standard deviation of 0.01, so that the frequencies have standard deviation 0.1.

    Args:
        dim: size of `y`, and of the output.
        process: the process whose time is meant.
        widths: sizes of the hidden layers.
        num_frequencies: of each of the two feature maps, which have twice as many features.
        feature_scale: standard deviation of the frequencies.
        key: PRNG key of the initial weights and frequencies.

    Raises:
        ValueError: if a size is not a positive integer, or a condition is given.

    References:
        Neural Entropy, arXiv 2409.03817.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule())
        >>> network = ex.networks.PaperMLP(3, process, key=jax.random.key(0))
        >>> network(0.0, jnp.ones(3)).shape
        (3,)
    """

    dim: int = eqx.field(static=True)
    clock: Fixed
    frequencies: Fixed
    time_frequencies: Fixed
    of_state: eqx.nn.Linear
    of_time: eqx.nn.Linear
    layers: tuple[eqx.nn.Linear, ...]
    embeddings: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.LayerNorm, ...]
    head: eqx.nn.Linear

    def __init__(
        self,
        dim: int,
        process: AbstractGaussianProcess,
        *,
        key: Key,
        widths: Sequence[int] = (512, 256),
        num_frequencies: int = 256,
        feature_scale: float = 0.1,
    ):
        self.dim = positive_integer(dim, "dim")
        widths = tuple(positive_integer(width, "widths") for width in widths)
        features = 2 * positive_integer(num_frequencies, "num_frequencies")
        self.clock = Fixed(process)
        self.norms = tuple(eqx.nn.LayerNorm(width, _EPSILON) for width in widths)
        frequencies, layers = _initial_mlp(key, (self.dim, features, *widths))
        self.frequencies, self.time_frequencies = (
            Fixed(feature_scale * normal) for normal in frequencies
        )
        self.of_state, self.of_time, self.layers, self.embeddings, self.head = layers

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: Float[Array, " dim"], condition: PyTree = None
    ) -> Float[Array, " dim"]:
        check_condition(condition, None)
        exact_shape(y, (self.dim,), "y")
        s = self.clock.value.time_of_log_snr(log_snr)
        phases = self.time_frequencies.value * s
        time = jax.nn.sigmoid(self.of_time(_features(phases, y.dtype)))
        hidden = jax.nn.sigmoid(self.of_state(_features(self.frequencies.value @ y, y.dtype)))
        for layer, embedding, norm in zip(self.layers, self.embeddings, self.norms, strict=True):
            hidden = jax.nn.sigmoid(norm(layer(hidden) + embedding(time)))
        return self.head(hidden)


class PaperConvNet(eqx.Module):
    """The network for small images: `network(log_snr, y, condition=None) -> array of y's shape`.

    Four 3 x 3 convolutions without padding, of strides 1, 2, 2, 2, and four transposed ones, to
    each of which but the first the output of the convolution of its size is appended. Each but the
    last is followed by a linear map of the embedded time, group normalisation (4 groups in the
    first, 32 in the others) and swish.

    Args:
        shape: (height, width) or (height, width, channels), at least 17 x 17.
        process: the process whose time is meant.
        widths: channels of the four convolutions, multiples of 32 (the first also of 4).
        num_features: features of the time, sines and cosines together, and size of its embedding.
        feature_scale: standard deviation of the frequencies.
        condition_dim: size of a condition vector (labels as `jax.nn.one_hot`), of which a linear
            map is added to the embedding of the time; or None.
        key: PRNG key of the initial weights and frequencies.

    Raises:
        ValueError: if a size is not allowed, or a condition is missing or unexpected.

    References:
        Neural Entropy, arXiv 2409.03817; Song et al., 2011.13456.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule())
        >>> network = ex.networks.PaperConvNet((17, 17), process, key=jax.random.key(0))
        >>> jax.eval_shape(network, 0.0, jnp.ones((17, 17))).shape
        (17, 17)
    """

    shape: tuple[int, ...] = eqx.field(static=True)
    condition_dim: int | None = eqx.field(static=True)
    clock: Fixed
    frequencies: Fixed
    of_time: eqx.nn.Linear
    of_condition: eqx.nn.Linear | None
    kernels: tuple[Array, ...]
    embeddings: tuple[eqx.nn.Linear, ...]
    norms: tuple[eqx.nn.GroupNorm, ...]
    bias: Array

    def __init__(
        self,
        shape: Sequence[int],
        process: AbstractGaussianProcess,
        *,
        key: Key,
        widths: Sequence[int] = (32, 64, 128, 256),
        num_features: int = 256,
        feature_scale: float = 30.0,
        condition_dim: int | None = None,
    ):
        self.shape = image_shape(shape)
        if min(self.shape[:2]) < 17:
            raise ValueError(f"`shape` must be at least 17 x 17, got {shape!r}.")
        widths = tuple(positive_integer(width, "widths") for width in widths)
        if len(widths) != 4 or any(width % 32 for width in widths):
            raise ValueError(f"`widths` must be four multiples of 32, got {widths!r}.")
        half = positive_integer(num_features, "num_features", 2) // 2
        self.condition_dim = optional_size(condition_dim, "condition_dim")
        channels = self.shape[2] if len(self.shape) == 3 else 1
        a, b, c, d = widths
        sizes = ((channels, a), (a, b), (b, c), (c, d), (d, c), (2 * c, b), (2 * b, a))
        self.clock = Fixed(process)
        groups = (4, *6 * (32,))
        self.norms = tuple(
            eqx.nn.GroupNorm(count, n_out, _EPSILON)
            for count, (_, n_out) in zip(groups, sizes, strict=True)
        )
        self.bias = jnp.zeros(channels)
        sizes = (*sizes, (2 * a, channels))
        frequencies, layers = _initial_convolutions(key, sizes, 2 * half, self.condition_dim)
        self.frequencies = Fixed(feature_scale * frequencies)
        self.of_time, self.kernels, self.embeddings, self.of_condition = layers

    __repr__ = short_repr

    def __call__(self, log_snr: RealScalarLike, y: State, condition: PyTree = None) -> State:
        condition = check_condition(condition, self.condition_dim)
        s = self.clock.value.time_of_log_snr(log_snr)
        time = jax.nn.silu(self.of_time(_features(self.frequencies.value * s, y.dtype)))
        if self.of_condition is not None:
            time = time + self.of_condition(condition.astype(y.dtype))

        def activated(i: int, x: Array) -> Array:
            return jax.nn.silu(normalised(self.norms[i], x + self.embeddings[i](time)))

        x, seen = as_image(y, self.shape, y.dtype), []
        for i in range(4):
            x = activated(i, strided(self.kernels[i], x, 2 if i else 1))
            seen.append(x)
        x = seen.pop()
        for i in range(4, 7):
            x = activated(i, transposed(self.kernels[i], x, 2, seen[-1].shape[:2]))
            x = jnp.concatenate([x, seen.pop()], axis=-1)
        x = transposed(self.kernels[7], x, 1, self.shape[:2])
        return (x + self.bias).reshape(self.shape).astype(y.dtype)


def _features(phases: Float[Array, " n"], dtype: Any) -> Float[Array, " twice_n"]:
    angles = 2 * jnp.pi * phases
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)]).astype(dtype)


@lightly_compiled
def _initial_mlp(key: Key, sizes: tuple[int, ...]) -> tuple[Any, ...]:
    """Normal frequencies, and the initial layers, drawn by one program."""
    dim, features, *widths = sizes
    keys = iter(jax.random.split(key, 5 + 2 * len(widths)))
    frequencies = tuple(
        jax.random.normal(next(keys), (features // 2, *shape)) for shape in ((dim,), ())
    )
    pairs = list(itertools.pairwise((features, *widths)))
    of_state, of_time = (_dense(features, features, next(keys)) for _ in range(2))
    layers = tuple(_dense(n_in, n_out, next(keys)) for n_in, n_out in pairs)
    embeddings = tuple(_dense(features, n_out, next(keys)) for n_out in widths)
    head = _dense(widths[-1], dim, next(keys))
    return frequencies, (of_state, of_time, layers, embeddings, head)


@lightly_compiled
def _initial_convolutions(
    key: Key, sizes: tuple[tuple[int, int], ...], num_features: int, condition_dim: int | None
) -> tuple[Any, ...]:
    """Normal frequencies, and the initial layers, drawn by one program."""
    keys = iter(jax.random.split(key, 2 + 2 * len(sizes)))
    frequencies = jax.random.normal(next(keys), (num_features // 2,))
    of_time = _dense(num_features, num_features, next(keys))
    kernels = tuple(_lecun((n_out, n_in, 3, 3), next(keys)) for n_in, n_out in sizes)
    embeddings = tuple(_dense(num_features, n_out, next(keys)) for _, n_out in sizes[:-1])
    of_condition = None
    if condition_dim is not None:
        of_condition = eqx.nn.Linear(condition_dim, num_features, use_bias=False, key=next(keys))
    return frequencies, (of_time, kernels, embeddings, of_condition)


def _dense(n_in: int, n_out: int, key: Key) -> eqx.nn.Linear:
    """A linear layer with LeCun normal weights and zero biases."""
    initial = _lecun((n_out, n_in), key), jnp.zeros(n_out)
    return eqx.tree_at(lambda m: (m.weight, m.bias), eqx.nn.Linear(n_in, n_out, key=key), initial)


def _lecun(shape: tuple[int, ...], key: Key) -> Array:
    return jax.nn.initializers.lecun_normal(1, 0)(key, shape)
