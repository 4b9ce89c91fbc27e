r"""Reversible jumps between tokens: by uniform ones, or by any reversible matrix of rates.

Every token is replaced at the rate $\beta(s)$, and a token x becomes k with probability $M_{xk}$,
with detailed balance $\pi_x M_{xk} = \pi_k M_{kx}$. With $\alpha = e^{-B}$ the probability that a
token has not been replaced,

$$P(x, k) = \alpha\,\delta_{xk} + (1 - \alpha)\,\pi_k\,G(x, k), \qquad
  G = \sum_j\varphi_j\,\frac{e^{-B(1 - \mu_j)} - e^{-B}}{1 - e^{-B}}\,\varphi_j^T,$$

where $\mu_j$ and $\varphi_j(x) = V_{xj}/\sqrt{\pi_x}$ are from the eigenvectors V of the symmetric
$\sqrt{\pi_x/\pi_k}\,M_{xk}$. The two parts are kept apart because close to the data their sum has
no digits left of the second. The reverse process puts token k in place of $y_i$ at the rate
$M_{y_i k}\,e^{f_{ik}}$ per $\beta\,ds$, with

$$e^{f_{ik}} = \frac{p_s(y')\,\pi(y)}{p_s(y)\,\pi(y')}
  = E\left[\frac{P(x_i, k)\,\pi(y_i)}{P(x_i, y_i)\,\pi(k)}\,\middle|\,y\right],$$

y' being y with token k at site i (Campbell et al., 2205.14987; Lou et al., 2310.16834). The entropy
of the exact model is $KL(p_d\|\pi) - KL(p_T\|\pi)$. Uniform jumps have $M = 1/K$ and $G = 1$.
"""

import abc
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from equinox import AbstractVar
from jax.scipy.special import ndtr
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, Key, RealLike, RealScalarLike, as_float, one_hot
from entropix._core.checks import is_concrete, positive_integer
from entropix._core.precision import matmul
from entropix.interfaces import AbstractPrior, AbstractSchedule, AbstractTokenProcess
from entropix.processes.schedules import check_schedule, time_of_integral


# Beyond this value of B nothing is left of a token in float64.
_LARGEST = 700.0


def _log(chance: Array) -> Array:
    """A logarithm with a floor, below which its derivative is zero."""
    return jnp.log(jnp.maximum(chance, jnp.finfo(chance.dtype).tiny))


def _mean_exp(x: Array) -> Array:
    r"""$(e^x - 1)/x$ for $|x| \le 1$, a series whose derivative at zero is known as well."""
    terms = [1 / math.factorial(n + 1) for n in range(17, -1, -1)]
    return jnp.polyval(jnp.asarray(terms, x.dtype), x)


class IndependentTokens(AbstractPrior):
    """Independent tokens of one law."""

    log_law: Float[Array, " num_tokens"]
    shape: tuple[int, ...] = eqx.field(static=True)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n *shape"]:
        tokens = jax.random.categorical(key, self.log_law, shape=(n, *self.shape))
        return tokens.astype(self.log_law.dtype)

    def log_prob(self, y: Float[Array, "*batch"]) -> Float[Array, "..."]:
        axes = tuple(range(y.ndim - len(self.shape), y.ndim))
        return jnp.sum(self.log_law[y.astype(int)], axis=axes)


class AbstractTokenJumps(AbstractTokenProcess):
    """Reversible jumps: what does not depend on M."""

    num_tokens: AbstractVar[int]
    schedule: AbstractVar[AbstractSchedule]
    log_equilibrium: AbstractVar[Any]
    t0: AbstractVar[Array]
    t1: AbstractVar[Array]

    @abc.abstractmethod
    def lost_law(
        self, integral: RealLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        """$G(y_i, k)$ after a time in which B has grown by `integral`."""

    @abc.abstractmethod
    def spread(
        self, integral: RealLike, weights: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        r"""$\sum_x w_x G(x, k)$."""

    @abc.abstractmethod
    def gather(
        self, integral: RealLike, ratio: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        r"""$e^{-B}\sum_k P^{-1}(x, k)\,r_k$, the way back in time."""

    @abc.abstractmethod
    def draw_lost(
        self, integral: RealLike, x: Float[Array, "*shape"], u: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""Tokens with the law $\pi_k G(x_i, k)$, from uniform numbers u."""

    @property
    def num_states(self) -> int:
        return self.num_tokens

    @property
    def ends_in_noise(self) -> bool:
        return self.schedule.diverges

    def kept(self, s: RealLike) -> Array:
        return self.schedule.decay(s) ** 2

    def lost(self, s: RealLike) -> Array:
        return self.schedule.absorbed(s)

    def measure(self, s: RealLike) -> Array:
        return self.lost(s)

    def rate(self, s: RealLike) -> Array:
        return self.schedule.rate(s)

    def time_of_log_snr(self, value: RealLike) -> Array:
        integral = jax.nn.softplus(-as_float(value))
        return time_of_integral(self.schedule, integral, self.t0, self.t1)

    def perturb(
        self,
        s: RealScalarLike,
        x: Float[Array, "*shape"],
        z: Float[Array, "3 *shape"],
        forced: float | None = None,
    ) -> Float[Array, "*shape"]:
        drawn = self.draw_lost(self.schedule.integral(s), x, ndtr(z[2]))
        return jnp.where(self.is_kept(s, z, forced), x, drawn)

    def log_lost(
        self, s: RealScalarLike, x: Float[Array, "*shape"], y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        law = self.lost_law(self.schedule.integral(s), x)
        chance = jnp.take_along_axis(law, y.astype(int)[..., None], axis=-1)[..., 0]
        return _log(chance)

    def log_kernel(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        own = one_hot(y, self.num_tokens)
        law = self.lost_law(self.schedule.integral(s), y)
        arrived = jnp.exp(self.log_equilibrium)[y.astype(int)][..., None]
        return _log(self.kept(s) * own + self.lost(s) * arrived * law)

    def log_states(
        self, s: RealScalarLike, x: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_states"]:
        own = one_hot(x, self.num_tokens)
        law = self.lost_law(self.schedule.integral(s), x)
        return _log(self.kept(s) * own + self.lost(s) * jnp.exp(self.log_equilibrium) * law)

    def field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        log_denoised: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_tokens"]:
        # Nothing is kept at an exact end: a floor, for the gradient.
        gain = jnp.log(jnp.maximum(self.kept(s), jnp.finfo(y.dtype).tiny)) - jnp.log(self.lost(s))
        gain = jnp.exp(gain - self.log_equilibrium)
        integral = self.schedule.integral(s)
        own = one_hot(y, self.num_tokens) > 0
        # P(x, y)/(1 - alpha) pi(y), for all x.
        ratio = self.lost_law(integral, y) + jnp.where(own, gain, 0.0)
        log_weights = log_denoised - jnp.log(jnp.where(ratio > 0, ratio, 1.0))
        weights = jnp.where(ratio > 0, jnp.exp(log_weights), 0.0)
        rate = gain * weights + self.spread(integral, weights)
        return _log(jnp.where(own, 1.0, rate))

    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        return self.log_equilibrium - self.log_equilibrium[y.astype(int)][..., None]

    def backward(
        self,
        now: RealScalarLike,
        then: RealScalarLike,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_states"]:
        # p_then is the inverse of the kernel between the two times, applied to p_now.
        between = self.schedule.integral(now) - self.schedule.integral(then)
        kept, own = jnp.exp(-between), one_hot(y, self.num_tokens)
        before = jnp.maximum(self.gather(between, jnp.exp(field)), 0.0)
        law = jnp.exp(self.log_equilibrium) * self.lost_law(between, y)
        chance = before * (kept * own + (1 - kept) * law)
        return chance / jnp.sum(chance, axis=-1, keepdims=True)

    def prior(self, shape: tuple[int, ...]) -> IndependentTokens:
        return IndependentTokens(self.log_equilibrium, shape)


class UniformJumps(AbstractTokenJumps):
    r"""Every token is replaced by a uniform one at the rate $\beta(s)$.

    $p(y_i|x_i) = \alpha\,\delta_{y_i x_i} + (1 - \alpha)/K$ with $\alpha = e^{-B(s)}$. The
    equilibrium is uniform, and $S_{tot} = KL(p_d\|U) - KL(p_T\|U)$, in nats.

    Args:
        num_tokens: K, at least 2.
        schedule: $\beta(s)$.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> import entropix as ex
        >>> process = ex.processes.UniformJumps(4, ex.LinearSchedule(1.0, 1.0))
        >>> print(f"{process.kept(1.0):.4f}")
        0.3679

    References:
        Lou, Meng, Ermon, 2310.16834; Campbell et al., 2205.14987.
    """

    num_tokens: int = eqx.field(static=True)
    schedule: AbstractSchedule
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    forced = 0.2

    def __init__(self, num_tokens: int, schedule: AbstractSchedule):
        self.num_tokens = positive_integer(num_tokens, "num_tokens", 2)
        self.schedule = check_schedule(schedule)
        self.t0, self.t1 = as_float(0.0), as_float(1.0)

    @property
    def log_equilibrium(self) -> Float[Array, " num_tokens"]:
        return jnp.full(self.num_tokens, -jnp.log(self.num_tokens), self.t1.dtype)

    def jumps(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape num_tokens"]:
        return jnp.full((*y.shape, self.num_tokens), 1 / self.num_tokens, y.dtype)

    def lost_law(
        self, integral: RealLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        return jnp.ones((*y.shape, self.num_tokens), y.dtype)

    def spread(
        self, integral: RealLike, weights: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        return jnp.broadcast_to(jnp.sum(weights, axis=-1, keepdims=True), weights.shape)

    def gather(
        self, integral: RealLike, ratio: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        return ratio + jnp.expm1(-as_float(integral)) * jnp.mean(ratio, axis=-1, keepdims=True)

    def draw_lost(
        self, integral: RealLike, x: Float[Array, "*shape"], u: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        drawn = jnp.floor(self.num_tokens * u)
        return jnp.minimum(drawn, self.num_tokens - 1).astype(x.dtype)


class TokenJumps(AbstractTokenJumps):
    r"""Jumps between tokens with any reversible matrix of rates.

    A token x becomes k at the rate $\beta(s)\,R_{xk}/\max_x\sum_k R_{xk}$. The rates count as far
    as their ratios, and the schedule sets the clock. They must obey detailed balance, $\pi_x R_{xk}
    = \pi_k R_{kx}$ for some law $\pi$, the equilibrium, as all symmetric rates and all that connect
    neighbours only do; $S_{tot} = KL(p_d\|\pi) - KL(p_T\|\pi)$, in nats. With the K levels of a
    quantised quantity, `levels = jnp.arange(K)`:

    - a discretised Gaussian of width w (Austin et al., 2107.03006, appendix A.2.3) has the rates
      `jnp.exp(-((levels[:, None] - levels) ** 2) / (2 * w**2))`, and a uniform equilibrium;
    - a birth-death process has `jnp.eye(K, k=1) + jnp.eye(K, k=-1)`, times
      `jnp.sqrt(law / law[:, None])` for the equilibrium `law`.

    Args:
        rates: R, shape (K, K), not negative, known when Python runs. The diagonal counts
            replacements of a token by itself: equal rates throughout are those of `UniformJumps`.
        schedule: $\beta(s)$.

    Raises:
        ValueError: if the rates are malformed, not reversible, or do not connect all tokens.

    Example:
        >>> import jax.numpy as jnp, entropix as ex
        >>> neighbours = jnp.eye(5, k=1) + jnp.eye(5, k=-1)
        >>> process = ex.processes.TokenJumps(neighbours, ex.LinearSchedule(1.0, 1.0))
        >>> law = jnp.exp(process.log_kernel(0.1, jnp.array([2.0])))[0]
        >>> print(f"{law[2]:.3f} {law[3]:.3f} {law[4]:.3f}")
        0.907 0.045 0.001

    References:
        Campbell et al., 2205.14987; Austin et al., 2107.03006.
    """

    num_tokens: int = eqx.field(static=True)
    schedule: AbstractSchedule
    t0: Float[Array, ""]
    t1: Float[Array, ""]
    transition: Float[Array, "num_tokens num_tokens"]
    log_equilibrium: Float[Array, " num_tokens"]
    eigenvalues: Float[Array, " num_tokens"]
    functions: Float[Array, "num_tokens num_tokens"]
    forced = 0.2

    def __init__(self, rates: DataLike, schedule: AbstractSchedule):
        rates = as_float(rates, "rates")
        if not is_concrete(rates):
            raise ValueError("`rates` must be known when Python runs, got a traced array.")
        transition, law = _reversible(np.asarray(rates, np.float64))
        root = np.sqrt(law)
        symmetric = root[:, None] * transition / root
        eigenvalues, vectors = np.linalg.eigh((symmetric + symmetric.T) / 2)
        eigenvalues[-1] = 1.0
        self.num_tokens = law.size
        self.schedule = check_schedule(schedule)
        self.t0, self.t1 = as_float(0.0), as_float(1.0)
        self.transition, self.log_equilibrium = as_float(transition), as_float(np.log(law))
        self.eigenvalues, self.functions = as_float(eigenvalues), as_float(vectors / root[:, None])

    def _modes(self, integral: RealLike) -> Array:
        r"""$(e^{-B(1 - \mu)} - e^{-B})/(1 - e^{-B})$, which is $\mu$ for small B."""
        value = jnp.minimum(as_float(integral), _LARGEST)
        small = jnp.minimum(value, 1.0)
        near = self.eigenvalues * _mean_exp(small * self.eigenvalues) / _mean_exp(small)
        value = jnp.maximum(value, 1.0)
        far = (jnp.exp(-value * (1 - self.eigenvalues)) - jnp.exp(-value)) / -jnp.expm1(-value)
        return jnp.where(value > 1, far, near)

    def jumps(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape num_tokens"]:
        return self.transition[y.astype(int)]

    def lost_law(
        self, integral: RealLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        modes = self._modes(integral) * self.functions[y.astype(int)]
        return jnp.maximum(matmul(modes, self.functions.T), 0.0)

    def spread(
        self, integral: RealLike, weights: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        modes = self._modes(integral) * matmul(weights, self.functions)
        return jnp.maximum(matmul(modes, self.functions.T), 0.0)

    def gather(
        self, integral: RealLike, ratio: Float[Array, "*shape num_tokens"]
    ) -> Float[Array, "*shape num_tokens"]:
        modes = matmul(ratio * jnp.exp(self.log_equilibrium), self.functions)
        return matmul(jnp.exp(-as_float(integral) * self.eigenvalues) * modes, self.functions.T)

    def draw_lost(
        self, integral: RealLike, x: Float[Array, "*shape"], u: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        law = jax.lax.stop_gradient(self.lost_law(integral, x) * jnp.exp(self.log_equilibrium))
        reached = jnp.cumsum(law, axis=-1)
        drawn = jnp.sum(reached <= u[..., None] * reached[..., -1:], axis=-1)
        return jnp.minimum(drawn, self.num_tokens - 1).astype(x.dtype)


def _reversible(rates: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """M and its equilibrium, in float64."""
    if rates.ndim != 2 or rates.shape[0] != rates.shape[1] or rates.shape[0] < 2:
        raise ValueError(f"`rates` must have shape (K, K) with K >= 2, got {rates.shape}.")
    if not np.all(np.isfinite(rates) & (rates >= 0)):
        raise ValueError(
            f"`rates` must be finite and not negative, got {rates.min():g}: leave the diagonal of "
            "a generator out."
        )
    leaving = rates.sum(axis=1)
    transition = rates / max(leaving.max(), np.finfo(float).tiny)
    transition = transition + np.diag(1 - transition.sum(axis=1))
    # The equilibrium relative to the first token, along a tree of jumps.
    law, found = np.zeros(len(rates)), [0]
    law[0] = 1.0
    for x in found:
        for k in np.flatnonzero((transition[x] > 0) & (law == 0)):
            if transition[k, x] > 0:
                law[k] = law[x] * transition[x, k] / transition[k, x]
                found.append(int(k))
    flow = law[:, None] * transition
    if len(found) < len(rates) or np.abs(flow - flow.T).max() > 1e-5 * flow.max():
        raise ValueError(
            "`rates` must connect all tokens and obey detailed balance, pi_x R_xk = pi_k R_kx for "
            "some law pi, got rates that do not."
        )
    return transition, law / law.sum()
