r"""Objectives that are speeds: how fast something changes along the process.

With a rate $r(s) \ge 0$ per unit time, the length $\int r\,ds$ does not depend on the clock, and
the action

$$(t_1 - t_0)\int r^2\,ds \ \ge\ \left(\int r\,ds\right)^2$$

reaches its square at constant speed: where equal times cover equal lengths. Each class is such an
action as a function of a process; `constant_speed` finds the optimal clock without a gradient.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float

from entropix._core.arrays import Key, safe_sqrt, squared_norm
from entropix._core.checks import positive, positive_integer
from entropix.distributions import Empirical
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.optimise.points import Points, average, with_process
from entropix.optimise.posterior import AbstractPosterior, posterior_curve
from entropix.transport.quadrature import time_rule


def gaussian(process: Any) -> AbstractGaussianProcess:
    """Refuse a process without closed-form marginals."""
    if not isinstance(process, AbstractGaussianProcess):
        raise ValueError(f"`process` must be a Gaussian process, got {type(process).__name__}.")
    return process


class AbstractSpeed(eqx.Module):
    r"""A rate along a process, its length, and its action as an objective."""

    num_times: AbstractVar[int]

    @property
    @abc.abstractmethod
    def variance(self) -> Array:
        """The scales of the data, of any shape, which place the times."""

    @abc.abstractmethod
    def squared_rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        r"""$r(s)^2$ at times."""

    @eqx.filter_jit
    def rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        r"""$r(s)$ at times."""
        return safe_sqrt(self.squared_rate(process, times))

    @eqx.filter_jit
    def length(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        r"""$\int r\,ds$, whatever the clock."""
        times, weights = time_rule(gaussian(process), self.variance, self.num_times)
        return jnp.sum(weights * self.rate(process, times))

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        r"""$(t_1 - t_0)\int r^2\,ds$."""
        times, weights = time_rule(gaussian(process), self.variance, self.num_times)
        return (process.t1 - process.t0) * jnp.sum(weights * self.squared_rate(process, times))


class KineticAction(AbstractSpeed):
    r"""The action of the probability flow, $(t_1 - t_0)\int E\|v\|^2\,ds$.

    It bounds $W_2^2(p_0, p_T)$ from above, with equality for optimal transport at constant speed
    (Benamou and Brenier, 2000; Ikeda et al., 2407.04495). Over the clocks of one path its minimum
    is the squared length of the path.

    The action of a distribution comes from its posterior moments, which are measured once for all
    processes (see `posterior_curve`); that of a model from its velocity under the process that is
    given (`with_process`: the same denoiser), at fixed points and draws of the noise. A curve
    measured from a model makes it as cheap.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`.
        data: samples, shape (N, *shape): required for a model, drawn from a distribution.
        key: PRNG key; not needed for a `Gaussian`, which is exact, or a curve.
        num_samples: data points, each with two opposite draws of the noise.
        num_times: nodes of the quadrature in time; None takes 256, or 96 for a model.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior | AbstractModel
    points: Points | None
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        data: Any = None,
        *,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int | None = None,
        condition: Any = None,
        chunk_size: int = 4096,
    ):
        self.chunk_size = positive_integer(chunk_size, "chunk_size")
        if isinstance(source, AbstractModel):
            self.source = source
            self.points = Points.of(source, data, condition, key=key, num_samples=num_samples)
        else:
            self.source = posterior_curve(
                source, data, key=key, num_samples=num_samples, chunk_size=chunk_size
            )
            self.points = None
        default = 256 if self.points is None else 96
        self.num_times = positive_integer(num_times or default, "num_times", 2)

    @property
    def variance(self) -> Array:
        if isinstance(self.source, AbstractPosterior):
            return self.source.scales
        assert self.points is not None
        return self.points.variance

    @eqx.filter_jit
    def squared_rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        if isinstance(self.source, AbstractPosterior):
            return self.source.squared_speed(gaussian(process), times)
        assert self.points is not None
        model = self.source.with_process(process)

        def squared(s: Array, y: Array, condition: Any) -> Array:
            return squared_norm(model.velocity(s, y, condition))

        return average(squared, process, times, self.points, self.chunk_size)


class ScoreOptimalLength(AbstractSpeed):
    r"""The action of the score, $(t_1 - t_0)\int\Sigma^2\,E\|\partial_s\nabla\log p_s\|^2\,ds$.

    Its length, $\int\Sigma\sqrt{E\|\partial_s\nabla\log p_s\|^2}\,ds$, measures how often the score
    changes by as much as the noise is wide; the schedule at constant speed puts equal shares of it
    in equal times (Williams et al., 2412.07877). `length` is that length, the same for every clock;
    calling the objective gives the action, whose minimum is its square.

    Args:
        source: a distribution or a model.
        data: samples, shape (N, *shape): required for a model, drawn from a distribution.
        key: PRNG key; not needed for a `Gaussian`, which is exact.
        num_samples: data points, each with two opposite draws of the noise.
        num_times: nodes of the quadrature in time.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: Any
    points: Points
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        data: Any = None,
        *,
        key: Key | None = None,
        num_samples: int = 512,
        num_times: int = 128,
        condition: Any = None,
        chunk_size: int = 4096,
    ):
        self.source = source
        self.points = Points.of(source, data, condition, key=key, num_samples=num_samples)
        self.num_times = positive_integer(num_times, "num_times", 2)
        self.chunk_size = positive_integer(chunk_size, "chunk_size")

    @property
    def variance(self) -> Array:
        return self.points.variance

    @eqx.filter_jit
    def squared_rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        model = with_process(self.source, gaussian(process))

        def change(s: Array, y: Array, condition: Any) -> Array:
            def score(r: Array) -> Array:
                return model.score(r, y, condition)

            return process.var(s) * squared_norm(jax.jvp(score, (s,), (jnp.ones_like(s),))[1])

        return average(change, process, times, self.points, self.chunk_size)


class EntropicTime(AbstractSpeed):
    r"""Entropic time: equal gains of information about the data in equal times.

    The rate is that at which the diffusion forgets the data,

    $$\frac{d}{ds}H[x\,|\,Y_s] = \frac{\sigma^2}{2}\left(\frac{D}{\Sigma^2} -
      E\|\nabla\log p_s\|^2\right) = -\frac12\frac{d\lambda}{ds}\,e^\lambda\,
      \mathrm{mmse}(\lambda)$$

    (Stancevic et al., 2504.13612). The conditional entropy of a density has no lower bound: it is
    resolved down to a noise of standard deviation `cutoff`, by a factor
    $\Sigma^2/(\Sigma^2 + \mathrm{cutoff}^2)$ in the rate. Finite data (`Empirical`) need none.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`.
        data: samples, shape (N, *shape): required for a model, drawn from a distribution.
        cutoff: positive; None only for finite data.
        key: PRNG key; not needed for a `Gaussian`, which is exact, or a curve.
        num_samples: data points, each with two opposite draws of the noise.
        num_times: nodes of the quadrature in time.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior
    cutoff: Float[Array, ""] | None
    num_times: int = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        data: Any = None,
        *,
        cutoff: Any = None,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int = 256,
        condition: Any = None,
        chunk_size: int = 4096,
    ):
        if cutoff is None and not isinstance(source, Empirical):
            raise ValueError(
                "`cutoff` must be given: the conditional entropy of a density has no lower bound."
            )
        self.cutoff = None if cutoff is None else positive(cutoff, "cutoff", shape=())
        self.source = posterior_curve(
            source,
            data,
            key=key,
            num_samples=num_samples,
            condition=condition,
            chunk_size=chunk_size,
        )
        self.num_times = positive_integer(num_times, "num_times", 2)

    @property
    def variance(self) -> Array:
        scales = self.source.scales.reshape(-1)
        if self.cutoff is None:
            return scales
        return jnp.append(scales, self.cutoff**2)

    @eqx.filter_jit
    def squared_rate(
        self, process: AbstractGaussianProcess, times: Float[Array, " k"]
    ) -> Float[Array, " k"]:
        # (sigma^2 / 2) exp(lambda) M / Sigma^2, with Sigma^2 raised by the cut-off.
        error = self.source.moments(gaussian(process).log_snr(times)).error
        gain = process.scaled_sigma_squared(times) * process.scale(times) * error
        var = process.var(times)
        floor = jnp.finfo(var.dtype).tiny if self.cutoff is None else self.cutoff**2
        width = var + floor if self.cutoff is not None else jnp.maximum(var, floor)
        return (gain / (2 * self.source.total_noise(process, times) * width)) ** 2
