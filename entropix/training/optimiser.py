r"""The default optimiser: Adam, a warmed-up cosine, and clipping relative to recent gradients.

The learning rate rises linearly over a short warm-up and falls to zero along half a cosine, so
that the last parameters are already an average. The gradient's norm is clipped at a multiple of
its own running root mean square: the loss is in nats and its gradient may be of order 1 or 1000,
which a fixed threshold could not serve.

Transformations of optax are closures: their numbers are constants of a compiled program, one
program for each value, and cannot differ between the members of an ensemble. The classes here hold
theirs as arrays, and go wherever optax asks for a transformation or a schedule.
"""

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optax
from jaxtyping import Array, ArrayLike, Float, Int, PyTree

from entropix._core.arrays import as_float
from entropix._core.checks import checked, positive, positive_integer


class WarmupCosine(eqx.Module):
    r"""$\eta_k = \eta\,\min(1, \frac{k+1}{w+1})\,\frac12(1 + \cos\frac{\pi k}{n})$.

    Args:
        peak: $\eta$.
        steps: n, the steps of the run.
        warmup: w, the steps of the rise; None: a twentieth of the run, at most 100.
    """

    peak: Float[Array, ""]
    steps: Float[Array, ""]
    warmup: Float[Array, ""]

    def __init__(self, peak: ArrayLike, steps: int, warmup: int | None = None):
        positive_integer(steps, "steps")
        self.peak = positive(peak, "learning_rate", shape=())
        self.steps = as_float(float(steps))
        self.warmup = as_float(float(min(100, steps // 20) if warmup is None else warmup))

    def __call__(self, step: Int[Array, ""]) -> Float[Array, ""]:
        rise = jnp.minimum(1.0, (step + 1) / (self.warmup + 1))
        return self.peak * rise * (1 + jnp.cos(jnp.pi * step / self.steps)) / 2


class RelativeClip(eqx.Module):
    r"""Clip a gradient at `ratio` times the running root mean square of its norm.

    An optax transformation, as in `optax.chain(RelativeClip(2.0), optax.sgd(1e-3))`. The running
    mean is one of clipped norms, so a single outlier cannot raise it.

    Args:
        ratio: the largest norm allowed, in units of the running one.

    Raises:
        ValueError: if it is not positive.
    """

    ratio: Float[Array, ""]

    def __init__(self, ratio: ArrayLike = 2.0):
        ratio = as_float(ratio, "ratio")
        self.ratio = checked(ratio, "ratio", lambda v: v > 0, "positive")

    def init(self, params: PyTree) -> tuple[Array, Array]:
        """The running mean square of the norm, and how many gradients it has seen."""
        return jnp.zeros((), jax.tree.leaves(params)[0].dtype), jnp.zeros((), jnp.int32)

    def update(
        self, updates: PyTree, state: tuple[Array, Array], params: PyTree = None
    ) -> tuple[PyTree, tuple[Array, Array]]:
        mean_square, step = state
        norm = optax.tree.norm(updates).astype(mean_square.dtype)
        memory = 0.98
        correction = 1 - memory ** step.astype(norm.dtype)  # of a mean that started at zero
        known = mean_square > 0
        usual = jnp.sqrt(mean_square / jnp.where(known, correction, 1.0))
        limit = jnp.where(known, self.ratio * usual, jnp.inf)
        clipped = jnp.minimum(norm, limit)
        factor = jnp.where(norm > limit, limit / jnp.where(norm > 0, norm, 1.0), 1.0)
        updates = jax.tree.map(lambda g: (factor * g).astype(g.dtype), updates)
        return updates, (memory * mean_square + (1 - memory) * clipped**2, step + 1)


@functools.lru_cache
def _adam() -> optax.GradientTransformation:
    """Adam's direction, without a learning rate: one object, so that compiled loops are reused."""
    return optax.scale_by_adam()


class ClippedAdam(eqx.Module):
    """`RelativeClip`, then Adam: the default of `fit`, as an optax transformation.

    A new learning rate or clip does not compile a training loop again.

    Args:
        learning_rate: a function of the step, such as `WarmupCosine(2e-3, steps)`.
        clip: largest norm of the gradient, in units of its running root mean square; inf: none.

    Raises:
        ValueError: if an argument is not as above.
    """

    learning_rate: Callable
    clip: RelativeClip

    def __init__(self, learning_rate: Callable, clip: ArrayLike = 2.0):
        if not callable(learning_rate):
            raise ValueError(
                f"`learning_rate` must be a function of the step, such as WarmupCosine(2e-3, "
                f"steps), got {type(learning_rate).__name__}."
            )
        self.learning_rate = learning_rate
        self.clip = RelativeClip(clip)

    def init(self, params: PyTree) -> tuple[Any, Any]:
        """The states of the clip and of Adam."""
        return self.clip.init(params), _adam().init(params)

    def update(
        self, updates: PyTree, state: tuple[Any, Any], params: PyTree = None
    ) -> tuple[PyTree, tuple[Any, Any]]:
        clip, adam = state
        rate = self.learning_rate(adam.count)
        updates, clip = self.clip.update(updates, clip)
        updates, adam = _adam().update(updates, adam, params)
        return jax.tree.map(lambda u: (-rate * u).astype(u.dtype), updates), (clip, adam)
