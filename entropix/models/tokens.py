r"""Models of sequences of tokens, under the jump processes of `entropix.interfaces.tokens`.

All give the entropy field f, an array with one more axis than the state: the logarithm of the rate
at which the reverse process puts token k at site i, over that at equilibrium. A denoiser,
$p(x_i = k|y)$, has one for every process; ratios $p_s(y')/p_s(y)$ are $e^f$ under uniform jumps.

Networks are those of the library. They are given a sequence as one-hot rows, shape (*shape,
num_states), and return as many numbers, of which those of the mask are not used. A network for
vectors is given the flattened rows.
"""

import abc
import math
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, one_hot
from entropix._core.checks import equal
from entropix.interfaces import AbstractModel, AbstractPrior, AbstractTokenProcess
from entropix.models.network_model import call_network, check_parts


def check_token_process(process: Any) -> AbstractTokenProcess:
    """A process of tokens, or a ValueError."""
    if not isinstance(process, AbstractTokenProcess):
        raise ValueError(
            "`process` must be a process of tokens, Masking or UniformJumps for example, got "
            f"{type(process).__name__}."
        )
    return process


def _checked_names(vocabulary: Sequence[str], process: AbstractTokenProcess) -> tuple[str, ...]:
    names = tuple(map(str, vocabulary))
    if names and not len(set(names)) == len(names) == process.num_tokens:
        raise ValueError(
            f"`vocabulary` must hold {process.num_tokens} different names, or none, got "
            f"{len(names)}, {len(set(names))} of them different."
        )
    return names


def token_field(
    process: AbstractTokenProcess,
    s: RealScalarLike,
    y: Float[Array, "*shape"],
    logits: Float[Array, "*shape num_states"],
) -> Float[Array, "*shape num_tokens"]:
    r"""The entropy field of the denoiser $\mathrm{softmax}_k$ of a network's output.

    Under jumps $\log\pi(x_i)\,p(y_i|x_i)$ is added to the output first, so that a network whose
    output is zero has stored nothing.
    """
    logits = logits[..., : process.num_tokens]
    if not process.has_mask:
        logits = logits + process.log_kernel(s, y) + process.log_equilibrium
    return process.field(s, y, jax.nn.log_softmax(logits, axis=-1))


class AbstractTokenModel(AbstractModel):
    r"""A model of sequences: its fields have shape (*shape, num_tokens).

    `entropy_field` is f, and `score` the logarithm of $p_s(y')/p_s(y)$, with $-\infty$ where it is
    zero. There is no velocity.
    """

    process: AbstractVar[Any]  # an `AbstractTokenProcess`
    shape: AbstractVar[Any]  # known to all of them

    @abc.abstractmethod
    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape num_tokens"]:
        """F."""

    @property
    def divergence(self) -> str | None:
        return None

    def score(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape num_tokens"]:
        field = self.entropy_field(s, y, condition, key=key)
        return field + self.process.equilibrium_score(s, y)

    def velocity(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> NoReturn:
        raise ValueError(
            "`model` must be one of a diffusion for a velocity, got a model of tokens, which jump."
        )


class AbstractTokenNetwork(AbstractTokenModel):
    """A model of sequences with a network, which is trained for one kind of process."""

    network: AbstractVar[Callable]
    vocabulary: AbstractVar[tuple[str, ...]]

    @property
    def prior(self) -> AbstractPrior:
        return self.process.prior(self.shape)

    def with_process(self, process: AbstractTokenProcess) -> "AbstractTokenNetwork":
        own = self.process
        with_own = eqx.tree_at(lambda p: p.schedule, check_token_process(process), own.schedule)
        if not equal(with_own, own, traced=True):
            raise ValueError(
                f"`process` must be {type(own).__name__} of {own.num_tokens} tokens, on which the "
                f"network was trained, with any schedule, got another {type(process).__name__}."
            )
        cls: Any = type(self)
        return cls(self.network, process, shape=self.shape, vocabulary=self.vocabulary)

    def _logits(
        self, s: RealScalarLike, y: Array, condition: PyTree, key: Key | None
    ) -> Float[Array, "*shape num_tokens"]:
        """The output of the network for the tokens of each site."""
        process = self.process
        rows = one_hot(y, process.num_states)
        level = jnp.zeros_like(process.t1) if process.has_mask else process.log_snr(s)
        flat = getattr(self.network, "dim", None) == math.prod(rows.shape)
        given = rows.reshape(-1) if flat else rows
        out = call_network(self.network, level, given, condition, key).reshape(rows.shape)
        return out[..., : process.num_tokens]


class MaskedDenoiser(AbstractTokenNetwork):
    r"""The network is the denoiser, $p_\theta(x_i = k|y) = \mathrm{softmax}_k$ of its output.

    Under `Masking` $p(x_i\mid\text{unmasked})$ does not depend on time, and the network is given
    the log-SNR 0 at all times. Under jumps it is given the log-SNR; the output is then added to
    $\log\pi(x_i)\,p(y_i|x_i)$, so that a network of zeros stores nothing in either case.

    Args:
        network: `network(log_snr, one_hot, condition=None[, key=None]) -> array of their shape`,
            see the module; `FourierMLP(length * process.num_states, key=key)`, for example.
        process: `Masking`, `UniformJumps` or `TokenJumps`.
        shape: of one sequence, (length,) for example.
        vocabulary: K names of the tokens, such as characters, saved with the model; empty if the
            tokens are numbers.

    Raises:
        ValueError: if `network` is not callable or has state, `process` is not one of tokens, or
            there are not K names.

    Example:
        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> process = ex.Masking(2, ex.LinearSchedule())
        >>> network = ex.FourierMLP(4 * process.num_states, key=jax.random.key(0), widths=(8,))
        >>> model = ex.MaskedDenoiser(network, process, shape=(4,))
        >>> model.entropy_field(0.5, jnp.array([0.0, 2.0, 1.0, 2.0])).shape
        (4, 2)

    References:
        Sahoo et al., 2406.07524; Austin et al., 2107.03006 (uniform jumps).
    """

    network: Callable
    process: AbstractTokenProcess
    shape: tuple[int, ...] = eqx.field(static=True)
    vocabulary: tuple[str, ...] = eqx.field(static=True, default=())

    def __init__(
        self,
        network: Callable,
        process: AbstractTokenProcess,
        *,
        shape: tuple[int, ...],
        vocabulary: Sequence[str] = (),
    ):
        self.process = check_token_process(process)
        check_parts(network, process, gaussian=None)
        self.network = network
        self.shape = tuple(int(n) for n in shape)
        self.vocabulary = _checked_names(vocabulary, self.process)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape num_tokens"]:
        return token_field(self.process, s, y, self._logits(s, y, condition, key))


class ScoreEntropy(AbstractTokenNetwork):
    r"""The network is the logarithm of ratios, $f = \alpha\,\mathrm{network}(\lambda(s), y)$.

    For `UniformJumps`, where $e^f$ is the ratio $p_s(y')/p_s(y)$, and `TokenJumps`. The factor
    $\alpha(s)$, the probability that a token is kept, takes f to zero at the noise end like the
    exact field. A network that outputs nothing is the equilibrium, and has stored nothing.

    Args:
        network: as for `MaskedDenoiser`.
        process: `UniformJumps` or `TokenJumps`.
        shape: of one sequence.
        vocabulary: as for `MaskedDenoiser`.

    Raises:
        ValueError: as `MaskedDenoiser`.

    References:
        Lou, Meng, Ermon, 2310.16834.
    """

    network: Callable
    process: AbstractTokenProcess
    shape: tuple[int, ...] = eqx.field(static=True)
    vocabulary: tuple[str, ...] = eqx.field(static=True, default=())

    def __init__(
        self,
        network: Callable,
        process: AbstractTokenProcess,
        *,
        shape: tuple[int, ...],
        vocabulary: Sequence[str] = (),
    ):
        self.process = check_token_process(process)
        if process.has_mask:
            raise ValueError(
                "`process` must be UniformJumps or TokenJumps for ScoreEntropy, got "
                f"{type(process).__name__}: use MaskedDenoiser."
            )
        check_parts(network, process, gaussian=None)
        self.network = network
        self.shape = tuple(int(n) for n in shape)
        self.vocabulary = _checked_names(vocabulary, self.process)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, "*shape"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "*shape num_tokens"]:
        logits = self._logits(s, y, condition, key)
        own = one_hot(y, self.process.num_tokens) > 0
        return jnp.where(own, 0.0, self.process.kept(s) * logits)
