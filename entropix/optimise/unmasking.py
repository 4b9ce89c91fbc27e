r"""What it costs to unmask several tokens at once, as a function of the steps.

With $S(m)$ the entropy of a model under masking from the data up to the share m of masked tokens,
$J = dS/dm$ is what the model knows of a token when a share m is masked, in nats and summed over the
sites. Tau-leaping from a share $m_k$ to $m_{k+1}$ fills in tokens with what is known at $m_k$. The
divergence of its paths from those that unmask one token after another is therefore

$$\sum_k\int_{m_{k+1}}^{m_k}[J(m) - J(m_k)]\,dm,$$

the entropy less its lower sum: it bounds KL of the samples, and needs no simulation. As for
diffusions (`SamplerError`), this is because posterior laws are martingales.
"""

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree
from scipy.optimize import isotonic_regression

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import positive_integer
from entropix.entropy import entropy_curve
from entropix.interfaces import AbstractModel, AbstractTokenProcess
from entropix.models import checked_model


class UnmaskingError(eqx.Module):
    r"""The bound above on the error of N steps of `TauLeaping`, in nats.

    A function of a `Masking` process, in whose time the steps are uniform. Its schedule changes
    nothing but the steps: `optimise_schedule` finds the best ones. If they are many, a step has the
    length $\propto|dJ/dm|^{-1/2}$. Steps of equal entropy (Foresti et al., 2602.06849) are those at
    equal parts of `entropy_curve(...).cumulative`.

    Args:
        model: a model under `Masking`.
        num_steps: N.
        data: sequences, on which S is measured.
        key: PRNG key of the measurement.
        num_evaluations: of the measurement.
        num_knots: intervals of m in which J is known; within it is linear, and it never rises.
        condition: of the data.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if the model is not one under `Masking`, or as `entropy_curve`.

    Example:
        A ring of spins in four steps:

        >>> import entropix as ex, itertools, jax, jax.numpy as jnp
        >>> spins = 2 * jnp.array(list(itertools.product([0, 1], repeat=6))) - 1
        >>> energy = jnp.sum(spins * jnp.roll(spins, 1, axis=1), axis=1)
        >>> process = ex.Masking(2, ex.MonotoneSchedule.constant(3.0, 8))
        >>> model = ex.models.ExactDiscrete(energy.reshape((2,) * 6), process)
        >>> data = model.sample(1000, key=jax.random.key(0))
        >>> error = ex.optimise.UnmaskingError(model, 4, data, key=jax.random.key(1))
        >>> best = ex.optimise_schedule(process, error, key=jax.random.key(2), steps=100)
        >>> bool(best.value < 0.9 * error(process))
        True
        >>> samples = ex.sample(
        ...     model.with_process(best.process), key=jax.random.key(3), num_samples=100,
        ...     times=jnp.linspace(1, 0, 5),
        ... )

    References:
        Foresti et al., 2602.06849; Sabour et al., 2404.14507 (diffusions).
    """

    shares: Float[Array, " knots"]
    known: Float[Array, " knots"]
    num_steps: int = eqx.field(static=True)

    def __init__(
        self,
        model: AbstractModel,
        num_steps: int,
        data: DataLike,
        *,
        key: Key,
        num_evaluations: int = 16_384,
        num_knots: int = 16,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        process = checked_model(model).process
        _check_masking(process, "model.process")
        self.num_steps = positive_integer(num_steps, "num_steps")
        edges = np.linspace(0, 1, positive_integer(num_knots, "num_knots", 3) + 1)
        curve = entropy_curve(
            model,
            data,
            key=key,
            num_evaluations=num_evaluations,
            times=process.time_of_lost(edges),
            condition=condition,
            chunk_size=chunk_size,
        )
        means = np.diff(np.asarray(curve.cumulative, float)) * num_knots
        means = isotonic_regression(means, increasing=False).x
        first, last = 1.5 * means[[0, -1]] - 0.5 * means[[1, -2]]  # along the line, to the ends
        known = np.concatenate([[first], means, [max(last, 0.0)]])
        middles = (np.arange(num_knots) + 0.5) / num_knots
        shares = np.concatenate([[0.0], middles, [1.0]])
        self.shares, self.known = (jnp.asarray(v, process.t1.dtype) for v in (shares, known))

    @eqx.filter_jit
    def __call__(self, process: AbstractTokenProcess) -> Float[Array, ""]:
        """The bound in nats."""
        _check_masking(process, "process")
        times = jnp.linspace(process.t1, process.t0, self.num_steps + 1, dtype=process.t1.dtype)
        masked = process.lost(times)
        known = jnp.interp(masked[:-1], self.shares, self.known)
        return jnp.trapezoid(self.known, self.shares) + jnp.sum(jnp.diff(masked) * known)


def _check_masking(process: object, name: str) -> None:
    if not isinstance(process, AbstractTokenProcess) or not process.has_mask:
        raise ValueError(f"`{name}` must be Masking, got {type(process).__name__}.")
