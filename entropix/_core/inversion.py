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


def log_snr_at(process: Any, s: Array) -> Array:
    """`process.log_snr(s)`; infinite values, at exact ends, have zero derivatives, not NaN."""
    frozen = jax.lax.stop_gradient(process.log_snr(s))
    inside = jnp.isfinite(frozen)
    middle = (process.t0 + process.t1) / 2
    return jnp.where(inside, process.log_snr(jnp.where(inside, s, middle)), frozen)


@eqx.filter_custom_jvp
def invert_log_snr(process: Any, value: Array) -> Array:
    """The time in `[process.t0, process.t1]` at which the falling `process.log_snr` is `value`."""
    return _bisect(process, value)


@invert_log_snr.def_jvp
def _invert_log_snr_jvp(primals: Any, tangents: Any) -> tuple[Array, Array]:
    process, value = primals
    process_dot, value_dot = tangents
    time = invert_log_snr(process, value)
    # A clamped time does not move. Its derivatives are masked, and taken where they are finite:
    # zero times infinity would be NaN.
    inside = (time > process.t0) & (time < process.t1)
    at = jnp.where(inside, time, (process.t0 + process.t1) / 2)
    _, slope = jax.jvp(process.log_snr, (at,), (jnp.ones_like(at),))
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
            return eqx.combine(d, static).log_snr(at)

        _, moved = jax.jvp(at_fixed_time, (dynamic,), (dots,))
        change = change - moved
    return time, jnp.where(inside, change / slope, 0.0)


@eqx.filter_jit
def _bisect(process: Any, value: Array) -> Array:
    # Non-negative floats are ordered like their bits read as integers: halving those finds the
    # exponent and the mantissa, from 1 down to the smallest float, in one step per bit.
    dtype = value.dtype
    bits = {2: jnp.int16, 4: jnp.int32, 8: jnp.int64}[dtype.itemsize]
    length = jnp.asarray(process.t1 - process.t0, dtype)

    def time(code: Array) -> Array:
        return process.t0.astype(dtype) + jax.lax.bitcast_convert_type(code, dtype)

    def halve(_: Array | int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = low + (high - low) // 2
        above = process.log_snr(time(middle)) > value
        return jnp.where(above, middle, low), jnp.where(above, high, middle)

    high = jnp.broadcast_to(jax.lax.bitcast_convert_type(length, bits), value.shape)
    bracket = jax.lax.fori_loop(0, 8 * dtype.itemsize, halve, (jnp.zeros_like(high), high))
    inverse = time(bracket[1])
    inverse = jnp.where(value >= process.log_snr(process.t0), process.t0.astype(dtype), inverse)
    return jnp.where(value <= process.log_snr(process.t1), process.t1.astype(dtype), inverse)
