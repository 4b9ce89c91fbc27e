"""Noise levels of a process, and the denoiser of a model at them."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from entropix._core.arrays import RealLike, as_float
from entropix.dynamics.bridge import Bridge
from entropix.interfaces import AbstractModel


class Level(eqx.Module):
    r"""A noise level: what a step needs to know of a time of the process.

    Fields have the shape of the times. `log_snr` is infinite at the data, and minus infinity
    wherever the signal is negligible.

    Attributes:
        s: time of the process.
        scale: $\mu(s)$.
        std: $\Sigma(s)$.
        log_snr: $\log(\mu^2/\Sigma^2)$.
        at: the time the model is evaluated at: `s`, unless the signal is negligible there.
        at_scale: $\mu$ at that time.
        at_var: $\Sigma^2$ at that time.
        gain: the factor that brings a state from `s` to that time.
    """

    s: Float[Array, "*knots"]
    scale: Float[Array, "*knots"]
    std: Float[Array, "*knots"]
    log_snr: Float[Array, "*knots"]
    at: Float[Array, "*knots"]
    at_scale: Float[Array, "*knots"]
    at_var: Float[Array, "*knots"]
    gain: Float[Array, "*knots"]

    @property
    def is_data(self) -> Bool[Array, "*knots"]:
        r"""Whether $\Sigma = 0$."""
        return self.log_snr == jnp.inf

    @property
    def is_noise(self) -> Bool[Array, "*knots"]:
        """Whether the signal is negligible."""
        return self.log_snr == -jnp.inf


class Denoiser(eqx.Module):
    """The denoiser of a model for a batch of states, each with its own condition.

    Attributes:
        model: any model.
        bridge: its process, with the reference variance that says which signal is negligible.
        condition: None, or arrays with a leading axis of the batch.
    """

    model: AbstractModel
    bridge: Bridge
    condition: Any = None

    def level(self, s: RealLike) -> Level:
        """The noise level of a time, or of an array of times."""
        process = self.bridge.process
        s = as_float(s)
        # What is infinite at the data is computed elsewhere, so that no gradient is a NaN.
        is_data = jax.lax.stop_gradient(process.log_snr(s)) == jnp.inf
        inside = jnp.where(is_data, (process.t0 + process.t1) / 2, s)
        at = self.bridge.evaluation_time(inside)
        is_noise = at < inside
        log_snr = jnp.where(is_noise, -jnp.inf, process.log_snr(at))
        scale, at_scale = process.scale(s), process.scale(at)
        at_var = process.var(at)
        var = jnp.where(is_noise, process.var(inside), at_var)
        weight = self.bridge.variance
        total = var + weight * process.scale(inside) ** 2
        return Level(
            s=s,
            scale=scale,
            std=jnp.where(is_data, 0.0, process.std(inside)),
            log_snr=jnp.where(is_data, jnp.inf, log_snr),
            at=at,
            at_scale=at_scale,
            at_var=at_var,
            gain=jnp.sqrt((at_var + weight * at_scale**2) / total),
        )

    def __call__(self, level: Level, y: Float[Array, "n *shape"]) -> Float[Array, "n *shape"]:
        """$D(y, s)$; at the data a finite number without meaning."""
        y = level.gain * y
        score = jax.vmap(self.model.score, in_axes=(None, 0, 0))(level.at, y, self.condition)
        return (y + level.at_var * score) / level.at_scale
