r"""The variance of an estimator that draws one time uniformly."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, squared_norm
from entropix._core.checks import positive, positive_integer
from entropix.estimators import log_snr_of_std
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.optimise.points import Points, average
from entropix.optimise.posterior import AbstractPosterior, posterior_curve
from entropix.optimise.speeds import gaussian
from entropix.transport.quadrature import time_rule


class EstimatorVariance(eqx.Module):
    r"""The variance of the single-sample estimate of a likelihood bound or a path KL.

    With s uniform on $[s_\epsilon, t_1]$ and $\Sigma(s_\epsilon)$ the cut-off, one draw of

    $$(t_1 - s_\epsilon)\,\frac{-\lambda'(s)}{2}\,\|z - \hat z\|^2, \qquad \text{or} \qquad
      (t_1 - s_\epsilon)\,\frac{\sigma^2}{2}\,\|e - e_{ref}\|^2 \text{ with `reference_model`},$$

    has a mean that does not depend on the schedule between fixed ends, and a variance that does
    (Kingma et al., 2107.00630, section 5.1 and appendix I): the least is reached where the second
    moment per unit time is constant. It is the noise of training with uniform times.

    Args:
        source: a distribution, a model, or a curve from `posterior_curve`; with `reference_model`,
            a model.
        data: samples, shape (N, *shape): required for a model, drawn from a distribution.
        reference_model: the model from which `source` diverges.
        cutoff: positive. The bound's variance is infinite without one; a path KL's need not be.
        key: PRNG key; not needed for a `Gaussian`, which is exact, or a curve.
        num_samples: data points, each with two opposite draws of the noise.
        num_times: nodes of the quadrature in time; None takes 256, or 64 for a path KL.
        condition: None, or conditions of the samples, for a model.
        chunk_size: evaluations held in memory at once.

    Raises:
        ValueError: if an argument is missing or malformed.
    """

    source: AbstractPosterior | AbstractModel
    reference_model: AbstractModel | None
    points: Points | None
    cutoff: Float[Array, ""] | None
    num_times: int = eqx.field(static=True)
    chunk_size: int = eqx.field(static=True)

    def __init__(
        self,
        source: Any,
        data: Any = None,
        *,
        reference_model: AbstractModel | None = None,
        cutoff: Any = None,
        key: Key | None = None,
        num_samples: int = 2048,
        num_times: int | None = None,
        condition: Any = None,
        chunk_size: int = 4096,
    ):
        self.chunk_size = positive_integer(chunk_size, "chunk_size")
        self.cutoff = None if cutoff is None else positive(cutoff, "cutoff", shape=())
        self.reference_model = reference_model
        options = {"key": key, "num_samples": num_samples}
        if reference_model is not None:
            for name, model in (("source", source), ("reference_model", reference_model)):
                if not isinstance(model, AbstractModel):
                    raise ValueError(
                        f"`{name}` must be a model for a path KL, got {type(model).__name__}."
                    )
            self.source = source
            self.points = Points.of(source, data, condition, **options)
        elif cutoff is None:
            raise ValueError(
                "`cutoff` must be given: without one the variance of the bound is infinite."
            )
        else:
            options |= {"condition": condition, "chunk_size": chunk_size}
            self.source = posterior_curve(source, data, **options)
            self.points = None
        default = 256 if self.points is None else 64
        self.num_times = positive_integer(num_times or default, "num_times", 2)

    @eqx.filter_jit
    def __call__(self, process: AbstractGaussianProcess) -> Float[Array, ""]:
        """The variance in nats squared."""
        start = process.t0
        level = None
        if self.cutoff is not None:
            level = log_snr_of_std(gaussian(process), self.cutoff)
            start = process.time_of_log_snr(level)
        if isinstance(self.source, AbstractPosterior):
            measure, variance = self._of_bound, self.source.scales
        else:
            assert self.points is not None
            measure, variance = self._of_path_kl, self.points.variance
        times, weights = time_rule(gaussian(process), variance, self.num_times, level)
        first, second = measure(process, times)
        mean = jnp.sum(weights * first)
        return (process.t1 - start) * jnp.sum(weights * second) - mean**2

    def _of_bound(self, process: AbstractGaussianProcess, times: Array) -> tuple[Array, Array]:
        """First and second moment per unit time."""
        assert isinstance(self.source, AbstractPosterior)
        m = self.source.moments(process.log_snr(times))
        pace = process.scaled_sigma_squared(times) * process.scale(times) / process.var(times)
        pace = pace / (2 * self.source.total_noise(process, times))
        return pace * m.error, pace**2 * m.quartic

    def _of_path_kl(self, process: AbstractGaussianProcess, times: Array) -> tuple[Array, Array]:
        assert isinstance(self.source, AbstractModel)
        assert self.reference_model is not None
        assert self.points is not None
        one = self.source.with_process(process)
        other = self.reference_model.with_process(process)

        def cost(s: Array, y: Array, condition: Any) -> Array:
            gap = one.entropy_field(s, y, condition) - other.entropy_field(s, y)
            value = process.sigma_squared(s) / 2 * squared_norm(gap)
            return jnp.stack([value, value**2])

        moments = average(cost, process, times, self.points, self.chunk_size)
        return moments[:, 0], moments[:, 1]
