"""Forces that no potential has, for `Langevin`: functions of one state to an array of its shape."""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.checks import finite


class RotatingForce(eqx.Module):
    r"""$F(y) = G\,J y$: a rotation at angular velocity $G$ in one plane of a vector.

    $J$ turns axis $i$ towards axis $j$: $F_i = -G y_j$, $F_j = G y_i$, all other components zero.
    It is free of divergence and orthogonal to $y$, so that it leaves the equilibrium of an
    isotropic potential as it is, and does work all the same: at equilibrium it produces entropy at
    the housekeeping rate $\frac{2}{\sigma^2}G^2 E\|Jy\|^2$.

    Args:
        strength: $G$, finite; radians per unit of time.
        plane: $(i, j)$, two different axes of the state.

    Raises:
        ValueError: if `strength` is not finite, `plane` is not two different axes, or a state is
            not a vector that has them.
    """

    strength: Float[Array, ""]
    plane: tuple[int, int] = eqx.field(static=True)

    def __init__(self, strength: Any, plane: Sequence[int] = (0, 1)):
        self.strength = finite(strength, "strength", shape=())
        axes = tuple(plane) if isinstance(plane, Sequence) else ()
        whole = all(isinstance(a, int | np.integer) and a >= 0 for a in axes)
        if len(axes) != 2 or not whole or axes[0] == axes[1]:
            raise ValueError(f"`plane` must be two different axes such as (0, 1), got {plane!r}.")
        self.plane = (int(axes[0]), int(axes[1]))

    def __call__(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        if y.ndim != 1 or y.shape[0] <= max(self.plane):
            raise ValueError(
                f"`y` must be a vector with the axes {self.plane} of `plane`, got shape {y.shape}."
            )
        i, j = self.plane
        force = jnp.zeros_like(y).at[i].set(-self.strength * y[j])
        return force.at[j].set(self.strength * y[i])
