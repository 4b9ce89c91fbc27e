r"""Features of the noise level, the first argument of networks.

A log-SNR may be infinite at the exact ends of a process. The map
$\ell = \frac{2}{\pi}\arctan(\lambda/\lambda_0) \in [-1, 1]$ is bounded and smooth, so that no
clipping is needed. Its result enters sines and cosines of fixed random frequencies (Tancik et al.,
2006.10739; Song et al., 2011.13456).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix._core.checks import optional_size, positive_integer
from entropix.networks.parameters import Fixed


def fourier_features(
    log_snr: RealScalarLike, log_snr_scale: Array, frequencies: Float[Array, " half"]
) -> Float[Array, " features"]:
    r"""$\sin(\pi\ell\omega)$ and $\cos(\pi\ell\omega)$ at all frequencies $\omega$."""
    # It is fixed; at an infinite log-SNR its derivative would be zero times infinity.
    log_snr_scale = jax.lax.stop_gradient(log_snr_scale)
    level = 2 / jnp.pi * jnp.arctan(log_snr / log_snr_scale)
    angles = jnp.pi * level * frequencies
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)])


class NoiseEmbedding(eqx.Module):
    """Noise level and condition as one vector: features and a perceptron with one hidden layer.

    Args:
        size: size of the vector.
        condition_dim: size of a condition, which enters through a linear map, or None.
        num_features: number of Fourier features.
        feature_scale: standard deviation of the frequencies.
        log_snr_scale: log-SNR at which the bounded map is 1/2.
        key: PRNG key.
    """

    condition_dim: int | None = eqx.field(static=True)
    log_snr_scale: Fixed
    frequencies: Fixed
    first: eqx.nn.Linear
    second: eqx.nn.Linear
    of_condition: eqx.nn.Linear | None

    def __init__(
        self,
        size: int,
        *,
        key: Key,
        condition_dim: int | None = None,
        num_features: int = 64,
        feature_scale: float = 2.0,
        log_snr_scale: float = 4.0,
    ):
        half = positive_integer(num_features, "num_features", 2) // 2
        self.condition_dim = optional_size(condition_dim, "condition_dim")
        frequency_key, first_key, second_key, condition_key = jax.random.split(key, 4)
        self.log_snr_scale = Fixed(jnp.asarray(log_snr_scale, float))
        self.frequencies = Fixed(feature_scale * jax.random.normal(frequency_key, (half,)))
        self.first = eqx.nn.Linear(2 * half, size, key=first_key)
        self.second = eqx.nn.Linear(size, size, key=second_key)
        self.of_condition = None
        if condition_dim is not None:
            self.of_condition = eqx.nn.Linear(
                condition_dim, size, use_bias=False, key=condition_key
            )

    def __call__(self, log_snr: RealScalarLike, condition: PyTree, dtype: Any) -> Array:
        """The vector, in the precision `dtype` of the network."""
        condition = check_condition(condition, self.condition_dim)
        features = fourier_features(log_snr, self.log_snr_scale.value, self.frequencies.value)
        hidden = jax.nn.silu(self.first(features.astype(dtype)))
        if self.of_condition is not None:
            hidden = hidden + self.of_condition(condition.astype(dtype))
        return jax.nn.silu(self.second(hidden))


def check_condition(condition: PyTree, condition_dim: int | None) -> Array | None:
    """The condition as a vector of `condition_dim` numbers; None for unconditional networks."""
    if (condition is None) != (condition_dim is None):
        raise ValueError(
            f"`condition` must be {'absent' if condition_dim is None else 'given'} "
            f"for a network with condition_dim={condition_dim}."
        )
    if condition is None:
        return None
    condition = jnp.asarray(condition, float)
    if condition.size != condition_dim:
        raise ValueError(
            f"`condition` must hold {condition_dim} numbers, got shape {condition.shape}."
        )
    return condition.ravel()
