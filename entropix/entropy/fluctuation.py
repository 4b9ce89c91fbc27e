r"""The integral fluctuation theorem, and whether a sample can confirm it.

$E[e^{-\Sigma}] = 1$ over the trajectories of any process (Seifert, 2005). The average is dominated
by rare trajectories of negative entropy production. If $w = e^{-\Sigma}$ has no variance, the mean
of any number of samples lies below one and its standard error is meaningless. The sample itself
need not reveal this: trajectories that make the variance infinite can be too rare to occur in it.

$w$ is the density of the conjugate process (start from $p_T$, run the same dynamics, read the path
backwards) with respect to the forward one, so that

$$E[w^2] = \tilde E[w],$$

and conjugate trajectories visit the states that dominate the second moment. The variance is finite
if and only if the mean of $w$ over them is, which follows from the tail of those $w$. With $k$ the
shape of a generalised Pareto distribution fitted to the largest of them, moments of order below
$1/k$ exist (Vehtari et al., 1507.02646): a finite mean needs $k < 1$ there, and $k < 1/2$ in the
forward sample.
"""

import warnings
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import is_concrete, on_host, samples
from entropix._core.precision import full_precision
from entropix.dynamics import solve_forward
from entropix.entropy.path_entropy import Heat, PathEntropy, ends_of, log_density, path_entropy
from entropix.interfaces import AbstractModel, AbstractProcess, Estimate


class FluctuationTheorem(eqx.Module):
    r"""A test of $E[e^{-\Sigma}] = 1$ on a sample of trajectories.

    Attributes:
        estimate: the mean of $w = e^{-\Sigma}$, dimensionless.
        second_moment: $E[w^2]$, from conjugate trajectories; None where they were not run.
        effective_sample_size: $(\sum w)^2/\sum w^2$.
        tail_index: $k$ of the forward sample of $w$.
        conjugate_tail_index: $k$ of the conjugate sample; None where it was not run.
    """

    estimate: Estimate
    second_moment: Estimate | None
    effective_sample_size: Float[Array, ""]
    tail_index: Float[Array, ""]
    conjugate_tail_index: Float[Array, ""] | None

    @property
    def has_variance(self) -> Array:
        """Whether the tails are light enough for the standard error to be valid."""
        if self.conjugate_tail_index is None:
            return self.tail_index < 0.5
        return self.conjugate_tail_index < 1

    @property
    def deviation(self) -> Array:
        """How many standard errors the mean is above one."""
        return (self.estimate.value - 1) / self.estimate.stderr


@full_precision
def fluctuation_theorem(
    model: AbstractModel | AbstractProcess,
    x: DataLike,
    *,
    key: Key,
    log_p0: Callable | DataLike | None = None,
    log_pT: Callable | DataLike | None = None,
    num_steps: int = 128,
    **paths: Any,
) -> FluctuationTheorem:
    r"""Check $E[e^{-\Sigma}] = 1$ on forward trajectories that start at `x`.

    A `UserWarning` is given if $e^{-\Sigma}$ has no variance (outside of `jit`; inside, read
    `.has_variance`).

    Args:
        model: an `ExactModel`, whose densities are known, or any model or process.
        x: samples of the data distribution, shape (n, *shape), n at least 100.
        key: PRNG key.
        log_p0: log density of the data: a function of states (n, *shape) to (n,), or its values
            at `x`. None for that of an `ExactModel`.
        log_pT: log density at the last time, likewise.
        num_steps: number of steps of a path.
        **paths: further arguments of `path_entropy`.

    Returns:
        A `FluctuationTheorem`. Conjugate trajectories are run where the process has a static
        equilibrium and the densities are functions.

    Raises:
        ValueError: as `path_entropy`, and if there are fewer than 100 samples.

    References:
        Seifert, Phys. Rev. Lett. 95, 040602 (2005).
    """
    x = samples(x, "x", minimum=100)
    forward_key, conjugate_key = jax.random.split(key)
    forward = path_entropy(
        model, x, key=forward_key, log_p0=log_p0, log_pT=log_pT, num_steps=num_steps, **paths
    )
    process: Any = model.process if isinstance(model, AbstractModel) else model
    functions = all(given is None or callable(given) for given in (log_p0, log_pT))
    conjugate = None
    if getattr(process, "is_static", False) and functions:
        # The conjugate paths have end states and noise of their own.
        for name in ("save", "path"):
            paths.pop(name, None)
        ends = ends_of(process, paths.get("times"))
        before = log_density(log_p0, model, ends[0], "log_p0")
        after = log_density(log_pT, model, ends[1], "log_pT")
        back = solve_forward(
            process,
            forward.end,
            key=conjugate_key,
            num_steps=num_steps,
            functional=Heat(process),
            **paths,
        )
        # Read backwards: the path ends where it began, and the heat changes sign.
        conjugate = after(forward.end), before(back.final), back.functional[0]
    result = _theorem(forward, conjugate)
    if is_concrete(result) and not bool(on_host(result.has_variance)):
        conjugate_index = result.conjugate_tail_index
        seen = (
            f"the tail index of exp(-total entropy) is {float(result.tail_index):.2f} (the limit "
            "is 0.5)"
            if conjugate_index is None
            else f"its tail index over conjugate paths is {float(conjugate_index):.2f} (the limit "
            "is 1)"
        )
        warnings.warn(
            f"exp(-total entropy) has no variance: {seen}. Its mean is biased downwards and the "
            "standard error is meaningless.",
            stacklevel=2,
        )
    return result


@eqx.filter_jit
def _theorem(
    forward: PathEntropy, ends_and_heat: tuple[Array, Array, Array] | None
) -> FluctuationTheorem:
    log_weights, conjugate = -forward.total, None
    if ends_and_heat is not None:
        after, before, heat = ends_and_heat
        conjugate = after - before + heat[-1]
    scaled = jnp.exp(log_weights - jnp.max(log_weights))
    return FluctuationTheorem(
        _mean_exp(log_weights),
        None if conjugate is None else _mean_exp(conjugate),
        jnp.sum(scaled) ** 2 / jnp.sum(scaled**2),
        tail_index(log_weights),
        None if conjugate is None else tail_index(conjugate),
    )


def _mean_exp(values: Float[Array, " n"]) -> Estimate:
    """The mean of exp(values) over independent values."""
    largest = jnp.max(values)
    scaled, size = jnp.exp(values - largest), jnp.exp(largest)
    error = jnp.std(scaled, ddof=1) / jnp.sqrt(values.shape[0]) * size
    return Estimate(jnp.mean(scaled) * size, error, error, values.shape[0])


def tail_index(log_weights: Float[Array, " n"]) -> Float[Array, ""]:
    r"""Shape $k$ of a generalised Pareto fit to the largest weights.

    The estimator of Zhang and Stephens (2009) on the largest $\min(n/5, 3\sqrt n)$ weights, as in
    Pareto-smoothed importance sampling, without its shrinkage.
    """
    count = log_weights.shape[0]
    tail = int(min(0.2 * count, 3 * count**0.5))
    top = jax.lax.top_k(log_weights, tail + 1)[0]
    # Excesses over the threshold, ascending, in units of the largest weight.
    excess = (jnp.exp(top[:-1] - top[0]) - jnp.exp(top[-1] - top[0]))[::-1]
    tiny = jnp.finfo(excess.dtype).tiny
    grid = 30 + int(tail**0.5)
    quartile = jnp.maximum(excess[(tail + 2) // 4 - 1], tiny)
    spread = 1 - jnp.sqrt(grid / (jnp.arange(1, grid + 1) - 0.5))
    theta = 1 / excess[-1] + spread / (3 * quartile)
    shape = jnp.mean(jnp.log1p(-theta[:, None] * excess), axis=1)
    likelihood = tail * (jnp.log(-theta / shape) - shape - 1)
    weight = jax.nn.softmax(likelihood)
    best = jnp.sum(weight * theta)
    return jnp.mean(jnp.log1p(-best * excess))
