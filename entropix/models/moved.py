r"""A model under a process it was not made for: the same denoiser.

Two Gaussian processes carry the same data to states that differ by a factor where their log-SNRs
agree, so that $D(u; \lambda) = E[x\,|\,u = y/\mu]$ belongs to the data and not to the process.
With $\lambda(s) = \tilde\lambda(\tilde s)$, $\alpha = \tilde\mu/\mu = \tilde\Sigma/\Sigma$, and
a tilde for the model's own process and its fields at $(\tilde s, \alpha y)$,

$$\nabla\log p_s(y) = \alpha\,\nabla\log\tilde p, \qquad
  e = \alpha\,\tilde e + (\pi - \alpha^2\tilde\pi)\,y, \qquad
  \frac{e}{\mu} = \frac{D - r y}{\Sigma^2}
                = \frac{1}{\Sigma^2}\left[\frac{\tilde\Sigma^2}{\tilde\mu}\,\tilde e
                  + (\alpha\tilde r - r)\,y\right], \qquad
  v = -\frac{\sigma^2\mu}{2}\,\frac{e}{\mu},$$

$\pi$ and $r$ the precision and the gain of the equilibrium. The second form loses no digits where
the data dominate, the third none where the noise does; each is used on its side of
$\lambda = 0$.

A process has a range of log-SNRs, and a model knows nothing outside that of its own.

- Below it (the new process erases more of the data) the posterior mean of data of which hardly
  anything is left is linear in the state, $D = m + e^\lambda\,C u$, m and C the mean and covariance
  of the data. So the lowest level $\lambda_1$ is asked about the state $e^{\lambda - \lambda_1} u$,
  which reproduces both terms up to relative errors $O(e^{\lambda_1} C)$. Entropies and velocities
  stay finite to the end of a process that ends in pure noise.
- Above it (the new process begins with less noise) the score of $x + n z$, $n = \Sigma/\mu$, is
  held at that of the highest level, right up to the curvature of the density at that noise.

A model made for a process that ends in pure noise is asked no further than $e^\lambda = \epsilon$,
the rounding of its dtype: beyond, D can no longer be told from its limit, and what divides by
$\tilde\mu$ is lost to rounding.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from entropix._core.arrays import Key, RealScalarLike, as_float
from entropix._core.checks import is_concrete
from entropix.distributions import IsotropicGaussian
from entropix.interfaces import AbstractGaussianProcess, AbstractModel
from entropix.models.network_model import check_process, collapse, noise_prior


def move(model: AbstractModel, process: Any) -> AbstractModel:
    """The same denoiser under another process; `model` itself under its own.

    Raises:
        ValueError: if `process` is not a Gaussian process.
    """
    check_process(process)
    return model if _same(process, model.process) else Moved(model, process)


def _same(one: Any, other: Any) -> bool:
    """Whether two processes are known to be equal, in dtypes too."""
    leaves, structure = jax.tree.flatten(one)
    others, other_structure = jax.tree.flatten(other)
    if structure != other_structure:
        return False
    for a, b in zip(leaves, others, strict=True):
        if a is b:
            continue
        if not (eqx.is_array(a) and eqx.is_array(b) and is_concrete((a, b))):
            return False
        if a.dtype != b.dtype or not np.array_equal(a, b):
            return False
    return True


class _View(eqx.Module):
    """The model's own field at the state that belongs to `y`, and how to use it.

    Attributes:
        near_data: whether the data dominate.
        factor: alpha.
        field: the own entropy field; where `score_is_own`, near the data, the own score.
        precision: of the own equilibrium, zero where `field` is the score.
        ratio: e / mu, for use where the noise dominates.
    """

    near_data: Bool[Array, ""]
    factor: Float[Array, ""]
    field: Float[Array, "*shape"]
    precision: Float[Array, ""]
    ratio: Float[Array, "*shape"]


class Moved(AbstractModel):
    """A model under another process; made by `with_process`. Moving it again keeps one move.

    It trains (`fit`) the network of the model it holds, under the new process, and is saved and
    loaded with both processes.

    Args:
        model: a model of a Gaussian process.
        process: another one.
    """

    model: AbstractModel
    process: AbstractGaussianProcess

    def __init__(self, model: AbstractModel, process: AbstractGaussianProcess):
        self.model = model
        self.process = process

    @property
    def network(self) -> Any:
        """The network of the model."""
        return self.model.network  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def scaling(self) -> Any:
        """The output scaling of the model, if it has one."""
        return getattr(self.model, "scaling", None)

    @property
    def shape(self) -> tuple[int, ...] | None:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.model.shape

    @property
    def prior(self) -> IsotropicGaussian:
        """The Gaussian the new process ends in."""
        return noise_prior(self.process, self.shape)

    @property
    def divergence(self) -> str | None:
        reason = self.model.divergence
        if reason == collapse(self.model.process):  # that is left behind
            reason = None
        return collapse(self.process) or reason

    def with_process(self, process: AbstractGaussianProcess) -> AbstractModel:
        return move(self.model, process)

    def _view(self, s: RealScalarLike, y: Array, condition: Any, key: Key | None) -> _View:
        process, own = self.process, self.model.process
        level = _level(process, s)
        last = own.log_snr(own.t1)
        if own.ends_in_noise:
            rounding = jnp.log(jnp.asarray(jnp.finfo(level.dtype).eps, level.dtype))
            last = jnp.maximum(jax.lax.stop_gradient(last), rounding)
        at = own.time_of_log_snr(jnp.maximum(level, last))
        missing = jnp.minimum(level - last, 0.0)
        first = jax.lax.stop_gradient(own.log_snr(own.t0))
        near_data = level > jnp.clip(0.0, jax.lax.stop_gradient(last), first)

        # What is 0/0 on the side where it is not used is replaced there, for the gradients.
        own_scale, own_var = own.scale(at), own.var(at)
        scale = jnp.where(near_data, process.scale(s), 1.0)
        var = jnp.where(near_data, 1.0, process.var(s))
        by_noise = jnp.exp(missing) * jnp.where(near_data, 1.0, own_var / var)
        factor = jnp.where(near_data, own_scale / scale, jnp.sqrt(by_noise))

        field = self.model.entropy_field(at, factor * y, condition, key=key)
        gain = own.equilibrium_gain(at) * factor - process.equilibrium_gain(s)
        ratio = (own_var / own_scale * field + gain * y) / var
        precision = own.equilibrium_precision(at)
        if not own.is_finite:
            # The equilibrium collapses at the data end: the entropy field is infinite, not so the
            # score. (The compiler finds that the network is evaluated twice at one place.)
            score = self.model.score(at, factor * y, condition, key=key)
            field = jnp.where(near_data, score, field)
            precision = jnp.zeros_like(precision)
        return _View(near_data, factor, field, precision, ratio)

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        view = self._view(s, y, condition, key)
        precision = jnp.where(view.near_data, 0.0, self.process.equilibrium_precision(s))
        return jnp.where(
            view.near_data,
            view.factor * view.field - view.factor**2 * view.precision * y,
            self.process.scale(s) * view.ratio - precision * y,
        )

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        view = self._view(s, y, condition, key)
        excess = self.process.equilibrium_precision(s) - view.factor**2 * view.precision
        return jnp.where(
            view.near_data,
            view.factor * view.field + excess * y,
            self.process.scale(s) * view.ratio,
        )

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: Any = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape"]:
        process, view = self.process, self._view(s, y, condition, key)
        half = process.scaled_sigma_squared(s) / 2
        score = view.factor * view.field - view.factor**2 * view.precision * y
        scale = jnp.where(view.near_data, process.scale(s), 1.0)
        by_score = (process.scale_rate(s) * y - half * score) / scale
        return jnp.where(view.near_data, by_score, -half * view.ratio)


def _level(process: AbstractGaussianProcess, s: RealScalarLike) -> Array:
    """The log-SNR, at exact ends that of a time just inside, where it and its slope are finite."""
    s = as_float(s)
    limits = jnp.finfo(s.dtype)
    length = process.t1 - process.t0
    s = jnp.maximum(s, process.t0 + length * float(limits.tiny) ** 0.45)
    if process.ends_in_noise:
        s = jnp.minimum(s, process.t1 - length * float(limits.eps))
    return process.log_snr(s)
