r"""Diffrax solvers and a Brownian path that Diffrax does not have.

`GaussianTransition` steps a linear process by its exact transition density, `InteriorMidpoint` is a
second-order method that evaluates a field inside of its steps only, and `Accumulate` adds up a
functional of the path while another solver advances it.

`GridBrownianPath` gives the same numbers on every machine for the same key: over the step that
starts at the grid's k-th knot, sample i moves by $\sqrt{t_{k+1} - t_k}$ times the normal variable
of `fold_in(fold_in(key, k), i)`. Its increments cost one draw, are differentiable in the knots,
allow reverse mode through `diffrax.RecursiveCheckpointAdjoint`, and do not depend on how samples
are grouped. `diffrax.UnsafeBrownianPath` allows no reverse mode, and its numbers depend on the
rounding of the times; `diffrax.VirtualBrownianTree` is used for adaptive steps.

Methods of the solvers have the annotations of `diffrax.AbstractSolver`.
"""

from collections.abc import Callable
from typing import Any, ClassVar

import diffrax
import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from entropix._core.arrays import Key, RealScalarLike, as_float, safe_sqrt
from entropix.interfaces import AbstractGaussianProcess


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
        dtype = self.knots.dtype
        length = as_float(t1) - as_float(t0)
        std = jnp.sqrt(length)
        if self.levy_area is diffrax.BrownianIncrement:
            w = std * normal_of_samples(self.key, step, self.indices, self.shape, dtype)
            return diffrax.BrownianIncrement(dt=length, W=w) if use_levy else w
        z = normal_of_samples(self.key, step, self.indices, (2, *self.shape), dtype)
        w, h = std * z[:, 0], std / jnp.sqrt(12.0).astype(dtype) * z[:, 1]
        return diffrax.SpaceTimeLevyArea(dt=length, W=w, H=h) if use_levy else w


class StepToKnots(diffrax.StepTo):
    """`diffrax.StepTo` without its checks of the knots, which would be host callbacks.

    A subclass, because Diffrax counts the steps of a `StepTo` instead of comparing times. Whoever
    uses it checks that the knots are ordered.
    """

    def wrap(self, direction):
        return type(self)(self.ts * direction)

    def init(self, terms, t0, t1, y0, dt0, args, func, error_order):
        return self.ts[1], 2


def normal_of_samples(
    key: Key, step: RealScalarLike, indices: Int[Array, " n"], shape: tuple[int, ...], dtype: Any
) -> Float[Array, "n *shape"]:
    """Normal variables of one step, each sample's from its own key."""
    keys = keys_of_samples(key, step, indices)
    return jax.vmap(lambda k: jax.random.normal(k, shape, dtype))(keys)


def keys_of_samples(key: Key, step: RealScalarLike, indices: Int[Array, " n"]) -> Key:
    """A key for each sample and step, whatever samples it is grouped with."""
    return jax.vmap(jax.random.fold_in, in_axes=(None, 0))(jax.random.fold_in(key, step), indices)


def transition(
    process: AbstractGaussianProcess, s: RealScalarLike, s_next: RealScalarLike
) -> tuple[Array, Array]:
    r"""Gain and standard deviation of $p(y_{s'}|y_s) = N(g\,y_s, \varsigma^2)$.

    $g = \mu(s')/\mu(s)$ and $\varsigma^2 = \Sigma(s')^2 - g^2\,\Sigma(s)^2$, for $s < s'$.
    """
    gain = process.scale(s_next) / process.scale(s)
    return gain, safe_sqrt(process.var(s_next) - gain**2 * process.var(s))


class GaussianTransition(diffrax.AbstractItoSolver):
    r"""The exact transition of a Gaussian process, $Y_{s'} = g\,Y_s + \varsigma\,z$.

    The Brownian increment $W$ of the step enters as $z = W/\sqrt{s' - s}$: states have the exact
    law of the process in any number of steps, singular end included.
    """

    process: AbstractGaussianProcess

    term_structure: ClassVar = diffrax.MultiTerm[tuple[diffrax.AbstractTerm, diffrax.AbstractTerm]]
    interpolation_cls: ClassVar[Callable[..., diffrax.AbstractLocalInterpolation]] = (
        diffrax.LocalLinearInterpolation
    )

    def order(self, terms):
        return None

    def strong_order(self, terms):
        return None

    def init(self, terms, t0, t1, y0, args):
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        _, increment = terms.contr(t0, t1)
        gain, std = transition(self.process, t0, t1)
        y1 = gain * y0 + std / jnp.sqrt(t1 - t0) * increment
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


class InteriorMidpoint(diffrax.AbstractSolver):
    r"""$y_1 = y_0 + h f(t_m, y_0 + \frac h2 f(t_m, y_0))$ with $t_m = (t_0 + t_1)/2$.

    The midpoint method with its first stage taken at the middle of the step too, which no Butcher
    tableau of Diffrax allows. It is of order two and evaluates the field inside of the axis only,
    at neither of its ends, where scores can be infinite. Two evaluations a step, fixed steps.
    """

    term_structure: ClassVar = diffrax.AbstractTerm
    interpolation_cls: ClassVar[Callable[..., diffrax.AbstractLocalInterpolation]] = (
        diffrax.LocalLinearInterpolation
    )

    def order(self, terms):
        return 2

    def init(self, terms, t0, t1, y0, args):
        return None

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        control = terms.contr(t0, t1)
        middle = t0 + (t1 - t0) / 2
        first = terms.vf_prod(middle, y0, args, control)
        inside = jax.tree.map(lambda y, f: y + f / 2, y0, first)
        second = terms.vf_prod(middle, inside, args, control)
        y1 = jax.tree.map(jnp.add, y0, second)
        return y1, None, {"y0": y0, "y1": y1}, None, diffrax.RESULTS.successful

    def func(self, terms, t0, y0, args):
        return terms.vf(t0, y0, args)


class Accumulate(diffrax.AbstractWrappedSolver):
    """Advance a state by `solver` and add up `increment(t0, t1, y0, y1)` over the steps.

    The state of the solve is the pair (y, sum) and its terms the pair (terms of y, any term). No
    path is stored, and gradients flow through the sum as they do through the state.
    """

    solver: Any
    increment: Callable[[Any, Any, Any, Any], Any]

    interpolation_cls: ClassVar[Callable[..., diffrax.AbstractLocalInterpolation]] = (
        diffrax.LocalLinearInterpolation
    )

    @property
    def term_structure(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.solver.term_structure, diffrax.AbstractTerm)

    @property
    def term_compatible_contr_kwargs(self) -> Any:  # pyright: ignore[reportIncompatibleVariableOverride]
        return (self.solver.term_compatible_contr_kwargs, {})

    @property
    def scan_kind(self) -> Any:
        """What the adjoints with a forward mode set in the Runge-Kutta solver inside."""
        return self.solver.scan_kind

    def order(self, terms):
        return self.solver.order(terms[0])

    def strong_order(self, terms):
        return self.solver.strong_order(terms[0])

    def error_order(self, terms):
        return self.solver.error_order(terms[0])

    def init(self, terms, t0, t1, y0, args):
        return self.solver.init(terms[0], t0, t1, y0[0], args)

    def step(self, terms, t0, t1, y0, args, solver_state, made_jump):
        y1, error, _, solver_state, result = self.solver.step(
            terms[0], t0, t1, y0[0], args, solver_state, made_jump
        )
        added = self.increment(t0, t1, y0[0], y1)
        after = (y1, jax.tree.map(jnp.add, y0[1], added))
        if error is not None:  # the controller judges the state alone
            error = (error, jax.tree.map(jnp.zeros_like, added))
        return after, error, {"y0": y0, "y1": after}, solver_state, result

    def func(self, terms, t0, y0, args):
        zeros = jax.tree.map(jnp.zeros_like, y0[1])
        return self.solver.func(terms[0], t0, y0[0], args), zeros
