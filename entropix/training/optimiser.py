r"""The default optimiser: Adam, a warmed-up cosine, and clipping relative to recent gradients.

The learning rate rises linearly over a short warm-up and falls to zero along half a cosine, so
that the last parameters are already an average. The gradient's norm is clipped at a multiple of
its own running root mean square: the loss is in nats and its gradient may be of order 1 or 1000,
which a fixed threshold could not serve.
"""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, Float, Int

from entropix._core.arrays import as_float
from entropix._core.checks import positive, positive_integer


class WarmupCosine(eqx.Module):
    r"""$\eta_k = \eta\,\min(1, \frac{k+1}{w+1})\,\frac12(1 + \cos\frac{\pi k}{n})$.

    Its numbers are arrays: a new peak or length does not recompile a training loop.

    Args:
        peak: $\eta$.
        steps: n, the steps of the run.
        warmup: w, the steps of the rise.
    """

    peak: Float[Array, ""]
    steps: Float[Array, ""]
    warmup: Float[Array, ""]

    def __init__(self, peak: Any, steps: int, warmup: int | None = None):
        positive_integer(steps, "steps")
        self.peak = positive(peak, "learning_rate")
        self.steps = as_float(float(steps))
        self.warmup = as_float(float(min(100, steps // 20) if warmup is None else warmup))

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        rise = jnp.minimum(1.0, (step + 1) / (self.warmup + 1))
        return self.peak * rise * (1 + jnp.cos(jnp.pi * step / self.steps)) / 2


@functools.lru_cache
def adam() -> optax.GradientTransformation:
    """Adam's direction, without a learning rate: one object, so that compiled loops are reused."""
    return optax.scale_by_adam()


class RelativeClip(eqx.Module):
    r"""Clip a gradient at `ratio` times the running root mean square of its norm.

    The running mean is one of clipped norms, so a single outlier cannot raise it.

    Attributes:
        ratio: the largest norm allowed, in units of the running one.
    """

    ratio: Float[Array, ""]

    def __call__(
        self, norm: Float[Array, ""], mean_square: Float[Array, ""], step: Int[Array, ""]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The factor for the gradient at `step`, and the new running mean square."""
        memory = 0.98
        correction = 1 - memory ** step.astype(norm.dtype)  # of a mean that started at zero
        known = mean_square > 0
        usual = jnp.sqrt(mean_square / jnp.where(known, correction, 1.0))
        limit = jnp.where(known, self.ratio * usual, jnp.inf)
        clipped = jnp.minimum(norm, limit)
        factor = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1.0), 1.0)
        return factor, memory * mean_square + (1 - memory) * clipped**2


def average(decay: Float[Array, ""], old: Any, new: Any, step: Int[Array, ""]) -> Any:
    """Exponential moving average of parameters, faster while few steps lie behind it."""
    rate = jnp.minimum(decay, (1 + step) / (10 + step))
    return jax.tree.map(lambda a, b: (rate * a + (1 - rate) * b).astype(a.dtype), old, new)
