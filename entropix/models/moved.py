r"""A model under another process: the same denoiser.

At equal log-SNR the states of two Gaussian processes differ only by a factor, so that the denoiser
$D(u; \lambda) = E[x\,|\,u = y/\mu]$ does not depend on the process. With
$\lambda(s) = \tilde\lambda(\tilde s)$, $\alpha = \tilde\mu/\mu = \tilde\Sigma/\Sigma$, and a tilde
for the original process and the model's fields at $(\tilde s, \alpha y)$,

$$\nabla\log p_s(y) = \alpha\,\nabla\log\tilde p, \qquad
  e = \alpha\,\tilde e + (\pi - \alpha^2\tilde\pi)\,y, \qquad
  \frac{e}{\mu} = \frac{D - r y}{\Sigma^2}
                = \frac{1}{\Sigma^2}\left[\frac{\tilde\Sigma^2}{\tilde\mu}\,\tilde e
                  + (\alpha\tilde r - r)\,y\right], \qquad
  v = -\frac{\sigma^2\mu}{2}\,\frac{e}{\mu},$$

where $\pi$ and $r$ are the precision and the gain of the equilibrium. The second form is
numerically accurate where the data dominate, the third where the noise dominates; each is used on
its side of $\lambda = 0$.

A model is known only in the range of log-SNRs of its own process.

- Below this range (the new process erases more of the data) the posterior mean is nearly linear in
  the state, $D = m + e^\lambda\,C u$, with m and C the mean and covariance of the data. The model
  is therefore evaluated at its lowest level $\lambda_1$ and the state $e^{\lambda - \lambda_1} u$,
  which reproduces both terms up to relative errors $O(e^{\lambda_1} C)$. Entropies and velocities
  stay finite up to the end of a process that ends in pure noise.
- Above this range (the new process begins with less noise) the score of $x + n z$ with
  $n = \Sigma/\mu$ is that of the highest level, up to the curvature of the density at this noise.

A model of a process that ends in pure noise is not evaluated below $e^\lambda = \epsilon$, the
rounding error of its dtype: there D equals its limit to rounding, and terms divided by
$\tilde\mu$ lose all digits.
"""

from typing import Any, cast

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, State, as_float
from entropix._core.checks import equal
from entropix.distributions import IsotropicGaussian
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, AbstractProcess
from entropix.models.network_model import check_process, collapse, noise_prior


def move(model: AbstractModel, process: AbstractProcess) -> AbstractModel:
    """The same denoiser under another process; `model` itself if the processes are equal.

    Raises:
        ValueError: if `process` is not a Gaussian process.
    """
    check_process(process)
    same = equal(process, model.process, traced=False)
    return model if same else Moved(model, cast(AbstractGaussianProcess, process))


def noise_limits(tree: PyTree) -> Array | None:
    """The smallest log-SNRs of the moved models of a tree; None if all include pure noise."""
    nodes = jax.tree.leaves(tree, is_leaf=lambda node: isinstance(node, Moved))
    own = [node.model.process for node in nodes if isinstance(node, Moved)]
    limits = [process.log_snr(process.t1) for process in own if not process.ends_in_noise]
    return jnp.stack(limits) if limits else None


class _Evaluation(eqx.Module):
    r"""The field of the original model at the state that corresponds to `y`.

    Attributes:
        near_data: whether the data dominate.
        factor: $\alpha$.
        field: $\tilde e$, or the original score if the original equilibrium collapses.
        precision: $\tilde\pi$, or zero if `field` is the score.
        ratio: $e/\mu$, for use where the noise dominates.
    """

    near_data: Bool[Array, ""]
    factor: Float[Array, ""]
    field: Float[Array, "*shape"]
    precision: Float[Array, ""]
    ratio: Float[Array, "*shape"]


class Moved(AbstractModel):
    """A model under another process, as returned by `with_process`.

    `fit` trains the network of the original model under the new process. Saved files contain both
    processes.

    Args:
        model: a model of a Gaussian process.
        process: another Gaussian process.
    """

    model: AbstractModel
    process: AbstractGaussianProcess
    shape: tuple[int, ...] | None = eqx.field(static=True)

    def __init__(self, model: AbstractModel, process: AbstractGaussianProcess):
        self.model = model
        self.process = process
        self.shape = model.shape

    @property
    def network(self) -> Any:
        """The network of the original model."""
        return self.model.network  # pyright: ignore[reportAttributeAccessIssue]

    @property
    def scaling(self) -> Any:
        """The scaling of the original model, if it has one."""
        return getattr(self.model, "scaling", None)

    @property
    def prior(self) -> IsotropicGaussian:
        """The Gaussian in which the new process ends."""
        return noise_prior(self.process, self.shape)

    @property
    def divergence(self) -> str | None:
        reason = self.model.divergence
        if reason == collapse(self.model.process):  # a property of the original process
            reason = None
        return collapse(self.process) or reason

    def with_process(self, process: AbstractGaussianProcess) -> AbstractModel:
        return move(self.model, process)

    def _evaluate(
        self, s: RealScalarLike, y: Array, condition: PyTree, key: Key | None
    ) -> _Evaluation:
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

        # Terms that are 0/0 on the side where they are not used would give NaN gradients.
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
            # The equilibrium collapses at the data end: the entropy field is infinite there, the
            # score is not. (The compiler merges the two evaluations of the network.)
            score = self.model.score(at, factor * y, condition, key=key)
            field = jnp.where(near_data, score, field)
            precision = jnp.zeros_like(precision)
        return _Evaluation(near_data, factor, field, precision, ratio)

    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        own = self._evaluate(s, y, condition, key)
        precision = jnp.where(own.near_data, 0.0, self.process.equilibrium_precision(s))
        return jnp.where(
            own.near_data,
            own.factor * own.field - own.factor**2 * own.precision * y,
            self.process.scale(s) * own.ratio - precision * y,
        )

    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        own = self._evaluate(s, y, condition, key)
        excess = self.process.equilibrium_precision(s) - own.factor**2 * own.precision
        return jnp.where(
            own.near_data,
            own.factor * own.field + excess * y,
            self.process.scale(s) * own.ratio,
        )

    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        process, own = self.process, self._evaluate(s, y, condition, key)
        half = process.scaled_sigma_squared(s) / 2
        score = own.factor * own.field - own.factor**2 * own.precision * y
        scale = jnp.where(own.near_data, process.scale(s), 1.0)
        by_score = (process.scale_rate(s) * y - half * score) / scale
        return jnp.where(own.near_data, by_score, -half * own.ratio)


def _level(process: AbstractGaussianProcess, s: RealScalarLike) -> Array:
    """The log-SNR; at exact ends that of a time just inside, where it and its slope are finite."""
    s = as_float(s)
    limits = jnp.finfo(s.dtype)
    length = process.t1 - process.t0
    s = jnp.maximum(s, process.t0 + length * float(limits.tiny) ** 0.45)
    if process.ends_in_noise:
        s = jnp.minimum(s, process.t1 - length * float(limits.eps))
    return process.log_snr(s)
