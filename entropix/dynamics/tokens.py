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

**Corrections.** The field also gives the law of one token given all others at the same time,
$p_s(y_i = k|y_{\setminus i}) \propto p_s(y')$. To draw a token of a state from it, a move of a
Gibbs sampler, leaves $p_s$ as it is and takes a law that differs closer to it. For masking the
token is masked, and filled in again (correctors: Campbell et al., 2205.14987; remasking: Wang et
al., 2503.00307).
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealLike, as_float
from entropix._core.checks import positive_integer
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
    """All sites jump independently within a step, with corrections if they are asked for.

    The default for models of tokens; ancestral sampling for masking. `1 + num_corrections`
    evaluations a step. With an exact model of a ring of four spins, eight steps with a correction
    each are five times as close to its law as 16 steps without one.

    Args:
        num_corrections: how many tokens of each sequence are drawn again in a step, one after
            another, given all others. Under masking these are tokens that are not masked.

    Raises:
        ValueError: if `num_corrections` is not an integer of at least 0.

    References:
        Lou et al., 2310.16834; Sahoo et al., 2406.07524; Campbell et al., 2205.14987 (corrections).
    """

    num_corrections: int = eqx.field(static=True)

    def __init__(self, num_corrections: int = 0):
        self.num_corrections = positive_integer(num_corrections, "num_corrections", 0)

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        process = denoiser.process
        if self.num_corrections == 0:
            return leap(process, now, then, y, denoiser(now, y), keys), carry
        leap_keys, keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        # The conditional laws of masking have no time: those of the last step are corrected, too.
        if process.has_mask:
            y = leap(process, now, then, y, denoiser(now, y), leap_keys)

        def correct(k: Array, y: Array) -> Array:
            return _drawn_again(denoiser, now, y, jax.vmap(jax.random.fold_in, (0, None))(keys, k))

        y = jax.lax.fori_loop(0, self.num_corrections, correct, y)
        if not process.has_mask:
            y = leap(process, now, then, y, denoiser(now, y), leap_keys)
        return y, carry


def leap(
    process: AbstractTokenProcess,
    now: NoiseLevel,
    then: NoiseLevel,
    y: Float[Array, "n *shape"],
    field: Float[Array, "n *shape num_tokens"],
    keys: Key,
) -> Float[Array, "n *shape"]:
    """States at the end of a step, shape (n, *shape), in which all sites jump independently."""
    chances = jax.vmap(process.backward, (None, None, 0, 0))(now.at, then.s, y, field)
    return jax.vmap(jax.random.categorical)(keys, jnp.log(chances)).astype(y.dtype)


def _drawn_again(
    denoiser: AbstractDenoiser, level: NoiseLevel, y: Float[Array, "n *shape"], keys: Key
) -> Float[Array, "n *shape"]:
    """States in which one token, which is not masked, is drawn from its law given all others."""
    process, flat = denoiser.process, y.reshape(len(y), -1)
    keys, token_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
    allowed = flat < process.num_tokens
    sites = jax.vmap(jax.random.categorical)(keys, jnp.where(allowed, 0.0, -jnp.inf))
    place = jnp.arange(len(y)), sites
    state = flat.at[place].set(process.num_tokens) if process.has_mask else flat
    state = state.reshape(y.shape)
    score = jax.vmap(process.equilibrium_score, (None, 0))(level.at, state)
    logits = (denoiser(level, state) + score).reshape(*flat.shape, -1)[place]
    drawn = flat.at[place].set(jax.vmap(jax.random.categorical)(token_keys, logits))
    return jnp.where(jnp.any(allowed, axis=1, keepdims=True), drawn, flat).reshape(y.shape)


class FirstHitting(AbstractSampler):
    """Unmasks one site at a time, in a random order: exact, with one evaluation for each site.

    For models under `Masking` whose field does not depend on time, such as `MaskedDenoiser` and
    exact models. The number of steps is that of the sites.

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
