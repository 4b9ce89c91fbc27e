r"""The quadrature over time that every integral of a speed shares.

A speed has the scales of the data and those of the process: the noise level at which the data blur,
the time at which the signal fades, the kinks of a learned schedule. They may lie many powers of ten
apart, and a schedule under optimisation may hide its cost where a fixed rule does not evaluate it.
The variable of integration is therefore the sum of two,

$$q(s) = \log\frac{u}{1 - u} - \lambda(s), \qquad u = \frac{s - t_0}{t_1 - t_0},$$

which rises from $-\infty$ to $\infty$, whether the log-SNR $\lambda$ is finite at the ends or not.
A step of q is a small step of time and a small step of the noise level: nothing can be narrow in
both. Integrands fall off exponentially towards both ends and are smooth between, for which the
trapezoidal rule converges exponentially (Trefethen and Weideman, 2014). Steps are equal in $\xi$,
$q = c + a\sinh\xi$, with $c \pm a$ the range of q in which the data and the process move: close
there, and wide in the tails.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import safe_sqrt
from entropix._core.inversion import invert_log_snr
from entropix.interfaces import AbstractGaussianProcess


_SCAN = 256  # points at which the range of movement is found


class TimeAxis(eqx.Module):
    """The variable q of a process, from `t0` (or from a later time) to `t1`.

    Attributes:
        process: the process.
        t0: the first time.
        t1: the last.
        low: the least q at which an integrand is evaluated.
        high: the largest.
    """

    process: AbstractGaussianProcess
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    low: Float[Array, ""]
    high: Float[Array, ""]

    @classmethod
    def of(
        cls, process: AbstractGaussianProcess, least_variance: Array, start: Array | None = None
    ) -> "TimeAxis":
        """`least_variance` is the smallest scale of the data; `start` a log-SNR to begin at."""
        dtype = least_variance.dtype
        eps = jnp.asarray(jnp.finfo(dtype).eps, dtype)
        t0 = process.t0 if start is None else process.time_of_log_snr(start)
        t1 = process.t1
        length = t1 - t0
        early = eps
        tiny = jnp.asarray(jnp.finfo(dtype).tiny, dtype)
        least = jnp.maximum(jnp.sqrt(tiny), 4 * eps * jnp.abs(t0) / length)
        if start is None:
            # Where the noise is below the smallest scale by eps^(3/4), integrands have vanished;
            # noise whose variance underflows, as that of a high power of time, has no log-SNR.
            scale = jnp.minimum(least_variance, process.var(t1))
            levels = jnp.stack([-jnp.log(scale) - 1.5 * jnp.log(eps), -0.9 * jnp.log(tiny)])
            early, first = (process.time_of_log_snr(levels) - t0) / length
            least = jnp.maximum(least, first)
        early = jnp.clip(early, least, jnp.maximum(eps, least))
        whole = cls(process, t0, t1, -1 / eps, 1 / eps)
        low, high = whole.place(t0 + length * early), whole.place(t1 - length * 4 * eps)
        return cls(process, t0, t1, low, high)

    def place(self, s: Float[Array, "*k"]) -> Float[Array, "*k"]:
        """The variable q at times."""
        fraction = (s - self.t0) / (self.t1 - self.t0)
        return jnp.log(fraction) - jnp.log1p(-fraction) - self.process.log_snr(s)

    def log_snr(self, s: Float[Array, "*k"]) -> Float[Array, "*k"]:
        """-q, which falls: what `invert_log_snr` inverts."""
        return -self.place(s)

    def rule(self, places: Float[Array, " k"]) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
        """The times at values of q, and ds / dq."""
        times = invert_log_snr(self, -places)
        rate = jax.jvp(self.place, (times,), (jnp.ones_like(times),))[1]
        return times, 1 / rate

    def even(self, count: int, shift: Array | float) -> tuple[Array, Array, Array]:
        """Nodes at equal steps of q: their q, times and weights in ds."""
        step = (self.high - self.low) / count
        places = self.low + step * (jnp.arange(count) + shift)
        times, pace = self.rule(places)
        return places, times, step * pace

    def stretched(
        self, count: int, shift: Array | float, places: Array, movement: Array
    ) -> tuple[Array, Array]:
        """Times and weights that are dense where there is movement, a density at `places`."""
        total = jnp.sum(movement)
        movement = jnp.where(total > 0, movement, 1.0)  # data in equilibrium do not move
        covered = jnp.cumsum(movement) / jnp.sum(movement)
        ends = jnp.interp(jnp.asarray([0.03, 0.97], places.dtype), covered, places)
        centre = jnp.mean(ends)
        width = jnp.maximum(ends[1] - centre, 2.0)
        low = jnp.arcsinh((self.low - centre) / width)
        high = jnp.arcsinh((self.high - centre) / width)
        step = (high - low) / count
        xi = low + step * (jnp.arange(count) + shift)
        times, pace = self.rule(centre + width * jnp.sinh(xi))
        return times, step * width * jnp.cosh(xi) * pace


def movement_of(squared: Array, weights: Array) -> Array:
    """Where along the nodes of a rule the action and the length of squared speeds are made."""
    action, length = weights * squared, weights * safe_sqrt(squared)
    tiny = jnp.finfo(squared.dtype).tiny
    return action / jnp.maximum(jnp.sum(action), tiny) + length / jnp.maximum(jnp.sum(length), tiny)


def time_rule(
    process: AbstractGaussianProcess,
    variances: Float[Array, "*scales"],
    num_times: int,
    start: Array | None = None,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    r"""Times, increasing, and their weights in ds, for data of given variances.

    Args:
        process: the process.
        variances: scales of the data, such as the eigenvalues of their covariance.
        num_times: number of nodes.
        start: the log-SNR to begin at; None takes the whole axis.
    """
    variances = variances.reshape(-1)
    axis = TimeAxis.of(process, jnp.min(variances), start)
    places, times, weights = axis.even(_SCAN, 0.5)
    scale, rate = process.scale(times), process.scale_rate(times)
    # The mean, and a Gaussian of each variance.
    pull = (scale * rate)[:, None] * variances + process.var_rate(times)[:, None] / 2
    total = scale[:, None] ** 2 * variances + process.var(times)[:, None]
    squared = jnp.concatenate([(rate**2)[:, None], pull**2 / total], axis=1)
    movement = jnp.sum(jax.vmap(movement_of, in_axes=(1, None))(squared, weights), axis=0)
    if start is not None:
        movement = movement.at[0].add(jnp.sum(movement) / 10)  # the end at which it is cut
    return axis.stretched(num_times, 0.5, places, movement)
