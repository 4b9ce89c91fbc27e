r"""A quadrature over time that an optimiser cannot fool.

An objective estimated at fixed places invites a schedule that hides its cost between them. Half of
the nodes are therefore Gauss-Legendre nodes in the clock w of the noise level (see
`entropix.transport.speed`), and half in $x$, $s = \sin^2(\pi x/2)$ on the unit interval of time:
nothing can be narrow in both. With a and b the densities of the two sets of nodes in time, each
node counts by the power heuristic (Veach and Guibas, 1995),

$$\int f\,ds = Q_w\left[\frac{a^2}{a^2 + b^2} f\right] + Q_x\left[\frac{b^2}{a^2 + b^2} f\right],$$

which is exact for the integrals and smooth in either variable, so that the rules stay spectral.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from entropix._core.interfaces import AbstractGaussianProcess
from entropix.transport.speed import clock, clock_end, time_nodes


def time_rule(
    process: AbstractGaussianProcess,
    variance: Array,
    num_times: int,
    start: Array | None = None,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Times (about `num_times`, in no order) and their weights in ds, from log-SNR `start` on."""
    half = (num_times + 1) // 2
    dtype = variance.dtype
    nodes, shares = (jnp.asarray(v, dtype) for v in np.polynomial.legendre.leggauss(half))
    begin = process.t0 if start is None else process.time_of_log_snr(start)
    length = process.t1 - begin

    by_clock, weights = time_nodes(process, variance, half, start)
    fraction = jnp.clip((by_clock - begin) / length, 0.0, 1.0)
    # Squared densities of nodes in time: 1/a^2 and 1/b^2, for which nothing is infinite.
    rare_a = (2 * weights / shares) ** 2
    rare_b = length**2 * jnp.pi**2 * fraction * (1 - fraction)
    total = rare_a + rare_b
    by_clock_weights = weights * rare_b / jnp.where(total > 0, total, 1.0)

    x = (nodes + 1) / 2
    sine, cosine = jnp.sin(jnp.pi / 2 * x), jnp.sin(jnp.pi / 2 * (1 - x))
    by_time = begin + length * sine**2
    inside = by_time < process.t1  # rounding
    by_time = jnp.where(inside, by_time, (process.t0 + process.t1) / 2)
    pace = length * jnp.pi * sine * cosine  # ds / dx

    def of_time(s: Array) -> Array:
        return clock(process.log_snr(s), variance)

    w, rate = jax.jvp(of_time, (by_time,), (jnp.ones_like(by_time),))
    first = jnp.zeros((), dtype) if start is None else clock(start, variance)
    last = clock_end(process, variance)
    # Beyond the end of the clock only these nodes are left.
    a_squared = jnp.where(w < last, (rate / (last - first)) ** 2, 0.0)
    by_time_weights = jnp.where(inside, shares / 2 * pace / (1 + a_squared * pace**2), 0.0)
    return (
        jnp.concatenate([by_clock, by_time]),
        jnp.concatenate([by_clock_weights, by_time_weights]),
    )
