"""Reverse-time generative models: one interface for all parametrisations."""

import abc
from typing import Any

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix._core.formatting import short_repr
from entropix.interfaces.distribution import AbstractDistribution, AbstractPrior


class AbstractModel(eqx.Module):
    r"""A reverse-time generative model, with any parametrisation.

    The three fields are related by
    $e = \nabla\log p - \nabla\log p_{eq}$ and $v = b - \frac{\sigma^2}{2}\nabla\log p =
    -\frac{\sigma^2}{2} e$, the last if $b$ is conservative. Methods take one example: a scalar `s`,
    `y` of shape `shape`, and a `condition` for the network; callers vmap. The fields of a model of
    tokens have one more axis and another meaning, see `entropix.interfaces.AbstractTokenProcess`.

    A model of a known density says so by an attribute `is_exact`. One that is not defined at all
    noise levels has their log-SNRs as `log_snr_range`, the lowest and the highest.
    """

    __repr__ = short_repr

    # Gaussian, except in parametrisations that need no log-SNR; callers that need one check it.
    process: AbstractVar[Any]
    shape: AbstractVar[tuple[int, ...] | None]  # of one example; None if unknown

    @property
    @abc.abstractmethod
    def prior(self) -> AbstractDistribution | AbstractPrior:
        """The density from which generation starts: `sample(n, key=key)` and `log_prob(y)`."""

    @property
    @abc.abstractmethod
    def divergence(self) -> str | None:
        """Why the entropy is known to diverge at the data end; None if it is not."""

    @abc.abstractmethod
    def with_process(self, process: Any) -> "AbstractModel":
        r"""The same denoiser under another process.

        $E[x\,|\,y]$ as a function of $y/\mu$ and the log-SNR is the same for all Gaussian
        processes: with $\lambda_{old}(s_{old}) = \lambda_{new}(s)$ and
        $y_{old} = (\mu_{old}/\mu_{new})\,y$,

        $$\nabla\log p_{new}(y, s) =
          \frac{\mu_{old}}{\mu_{new}}\,\nabla\log p_{old}(y_{old}, s_{old}).$$

        An exact field stays exact, and the result is differentiable in the new process. Only the
        last of several moves counts; under its own process a model is returned unchanged. Below the
        log-SNRs of the old process the posterior mean is extrapolated linearly in the state; above
        them the score of the data is constant (`entropix.models.moved`).

        Args:
            process: a Gaussian process; for a model of tokens, one of tokens.

        Raises:
            ValueError: if it is another, or the model has only a velocity (`FlowMatching`).
        """

    @abc.abstractmethod
    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""The model of $\nabla\log p_s(y)$."""

    @abc.abstractmethod
    def entropy_field(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""$e(y, s)$."""

    @abc.abstractmethod
    def velocity(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""The probability-flow velocity $v(y, s)$."""
