r"""Overdamped Langevin dynamics in a potential, with or without a driving force.

The one process here that is not Gaussian: its transition density has no closed form. Drift, noise
and equilibrium are known exactly; everything else is simulated.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import ArrayLike, RealLike, RealScalarLike, as_float
from entropix._core.checks import as_pytree, positive
from entropix.interfaces import AbstractProcess


class Langevin(AbstractProcess):
    r"""$dY_s = (-\nabla U(Y_s) + F(Y_s))\,ds + \sqrt{2T}\,dB_s$ on $[0, t_1]$.

    The reference is $p_{eq} = e^{-U/T}/Z$, static. Without a force it is the equilibrium, reached
    as $t_1$ grows, and all entropy production is relaxation to it. A force that is free of
    divergence and tangent to the level sets of $U$ leaves it stationary and adds housekeeping heat;
    any other force has another stationary state, and $p_{eq}$ is the reference only.

    Time is in units of length squared over energy (mobility 1), $U$ and $T$ are in the same units
    of energy.

    Args:
        potential: $U$, a function of one state, an array of any shape, to a scalar: `Harmonic`,
            `DoubleWell`, `MuellerBrown`, `QuarticLattice` or any other in jax.numpy. A module keeps
            its parameters, which are differentiable.
        temperature: $T$, positive.
        force: $F$, a function of one state to an array of its shape, such as `RotatingForce`; None
            for none.
        t1: end of the time axis, positive.

    Raises:
        ValueError: if `temperature` or `t1` is not positive and finite, `potential` or `force` is
            not callable, or (when called) they return another shape.

    References:
        Risken, The Fokker-Planck Equation (1989); Seifert, Rep. Prog. Phys. 75, 126001 (2012).
    """

    potential: Callable
    temperature: Float[Array, ""]
    force: Callable | None
    t0: Float[Array, ""]
    t1: Float[Array, ""]

    is_static = True

    def __init__(
        self,
        potential: Callable,
        temperature: ArrayLike = 1.0,
        force: Callable | None = None,
        *,
        t1: ArrayLike = 1.0,
    ):
        self.potential = as_pytree(potential, "potential", "the state")
        self.temperature = positive(temperature, "temperature", shape=())
        self.force = None if force is None else as_pytree(force, "force", "the state")
        self.t0 = as_float(0.0)
        self.t1 = positive(t1, "t1", shape=())

    def _energy(self, y: Array) -> Array:
        energy = self.potential(y)
        if jnp.shape(energy) != ():
            raise ValueError(
                f"`potential` must return a scalar for one state, got shape {jnp.shape(energy)}."
            )
        return energy

    def drift(self, s: RealScalarLike, y: Float[Array, "*shape"]) -> Float[Array, "*shape"]:
        r"""$-\nabla U(y) + F(y)$."""
        pull = -jax.grad(self._energy)(y)
        if self.force is None:
            return pull
        force = self.force(y)
        if jnp.shape(force) != jnp.shape(y):
            raise ValueError(
                f"`force` must return an array of the state's shape {jnp.shape(y)}, "
                f"got {jnp.shape(force)}."
            )
        return pull + force

    def sigma_squared(self, s: RealLike) -> Array:
        r"""$2T$, in the shape of `s`."""
        return jnp.broadcast_to(2 * self.temperature, jnp.shape(s))

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$-\nabla U(y)/T$; the force has no part in it."""
        return -jax.grad(self._energy)(y) / self.temperature

    def equilibrium_log_prob(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, ""]:
        r"""$-U(y)/T$: $\log p_{eq}(y)$ in nats up to the constant $-\log Z$, which is unknown."""
        return -self._energy(y) / self.temperature
