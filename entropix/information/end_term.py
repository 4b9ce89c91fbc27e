r"""What an integral over a finite process leaves out at its noise end.

Information measures are $\int\frac{\sigma^2}{2}E[f]\,ds$ plus what is left at $t_1$. Were the
process run on, $f$ would fall off like the signal, and per unit log-SNR the rate
$\frac{\Sigma^2}{2}E[f]$ like $e^\lambda$, so that what is left is the rate itself at $t_1$, up to
terms of its square.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key
from entropix._core.estimate import Estimate
from entropix.entropy.curve import EntropyCurve, curve_of
from entropix.entropy.integrate import Integrand, gaussian_process, rate_at


_DRAWS = 2048


def with_end_term(
    functional: Integrand, data: Any, *, key: Key, condition: Any, **options: Any
) -> Estimate:
    """The integral of `functional` over the whole process, the end term as its bias."""
    return curve_with_end_term(functional, data, key=key, condition=condition, **options).total


def curve_with_end_term(
    functional: Integrand,
    data: Any,
    *,
    key: Key,
    condition: Any,
    times: Any = None,
    num_times: int = 2,
    **options: Any,
) -> EntropyCurve:
    """The same as it accumulates along the process; `times` as for `entropy_curve`."""
    integral_key, end_key = jax.random.split(key)
    curve = curve_of(
        functional,
        data,
        key=integral_key,
        condition=condition,
        times=times,
        num_times=num_times,
        control_variate=False,
        divergence=None,
        **options,
    )
    data = jnp.asarray(data, curve.total.value.dtype)
    left_out = _rate_at_end(functional, data, condition, end_key)
    return eqx.tree_at(lambda c: c.total.bias, curve, -left_out, is_leaf=lambda x: x is None)


@eqx.filter_jit
def _rate_at_end(functional: Integrand, data: Array, condition: Any, key: Key) -> Float[Array, ""]:
    process = gaussian_process(functional)
    index_key, noise_key = jax.random.split(key)
    index = jax.random.randint(index_key, (_DRAWS,), 0, data.shape[0])
    z = jax.random.normal(noise_key, (_DRAWS, *data.shape[1:]), data.dtype)

    def one(x: Array, z: Array, condition: Any) -> Array:
        return rate_at(functional, process.t1, x, z, condition)

    chosen = jax.tree.map(lambda leaf: leaf[index], condition)
    return jnp.mean(jax.vmap(one)(data[index], z, chosen))
