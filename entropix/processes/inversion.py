r"""Inverting a decreasing log-SNR by bisection, differentiable to every order.

The time $s(\lambda, \theta)$ solves $\log\mathrm{snr}(s; \theta) = \lambda$. Its derivative follows
from the implicit function theorem, $ds = (d\lambda - \partial_\theta\log\mathrm{snr}\,d\theta) /
\partial_s\log\mathrm{snr}$. The rule is stated in terms of the inverse itself, so differentiating
it again gives the right second derivative, which one Newton step with a stopped slope would not.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.interfaces import AbstractGaussianProcess


@eqx.filter_custom_jvp
def invert_log_snr(process: AbstractGaussianProcess, value: Array) -> Array:
    """The time in `[process.t0, process.t1]` at which `process.log_snr` equals `value`."""
    # Halving reaches every float between t0 = 0 and t1: the exponent first, then the mantissa.
    steps = 80 if value.dtype == jnp.float32 else 160

    def halve(_: Array | int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = process.log_snr(middle) > value
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    start = jnp.broadcast_to(process.t0, value.shape).astype(value.dtype)
    stop = jnp.broadcast_to(process.t1, value.shape).astype(value.dtype)
    low, high = jax.lax.fori_loop(0, steps, halve, (start, stop))
    middle = (low + high) / 2
    middle = jnp.where(value >= process.log_snr(start), start, middle)
    return jnp.where(value <= process.log_snr(stop), stop, middle)


@invert_log_snr.def_jvp
def _invert_log_snr_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    process, value = primals
    process_dot, value_dot = tangents
    time = invert_log_snr(process, value)
    _, slope = jax.jvp(process.log_snr, (time,), (jnp.ones_like(time),))
    change = jnp.zeros_like(time) if value_dot is None else value_dot
    if any(leaf is not None for leaf in jax.tree.leaves(process_dot)):
        dynamic, static = eqx.partition(process, eqx.is_inexact_array)
        dots = jax.tree.map(
            lambda x, d: jnp.zeros_like(x) if d is None else d,
            dynamic,
            process_dot,
            is_leaf=lambda x: x is None,
        )

        def at_fixed_time(d: Any) -> Array:
            return eqx.combine(d, static).log_snr(time)

        _, moved = jax.jvp(at_fixed_time, (dynamic,), (dots,))
        change = change - moved
    inside = jnp.isfinite(slope) & (time > process.t0) & (time < process.t1)
    return time, jnp.where(inside, change / jnp.where(inside, slope, 1.0), 0.0)
