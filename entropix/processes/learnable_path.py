r"""A Gaussian path that is learned: $\mu$ and $\Sigma$ both.

$\mu(s) = 1 - (1 - \mu_T)F(s)$ and $\Sigma(s)^2 = \Sigma_T^2\,G(s)$ with two monotone curves
$F$ and $G$ on [0, 1] (see `entropix.processes.curves`). The scale falls and the noise rises
whatever the parameters, so that the log-SNR falls strictly; the ends are fixed.
"""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealLike, as_float, safe_sqrt
from entropix._core.checks import checked, finite, is_concrete, positive, positive_integer
from entropix.interfaces import AbstractGaussianProcess
from entropix.processes.curves import AbstractLearnable, UnitCurve, knot_places, log_rates_of
from entropix.processes.inversion import invert_log_snr


class LearnablePath(AbstractGaussianProcess, AbstractLearnable):
    r"""A learnable Gaussian process from $(\mu, \Sigma) = (1, 0)$ to $(\mu_T, \Sigma_T)$.

    It begins with $\mu$ and $\Sigma^2$ linear in time. The variance rises at a positive rate from
    s = 0 on, so that the equilibrium has a width there and the entropy of smooth data is finite.

    Args:
        final_scale: $\mu_T$, from 0 to below 1; at exactly 0 the diffusion coefficient is infinite
            at s = 1.
        final_std: $\Sigma_T$, positive.
        num_knots: knots of each curve.

    Raises:
        ValueError: if an end is out of range.
    """

    scale_curve: UnitCurve
    var_curve: UnitCurve
    final_scale: Float[Array, ""]
    final_std: Float[Array, ""]
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    ends_in_noise: bool = eqx.field(static=True)

    is_static = False
    is_finite = True

    def __init__(self, final_scale: Any = 0.0, final_std: Any = 1.0, *, num_knots: int = 16):
        positive_integer(num_knots, "num_knots", 2)
        scale = finite(final_scale, "final_scale", shape=())
        scale = checked(scale, "final_scale", lambda v: (v >= 0) & (v < 1), "from 0 to below 1")
        self.scale_curve = UnitCurve(as_float(np.zeros(num_knots)))
        self.var_curve = UnitCurve(as_float(np.zeros(num_knots)))
        self.final_scale = scale
        self.final_std = positive(final_std, "final_std", shape=())
        self.t0, self.t1 = as_float(0.0), as_float(1.0)
        self.ends_in_noise = not is_concrete(scale) or float(scale) == 0

    @classmethod
    def from_process(cls, process: AbstractGaussianProcess, num_knots: int = 16) -> "LearnablePath":
        """The path with the rates of another process at the knots, and its ends."""
        if not isinstance(process, AbstractGaussianProcess):
            raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
        ends, logs = _ends_and_log_rates(process, num_knots)
        return eqx.tree_at(lambda p: p.learnable(), cls(*ends, num_knots=num_knots), logs)

    def learnable(self) -> tuple[Any, ...]:
        return self.scale_curve.log_rates, self.var_curve.log_rates

    def scale(self, s: RealLike) -> Array:
        fallen = (1 - self.final_scale) * self.scale_curve.value(s)
        left = (1 - self.final_scale) * self.scale_curve.rest(s)
        return jnp.where(left > fallen, 1 - fallen, self.final_scale + left)  # exact at both ends

    def log_scale(self, s: RealLike) -> Array:
        return jnp.log(self.scale(s))

    def scale_rate(self, s: RealLike) -> Array:
        return -(1 - self.final_scale) * self.scale_curve.rate(s)

    def std(self, s: RealLike) -> Array:
        return self.final_std * safe_sqrt(self.var_curve.value(s))

    def var(self, s: RealLike) -> Array:
        return self.final_std**2 * self.var_curve.value(s)

    def var_rate(self, s: RealLike) -> Array:
        return self.final_std**2 * self.var_curve.rate(s)

    def log_snr(self, s: RealLike) -> Array:
        return 2 * self.log_scale(s) - jnp.log(self.var(s))

    def time_of_log_snr(self, value: RealLike) -> Array:
        value = as_float(value)
        return invert_log_snr(self, value.astype(jnp.result_type(value, self.t1)))

    def equilibrium_precision(self, s: RealLike) -> Array:
        return -2 * self.scale_rate(s) / self.scaled_sigma_squared(s)

    def equilibrium_gain(self, s: RealLike) -> Array:
        return self.var_rate(s) / self.scaled_sigma_squared(s)

    def scaled_sigma_squared(self, s: RealLike) -> Array:
        return self.var_rate(s) * self.scale(s) - 2 * self.scale_rate(s) * self.var(s)

    def noise_budget(self) -> Array:
        # (1/2) int sigma^2 = Sigma_T^2 / 2 + int (-mu'/mu) Sigma^2 ds, smooth between knots.
        nodes, weights = np.polynomial.legendre.leggauss(16)
        knots = [np.asarray(c.places) for c in (self.scale_curve, self.var_curve)]
        knots = np.unique(np.concatenate(knots))
        width = np.diff(knots)[:, None]
        times = as_float((knots[:-1, None] + width * (nodes + 1) / 2).reshape(-1))
        share = as_float((width * weights / 2).reshape(-1))
        erosion = -self.scale_rate(times) / self.scale(times) * self.var(times)
        total = self.final_std**2 / 2 + jnp.sum(share * erosion)
        return jnp.where(self.final_scale > 0, total, jnp.inf)


@eqx.filter_jit
def _ends_and_log_rates(
    process: AbstractGaussianProcess, num_knots: int
) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Scale and noise at the end of a process, and the log-rates of both at the knots."""
    places = as_float(np.asarray(knot_places(num_knots)))
    times = process.t0 + (process.t1 - process.t0) * places
    logs = (
        log_rates_of(places, 1 - process.scale(times), -process.scale_rate(times)),
        log_rates_of(places, process.var(times), process.var_rate(times)),
    )
    return (process.scale(process.t1), process.std(process.t1)), logs
