r"""The integral of the divergence along a flow that has no score.

$y' = v(y, s)$ and $\int\nabla\cdot v\,ds$ in the process's own time and state, as `Straight` does.
"""

from typing import Any

import diffrax
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import inner
from entropix.interfaces import AbstractModel


def carry_straight(
    method: Any, model: AbstractModel, sample: Array, condition: Any, probes: Array
) -> tuple[Array, Array]:
    """The state at the noise end, and the integral of the divergence by each probe.

    `method` is a `ProbabilityFlow`; where its divergence is exact the probes are the axes, and
    their sum is all there is.
    """
    directions = method.num_directions(sample.size)
    exact = directions == sample.size

    def field(s: Any, state: Any, args: Any) -> Any:
        model, condition, probes = args
        moved, jvp = jax.linearize(lambda y: model.velocity(s, y, condition), state[0])
        stretch = jax.vmap(lambda v: inner(jvp(v), v))(probes)
        return moved, jnp.sum(stretch, keepdims=True) if exact else stretch

    process = model.process
    start = (sample, jnp.zeros(1 if exact else directions, sample.dtype))
    solution = diffrax.diffeqsolve(
        diffrax.ODETerm(field),
        method.solver,
        process.t0,
        process.t1,
        None,
        start,
        (model, condition, probes),
        stepsize_controller=diffrax.PIDController(rtol=method.rtol, atol=method.atol),
        adjoint=method.adjoint,
        max_steps=method.max_steps,
    )
    states: Any = solution.ys
    return states[0][-1], states[1][-1]
