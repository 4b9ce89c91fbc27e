r"""Samplers of models of tokens.

Within a step of tau-leaping the sites jump independently, with the field f of its start. Each site
is drawn from the law that it has at the end of the step if it is alone (Lou et al., 2310.16834,
"Tweedie tau-leaping"): for masking that is ancestral sampling (Sahoo et al., 2406.07524; Austin et
al., 2107.03006), for uniform jumps

$$p(y_i = k) \propto \left[r_k - \tfrac{1 - \gamma}{K}\sum_j r_j\right]
\left[\gamma\,\delta_{k y_i} + \tfrac{1 - \gamma}{K}\right], \qquad r = e^f,$$

$\gamma$ the ratio of the probabilities to be kept at both ends. The error in distribution falls
with the step. The order in which masked tokens appear does not depend on the time: unmasking them
one by one has no such error (Zheng et al., 2409.02908).
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealLike, as_float
from entropix.interfaces import (
    AbstractDenoiser,
    AbstractModel,
    AbstractSampler,
    AbstractTokenProcess,
    NoiseLevel,
)


# Where all tokens are lost, the field of uniform jumps is taken at this log-SNR.
_NEGLIGIBLE = -9.0


class TokenField(AbstractDenoiser):
    """The entropy field of a model of tokens, for a batch of states.

    Attributes:
        model: a model of tokens.
        condition: None, or arrays with a leading axis of the batch.
    """

    model: AbstractModel
    condition: PyTree = None

    @property
    def process(self) -> AbstractTokenProcess:
        return self.model.process

    def steps(self, num_steps: int) -> Float[Array, " knots"]:
        r"""Times at which $\alpha = \sin^2(\pi i/2n)$, dense at both ends."""
        process = self.process
        angle = jnp.pi / 2 * jnp.arange(1, num_steps) / num_steps
        inside = process.time_of_log_snr(2 * jnp.log(jnp.tan(angle)).astype(process.t1.dtype))
        return jnp.concatenate([process.t1[None], inside, process.t0[None]])

    def level(self, s: RealLike) -> NoiseLevel:
        process, s = self.process, as_float(s)
        at = s
        if not process.has_mask:
            at = jnp.minimum(s, process.time_of_log_snr(_NEGLIGIBLE))
        kept, lost = process.kept(s), process.lost(s)
        return NoiseLevel(
            s=s,
            scale=kept,
            std=lost,
            log_snr=process.log_snr(s),
            at=at,
            at_scale=process.kept(at),
            at_var=process.lost(at),
            gain=jnp.ones_like(kept),
        )

    def __call__(
        self, level: NoiseLevel, y: Float[Array, "n *shape"]
    ) -> Float[Array, "n *shape num_tokens"]:
        return jax.vmap(self.model.entropy_field, in_axes=(None, 0, 0))(level.at, y, self.condition)


class TauLeaping(AbstractSampler):
    """All sites jump independently within a step: one evaluation a step.

    The default for models of tokens; ancestral sampling for masking.

    References:
        Lou et al., 2310.16834; Sahoo et al., 2406.07524.
    """

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        process = denoiser.process
        field = denoiser(now, y)
        chances = jax.vmap(process.backward, in_axes=(None, None, 0, 0))(now.at, then.s, y, field)
        return jax.vmap(jax.random.categorical)(keys, jnp.log(chances)).astype(y.dtype), carry


class FirstHitting(AbstractSampler):
    """Unmasks one site at a time, in a random order: exact, with one evaluation for each site.

    For `Masking`, and models that do not depend on time, as `MaskedDenoiser` and exact models do
    not. The number of steps is that of the sites.

    References:
        Zheng et al., 2409.02908.
    """

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        field = denoiser(now, y)
        mask = denoiser.process.num_tokens

        def one(y, field, key):
            site_key, token_key = jax.random.split(key)
            masked = (y == mask).reshape(-1)
            site = jax.random.categorical(site_key, jnp.where(masked, 0.0, -jnp.inf))
            token = jax.random.categorical(token_key, field.reshape(masked.size, -1)[site])
            filled = y.reshape(-1).at[site].set(token.astype(y.dtype)).reshape(y.shape)
            return jnp.where(jnp.any(masked), filled, y)

        return jax.vmap(one)(y, field, keys), carry
