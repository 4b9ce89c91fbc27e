r"""Potentials and a force for `Langevin`.

A potential $U(y)$ is a function of one state to one number, in units of temperature; a force $F(y)$
one to an array of the state's shape. Every number in those below is differentiable. Any other
function may take their place.
"""

from collections.abc import Sequence

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, squared_norm
from entropix._core.checks import checked, exact_shape, finite, positive


class Harmonic(eqx.Module):
    r"""The harmonic well $U = \frac{k}{2}\|y\|^2$, for states of any shape.

    Under `Langevin` it is the Ornstein-Uhlenbeck process with equilibrium $N(0, T/k)$.

    Args:
        stiffness: $k$, positive; energy per squared length.

    Raises:
        ValueError: if `stiffness` is not positive and finite.
    """

    stiffness: Float[Array, ""]

    def __init__(self, stiffness: ArrayLike = 1.0):
        self.stiffness = positive(stiffness, "stiffness", shape=())

    def __call__(self, y: Float[Array, "*shape"]) -> Float[Array, ""]:
        return self.stiffness / 2 * squared_norm(y)


class DoubleWell(eqx.Module):
    r"""Independent double wells $U = \sum_i h\left((y_i/a)^2 - 1\right)^2$, for any shape.

    Minima of energy 0 at $y_i = \pm a$, of curvature $8h/a^2$; the barrier between them, at 0, has
    height $h$. Kramers' problem of escape over a barrier (Kramers, Physica 7, 284, 1940).

    Args:
        height: $h$, positive; energy of the barrier.
        position: $a$, positive; distance of a minimum from the barrier.

    Raises:
        ValueError: if either is not positive and finite.
    """

    height: Float[Array, ""]
    position: Float[Array, ""]

    def __init__(self, height: ArrayLike = 1.0, position: ArrayLike = 1.0):
        self.height = positive(height, "height", shape=())
        self.position = positive(position, "position", shape=())

    def __call__(self, y: Float[Array, "*shape"]) -> Float[Array, ""]:
        return self.height * squared_norm((y / self.position) ** 2 - 1)


# Amplitudes, quadratic forms and centres of the four terms (Müller and Brown, 1979).
_AMPLITUDES = np.array([-200.0, -100.0, -170.0, 15.0])
_FORMS = np.array([[-1.0, 0.0, -10.0], [-1.0, 0.0, -10.0], [-6.5, 11.0, -6.5], [0.7, 0.6, 0.7]])
_CENTRES = np.array([[1.0, 0.0], [0.0, 0.5], [-0.5, 1.5], [-1.0, 1.0]])


class MuellerBrown(eqx.Module):
    r"""The Müller-Brown surface: three minima, two curved passes, in two dimensions.

    $U = c\sum_{k=1}^4 A_k \exp\left(a_k \delta_1^2 + b_k \delta_1\delta_2 + c_k\delta_2^2\right)$
    with $\delta = y - \bar y^{(k)}$, and for $c = 1$

    - minima near $(-0.558, 1.442)$, $U = -146.70$; $(0.623, 0.028)$, $-108.17$; and
      $(-0.050, 0.467)$, $-80.77$;
    - saddles near $(-0.822, 0.624)$, $-40.66$; and $(0.212, 0.293)$, $-72.25$.

    Args:
        scale: $c$, positive; a factor on the energy.

    Raises:
        ValueError: if `scale` is not positive and finite, or a state is not of shape (2,).

    References:
        Müller and Brown, Theoretica Chimica Acta 53, 75 (1979).
    """

    scale: Float[Array, ""]

    def __init__(self, scale: ArrayLike = 1.0):
        self.scale = positive(scale, "scale", shape=())

    def __call__(self, y: Float[Array, " dim"]) -> Float[Array, ""]:
        exact_shape(y, (2,), "y")
        amplitudes, forms, centres = (
            jnp.asarray(table, y.dtype) for table in (_AMPLITUDES, _FORMS, _CENTRES)
        )
        d1, d2 = (y - centres).T
        exponents = forms[:, 0] * d1**2 + forms[:, 1] * d1 * d2 + forms[:, 2] * d2**2
        return self.scale * jnp.sum(amplitudes * jnp.exp(exponents))


class QuarticLattice(eqx.Module):
    r"""The action of $\phi^4$ theory on a periodic lattice, for fields of any shape.

    $$U = \sum_x\left[\frac12\sum_\mu\left(\phi(x + \hat\mu) - \phi(x)\right)^2
      + \frac{m^2}{2}\phi(x)^2 + \frac{g}{4}\phi(x)^4\right]$$

    with $\mu$ over the axes of the array, neighbours beyond an edge at the other side, lattice
    spacing 1 and the coupling as $g/4$ (others write $\lambda/4!$, $g = \lambda/6$, or $\lambda$,
    $g = 4\lambda$). Each site has one bond forward along each axis: an axis of length two carries
    every bond twice, one of length one carries none. The action on the lattice is dimensionless: at
    temperature 1 the equilibrium of `Langevin` is the Euclidean field theory.

    Args:
        mass_squared: $m^2$, finite; negative in the broken phase.
        coupling: $g \ge 0$; where it is zero, $m^2 > 0$ is needed for an equilibrium to exist.

    Raises:
        ValueError: if either is not finite, or `coupling` is negative.

    References:
        Parisi and Wu, Scientia Sinica 24, 483 (1981), for Langevin dynamics of fields; Montvay and
        Münster, Quantum Fields on a Lattice (1994), chapter 2.
    """

    mass_squared: Float[Array, ""]
    coupling: Float[Array, ""]

    def __init__(self, mass_squared: ArrayLike, coupling: ArrayLike):
        self.mass_squared = finite(mass_squared, "mass_squared", shape=())
        coupling = finite(coupling, "coupling", shape=())
        self.coupling = checked(coupling, "coupling", lambda v: v >= 0, "zero or positive")

    def __call__(self, y: Float[Array, "*shape"]) -> Float[Array, ""]:
        bonds = sum(squared_norm(jnp.roll(y, -1, axis) - y) for axis in range(y.ndim))
        squares = y**2
        local = self.mass_squared / 2 * jnp.sum(squares) + self.coupling / 4 * squared_norm(squares)
        return bonds / 2 + local


class RotatingForce(eqx.Module):
    r"""$F(y) = G\,J y$: a rotation at angular velocity $G$ in one plane of a vector.

    $J$ turns axis $i$ towards axis $j$: $F_i = -G y_j$, $F_j = G y_i$, all other components zero.
    It is free of divergence and orthogonal to $y$, so it does not change the equilibrium of an
    isotropic potential. It does work all the same: at equilibrium it produces entropy at the
    housekeeping rate $\frac{2}{\sigma^2}G^2 E\|Jy\|^2$.

    Args:
        strength: $G$, finite; radians per unit of time.
        plane: $(i, j)$, two different axes of the state.

    Raises:
        ValueError: if `strength` is not finite, `plane` is not two different axes, or a state is
            not a vector that has them.
    """

    strength: Float[Array, ""]
    plane: tuple[int, int] = eqx.field(static=True)

    def __init__(self, strength: ArrayLike, plane: Sequence[int] = (0, 1)):
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
