r"""A Brownian path on a fixed grid, the same on every machine for the same key.

Over the step that starts at the grid's k-th knot, sample i moves by $\sqrt{t_{k+1} - t_k}$ times
the normal variable of `fold_in(fold_in(key, k), i)`. Its increments cost one draw, are
differentiable in the knots, allow reverse mode through `diffrax.RecursiveCheckpointAdjoint`, and do
not depend on how samples are grouped; `diffrax.VirtualBrownianTree` remains for adaptive steps,
and `diffrax.UnsafeBrownianPath` allows no reverse mode.
"""

from collections.abc import Callable
from typing import Any

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key, RealScalarLike, as_float


class GridBrownianPath(diffrax.AbstractBrownianPath):
    r"""Brownian motion of many samples, for solvers that step from knot to knot.

    Args:
        knots: solver times, ascending.
        key: PRNG key.
        indices: which samples: their position in the whole population, shape (n,).
        shape: shape of one sample.
        levy_area: `diffrax.BrownianIncrement`, or `diffrax.SpaceTimeLevyArea` for solvers that
            want the space-time area $H \sim N(0, \Delta t/12)$ as well.
    """

    knots: Float[Array, " knots"]
    key: Key
    indices: Int[Array, " n"]
    shape: tuple[int, ...] = eqx.field(static=True)
    levy_area: type[diffrax.BrownianIncrement | diffrax.SpaceTimeLevyArea] = eqx.field(
        static=True, default=diffrax.BrownianIncrement
    )

    @property
    def t0(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.knots[0]

    @property
    def t1(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.knots[-1]

    def evaluate(
        self,
        t0: RealScalarLike,
        t1: RealScalarLike | None = None,
        left: bool = True,
        use_levy: bool = False,
    ) -> Array | diffrax.BrownianIncrement | diffrax.SpaceTimeLevyArea:
        del left
        if t1 is None:
            raise ValueError("`t1` must be given: the path knows its increments over grid steps.")
        step = jnp.searchsorted(self.knots, t0)
        keys = jax.vmap(jax.random.fold_in, in_axes=(None, 0))(
            jax.random.fold_in(self.key, step), self.indices
        )
        dtype = self.knots.dtype
        length = as_float(t1) - as_float(t0)
        std = jnp.sqrt(length)
        if self.levy_area is diffrax.BrownianIncrement:
            w = std * jax.vmap(lambda k: jax.random.normal(k, self.shape, dtype))(keys)
            return diffrax.BrownianIncrement(dt=length, W=w) if use_levy else w
        z = jax.vmap(lambda k: jax.random.normal(k, (2, *self.shape), dtype))(keys)
        w, h = std * z[:, 0], std / jnp.sqrt(12.0).astype(dtype) * z[:, 1]
        return diffrax.SpaceTimeLevyArea(dt=length, W=w, H=h) if use_levy else w


class AdditiveNoise(diffrax.AbstractTerm):
    r"""The term $\sigma(t)\,dB$ of an SDE: `std(t)`, a scalar, times the increments of `path`."""

    path: diffrax.AbstractBrownianPath
    std: Callable[[Any], Any]

    def vf(self, t: RealScalarLike, y: Array, args: Any) -> Array:
        return jnp.asarray(self.std(t), y.dtype)

    def contr(self, t0: Any, t1: Any, **kwargs: Any) -> Any:
        return self.path.evaluate(t0, t1, **kwargs)

    def prod(self, vf: Array, control: Array) -> Array:
        return vf * control
