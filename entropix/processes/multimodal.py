r"""Rows of tokens and numbers, each part under a process of its own.

Given the row, tokens and numbers are perturbed independently, at the same time s. They are coupled
only by the law of the rows, and hence in the entropy fields. The total entropy production is the
integral of the sum of both rates,

$$S = \int\left[\frac{\sigma^2}{2}\,E\|e\|^2 + \nu\,E\sum_{ik} q_{ik}
      \left(e^{f_{ik}} f_{ik} - e^{f_{ik}} + 1\right)\right]ds,$$

with the entropy field e of the numbers, f of the tokens, and the measure $\nu$ of the tokens per
unit time. If nothing is left of the data at the end, it is the divergence of the law of the rows
from independent uniform tokens and equilibrium numbers, which includes the mutual information of
the two parts.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from entropix._core.arrays import Key, RealLike, RealScalarLike
from entropix._core.checks import is_concrete, positive_integer
from entropix.interfaces import AbstractGaussianProcess, AbstractKernel, AbstractTokenProcess


# The largest share of draws in which a token is lost for certain. The others matter for the
# numbers: close to the data, most of them keep all tokens.
_FORCED = 0.5


class Multimodal(AbstractKernel):
    r"""A jump process of tokens beside a Gaussian process of numbers, for tables with both.

    A row is one vector: first its tokens, integers from 0 to K - 1, then its numbers. The log-SNR
    is that of the numbers. A column of k < K values has tokens from 0 to k - 1.

    Args:
        tokens: `Masking`, `UniformJumps` or `TokenJumps`.
        numbers: a Gaussian process on the same time axis.
        num_sites: how many tokens a row begins with.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> schedule = ex.LinearSchedule(0.1, 16.0)
        >>> numbers = ex.VariancePreserving(schedule)
        >>> process = ex.processes.Multimodal(ex.Masking(3, schedule), numbers, num_sites=1)
        >>> row = jnp.array([2.0, 0.3, -1.0])  # one token, two numbers
        >>> z = process.draw_noise(row, key=jax.random.key(0))
        >>> print(process.perturb(1.0, row, z)[0])  # the mask
        3.0

    References:
        Austin et al., 2107.03006; Neural Entropy, 2409.03817.
    """

    tokens: AbstractTokenProcess
    numbers: AbstractGaussianProcess
    num_sites: int = eqx.field(static=True)

    def __init__(
        self, tokens: AbstractTokenProcess, numbers: AbstractGaussianProcess, *, num_sites: int
    ):
        if not isinstance(tokens, AbstractTokenProcess):
            raise ValueError(
                "`tokens` must be a process of tokens, Masking for example, got "
                f"{type(tokens).__name__}."
            )
        if not isinstance(numbers, AbstractGaussianProcess):
            raise ValueError(f"`numbers` must be a Gaussian process, got {type(numbers).__name__}.")
        self.num_sites = positive_integer(num_sites, "num_sites")
        ends = (tokens.t0, tokens.t1, numbers.t0, numbers.t1)
        if is_concrete(ends) and (ends[0] != ends[2] or ends[1] != ends[3]):
            raise ValueError(
                f"`numbers` must have the time axis of `tokens`, {ends[0]:g} to {ends[1]:g}, got "
                f"{ends[2]:g} to {ends[3]:g}."
            )
        self.tokens, self.numbers = tokens, numbers

    @property
    def t0(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.numbers.t0

    @property
    def t1(self) -> Array:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self.numbers.t1

    @property
    def ends_in_noise(self) -> bool:
        return self.numbers.ends_in_noise

    def split(self, y: Float[Array, "*batch row"]) -> tuple[Array, Array]:
        """The tokens and the numbers of rows, shapes (..., num_sites) and (..., D)."""
        return y[..., : self.num_sites], y[..., self.num_sites :]

    def draw_noise(self, x: Float[Array, " row"], *, key: Key) -> tuple[Array, Array]:
        """The noise of the tokens and the noise of the numbers."""
        tokens, numbers = self.split(x)
        token_key, number_key = jax.random.split(key)
        noise = self.tokens.draw_noise(tokens, key=token_key)
        return noise, self.numbers.draw_noise(numbers, key=number_key)

    def reflect_noise(self, z: tuple[Array, Array]) -> tuple[Array, Array]:
        return self.tokens.reflect_noise(z[0]), self.numbers.reflect_noise(z[1])

    def perturb(
        self, s: RealScalarLike, x: Float[Array, " row"], z: tuple[Array, Array]
    ) -> Float[Array, " row"]:
        tokens, numbers = self.split(x)
        lost = self.tokens.perturb(s, tokens, z[0], self._forced)
        return jnp.concatenate([lost, self.numbers.perturb(s, numbers, z[1])])

    def weight(
        self, s: RealScalarLike, x: Float[Array, " row"], z: tuple[Array, Array]
    ) -> Float[Array, ""]:
        r"""$p(y_s|x)$ over the density of the draws, which differ for the tokens only."""
        return self.tokens.weight(s, self.split(x)[0], z[0], self._forced)

    @property
    def _forced(self) -> float:
        return min(_FORCED, self.tokens.forced)

    def log_snr(self, s: RealLike) -> Array:
        r"""$\log(\mu^2/\Sigma^2)$ of the numbers."""
        return self.numbers.log_snr(s)

    def time_of_log_snr(self, value: RealLike) -> Array:
        return self.numbers.time_of_log_snr(value)

    def measure(self, s: RealLike) -> Array:
        """One: `field_divergence` contains the measures of both parts."""
        return jnp.ones_like(self.numbers.var(s))

    def field_divergence(
        self,
        s: RealScalarLike,
        y: Float[Array, " row"],
        field: tuple[Array, Array],
        other: tuple[Array, Array] | None = None,
    ) -> Float[Array, " row"]:
        tokens, numbers = self.split(y)
        others = (None, None) if other is None else other
        of_tokens = self.tokens.divergence(tokens, field[0], others[0])
        of_numbers = self.numbers.field_divergence(s, numbers, field[1], others[1])
        measures = self.token_measure(s), self.numbers.measure(s)
        return jnp.concatenate([measures[0] * of_tokens, measures[1] * of_numbers])

    def token_measure(self, s: RealScalarLike) -> Float[Array, ""]:
        r"""The measure of the tokens per unit of $-d\lambda$, $\nu\,\Sigma^2/\sigma^2$."""
        inside = jnp.isfinite(jax.lax.stop_gradient(self.tokens.rate(s)))
        s = jnp.where(inside, s, (self.t0 + self.t1) / 2)
        # Where the rate is infinite, no token is masked or all are at equilibrium: the field is 0.
        return jnp.where(inside, self.tokens.rate(s) * self.numbers.time_per_log_snr(s), 0.0)
