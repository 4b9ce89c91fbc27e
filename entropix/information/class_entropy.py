r"""The entropy of the class given the noisy state, $H(C|Y_t) = H(C) - I(C; Y_t)$."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix._core.checks import is_concrete
from entropix.estimators import (
    EntropyCurve,
    finite_log_snr,
)
from entropix.information.crossing import (
    CriticalTime,
    crossing_of,
    is_missing,
    missing,
    ou_time_of,
    refined,
)
from entropix.information.end_term import curve_with_end_term
from entropix.information.forms import DenoisingForm, ScoreForm
from entropix.interfaces import Estimate


class ClassEntropy(eqx.Module):
    r"""The entropy of the class given the noisy state, from the data end to the noise end, in nats.

    Attributes:
        log_snr: shape (K,), decreasing; infinite at exact ends.
        time: of the model's process, shape (K,).
        ou_time: shape (K,).
        value: $H(C|Y)$, shape (K,). It is not clipped to $[0, H(C)]$.
        stderr: its standard error, for the population.
        rate: $dH(C|Y)/d(-\lambda)$ around each of them, per unit of log-SNR.
        rate_stderr: its standard error (Monte Carlo).
        prior: $H(C)$, the entropy of the frequencies of the classes.
        half: where $H(C|Y) = H(C)/2$.
    """

    log_snr: Float[Array, " k"]
    time: Float[Array, " k"]
    ou_time: Float[Array, " k"]
    value: Float[Array, " k"]
    stderr: Float[Array, " k"]
    rate: Float[Array, " k"]
    rate_stderr: Float[Array, " k"]
    prior: Estimate
    half: CriticalTime


def class_entropy_of(
    functional: ScoreForm | DenoisingForm,
    data: Array,
    labels: PyTree,
    cutoff: Array | None,
    key: Key,
    options: dict[str, Any],
) -> ClassEntropy:
    """The class entropy along the process of `functional`, from integrals with these options."""
    process = functional.process
    first, second = jax.random.split(key)
    prior = _label_entropy(labels, data.dtype)
    options = {"condition": (labels, None), **options}
    curve = curve_with_end_term(functional, data, key=first, cutoff=cutoff, **options)
    level = jax.tree.map(lambda leaf: leaf / 2, prior)
    found = crossing_of(process, curve, level.value)
    if is_missing(found):
        return _class_curve(curve, prior, missing(process, found))
    total = curve_with_end_term(functional, data, key=second, cutoff=found.std, **options).total
    return _class_curve(curve, prior, refined(process, process, found, total, level))


@eqx.filter_jit
def _class_curve(curve: EntropyCurve, prior: Estimate, half: CriticalTime) -> ClassEntropy:
    level = -finite_log_snr(curve.log_snr)
    rate, rate_stderr = curve.rates_along(level)
    return ClassEntropy(
        log_snr=curve.log_snr,
        time=curve.times,
        ou_time=ou_time_of(curve.log_snr),
        value=prior.value - curve.cumulative,
        stderr=jnp.hypot(curve.stderr, prior.stderr),
        rate=-rate,
        rate_stderr=rate_stderr,
        prior=prior,
        half=half,
    )


def _label_entropy(labels: PyTree, dtype: Any) -> Estimate:
    """H(C) of the frequencies, with the standard error of the mean of -ln p(c)."""
    leaves = [leaf.reshape(leaf.shape[0], -1) for leaf in jax.tree.leaves(labels)]
    if is_concrete(leaves):
        rows = np.concatenate([np.asarray(leaf, float) for leaf in leaves], axis=1)
        _, counts = np.unique(rows, axis=0, return_counts=True)
        if 2 * len(counts) > len(rows):
            raise ValueError(
                f"`labels` must be classes with several samples each, got {len(counts)} distinct "
                f"ones in {len(rows)} samples."
            )
        if len(counts) < 2:
            raise ValueError(f"`labels` must hold several classes, got {len(rows)} equal ones.")
        share = counts / len(rows)
        value = -np.sum(share * np.log(share))
        spread = np.sqrt(max(np.sum(share * np.log(share) ** 2) - value**2, 0.0) / len(rows))
        return Estimate(jnp.asarray(value, dtype), jnp.asarray(spread, dtype), jnp.zeros((), dtype))
    return _traced_label_entropy(leaves, dtype)


@eqx.filter_jit
def _traced_label_entropy(leaves: list[Array], dtype: Any) -> Estimate:
    count = leaves[0].shape[0]
    rows = jnp.concatenate([leaf.astype(dtype) for leaf in leaves], axis=1)
    _, index, counts = jnp.unique(rows, axis=0, size=count, return_inverse=True, return_counts=True)
    surprise = -jnp.log(counts[index.reshape(-1)] / count).astype(dtype)
    stderr = jnp.std(surprise) / np.sqrt(count)
    return Estimate(jnp.mean(surprise), stderr, jnp.zeros_like(stderr))
