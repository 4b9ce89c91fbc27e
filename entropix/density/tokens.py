r"""The bound on the likelihood of sequences of tokens.

$$\log p_\theta(x) \ge E\left[\log\frac{prior(Y_T)}{p(Y_T|x)}\right] -
\int E\left[d(f_x, f_\theta)(Y_s)\right]d\mu(s)$$

with equality for the exact field and the exact prior (Campbell et al., 2205.14987; Lou et al.,
2310.16834). Under masking the first term is zero.
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike
from entropix.estimators import integrate_parts
from entropix.interfaces import (
    AbstractFunctional,
    AbstractModel,
    AbstractTokenProcess,
    SampleEstimates,
)


# States at the noise end that each sample's first term is a mean over.
_ENDS = 64


class DenoisingDivergence(AbstractFunctional):
    """$d(f_x, f)$; the condition is the pair of x and the condition of the model."""

    model: AbstractModel
    uses_noise = True  # averaged over antithetic noise
    control = None

    @property
    def process(self) -> AbstractTokenProcess:
        return self.model.process

    def rate(
        self, s: RealScalarLike, y: Float[Array, "*shape"], z: PyTree, condition: PyTree
    ) -> Float[Array, ""]:
        x, own = condition
        field = self.model.entropy_field(s, y, own)
        return jnp.sum(self.process.denoising_divergence(s, x, y, field))


def token_bound(
    model: AbstractModel,
    x: Float[Array, "n *shape"],
    *,
    num_evaluations: int,
    prior: Any,
    condition: PyTree,
    key: Key,
    chunk_size: int,
) -> SampleEstimates:
    """The bound for each of n sequences, in nats.

    Args:
        model: a model of tokens.
        x: sequences.
        num_evaluations: for each of them, at least 32.
        prior: what generation starts from, with `log_prob(y)`; None for that of the model.
        condition: None, or a pytree of arrays with leading axis n.
        key: a PRNG key.
        chunk_size: evaluations held in memory at once.
    """
    path_key, end_key = jax.random.split(key)
    functional = DenoisingDivergence(model)
    curve = integrate_parts(
        functional,
        x,
        key=path_key,
        num_evaluations=num_evaluations * x.shape[0],
        per_sample=True,
        condition=(x, condition),
        chunk_size=chunk_size,
    )
    prior = model.prior if prior is None else prior
    end, error = _noise_end(model.process, prior, x, end_key)
    stderr = jnp.hypot(curve.mc_stderr, error)
    return SampleEstimates(end - curve.value, stderr, num_evaluations)


@eqx.filter_jit
def _noise_end(
    process: AbstractTokenProcess, prior: Any, x: Array, key: Key
) -> tuple[Array, Array]:
    """The first term of each sample, and its standard error."""
    end = process.t1

    def one(x: Array, key: Key) -> Array:
        kernel = process.log_states(end, x)
        y = jax.random.categorical(key, kernel).astype(x.dtype)
        states = y.astype(int)[..., None]
        return prior.log_prob(y) - jnp.sum(jnp.take_along_axis(kernel, states, axis=-1))

    def several(args: tuple[Array, Key]) -> tuple[Array, Array]:
        x, key = args
        found = jax.vmap(one, in_axes=(None, 0))(x, jax.random.split(key, _ENDS))
        return jnp.mean(found), jnp.std(found, ddof=1) / _ENDS**0.5

    return jax.lax.map(several, (x, jax.random.split(key, x.shape[0])))
