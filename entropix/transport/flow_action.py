r"""What a flow costs along its own paths, whatever it was trained on.

$$\mathrm{length} = \int\sqrt{E\|\dot y_s\|^2}\,ds, \qquad
  \mathrm{action} = (t_1 - t_0)\int E\|\dot y_s\|^2\,ds, \qquad
  W_2^2 \le E\|y_{t_1} - y_{t_0}\|^2 \le \mathrm{action}$$

(Benamou and Brenier, 2000), the expectations over paths of the flow. The last inequality is an
equality for straight paths at constant speed, the first for an optimal map: action $= W_2^2$ is
optimal transport. The second gap is the straightness of Liu et al. (2209.03003).
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import DataLike, safe_sqrt
from entropix._core.precision import full_precision
from entropix.dynamics import solve_flow
from entropix.interfaces import AbstractModel, Estimate


class FlowAction(eqx.Module):
    r"""The cost of a flow's paths, in units of the data (squared, but for `length`).

    Attributes:
        action: $(t_1 - t_0)\int E\|\dot y\|^2ds$.
        length: $\int\sqrt{E\|\dot y\|^2}\,ds$.
        displacement: $E\|y_{t_1} - y_{t_0}\|^2$, the transport cost of the flow's map.
        bending: `action` minus `displacement`: zero for straight paths at constant speed.
    """

    action: Estimate
    length: Estimate
    displacement: Estimate
    bending: Estimate


@full_precision
def flow_action(
    model: AbstractModel,
    x: DataLike,
    *,
    direction: str = "forward",
    num_steps: int = 128,
    **options: Any,
) -> FlowAction:
    r"""Action, length and straightness of a model's flow from given points.

    A path is the polygon of its steps, which errs by the square of the step. The polygon of every
    second step estimates this error: their difference is part of the errors of action, length and
    bending, which are infinite for a single step. The error of the solver is not part of them.
    Differentiable in the model and the points.

    Args:
        model: any model of a Gaussian process; `FlowMatching` too.
        x: points at the data end (or the noise end, for "reverse"), shape (n, *shape).
        direction: "forward" from data to noise, "reverse" from noise to data.
        num_steps: steps of the flow.
        **options: for `solve_flow`, such as `solver` or `condition`.

    Returns:
        A `FlowAction`; standard errors are those of the points (infinite for a single one) and of
        the steps, `mc_stderr` those of the steps.

    Raises:
        ValueError: as `solve_flow`.

    References:
        Benamou and Brenier, Numer. Math. 84, 375 (2000); Liu et al., arXiv 2209.03003.
    """
    paths = solve_flow(model, x, direction=direction, num_steps=num_steps, save="steps", **options)
    return _action(paths.times, paths.states)


def _polygon(times: Array, states: Array) -> tuple[Array, Array, Array]:
    """The action along each path, the length, and each path's influence on it."""
    steps = jnp.abs(jnp.diff(times))
    squared = jnp.sum(jnp.diff(states, axis=0) ** 2, axis=-1) / steps[:, None] ** 2
    speed = safe_sqrt(jnp.mean(squared, axis=1))
    share = steps / jnp.where(speed > 0, 2 * speed, 1.0)
    return jnp.sum(steps) * steps @ squared, jnp.sum(steps * speed), share @ squared


@eqx.filter_jit
def _action(times: Array, states: Array) -> FlowAction:
    steps, count = states.shape[0] - 1, states.shape[1]
    states = states.reshape(*states.shape[:2], -1)
    action, length, influence = _polygon(times, states)
    coarse = np.append(np.arange(0, steps, 2), steps)
    coarse_action, coarse_length, _ = _polygon(times[coarse], states[coarse])
    of_action = jnp.abs(jnp.mean(action - coarse_action))
    of_length = jnp.abs(length - coarse_length)
    unknown = jnp.full_like(length, jnp.inf)
    if steps == 1:
        of_action = of_length = unknown
    moved = jnp.sum((states[-1] - states[0]) ** 2, axis=-1)

    def estimate(value: Array, influence: Array, of_steps: Array) -> Estimate:
        # Nothing is known of the spread of a population from one path.
        error = jnp.std(influence, ddof=1) / jnp.sqrt(count) if count > 1 else unknown
        error, of_steps = jax.lax.stop_gradient((error, of_steps))
        return Estimate(value, jnp.hypot(error, of_steps), of_steps, count * steps)

    return FlowAction(
        estimate(jnp.mean(action), action, of_action),
        estimate(length, influence, of_length),
        estimate(jnp.mean(moved), moved, jnp.zeros_like(length)),
        estimate(jnp.mean(action - moved), action - moved, of_action),
    )
