r"""Speed limits: how far a diffusion carries the data, and what it pays for it.

With $v$ the velocity of the probability flow (Benamou and Brenier, 2000; Ikeda et al., 2407.04495;
Nakazato and Ito, 2103.00503),

$$W_2(p_0, p_T) \le \int\sqrt{E\|v\|^2}\,ds, \qquad
  \left(\int\sqrt{E\|v\|^2}\,ds\right)^2 \le (t_1 - t_0)\int E\|v\|^2\,ds, \qquad
  W_2^2 \le S_{tot}\int\frac{\sigma^2}{2}\,ds .$$

The first is the length of the path in the space of densities, the second its action, the third
the thermodynamic speed limit, which does not depend on the clock.

The densities at the two ends have moments $(m, C)$ and $(\mu m, \mu^2 C + \Sigma^2)$. The distance
of Gaussians with these moments bounds $W_2$ from below (Gelbrich, 1990), with equality for
Gaussian data; as the covariances commute, with $\lambda_j$ the eigenvalues of C,

$$W_2^2 \ge (1 - \mu)^2|m|^2 +
  \sum_j\left(\sqrt{\lambda_j} - \sqrt{\mu^2\lambda_j + \Sigma^2}\right)^2.$$
"""

import math
from typing import TYPE_CHECKING

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, safe_sqrt
from entropix._core.checks import positive_integer
from entropix._core.compiled import lightly_compiled
from entropix._core.display import axes_or_new, axis, label, lines_of
from entropix._core.precision import full_precision
from entropix.entropy import neural_entropy
from entropix.estimators import GaussianReference
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractResult, Estimate
from entropix.transport.couplings import Coupling, assignment, costs_of, sorted_coupling
from entropix.transport.speed import SpeedProfile, Speeds, check_speed_options, measure_speeds


if TYPE_CHECKING:
    from matplotlib.axes import Axes


class SpeedLimit(AbstractResult):
    r"""What `speed_limit` found. Lengths in units of the data, entropies in nats.

    Attributes:
        w2: $W_2(p_0, p_T)$ between samples: biased upwards in more than one dimension.
        w2_lower: the bound on $W_2$ from the first two moments, exact for Gaussian data. That of
            N samples is biased upwards: in $W_2^2$ by a multiple of $1/N$ that grows with the
            square of the dimension. Its `stderr` includes the bias of Gaussian data.
        length: $\int\sqrt{E\|v\|^2}\,ds$.
        action: $(t_1 - t_0)\int E\|v\|^2\,ds$.
        total_entropy: $\int\frac{2}{\sigma^2}E\|v\|^2\,ds$; infinite where that is known.
        budget: $\int\frac{\sigma^2}{2}\,ds$, exact; infinite where the process ends in pure noise.
        efficiency: $W_2^2/(S_{tot}\int\frac{\sigma^2}{2}ds)$, zero where either is infinite.
        times: times at which the speed was taken, increasing.
        speed: $\sqrt{E\|v\|^2}$ at those times.
        quadrature: error of the quadrature in time of `length` and `action`, a part of theirs.
        num_samples: sizes of the samples between which `w2` was computed.
        dim: numbers in one sample.
    """

    w2: Estimate = eqx.field(metadata=label("", "length"))
    w2_lower: Estimate = eqx.field(metadata=label("", "length"))
    length: Estimate = eqx.field(metadata=label("", "length"))
    action: Estimate = eqx.field(metadata=label("", "length squared"))
    total_entropy: Estimate = eqx.field(metadata=label())
    budget: Float[Array, "*seeds"] = eqx.field(metadata=label("", "length squared"))
    efficiency: Estimate = eqx.field(metadata=label("", "1"))
    times: Float[Array, "*seeds k"] = eqx.field(metadata=axis("time", "time"))
    speed: Float[Array, "*seeds k"] = eqx.field(metadata=label("time", "length per unit time"))
    quadrature: Float[Array, "*seeds 2"]
    num_samples: int = eqx.field(static=True)
    dim: int = eqx.field(static=True)

    def plot(self, ax: "Axes | None" = None) -> "Axes":
        """Draw the speed of the densities against time; the area below it is the length."""
        ax = axes_or_new(ax)
        for times, speed in zip(lines_of(self.times), lines_of(self.speed), strict=True):
            (line,) = ax.plot(times, speed, lw=1.2)
            ax.fill_between(times, speed, color=line.get_color(), alpha=0.15, lw=0)
        ax.set_ylim(bottom=0)
        ax.set_xlabel("time")
        ax.set_ylabel("speed [length per unit time]")
        return ax

    @property
    def efficiency_lower(self) -> Float[Array, "*seeds"]:
        """The efficiency with `w2_lower` in place of `w2`: free of the bias of `w2`."""
        cost = self.total_entropy.value * self.budget
        return jnp.where(jnp.isfinite(cost), self.w2_lower.value**2 / cost, 0.0)

    @property
    def slack(self) -> dict[str, Array]:
        """By how many standard errors each inequality holds; negative where it does not.

        In more than one dimension they are judged by `w2_lower`, as `w2` is biased upwards.
        Infinite where the right side is, or where neither side has an error.
        """
        limit = self.total_entropy.value * self.budget
        width = self.budget * self.total_entropy.stderr
        w2 = self.w2 if self.dim == 1 else self.w2_lower
        length, action = self.length, self.action

        def slack(low: Array, low_error: Array, high: Array, high_error: Array) -> Array:
            finite = jnp.isfinite(high)
            safe = jnp.where(finite, high, 0.0)
            gap = safe * (1 + 1e-5) - low
            error = jnp.hypot(low_error, jnp.where(finite, high_error, 0.0))
            certain = jnp.where(gap >= 0, jnp.inf, -jnp.inf)
            ratio = jnp.where(error > 0, gap / jnp.where(error > 0, error, 1.0), certain)
            return jnp.where(finite, ratio, jnp.inf)

        squared = w2.value**2, 2 * w2.value * w2.stderr
        # Both sides come from the same speeds: the Jensen inequality has no sampling error.
        of_length, of_action = self.quadrature[..., 0], self.quadrature[..., 1]
        squared_length = length.value**2, 2 * length.value * of_length
        return {
            "W2 <= length": slack(w2.value, w2.stderr, length.value, length.stderr),
            "length^2 <= action": slack(*squared_length, action.value, of_action),
            "W2^2 <= S_tot * budget": slack(*squared, limit, width),
        }

    @property
    def inequalities(self) -> dict[str, Array]:
        """Whether each inequality holds, to within four standard errors.

        They are theorems for the exact velocity; a network's may violate them.
        """
        return {name: slack >= -4 for name, slack in self.slack.items()}

    def __str__(self) -> str:
        if any(isinstance(leaf, jax.core.Tracer) for leaf in jax.tree.leaves(self)):
            return eqx.tree_pformat(self)
        rows = {
            f"W2 (n = {self.num_samples})": self.w2,
            "W2, lower bound": self.w2_lower,
            "length": self.length,
            "action": self.action,
            "total entropy (nats)": self.total_entropy,
            "budget": self.budget,
            "efficiency": self.efficiency,
        }
        known = {"budget": self.budget, "total entropy": self.total_entropy.value}
        infinite = [name for name, part in known.items() if not bool(jnp.all(jnp.isfinite(part)))]
        for name, slack in self.slack.items():
            least = float(jnp.min(slack))
            verdict = "holds" if least >= -4 else "VIOLATED"
            if "budget" in name and infinite:
                verdict = f"holds, but says nothing: the {infinite[0]} is infinite"
            elif jnp.isfinite(least):
                verdict += f", by {abs(least):.3g} standard errors"
            rows[name] = verdict
        return "\n".join(f"{name:<22} {value}" for name, value in rows.items())


@full_precision
def speed_limit(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    num_times: int = 64,
    num_samples: int = 4096,
    num_evaluations: int = 16_384,
    max_exact: int = 1000,
    condition: PyTree = None,
    cutoff: RealScalarLike | None = None,
    chunk_size: int = 4096,
) -> SpeedLimit:
    r"""Compare the transport along a model's probability flow with its cost.

    Differentiable in the model, its process included (the optimal coupling is held fixed, by the
    envelope theorem). Standard errors cover the sampling of the data and of the noise; those of
    length and action also the quadrature in time and rounding, as estimated from two sets of nodes.
    The nodes are doubled, at most four times, while their error exceeds 1e-4 of the value and a
    quarter of the sampling error; in a transformation of JAX (`jit`, `grad`, `vmap`) it is only
    stated. It is infinite where an integral does not converge at the data end, as the action of
    finite data under a variance-preserving process. Length, action, entropy and `w2_lower` have a
    Gaussian control variate: of a Gaussian model they have no noise but that of the moments of
    `data`. $W_2$ is that of finite samples, which exceeds $W_2(p_0, p_T)$ by an amount that in
    $D > 2$ dimensions falls like $n^{-1/D}$; its error includes the amount that Gaussian samples
    of the same number and moments have. `w2_lower` bounds it from the other side.

    Args:
        model: any model; the inequalities are theorems for an `ExactModel`.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_times: nodes of the quadrature in time at which the model is evaluated.
        num_samples: points at which each time's velocity is evaluated: half as many data points
            (all of them, if fewer), each with two or more draws of the noise.
        num_evaluations: evaluations for the total entropy, see `neural_entropy`.
        max_exact: largest number of points for the optimal assignment in more than one dimension.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included in the total entropy; None takes the
            whole axis, or reports infinity where that is known. The speed limit is a theorem for
            the whole axis only.
        chunk_size: evaluations held in memory at once.

    Returns:
        A `SpeedLimit`.

    Raises:
        ValueError: if an argument is malformed.
        DivergenceError: if the entropy turns out infinite (see `neural_entropy`) and no cut-off was
            given.

    References:
        Benamou and Brenier, 2000; Ikeda, Uda, Okanohara and Ito, 2407.04495.

    Example:
        >>> import entropix as ex, jax
        >>> data = ex.Gaussian([0.5], [[0.25]])
        >>> model = ex.ExactModel(data, ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0)))
        >>> x = data.sample(100, key=jax.random.key(0))
        >>> limit = ex.speed_limit(model, x, key=jax.random.key(1), num_times=16, num_samples=200)
        >>> print(all(bool(holds) for holds in limit.inequalities.values()))
        True
    """
    data, condition = check_speed_options(
        model,
        data,
        condition,
        key,
        num_times=num_times,
        num_samples=num_samples,
        chunk_size=chunk_size,
    )
    positive_integer(max_exact, "max_exact", 2)
    entropy_key, rest_key = jax.random.split(key)
    if model.divergence is not None and cutoff is None:
        infinite = jnp.full((), jnp.inf, data.dtype)
        total_entropy = Estimate(infinite, jnp.zeros_like(infinite), jnp.zeros_like(infinite))
    else:
        total_entropy = neural_entropy(
            model,
            data,
            key=entropy_key,
            num_evaluations=num_evaluations,
            condition=condition,
            cutoff=cutoff,
            chunk_size=chunk_size,
        )
    counts = {"num_times": num_times, "num_samples": num_samples, "chunk": chunk_size}
    ends, profile, speeds = measure_speeds(model, data, condition, key=rest_key, **counts)
    line = math.prod(data.shape[1:]) == 1
    start, end = ends if line else (part[:max_exact] for part in ends)
    pair = _gaussian_pair(model.process, data, len(start), jax.random.fold_in(rest_key, 1))

    def couple(start: Array, end: Array) -> Coupling:
        return sorted_coupling(start, end) if line else assignment(start, end, 2.0)

    couplings = couple(start, end), couple(*pair)
    return _report(model.process, data, ends, pair, couplings, profile, speeds, total_entropy)


@lightly_compiled
def _gaussian_pair(
    process: AbstractGaussianProcess, data: Array, count: int, key: Key
) -> tuple[Array, Array]:
    """Samples of both ends for Gaussian data with the moments of these, in their eigenbasis."""
    data_key, noise_key = jax.random.split(key)
    reference = GaussianReference.from_data(data)
    shape = count, reference.mean.shape[0]
    spread = jnp.sqrt(reference.variances) * jax.random.normal(data_key, shape, data.dtype)
    start = reference.mean + spread
    z = jax.random.normal(noise_key, shape, data.dtype)
    end = process.scale(process.t1) * start + process.std(process.t1) * z
    return jax.lax.stop_gradient((start, end))


def squared_lower_bound(
    process: AbstractGaussianProcess, x: Float[Array, "n dim"]
) -> tuple[Float[Array, ""], Float[Array, " n"], Float[Array, ""]]:
    r"""The bound on $W_2^2$ between `t0` and `t1`, each sample's influence on it, and its bias.

    The bound is convex in the covariance: that of samples is too large, to first order in 1/n by

    $$\frac1n\left[(1-\mu)^2\,\mathrm{tr}\,C - \sum_j g'(\lambda_j)\lambda_j + \frac12\left(\sum_j
      b_j\right)^2 + \frac12\sum_j b_j^2\right], \qquad b_j = \lambda_j\sqrt{g''(\lambda_j)}$$

    for isotropic Gaussian data, $g(\lambda)$ being the terms of the sum.
    """
    scale, var = process.scale(process.t1), process.var(process.t1)
    count, dim = x.shape
    mean = jnp.mean(x, axis=0)
    centred = x - mean
    if dim <= count:
        values, basis = jnp.linalg.eigh(centred.T @ centred / count)
        coordinates = centred @ basis
    else:  # the same eigenvalues but for zeros
        values, basis = jnp.linalg.eigh(centred @ centred.T / count)
        coordinates = basis * jnp.sqrt(count * jnp.maximum(values, 0.0))
    least = 10 * jnp.finfo(x.dtype).eps * jnp.maximum(values[-1], jnp.finfo(x.dtype).tiny)
    varies = values > least
    safe = jnp.where(varies, values, 1.0)
    start, end = jnp.where(varies, jnp.sqrt(safe), 0.0), jnp.sqrt(scale**2 * safe + var)
    end = jnp.where(varies, end, jnp.sqrt(var))
    shift = (1 - scale) ** 2 * mean
    # start - end, which cancels where the data are wide against the noise.
    gap = jnp.where(varies, ((1 - scale) * (1 + scale) * safe - var) / (start + end), -end)
    bound = shift @ mean + jnp.sum(gap**2) + (dim - values.shape[0]) * var
    # d/d lambda of each term; for directions without variance the data have no influence.
    slope = jnp.where(varies, gap * (1 / jnp.sqrt(safe) - scale**2 / end), 0.0)
    influence = 2 * centred @ shift + (coordinates**2 - values) @ slope
    bend = safe_sqrt(var**2 * start / (2 * end**3))
    bias = (jnp.sum(bend) ** 2 + jnp.sum(bend**2)) / 2 - values @ slope
    bias = (bias + (1 - scale) ** 2 * jnp.sum(values)) / count
    return bound, influence, jax.lax.stop_gradient(jnp.maximum(bias, 0.0))


def _split_errors(
    of_data: Float[Array, " n"], of_noise: Float[Array, " n"], population: int
) -> tuple[Array, Array]:
    """`errors_of` where a point's influence is known as the sum of the datum's and the noise's."""
    of_data, of_noise = jax.lax.stop_gradient((of_data, of_noise))
    count = of_data.shape[0]
    both = jnp.var(of_data + of_noise, ddof=1)
    alone = jnp.var(of_noise, ddof=1) + (1 - count / population) * jnp.var(of_data, ddof=1)
    return jnp.sqrt(both / count), jnp.sqrt(alone / count)


@lightly_compiled
def _report(
    process: AbstractGaussianProcess,
    data: Array,
    ends: tuple[Array, Array],
    pair: tuple[Array, Array],
    couplings: tuple[Coupling, Coupling],
    profile: SpeedProfile,
    speeds: Speeds,
    total_entropy: Estimate,
) -> SpeedLimit:
    coupling, other = couplings
    population, number = data.shape[0], coupling.partner.shape[0]
    squared = jnp.mean(costs_of(ends[0][:number], ends[1][coupling.partner], 2.0))
    # W2^2 of Gaussian samples less that of their own moments: the bias of so few points.
    found = jnp.mean(costs_of(pair[0], pair[1][other.partner], 2.0))
    means, stds = (f(pair[0], axis=0) - f(pair[1], axis=0) for f in (jnp.mean, jnp.std))
    few = jax.lax.stop_gradient(jnp.maximum(found - jnp.sum(means**2 + stds**2), 0.0))
    errors = _split_errors(coupling.u, coupling.v, population)
    squared_error = jnp.hypot(errors[0], few), jnp.hypot(errors[1], few)
    lower, influence, bias = squared_lower_bound(process, data.reshape(population, -1))
    lower_error = _split_errors(influence, jnp.zeros_like(influence), population)
    # The potentials used the first draw of the noise: another draw leaves what the data share.
    of_entropy = (speeds.entropy.residual[:, 1] + speeds.entropy.of_data)[:number]
    potential = coupling.u + coupling.v
    shared = jnp.mean((potential - jnp.mean(potential)) * (of_entropy - jnp.mean(of_entropy)))
    budget = process.noise_budget()
    return SpeedLimit(
        w2=_root(squared, squared_error),
        w2_lower=_root(lower, (jnp.hypot(lower_error[0], bias), lower_error[1])),
        length=speeds.length.estimate(population, speeds.evaluations),
        action=speeds.action.estimate(population, speeds.evaluations),
        total_entropy=total_entropy,
        budget=budget,
        efficiency=_ratio(squared, squared_error, total_entropy, budget, shared / population),
        times=profile.times,
        speed=profile.speed,
        quadrature=jnp.stack([speeds.length.quadrature, speeds.action.quadrature]),
        num_samples=number,
        dim=ends[0].shape[1],
    )


def _root(value: Array, errors: tuple[Array, Array]) -> Estimate:
    root = safe_sqrt(value)
    half = jnp.where(root > 0, 1 / (2 * jnp.where(root > 0, root, 1.0)), 0.0)
    return Estimate(root, half * errors[0], half * errors[1])


def _ratio(
    squared: Array, errors: tuple[Array, Array], total: Estimate, budget: Array, shared: Array
) -> Estimate:
    r"""$W_2^2/(S_{tot}\,\mathrm{budget})$; `shared` is the covariance that the data cause."""
    finite = jnp.isfinite(total.value) & jnp.isfinite(budget) & (total.value > 0) & (squared > 0)
    entropy = jnp.where(finite, total.value, 1.0)
    value = jnp.where(finite, squared / (entropy * jnp.where(finite, budget, 1.0)), 0.0)
    top = jnp.where(finite, squared, 1.0)

    def error(of_top: Array, of_entropy: Array, covariance: Array | float) -> Array:
        a, b = of_top / top, jnp.where(finite, of_entropy, 0.0) / entropy
        variance = jnp.maximum(a**2 + b**2 - 2 * covariance / (top * entropy), (a - b) ** 2)
        return jax.lax.stop_gradient(value * jnp.sqrt(variance))

    return Estimate(
        value,
        error(errors[0], total.stderr, shared),
        error(errors[1], total.mc_stderr, 0.0),
        total.num_evaluations,
    )
