r"""Models of rows of tokens and numbers, under `entropix.processes.Multimodal`.

Their entropy field is a pair: $f_{ik}$ of the tokens, an array of shape (num_sites, num_tokens),
and $e$ of the numbers. Both depend on the whole row.
"""

from collections.abc import Callable
from typing import Any, ClassVar, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import DataLike, Key, RealScalarLike, one_hot
from entropix._core.checks import checked, finite, positive_integer
from entropix.distributions import GaussianMixture
from entropix.interfaces import AbstractModel, AbstractPrior
from entropix.models.network_model import call_network, check_parts, collapse, noise_prior
from entropix.models.scaling import GaussianScaling
from entropix.models.tokens import token_field
from entropix.processes import Multimodal


# In place of log 0, whose differences are NaN.
_IMPOSSIBLE = -1e30


def check_multimodal(process: Any) -> Multimodal:
    """A process of tokens and numbers, or a ValueError."""
    if not isinstance(process, Multimodal):
        raise ValueError(f"`process` must be Multimodal, got {type(process).__name__}.")
    return process


class MultimodalPrior(AbstractPrior):
    """Tokens and numbers at the end of their processes, independent of each other."""

    tokens: Any
    numbers: Any
    num_sites: int = eqx.field(static=True)

    def sample(self, n: int, *, key: Key) -> Float[Array, "n row"]:
        token_key, number_key = jax.random.split(key)
        numbers = self.numbers.sample(n, key=number_key)
        tokens = self.tokens.sample(n, key=token_key).astype(numbers.dtype)
        return jnp.concatenate([tokens, numbers], axis=1)

    def log_prob(self, y: Float[Array, "*batch row"]) -> Float[Array, "*batch"]:
        tokens, numbers = y[..., : self.num_sites], y[..., self.num_sites :]
        return self.tokens.log_prob(tokens) + self.numbers.log_prob(numbers)


class AbstractMultimodalModel(AbstractModel):
    """A model whose entropy field is a pair, of the tokens and of the numbers."""

    process: AbstractVar[Any]  # a `Multimodal`
    shape: AbstractVar[Any]

    @property
    def prior(self) -> MultimodalPrior:
        process, sites = self.process, self.process.num_sites
        numbers = noise_prior(process.numbers, (self.shape[0] - sites,))
        return MultimodalPrior(process.tokens.prior((sites,)), numbers, sites)

    @property
    def divergence(self) -> str | None:
        return collapse(self.process.numbers)

    def with_process(self, process: Multimodal) -> "AbstractMultimodalModel":
        def kind(process: Multimodal) -> tuple[Any, ...]:
            return process.num_sites, process.tokens.num_tokens, type(process.tokens).__name__

        expected, given = kind(self.process), kind(check_multimodal(process))
        if given != expected:
            raise ValueError(
                "`process` must have as many sites and tokens, and the token process, of the "
                f"model, {expected}, got {given}."
            )
        return eqx.tree_at(lambda model: model.process, self, process)

    def score(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, s: RealScalarLike, y: Array, condition: PyTree = None, *, key: Key | None = None
    ) -> tuple[Array, Array]:
        process, (tokens, numbers) = self.process, self.process.split(y)
        of_tokens, of_numbers = self.entropy_field(s, y, condition, key=key)
        of_tokens = of_tokens + process.tokens.equilibrium_score(s, tokens)
        return of_tokens, of_numbers + process.numbers.equilibrium_score(s, numbers)

    def velocity(
        self, s: RealScalarLike, y: Array, condition: PyTree = None, *, key: Key | None = None
    ) -> NoReturn:
        raise ValueError(
            "`model` must be one of a diffusion for a velocity, got one with tokens, which jump."
        )


class MultimodalModel(AbstractMultimodalModel):
    r"""One network for tokens and numbers: a denoiser of the tokens, a field of the numbers.

    The network is given one vector, the tokens as one-hot rows of `process.tokens.num_states`
    entries each and then the numbers, divided by their root mean square if there is a scaling. Its
    output has the same size: the part of the tokens gives $p_\theta(x_i = k|y)$ as in
    `MaskedDenoiser`, the part of the numbers the entropy field as in `EntropyMatching`. The first
    argument is the log-SNR of the numbers. A network whose output is zero has stored nothing.

    Args:
        network: `network(log_snr, vector, condition=None[, key=None]) -> array of its shape`, such
            as `FourierMLP(num_sites * process.tokens.num_states + D, key=key)` for D numbers.
        process: a `Multimodal` process.
        num_numbers: D, how many numbers a row has.
        scaling: `GaussianScaling.from_data(data[:, num_sites:], process.numbers)` (recommended).

    Raises:
        ValueError: if an argument is not as above.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> schedule = ex.LinearSchedule(0.1, 16.0)
        >>> numbers = ex.VariancePreserving(schedule)
        >>> process = ex.processes.Multimodal(ex.Masking(3, schedule), numbers, num_sites=1)
        >>> network = ex.FourierMLP(4 + 2, key=jax.random.key(0), widths=(8,))
        >>> model = ex.models.MultimodalModel(network, process, num_numbers=2)
        >>> tokens, field = model.entropy_field(0.5, jnp.array([3.0, 0.3, -1.0]))
        >>> tokens.shape, field.shape
        ((1, 3), (2,))
    """

    network: Callable
    process: Multimodal
    scaling: GaussianScaling | None
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(
        self,
        network: Callable,
        process: Multimodal,
        *,
        num_numbers: int,
        scaling: GaussianScaling | None = None,
    ):
        self.process = check_multimodal(process)
        check_parts(network, process, gaussian=None)
        self.network = network
        size = positive_integer(num_numbers, "num_numbers")
        if scaling is not None and scaling.shape != (size,):
            raise ValueError(
                f"`scaling` must be that of the {size} numbers of a row, of shape ({size},), got "
                f"{scaling.shape}."
            )
        self.scaling = scaling
        self.shape = (process.num_sites + size,)

    def entropy_field(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        s: RealScalarLike,
        y: Float[Array, " row"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "sites num_tokens"], Float[Array, " numbers"]]:
        process, (tokens, numbers) = self.process, self.process.split(y)
        rows = one_hot(tokens, process.tokens.num_states)
        given, size = numbers, 1.0
        if self.scaling is not None:
            given = numbers / self.scaling.input_std(process.numbers, s)
            size = self.scaling(process.numbers, s)
        vector = jnp.concatenate([rows.reshape(-1), given])
        out = call_network(self.network, process.log_snr(s), vector, condition, key)
        logits, field = out[: rows.size].reshape(rows.shape), out[rows.size :]
        return token_field(process.tokens, s, tokens, logits), size * field


class ExactMultimodal(AbstractMultimodalModel):
    r"""The exact model of rows drawn from a mixture, tokens and numbers alike.

    $$p(x) = \sum_j w_j\,N(u; m_j, s_j^2)\prod_i p_{ji}(t_i)$$

    for numbers u and tokens t, which are independent within a component (a latent class model).
    With one token that names the component it is a labelled mixture.

    Args:
        mixture: the mixture of the numbers, with weights $w_j$, means $m_j$ and stds $s_j$.
        laws: $p_{ji}(k)$, shape (components, num_sites, num_tokens), rows that sum to one.
        process: a `Multimodal` process.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        One bit with probabilities 0.9 and 0.1, and a number at equilibrium, which adds nothing:

        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> schedule = ex.LinearSchedule(0.1, 16.0)
        >>> numbers = ex.VariancePreserving(schedule)
        >>> process = ex.processes.Multimodal(ex.Masking(2, schedule), numbers, num_sites=1)
        >>> mixture = ex.GaussianMixture([0.9, 0.1], [[0.0], [0.0]], [[1.0], [1.0]])
        >>> model = ex.models.ExactMultimodal(mixture, jnp.eye(2)[:, None], process)
        >>> data = model.sample(4000, key=jax.random.key(0))
        >>> entropy = ex.neural_entropy(model, data, key=jax.random.key(1))
        >>> bool(abs(entropy.value - 0.368) < 4 * entropy.stderr)  # ln 2 - H(bit)
        True

    References:
        Lazarsfeld, Henry, Latent Structure Analysis (1968).
    """

    is_exact: ClassVar[bool] = True
    mixture: GaussianMixture
    log_laws: Float[Array, "components sites num_tokens"]
    process: Multimodal
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, mixture: GaussianMixture, laws: DataLike, process: Multimodal):
        if not isinstance(mixture, GaussianMixture):
            raise ValueError(f"`mixture` must be a GaussianMixture, got {type(mixture).__name__}.")
        self.process = check_multimodal(process)
        laws = finite(laws, "laws")
        expected = (len(mixture.log_weights), process.num_sites, process.tokens.num_tokens)
        if laws.shape != expected:
            raise ValueError(f"`laws` must have shape {expected}, got {laws.shape}.")
        laws = checked(laws, "laws", lambda p: p >= 0, "at least 0")
        total = jnp.sum(laws, axis=-1)
        total = checked(total, "laws", lambda t: abs(t - 1) < 1e-3, "rows that sum to one")
        self.mixture = mixture
        self.log_laws = jnp.maximum(jnp.log(laws / total[..., None]), _IMPOSSIBLE)
        self.shape = (process.num_sites + mixture.dim,)

    @property
    def distribution(self) -> GaussianMixture:
        """The distribution of the numbers."""
        return self.mixture

    def sample(self, n: int, *, key: Key) -> Float[Array, "n row"]:
        """Draw `n` independent rows."""
        mixture_key, token_key = jax.random.split(key)
        numbers, component = self.mixture.sample_labelled(n, key=mixture_key)
        tokens = jax.random.categorical(token_key, self.log_laws[component])
        return jnp.concatenate([tokens.astype(numbers.dtype), numbers], axis=1)

    def log_prob(self, x: Float[Array, "*batch row"]) -> Float[Array, "*batch"]:
        r"""$\log p(x)$ in nats, exact; a density in the numbers."""
        tokens, numbers = self.process.split(x)

        def one(tokens: Array, numbers: Array) -> Array:
            rows = one_hot(tokens, self.log_laws.shape[-1])
            return self._given(jnp.where(rows > 0, 0.0, _IMPOSSIBLE)).log_prob(numbers)

        return jnp.vectorize(one, signature="(m),(d)->()")(tokens, numbers)

    def entropy_field(  # pyright: ignore[reportIncompatibleMethodOverride]
        self,
        s: RealScalarLike,
        y: Float[Array, " row"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> tuple[Float[Array, "sites num_tokens"], Float[Array, " numbers"]]:
        if condition is not None:
            raise ValueError("`condition` must be None for an exact model: its law has none.")
        process, (tokens, numbers) = self.process, self.process.split(y)
        kernel = jnp.maximum(process.tokens.log_kernel(s, tokens), _IMPOSSIBLE)
        given = self._given(kernel)
        field = given.entropy_field(process.numbers, s, numbers)
        # p(x_i = k|y) = sum_j p(j|y) p(x_i = k|j, y_i)
        component = given.diffused(process.numbers, s).responsibilities(numbers)
        log_denoised = jax.nn.log_softmax(self.log_laws + kernel, axis=-1)
        log_denoised = jax.nn.logsumexp(log_denoised, axis=0, b=component[:, None, None])
        return process.tokens.field(s, tokens, log_denoised), field

    def _given(self, kernel: Float[Array, "sites num_tokens"]) -> GaussianMixture:
        r"""The law of the numbers given $\log p(y_i|x_i = k)$ of the tokens; not normalised."""
        evidence = jnp.sum(jax.nn.logsumexp(self.log_laws + kernel, axis=-1), axis=-1)
        weights = self.mixture.log_weights + evidence
        return eqx.tree_at(lambda m: m.log_weights, self.mixture, weights)
