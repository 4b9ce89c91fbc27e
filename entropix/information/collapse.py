r"""Collapse onto n training points: where $I(x_0; Y_t) = \ln n$."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix._core.checks import is_concrete
from entropix._core.compiled import lightly_compiled
from entropix.entropy import ConditionalEntropy
from entropix.estimators import (
    GaussianReference,
    all_exact,
    integrate,
    log_snr_of_std,
    std_of_log_snr,
)
from entropix.information.crossing import (
    CriticalTime,
    crossing_of,
    is_missing,
    missing,
    refined,
)
from entropix.information.end_term import erasing_process
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, Estimate


# How far the search for a collapse goes beyond that of the Gaussian, in log-SNR.
_MARGINS = (2.0, 8.0, 24.0)


def collapse_of(
    model: AbstractModel,
    data: Array,
    count: int,
    cutoff: Array | None,
    key: Key,
    options: dict[str, Any],
) -> CriticalTime:
    """The collapse onto `count` points, from integrals with these options."""
    own = model.process
    level = jnp.log(jnp.asarray(float(count), data.dtype))
    gaussian, margins = _gaussian_collapse(data, level), _MARGINS
    log_snr = None if cutoff is None else log_snr_of_std(own, cutoff)
    if all_exact(model):  # known at any noise: taken along a process that ends in it
        model = model.with_process(erasing_process(GaussianReference.from_data(data).mean_variance))
    process, found = model.process, None
    beyond = _gaussian_information(process, data)
    first, second = jax.random.split(key)
    if not is_concrete((model, data)):
        margins = margins[-1:]
    for margin in margins:
        lowest = gaussian + margin if log_snr is None else log_snr
        std = std_of_log_snr(process, lowest)
        curve = integrate(ConditionalEntropy(model), data, key=first, cutoff=std, **options)
        found = crossing_of(process, curve, level - beyond.value)
        if log_snr is not None or not is_concrete(found) or bool(found.reached):
            break
    assert found is not None
    if is_missing(found):
        return missing(own, found)
    # With as many times as before, although one would do: the same program.
    total = integrate(
        ConditionalEntropy(model), data, key=second, cutoff=found.std, **options
    ).total
    return refined(
        own,
        process,
        found,
        _added(total, beyond),
        Estimate(level, jnp.zeros_like(level), jnp.zeros_like(level)),
    )


@lightly_compiled
def _added(total: Estimate, beyond: Estimate) -> Estimate:
    value, stderr = total.value + beyond.value, jnp.hypot(total.stderr, beyond.stderr)
    return eqx.tree_at(lambda e: (e.value, e.stderr), total, (value, stderr))


@lightly_compiled
def _gaussian_information(process: AbstractGaussianProcess, data: Array) -> Estimate:
    r"""$I(x_0; Y_T)$ of the Gaussian: the truth to second order in the signal-to-noise ratio."""
    signal = jnp.exp(process.log_snr(process.t1)) * GaussianReference.from_data(data).variances
    value = jnp.sum(jnp.log1p(signal)) / 2
    # What is not Gaussian changes the third order; it cannot change more than all.
    allowance = value * jnp.minimum(jnp.max(signal), 1.0)
    return Estimate(value, allowance, jnp.zeros_like(value))


@lightly_compiled
def _gaussian_collapse(data: Array, level: Array) -> Array:
    """The log-SNR of a Gaussian's collapse, which no density of its covariance precedes."""
    variances = GaussianReference.from_data(data).spread

    def information(log_snr: Array) -> Array:
        return jnp.sum(jax.nn.softplus(log_snr + jnp.log(variances))) / 2

    def halve(_: Array | int, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        low, high = bracket
        middle = (low + high) / 2
        above = information(middle) > level
        return jnp.where(above, low, middle), jnp.where(above, middle, high)

    # The largest variance alone would have 2 ln n; all of them at once have at least ln 2 per unit.
    top = 2 * level - jnp.log(jnp.max(variances)) + 2
    low = -jnp.log(jnp.max(variances)) - 2 * jnp.log(variances.size / level + 1) - 2
    return jax.lax.stop_gradient(jax.lax.fori_loop(0, 60, halve, (low, top))[1])
