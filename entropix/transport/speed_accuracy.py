r"""The speed-accuracy relation of diffusion models.

Start the reverse flow from a perturbed density $q_T$ in place of $p_T$: it ends in $q_0$ in place
of the data $p_0$. How much the flow may amplify (or damp) the error is bounded by what the forward
process dissipates (Ikeda, Uda, Okanohara and Ito, 2407.04495):

$$\frac{(\Delta W_1)^2}{T D_0} \le \int\frac{\sigma^2}{2}\frac{dS_{tot}}{ds}ds = \int E\|v\|^2 ds,
\qquad \Delta W_1 = W_1(p_0, q_0) - W_1(p_T, q_T), \qquad
D_0 = \int\frac{(q_T - p_T)^2}{p_T}dy .$$

The perturbation here is a shift, $q_T(y) = p_T(y - \delta)$: $W_1(p_T, q_T) = |\delta|$ and, for a
Gaussian $p_T$ of covariance C, $D_0 = e^{\delta^T C^{-1}\delta} - 1$. Both flows start from the
same draws of noise, shifted or not, so that most of the noise of $W_1(p_0, q_0)$ cancels.
"""

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import finite, is_concrete, positive_integer
from entropix._core.precision import full_precision
from entropix.distributions import Gaussian, IsotropicGaussian
from entropix.dynamics import solve_flow
from entropix.interfaces import AbstractModel, Estimate
from entropix.transport.couplings import assignment, costs_of, sorted_distance, sorted_potentials
from entropix.transport.speed import check_speed_options, measure_speeds


class SpeedAccuracy(eqx.Module):
    r"""What `speed_accuracy` found. Lengths in units of the data.

    Attributes:
        w1_data: $W_1(p_0, q_0)$ between the ends of the flows.
        w1_noise: $W_1(p_T, q_T)$, the length of the shift.
        chi_squared: $D_0$; without an error for Gaussian priors.
        accuracy: $(\Delta W_1)^2/(T D_0)$, the left side.
        speed: $\int E\|v\|^2\,ds$, the right side.
        ratio: left over right: at most one, and one where the relation is tight.
        duration: T.
        num_samples: paths of each flow.
    """

    w1_data: Estimate
    w1_noise: Float[Array, "*seeds"]
    chi_squared: Estimate
    accuracy: Estimate
    speed: Estimate
    ratio: Estimate
    duration: Float[Array, "*seeds"]
    num_samples: int = eqx.field(static=True)

    @property
    def delta_w1(self) -> Estimate:
        r"""$\Delta W_1 = W_1(p_0, q_0) - W_1(p_T, q_T)$."""
        w1 = self.w1_data
        return Estimate(w1.value - self.w1_noise, w1.stderr, w1.mc_stderr)

    @property
    def holds(self) -> Bool[Array, "*seeds"]:
        """Whether the relation holds, to within four standard errors."""
        return self.ratio.value <= 1 + 1e-5 + 4 * self.ratio.stderr

    def __str__(self) -> str:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return eqx.tree_pformat(self)
        rows = {
            f"W1(p_0, q_0) (n = {self.num_samples})": self.w1_data,
            "W1(p_T, q_T)": self.w1_noise,
            "D0": self.chi_squared,
            "(Delta W1)^2 / (T D0)": self.accuracy,
            "int E|v|^2 ds": self.speed,
            "ratio": self.ratio,
        }
        lines = [f"{name:<24} {value}" for name, value in rows.items()]
        lines.append(f"{'relation':<24} {'holds' if bool(jnp.all(self.holds)) else 'VIOLATED'}")
        return "\n".join(lines)


@full_precision
def speed_accuracy(
    model: AbstractModel,
    data: DataLike,
    *,
    shift: DataLike,
    key: Key,
    num_samples: int | None = None,
    num_steps: int = 128,
    num_times: int = 64,
    num_speeds: int = 4096,
    condition: PyTree = None,
    chunk_size: int = 4096,
) -> SpeedAccuracy:
    r"""Both sides of the speed-accuracy relation, for a reverse flow from a shifted prior.

    Differentiable in the model, its process included. Standard errors cover the draws of noise and
    the sampling of the data; the flow adds an error of second order in its steps.

    Args:
        model: any model; the relation is a theorem for an `ExactModel`.
        data: samples of the data distribution, shape (N, *shape), for the right side.
        shift: $\delta$, a number (the same in every coordinate) or an array of an example's shape.
        key: PRNG key.
        num_samples: paths of each flow, between whose ends $W_1$ is taken; None: 500, or one for
            each condition if there are fewer.
        num_steps: steps of the flow.
        num_times: nodes in time for the right side, see `speed_limit`.
        num_speeds: points at which each node's velocity is evaluated.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N. The
            flows use the first `num_samples`.
        chunk_size: evaluations held in memory at once.

    Returns:
        A `SpeedAccuracy`.

    Raises:
        ValueError: if an argument is malformed, or `shift` is zero.

    References:
        Ikeda, Uda, Okanohara and Ito, 2407.04495.
    """
    data, condition = check_speed_options(
        model,
        data,
        condition,
        key,
        num_times=num_times,
        num_speeds=num_speeds,
        chunk_size=chunk_size,
    )
    if num_samples is None:
        num_samples = 500 if condition is None else min(500, data.shape[0])
    count = positive_integer(num_samples, "num_samples", 2)
    positive_integer(num_steps, "num_steps")
    shift = finite(shift, "shift").astype(data.dtype)
    if shift.shape not in ((), data.shape[1:]):
        raise ValueError(
            f"`shift` must be a number or have the shape {data.shape[1:]} of one example, "
            f"got {shift.shape}."
        )
    shift = jnp.broadcast_to(shift, data.shape[1:])
    size = jnp.sqrt(jnp.sum(shift**2))
    if is_concrete(size) and float(size) == 0:
        raise ValueError("`shift` must not be zero, got a shift of length 0.")
    speed_key, prior_key = jax.random.split(key)
    counts = {"num_times": num_times, "num_samples": num_speeds, "chunk": chunk_size}
    _, _, speeds = measure_speeds(model, data, condition, key=speed_key, **counts)
    duration = model.process.t1 - model.process.t0
    speed = speeds.action.estimate(data.shape[0], speeds.evaluations)
    speed = speed / duration

    noise = model.prior.sample(count, key=prior_key)
    if condition is not None and data.shape[0] < count:
        raise ValueError(
            f"`num_samples` must be at most the {data.shape[0]} conditions, got {count}."
        )
    both = jax.tree.map(lambda c: jnp.concatenate([c[:count]] * 2), condition)
    made = solve_flow(
        model,
        jnp.concatenate([noise, noise + shift]),
        direction="reverse",
        num_steps=num_steps,
        condition=both,
    ).final.reshape(2, count, -1)
    # The influence is that of a pair, whose points came from one draw.
    if data[0].size == 1:
        x, y = made[..., 0]
        w1, of_w1 = sorted_distance(x, y, 1.0), jnp.add(*sorted_potentials(x, y, 1.0))
    else:
        coupling = assignment(made[0], made[1], 1.0)
        w1 = jnp.mean(costs_of(made[0], made[1][coupling.partner], 1.0))
        of_w1 = coupling.u + coupling.v
    chi_squared, of_chi = _chi_squared(model.prior, noise, shift)
    delta = w1 - size
    accuracy = delta**2 / (duration * chi_squared)
    # Both come from the same draws of noise, and so does their error.
    influence = accuracy * (2 * of_w1 / jnp.where(delta == 0, 1.0, delta) - of_chi / chi_squared)
    left, ratio = _error(influence), accuracy / speed.value
    return SpeedAccuracy(
        w1_data=Estimate(w1, _error(of_w1), _error(of_w1), 2 * count * num_steps),
        w1_noise=size,
        chi_squared=Estimate(chi_squared, _error(of_chi), _error(of_chi), 2 * count),
        accuracy=Estimate(accuracy, left, left, 2 * count * num_steps),
        speed=speed,
        ratio=Estimate(
            ratio,
            jnp.hypot(left / speed.value, ratio * speed.stderr / speed.value),
            jnp.hypot(left / speed.value, ratio * speed.mc_stderr / speed.value),
            speeds.evaluations + 2 * count * num_steps,
        ),
        duration=duration,
        num_samples=count,
    )


def _error(influence: Array) -> Array:
    influence = jax.lax.stop_gradient(influence)
    return jnp.std(influence, ddof=1) / jnp.sqrt(influence.shape[0])


def _chi_squared(prior: PyTree, noise: Array, shift: Array) -> tuple[Array, Array]:
    """D0, and the influence of each draw."""
    flat = shift.reshape(-1)
    if isinstance(prior, IsotropicGaussian | Gaussian):
        isotropic = isinstance(prior, IsotropicGaussian)
        scaled = flat / prior.std**2 if isotropic else jnp.linalg.solve(prior.covariance, flat)
        return jnp.expm1(flat @ scaled), jnp.zeros_like(noise, shape=noise.shape[:1])

    # Drawn from both densities in equal parts, the weight (r - 1)^2 / (r + 1) with r = q/p grows
    # like r where r is large, and like (r - 1)^2 where the densities are close.
    def weight(y: Array) -> Array:
        log_ratio = prior.log_prob(y - shift) - prior.log_prob(y)
        return jnp.expm1(log_ratio) * jnp.tanh(log_ratio / 2)

    values = weight(noise) + weight(noise + shift)
    return jnp.mean(values), values - jnp.mean(values)
