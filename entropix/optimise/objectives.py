r"""Objectives of a schedule: actions of speeds, a variance, and errors of a sampler.

Those that are speeds measure how fast something changes along the process: see `AbstractSpeed`,
which has the annotations of their methods.

The errors of a sampler are those of few steps, uniform in the time of the process,
$s_i = t_1 - i\,(t_1 - s_\epsilon)/n$, down to the time $s_\epsilon$ at which the noise has a
standard deviation `cutoff`: a schedule is a choice of where a sampler puts its steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, squared_norm
from entropix._core.checks import positive, positive_integer
from entropix.distributions import Empirical
from entropix.estimators import log_snr_of_std
from entropix.interfaces import (
    AbstractDistribution,
    AbstractGaussianProcess,
    AbstractModel,
    AbstractSpeed,
    DivergenceError,
)
from entropix.models import ExactModel
from entropix.optimise.posterior import AbstractPosterior, DataNoisePairs, average, posterior_curve
from entropix.transport import time_rule


def gaussian(process: PyTree) -> AbstractGaussianProcess:
    """Refuse a process without closed-form marginals."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
    return process


class KineticAction(AbstractSpeed):
    r"""The action of the probability flow, $(t_1 - t_0)\int E\|v\|^2\,ds$.

    It bounds $W_2^2(p_0, p_T)$ from above, with equality for optimal transport at constant speed
    (Benamou and Brenier, 2000; Ikeda et al., 2407.04495). Over the clocks of one path its minimum
    is the squared length of the path.

    The action of a distribution comes from its posterior moments, which are measured once for all
    processes (see `posterior_curve`); that of a model from its velocity under the process that is
    given (`with_process`: the same denoiser), at fixed points and draws of the noise. With a curve
    that was measured from a model it is as cheap as that of a distribution.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`, which also explains
            `data`, `key`, `num_samples`, `condition` and `chunk_size`.
        num_times: nodes of the quadrature in time; None takes 256, or 96 for a model.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior | AbstractModel
    pairs: DataNoisePairs | None
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: PyTree,
        data: DataLike | None = None,
        *,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int | None = None,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        self.chunk_size = positive_integer(chunk_size, "chunk_size")
        options = {"key": key, "num_samples": num_samples}
        self.pairs = None
        if isinstance(source, AbstractModel):
            self.source = source
            self.pairs = DataNoisePairs.of(source, data, condition, **options)
        else:
            self.source = posterior_curve(source, data, chunk_size=chunk_size, **options)
        default = num_times or (256 if self.pairs is None else 96)
        self.num_times = positive_integer(default, "num_times", 2)

    def nodes(self, process, num_times=None):
        variance = _variance(self.source, self.pairs)
        return time_rule(gaussian(process), variance, num_times or self.num_times)

    @eqx.filter_jit
    def squared_rate(self, process, times):
        if isinstance(self.source, AbstractPosterior):
            return self.source.squared_speed(gaussian(process), times)
        assert self.pairs is not None
        model = self.source.with_process(process)

        def squared(s: Array, y: Array, condition: PyTree) -> Array:
            return squared_norm(model.velocity(s, y, condition))

        return average(squared, process, times, self.pairs, self.chunk_size)


class ScoreOptimalLength(AbstractSpeed):
    r"""The action of the score, $(t_1 - t_0)\int\Sigma^2\,E\|\partial_s\nabla\log p_s\|^2\,ds$.

    Its length, $\int\Sigma\sqrt{E\|\partial_s\nabla\log p_s\|^2}\,ds$, measures how often the score
    changes by as much as the noise is wide; the schedule at constant speed puts equal shares of it
    in equal times (Williams et al., 2412.07877). `length` is that length, the same for every clock;
    calling the objective gives the action, whose minimum is its square.

    Args:
        source: a distribution or a model; for `data`, `key`, `num_samples`, `condition` and
            `chunk_size` see `posterior_curve`.
        num_times: nodes of the quadrature in time.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractDistribution | AbstractModel
    pairs: DataNoisePairs
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: PyTree,
        data: DataLike | None = None,
        *,
        key: Key | None = None,
        num_samples: int = 512,
        num_times: int = 128,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        self.source = source
        self.pairs = DataNoisePairs.of(source, data, condition, key=key, num_samples=num_samples)
        self.num_times = positive_integer(num_times, "num_times", 2)
        self.chunk_size = positive_integer(chunk_size, "chunk_size")

    def nodes(self, process, num_times=None):
        return time_rule(gaussian(process), self.pairs.variance, num_times or self.num_times)

    @eqx.filter_jit
    def squared_rate(self, process, times):
        process = gaussian(process)
        if isinstance(self.source, AbstractDistribution):
            model = ExactModel(self.source, process)
        else:
            model = self.source.with_process(process)

        def change(s: Array, y: Array, condition: PyTree) -> Array:
            def score(r: Array) -> Array:
                return model.score(r, y, condition)

            return process.var(s) * squared_norm(jax.jvp(score, (s,), (jnp.ones_like(s),))[1])

        return average(change, process, times, self.pairs, self.chunk_size)


class EntropicTime(AbstractSpeed):
    r"""Entropic time: equal gains of information about the data in equal times.

    The rate is that at which the diffusion forgets the data,

    $$\frac{d}{ds}H[x\,|\,Y_s] = \frac{\sigma^2}{2}\left(\frac{D}{\Sigma^2} -
      E\|\nabla\log p_s\|^2\right) = -\frac12\frac{d\lambda}{ds}\,e^\lambda\,
      \mathrm{mmse}(\lambda)$$

    (Stančević et al., 2504.13612). The conditional entropy of a density has no lower bound: it is
    resolved down to a noise of standard deviation `cutoff`, by a factor
    $\Sigma^2/(\Sigma^2 + \mathrm{cutoff}^2)$ in the rate. Finite data (`Empirical`) need none.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`, which also explains
            `data`, `key`, `num_samples`, `condition` and `chunk_size`.
        cutoff: positive; None only for finite data.
        num_times: nodes of the quadrature in time.

    Raises:
        ValueError: if an argument is missing or malformed.
        DivergenceError: if `cutoff` is missing for a density.
    """

    source: AbstractPosterior
    cutoff: Float[Array, ""] | None
    num_times: int = eqx.field(static=True)

    def __init__(
        self,
        source: PyTree,
        data: DataLike | None = None,
        *,
        cutoff: RealScalarLike | None = None,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int = 256,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        if cutoff is None and not isinstance(source, Empirical):
            raise DivergenceError(
                "`cutoff` must be given: the conditional entropy of a density has no lower bound.",
                remedy="cutoff",
            )
        self.cutoff = None if cutoff is None else positive(cutoff, "cutoff", shape=())
        options = {"key": key, "num_samples": num_samples, "chunk_size": chunk_size}
        self.source = posterior_curve(source, data, condition=condition, **options)
        self.num_times = positive_integer(num_times, "num_times", 2)

    def nodes(self, process, num_times=None):
        scales = self.source.scales.reshape(-1)
        if self.cutoff is not None:
            scales = jnp.append(scales, self.cutoff**2)
        return time_rule(gaussian(process), scales, num_times or self.num_times)

    @eqx.filter_jit
    def squared_rate(self, process, times):
        # (sigma^2 / 2) exp(lambda) M / Sigma^2, with Sigma^2 raised by the cut-off.
        error = self.source.moments(gaussian(process).log_snr(times)).error
        gain = process.scaled_sigma_squared(times) * process.scale(times) * error
        var = process.var(times)
        width = jnp.maximum(var, jnp.finfo(var.dtype).tiny)
        if self.cutoff is not None:
            width = var + self.cutoff**2
        return (gain / (2 * self.source.total_noise(process, times) * width)) ** 2


class EstimatorVariance(eqx.Module):
    r"""The variance of the single-sample estimate of a likelihood bound or a path KL.

    With s uniform on $[s_\epsilon, t_1]$ and $\Sigma(s_\epsilon)$ the cut-off, one draw of

    $$(t_1 - s_\epsilon)\,\frac{-\lambda'(s)}{2}\,\|z - \hat z\|^2, \qquad \text{or} \qquad
      (t_1 - s_\epsilon)\,\frac{\sigma^2}{2}\,\|e - e_{ref}\|^2 \text{ with a reference model},$$

    has a mean that does not depend on the schedule between fixed ends, and a variance that does
    (Kingma et al., 2107.00630, section 5.1 and appendix I): the least is reached where the second
    moment per unit time is constant. It is the noise of training with uniform times.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`, which also explains
            `data`, `key`, `num_samples`, `condition` and `chunk_size`; with `reference_model`, a
            model.
        reference_model: the model from which `source` diverges.
        cutoff: positive. The bound's variance is infinite without one; a path KL's need not be.
        num_times: nodes of the quadrature in time; None takes 256, or 64 for a path KL.

    Raises:
        ValueError: if an argument is missing or malformed.
        DivergenceError: if `cutoff` is missing for the bound.
    """

    source: AbstractPosterior | AbstractModel
    reference_model: AbstractModel | None
    pairs: DataNoisePairs | None
    cutoff: Float[Array, ""] | None
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: PyTree,
        data: DataLike | None = None,
        *,
        reference_model: AbstractModel | None = None,
        cutoff: RealScalarLike | None = None,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int | None = None,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        self.chunk_size = positive_integer(chunk_size, "chunk_size")
        self.cutoff = None if cutoff is None else positive(cutoff, "cutoff", shape=())
        self.reference_model = reference_model
        options = {"key": key, "num_samples": num_samples}
        self.pairs = None
        if reference_model is not None:
            for name, model in (("source", source), ("reference_model", reference_model)):
                if not isinstance(model, AbstractModel):
                    raise ValueError(
                        f"`{name}` must be a model for a path KL, got {type(model).__name__}."
                    )
            self.source = source
            self.pairs = DataNoisePairs.of(source, data, condition, **options)
        elif cutoff is None:
            raise DivergenceError(
                "`cutoff` must be given: without one the variance of the bound is infinite.",
                remedy="cutoff",
            )
        else:
            options |= {"condition": condition, "chunk_size": chunk_size}
            self.source = posterior_curve(source, data, **options)
        default = 256 if self.pairs is None else 64
        self.num_times = positive_integer(num_times or default, "num_times", 2)

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """The variance in nats squared."""
        start, level = gaussian(process).t0, None
        if self.cutoff is not None:
            level = log_snr_of_std(process, self.cutoff)
            start = process.time_of_log_snr(level)
        variance = _variance(self.source, self.pairs)
        times, weights = time_rule(process, variance, self.num_times, level)
        # First and second moment per unit time.
        if isinstance(self.source, AbstractPosterior):
            m = self.source.moments(process.log_snr(times))
            pace = process.scaled_sigma_squared(times) * process.scale(times) / process.var(times)
            pace = pace / (2 * self.source.total_noise(process, times))
            first, second = pace * m.error, pace**2 * m.quartic
        else:
            first, second = self._of_path_kl(process, times).T
        mean = jnp.sum(weights * first)
        return (process.t1 - start) * jnp.sum(weights * second) - mean**2

    def _of_path_kl(self, process: AbstractGaussianProcess, times: Array) -> Array:
        assert isinstance(self.source, AbstractModel)
        assert self.reference_model is not None
        assert self.pairs is not None
        one = self.source.with_process(process)
        other = self.reference_model.with_process(process)

        def cost(s: Array, y: Array, condition: PyTree) -> Array:
            gap = one.entropy_field(s, y, condition) - other.entropy_field(s, y)
            value = process.sigma_squared(s) / 2 * squared_norm(gap)
            return jnp.stack([value, value**2])

        return average(cost, process, times, self.pairs, self.chunk_size)


def _variance(source: PyTree, pairs: DataNoisePairs | None) -> Array:
    """The scales of the data, of any shape."""
    return source.scales if pairs is None else pairs.variance


def step_times(
    process: AbstractGaussianProcess, num_steps: int, cutoff: Array
) -> Float[Array, " n"]:
    """The `num_steps + 1` times of a sampler's grid, from `t1` down to that of the cut-off."""
    last = process.time_of_log_snr(log_snr_of_std(process, cutoff))
    fraction = jnp.arange(num_steps + 1, dtype=process.t1.dtype) / num_steps
    return process.t1 + (last - process.t1) * fraction


class SamplerError(eqx.Module):
    r"""The Girsanov bound on the error of a sampler that freezes its denoiser over each step.

    The path KL between the reverse SDE and its discretisation by exponential steps,

    $$\frac12\sum_i\int_{\lambda_i}^{\lambda_{i+1}} e^\lambda\,
      E\|\hat x(\lambda) - \hat x(\lambda_i)\|^2\,d\lambda = \frac12\sum_i\int e^\lambda\,
      [\mathrm{mmse}(\lambda_i) - \mathrm{mmse}(\lambda)]\,d\lambda$$

    ("Align your steps", Sabour et al., 2404.14507). Posterior means are a martingale in
    $\lambda$, which gives the second form: the bound follows from the MMSE curve, without
    simulation. The start $p_T$ is taken as exact and the last step, to the data, is left out. For
    Gaussian data of variance v the best grid is uniform in $\log(1 + v\,e^\lambda)$.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`, which also explains
            `data`, `key`, `num_samples`, `condition` and `chunk_size`; of a model, its denoising
            error stands for the MMSE.
        num_steps: n.
        cutoff: the noise standard deviation at which the grid ends, positive.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior
    cutoff: Float[Array, ""]
    num_steps: int = eqx.field(static=True)

    def __init__(
        self,
        source: PyTree,
        num_steps: int,
        cutoff: RealScalarLike,
        data: DataLike | None = None,
        *,
        key: Key | None = None,
        num_samples: int = 2048,
        condition: PyTree = None,
        chunk_size: int = 4096,
    ):
        self.num_steps = positive_integer(num_steps, "num_steps")
        self.cutoff = positive(cutoff, "cutoff", shape=())
        options = {"key": key, "num_samples": num_samples, "chunk_size": chunk_size}
        self.source = posterior_curve(source, data, condition=condition, **options)

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """The bound in nats."""
        times = step_times(gaussian(process), self.num_steps, self.cutoff)
        # In g = log(1 + c exp(lambda)) both ends are finite, and the integrand is smooth; with
        # exp(lambda) d lambda = exp(g) dg / c.
        c = self.source.variance
        g = jnp.log1p(c * process.scale(times) ** 2 / process.var(times))
        nodes, weights = np.polynomial.legendre.leggauss(12)
        steps = jnp.diff(g)[:, None]
        inner = g[:-1, None] + steps * jnp.asarray((nodes + 1) / 2, g.dtype)
        saved = self._error(g)[:-1, None] - self._error(inner)
        return jnp.sum(steps * jnp.asarray(weights / 4, g.dtype) * jnp.exp(inner) / c * saved)

    def _error(self, g: Array) -> Array:
        """The MMSE, with tau = exp(-g)."""
        growth = jnp.expm1(g)
        some = growth > 0
        level = jnp.log(jnp.where(some, growth, 1.0))
        log_snr = jnp.where(some, level, -100.0) - jnp.log(self.source.variance)
        return jnp.exp(-g) * self.source.moments(log_snr).error


class EulerKL(eqx.Module):
    r"""The output error of Euler steps of the probability flow, for Gaussian data, in closed form.

    In the ratio $t = \Sigma/\mu$ (the noise itself, where the variance explodes) the flow of data
    $N(0, c^2)$ is $dx/dt = t\,x/(c^2 + t^2)$. With $\theta = \arctan(t/c)$ an Euler step multiplies
    x by $\cos(\theta_i - \theta_{i+1})\cos\theta_i/\cos\theta_{i+1}$, so that the variance of the
    output is the right one times $\prod_i\cos^2(\theta_i - \theta_{i+1})$. Best are equal steps of
    $\theta$: $t_i = c\tan\theta_i$ with $\theta_i$ linear in i (Sabour et al., 2404.14507).

    Args:
        std: c, positive.
        num_steps: number of Euler steps.
        cutoff: the noise standard deviation at which the grid ends, positive.

    Raises:
        ValueError: if an argument is out of range; when called, if the process ends in pure noise.
    """

    std: Float[Array, ""]
    cutoff: Float[Array, ""]
    num_steps: int = eqx.field(static=True)

    def __init__(self, std: RealScalarLike, num_steps: int, cutoff: RealScalarLike):
        self.std = positive(std, "std", shape=())
        self.num_steps = positive_integer(num_steps, "num_steps")
        self.cutoff = positive(cutoff, "cutoff", shape=())

    @eqx.filter_jit
    def ratios(self, process: AbstractGaussianProcess) -> Float[Array, " n"]:
        r"""$t = \Sigma/\mu$ on the grid, falling."""
        if gaussian(process).ends_in_noise:
            raise ValueError(
                "`process` must keep some of the signal at t1: Euler steps cannot start from an "
                f"infinite ratio, got {type(process).__name__}."
            )
        times = step_times(process, self.num_steps, self.cutoff)
        return process.std(times) / process.scale(times)

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """KL of the output from the density at the last step, in nats per dimension."""
        steps = -jnp.diff(jnp.arctan(self.ratios(process) / self.std))
        log_ratio = 2 * jnp.sum(jnp.log(jnp.cos(steps)))
        return (jnp.expm1(log_ratio) - log_ratio) / 2
