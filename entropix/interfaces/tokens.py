r"""Jump processes on sequences of tokens: what they share, and the divergence of their rates.

Every token of a sequence x is kept with probability $\alpha(s)$ and lost otherwise, independently.
The reverse process changes one site i at a time to a token k, at the rate $q_{ik}\,e^{f_{ik}}$ per
unit of the measure, where q belongs to the process at equilibrium and the **entropy field**

$$f_{ik}(y, s) = \log\frac{\text{reverse rate}}{\text{reverse rate at equilibrium}}$$

to the model. It plays the part of $e = \nabla\log p_s - \nabla\log p_{eq}$: it is zero for a
network that has stored nothing. With the field f of one model and g of another, the divergence of
the rates is

$$d(f, g) = \sum_{ik} q_{ik}\left[e^{f_{ik}}(f_{ik} - g_{ik}) - e^{f_{ik}} + e^{g_{ik}}\right]$$

in place of $\|e_1 - e_2\|^2$, where expectations are over the first (Lou et al., 2310.16834;
Campbell et al., 2205.14987). For $g = 0$ its integral is the entropy, for the exact f and a model's
g the path KL, and for the field f of a known x the denoising loss.

The log-SNR is $\lambda = \log\frac{\alpha}{1 - \alpha}$. Tokens are numbers from 0 to K - 1, in
arrays of floating point like other data.
"""

import abc
from typing import Any

import jax
import jax.numpy as jnp
from equinox import AbstractClassVar, AbstractVar
from jax.scipy.special import ndtr
from jaxtyping import Array, Bool, Float

from entropix._core.arrays import Key, RealLike, RealScalarLike, one_hot
from entropix._core.formatting import short_repr
from entropix.interfaces.distribution import AbstractPrior
from entropix.interfaces.process import AbstractKernel, AbstractSchedule


# Below this difference of two fields, d(f, g) is summed as a series: it is of second order.
_NEAR = 0.2


class AbstractTokenProcess(AbstractKernel):
    r"""A jump process that loses the tokens of a sequence one by one.

    Noise z has shape (3, *shape) and is standard normal. The first two numbers of a site decide
    whether its token is kept, and the third what a lost one becomes.

    Attributes:
        num_tokens: K.
        num_states: the values that a site may take: K, or K + 1 with the mask.
        forced: c, the share of draws in which one token is lost for certain, unless `is_kept`,
            `perturb` and `weight` are given another.
        schedule: of the loss.
        log_equilibrium: $\log\pi$, the law that a reverse process at equilibrium gives each token.
    """

    t0: AbstractVar[Array]
    t1: AbstractVar[Array]
    num_tokens: AbstractVar[int]
    schedule: AbstractVar[AbstractSchedule]
    log_equilibrium: AbstractVar[Any]
    forced: AbstractClassVar[float]

    __repr__ = short_repr

    @property
    @abc.abstractmethod
    def num_states(self) -> int:
        """K, or K + 1 with the mask."""

    @property
    def has_mask(self) -> bool:
        """Whether a lost token becomes the mask, state K."""
        return self.num_states > self.num_tokens

    @abc.abstractmethod
    def kept(self, s: RealLike) -> Array:
        r"""$\alpha(s)$, the probability that a token has not been lost."""

    @abc.abstractmethod
    def lost(self, s: RealLike) -> Array:
        r"""$1 - \alpha(s)$, without cancellation."""

    def time_of_lost(self, share: RealLike) -> Array:
        """The time at which a share of the tokens is lost: `t0` for none, `t1` for all."""
        share = jnp.asarray(share, self.t1.dtype)
        inside = (share > 0) & (share < 1)
        safe = jnp.where(inside, share, 0.5)
        times = self.time_of_log_snr(jnp.log1p(-safe) - jnp.log(safe))
        return jnp.where(inside, times, jnp.where(share <= 0, self.t0, self.t1))

    @abc.abstractmethod
    def log_lost(
        self, s: RealScalarLike, x: Float[Array, "*shape"], y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape"]:
        r"""$\log p(y_i|x_i)$ of lost tokens, up to what does not depend on the process."""

    @abc.abstractmethod
    def jumps(self, y: Float[Array, "*shape"]) -> Float[Array, "*shape num_tokens"]:
        r"""$q_{ik}$, the reverse rates at equilibrium per unit of the measure."""

    @abc.abstractmethod
    def log_kernel(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        r"""$\log p(y_i|x_i = k)$ for all tokens k; $-\infty$ where it is impossible."""

    @abc.abstractmethod
    def field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        log_denoised: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_tokens"]:
        r"""The entropy field f for given $\log p(x_i = k|y)$; zero where nothing can jump."""

    @abc.abstractmethod
    def log_states(
        self, s: RealScalarLike, x: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_states"]:
        r"""$\log p(y_i = k|x_i)$ for all states k."""

    @abc.abstractmethod
    def equilibrium_score(
        self, s: RealScalarLike, y: Float[Array, "*shape"]
    ) -> Float[Array, "*shape num_tokens"]:
        r"""$\log p(y')/p(y)$ at equilibrium, y' having token k at site i."""

    @abc.abstractmethod
    def backward(
        self,
        now: RealScalarLike,
        then: RealScalarLike,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape num_states"]:
        r"""Probabilities of the states of each site at the time `then` < `now`.

        They are exact for one site whose field is frozen.
        """

    @abc.abstractmethod
    def prior(self, shape: tuple[int, ...]) -> AbstractPrior:
        """The law in which the process ends, for sequences of this shape."""

    def draw_noise(self, x: Float[Array, "*shape"], *, key: Key) -> Float[Array, "3 *shape"]:
        """Standard normal noise."""
        return jax.random.normal(key, (3, *x.shape), x.dtype)

    def reflect_noise(self, z: Float[Array, "3 *shape"]) -> Float[Array, "3 *shape"]:
        """$-z$: the sites that had lost their tokens last lose them first."""
        return -z

    def is_kept(
        self, s: RealScalarLike, z: Float[Array, "3 *shape"], forced: float | None = None
    ) -> Bool[Array, "*shape"]:
        r"""Which tokens `perturb` keeps.

        Close to the data, hardly any sequence has lost a token, and those that have make up the
        integral. In a share c of the draws one site, at random, has lost its token for certain.

        Args:
            s: time.
            z: the noise.
            forced: c; None for that of the process.
        """
        share = self.forced if forced is None else forced
        by_chance = ndtr(-z[0]) > self.lost(s)  # exact at both ends, where it is 0 or 1
        # The largest of D numbers is as often at any place, whatever its size.
        others = z[1].reshape(-1)
        loses = ndtr(jnp.max(others)) ** others.size > 1 - share
        # A comparison with the largest may fail where a compiler computes the numbers twice.
        site = jnp.arange(others.size) == jnp.argmax(others)
        return by_chance & ~(loses & site).reshape(by_chance.shape)

    @abc.abstractmethod
    def perturb(
        self,
        s: RealScalarLike,
        x: Float[Array, "*shape"],
        z: Float[Array, "3 *shape"],
        forced: float | None = None,
    ) -> Float[Array, "*shape"]:
        """The state at time `s` of a path that starts at `x`; `forced` as of `is_kept`."""

    def weight(
        self,
        s: RealScalarLike,
        x: Float[Array, "*shape"],
        z: Float[Array, "3 *shape"],
        forced: float | None = None,
    ) -> Float[Array, ""]:
        r"""$1/(1 - c + c\,n/D(1 - \alpha))$ for n lost tokens, with the slope of $\log p$."""
        share = self.forced if forced is None else forced
        kept, lost = self.is_kept(s, z, share), self.lost(s)
        log_chance = jnp.log(jnp.where(kept, self.kept(s), lost))
        moved = jnp.where(kept, 0.0, self.log_lost(s, x, self.perturb(s, x, z, share)))
        log_chance = jnp.sum(log_chance + moved)
        moved = jnp.exp(log_chance - jax.lax.stop_gradient(log_chance))
        expected = jnp.maximum(kept.size * lost, jnp.finfo(lost.dtype).tiny)
        number = jnp.sum(~kept) / jax.lax.stop_gradient(expected)
        return moved / (1 - share + share * number)

    def log_snr(self, s: RealLike) -> Array:
        r"""$\log\frac{\alpha}{1 - \alpha}$."""
        return jnp.log(self.kept(s)) - jnp.log(self.lost(s))

    @abc.abstractmethod
    def rate(self, s: RealLike) -> Array:
        r"""The measure per unit time; `measure` is the same per unit of $-d\lambda$."""

    def field_divergence(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
        other: Float[Array, "*shape num_tokens"] | None = None,
    ) -> Float[Array, "*shape"]:
        return self.divergence(y, field, other)

    def denoising_divergence(
        self,
        s: RealScalarLike,
        x: Float[Array, "*shape"],
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
    ) -> Float[Array, "*shape"]:
        """The terms of $d(f_x, f)$ of each site, for the field $f_x$ of a known sequence.

        Args:
            s: time.
            x: the sequence.
            y: the state that it has come to.
            field: f.
        """
        known = self.field(s, y, jnp.log(one_hot(x, self.num_tokens)))
        return self.divergence(y, known, field)

    def divergence(
        self,
        y: Float[Array, "*shape"],
        field: Float[Array, "*shape num_tokens"],
        other: Float[Array, "*shape num_tokens"] | None = None,
    ) -> Float[Array, "*shape"]:
        r"""The terms of $d(f, g)$ of each site.

        Args:
            y: the state.
            field: f, with $-\infty$ where a jump is impossible.
            other: g; None for zero.
        """
        other = jnp.zeros_like(field) if other is None else other
        rate, other_rate = jnp.exp(field), jnp.exp(other)
        possible = rate > 0
        gap = jnp.where(possible, jnp.where(possible, field, 0.0) - other, 0.0)
        near = jnp.abs(gap) < _NEAR
        x = jnp.where(near, gap, 0.0)
        # gap - 1 + exp(-gap): its terms cancel where the fields agree.
        series = x**2 * (1 / 2 - x * (1 / 6 - x * (1 / 24 - x * (1 / 120 - x / 720))))
        far = rate * jnp.where(near, 0.0, gap) - rate + other_rate
        return jnp.sum(self.jumps(y) * jnp.where(near & possible, rate * series, far), axis=-1)
