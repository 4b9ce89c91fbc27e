r"""Masking, the jump process that loses tokens to a mask, beside uniform jumps.

$B(s) = \int_0^s\beta$ is that of a schedule. With $q_{ik}$ and the field f of
`entropix.interfaces.tokens`:

| | uniform jumps | masking |
|---|---|---|
| probability $\alpha$ that a token is kept | $e^{-B}$ | $(e^{-B} - e^{-B(1)})/(1 - e^{-B(1)})$ |
| a lost token becomes | a uniform one | the mask, state K |
| measure per unit time | $\beta$ | $-\alpha'/(1 - \alpha)$ |
| measure per unit of $-\lambda$ | $1 - \alpha$ | $\alpha$ |
| $q_{ik}$ | $1/K$ | $1/K$ at masked sites |
| $e^{f_{ik}}$ | $p_s(y')/p_s(y)$ | $K\,p(x_i = k\mid\text{unmasked})$ |

y' is y with token k at site i (Austin et al., 2107.03006; Lou et al., 2310.16834; Sahoo et al.,
2406.07524; Shi et al., 2406.04329). The entropy of the exact model is $D\ln K - H(x)$, less what
uniform jumps have left at the end, $KL(p_T\|U)$. `entropix.processes.token_jumps` has the jumps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealLike, RealScalarLike, as_float, one_hot
from entropix._core.checks import positive_integer
from entropix.interfaces import AbstractPrior, AbstractSchedule, AbstractTokenProcess
from entropix.processes.schedules import check_schedule, time_of_integral


class AllMasked(AbstractPrior):
    """The sequence of masks, with probability one."""

    mask: int = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n *shape"]:
        del key
        return jnp.full((n, *self.shape), self.mask, float)

    def log_prob(self, y: Float[Array, "*batch"]) -> Float[Array, "..."]:
        axes = tuple(range(y.ndim - len(self.shape), y.ndim))
        return jnp.where(jnp.all(y == self.mask, axis=axes), 0.0, -jnp.inf)


class Masking(AbstractTokenProcess):
    r"""Every token is replaced by a mask, once and for all; at s = 1 all are masked.

    $1 - \alpha(s) = (1 - e^{-B(s)})/(1 - e^{-B(1)})$ for any schedule. The forward process cannot
    be reversed in the ordinary sense. Its entropy compares reverse processes that unmask at the
    same rate: one that knows the data, and one that fills in uniform tokens. For the exact model it
    is $D\ln K - H(x)$ in nats, whatever the schedule.

    Args:
        num_tokens: K, at least 2, without the mask.
        schedule: $\beta(s)$.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> import entropix as ex
        >>> process = ex.Masking(4, ex.LinearSchedule(0.1, 16.0))
        >>> print(process.kept(0.0), process.kept(1.0))
        1.0 0.0

    References:
        Sahoo et al., 2406.07524; Shi et al., 2406.04329.
    """

    num_tokens: int = eqx.field(static=True)
    schedule: AbstractSchedule
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    forced = 0.9

    def __init__(self, num_tokens: int, schedule: AbstractSchedule):
        self.num_tokens = positive_integer(num_tokens, "num_tokens", 2)
        self.schedule = check_schedule(schedule)
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def num_states(self) -> int:
        return self.num_tokens + 1

    @property
    def log_equilibrium(self) -> Float[Array, " num_tokens"]:
        return jnp.full(self.num_tokens, -jnp.log(self.num_tokens), self.t1.dtype)

    @property
    def ends_in_noise(self) -> bool:
        return True

    def _absorbed(self) -> Array:
        r"""$1 - e^{-B(1)}$."""
        return self.schedule.absorbed(self.t1)

    def kept(self, s: RealLike) -> Array:
        kept = self.schedule.decay(s) ** 2
        if self.schedule.diverges:
            return kept
        left = self.schedule.integral(self.t1) - self.schedule.integral(s)
        return kept * -jnp.expm1(-jnp.maximum(left, 0.0)) / self._absorbed()

    def lost(self, s: RealLike) -> Array:
        return jnp.minimum(self.schedule.absorbed(s) / self._absorbed(), 1.0)

    def measure(self, s: RealLike) -> Array:
        return self.kept(s)

    def rate(self, s: RealLike) -> Array:
        decay = -2 * self.schedule.decay(s) * self.schedule.decay_rate(s)
        # Not a quotient: in its derivative the square of a small loss would underflow.
        return jnp.exp(jnp.log(decay) - jnp.log(self.schedule.absorbed(s)))

    def time_of_log_snr(self, value: RealLike) -> Array:
        value = as_float(value)
        # exp(-B) = 1 - A (1 - alpha) with A = 1 - exp(-B(1)), in the form that keeps its digits.
        whole = self._absorbed()
        near_data = value > 0
        lost = jnp.where(near_data, jax.nn.sigmoid(-value), 0.0)
        kept = jnp.where(near_data, 1.0, jax.nn.sigmoid(value))
        rest = 0.0 if self.schedule.diverges else jnp.exp(-self.schedule.integral(self.t1))
        integral = jnp.where(near_data, -jnp.log1p(-whole * lost), -jnp.log(rest + whole * kept))
        return time_of_integral(self.schedule, integral, self.t0, self.t1)

    def _masked(self, y: Array) -> Array:
        return (y == self.num_tokens)[..., None]

    def perturb(
        self,
        s: RealScalarLike,
        x: Float[Array, "*shape"],
        z: Float[Array, "3 *shape"],
        forced: float | None = None,
    ) -> Float[Array, "*shape"]:
        return jnp.where(self.is_kept(s, z, forced), x, float(self.num_tokens))

    def jumps(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape num_tokens"]:
        rate = self._masked(y).astype(y.dtype) / self.num_tokens
        return jnp.broadcast_to(rate, (*y.shape, self.num_tokens))

    def log_lost(
        self, s: RealScalarLike, x: Float[Array, "*shape"], y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        return jnp.zeros_like(y)

    def log_kernel(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        masked, own = self._masked(y), one_hot(y, self.num_tokens) > 0
        tiny = jnp.finfo(y.dtype).tiny  # for the gradient, at ends where nothing is kept or lost
        inside = jnp.where(own, jnp.log(jnp.maximum(self.kept(s), tiny)), -jnp.inf)
        return jnp.where(masked, jnp.log(jnp.maximum(self.lost(s), tiny)), inside)

    def field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        log_denoised: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_tokens"]:
        return jnp.where(self._masked(y), log_denoised + jnp.log(self.num_tokens), 0.0)

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        score = self.log_snr(s) - jnp.log(self.num_tokens)
        return jnp.broadcast_to(jnp.where(self._masked(y), score, 0.0), (*y.shape, self.num_tokens))

    def backward(
        self,
        now: RealScalarLike,
        then: RealScalarLike,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_states"]:
        stays = self.lost(then) / self.lost(now)
        tokens = (1 - stays) * jax.nn.softmax(field, axis=-1)
        filled = jnp.concatenate([tokens, jnp.full((*y.shape, 1), stays, y.dtype)], axis=-1)
        own = one_hot(y, self.num_states)
        return jnp.where(self._masked(y), filled, own)

    def log_states(
        self, s: RealScalarLike, x: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_states"]:
        own = one_hot(x, self.num_states)
        mask = one_hot(jnp.full_like(x, self.num_tokens), self.num_states)
        return jnp.log(self.kept(s) * own + self.lost(s) * mask)

    def prior(self, shape: tuple[int, ...]) -> AllMasked:
        return AllMasked(self.num_tokens, shape)
