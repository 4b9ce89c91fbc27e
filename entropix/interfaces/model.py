"""Reverse-time generative models: one protocol, whatever the parametrisation."""

import abc
from typing import Any

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import PyTree

from entropix._core.arrays import Key, RealScalarLike, State
from entropix.interfaces.process import AbstractGaussianProcess


class AbstractModel(eqx.Module):
    r"""A reverse-time generative model: one protocol, whatever the parametrisation.

    The three fields are linked by
    $e = \nabla\log p - \nabla\log p_{eq}$ and $v = b - \frac{\sigma^2}{2}\nabla\log p =
    -\frac{\sigma^2}{2} e$, the last where $b$ is conservative. Methods take one example: `s`
    scalar, `y` of shape `shape`, `condition` whatever the network takes; callers vmap.
    """

    # Gaussian, but in parametrisations that need no log-SNR; what needs one checks for itself.
    process: AbstractVar[Any]
    shape: AbstractVar[tuple[int, ...] | None]  # of one example; None where nothing fixes it

    @property
    @abc.abstractmethod
    def prior(self) -> Any:
        """The density generation starts from: has `sample(n, key=key)` and `log_prob(y)`."""

    @property
    @abc.abstractmethod
    def divergence(self) -> str | None:
        """Why the entropy is known to be infinite at the data end, or None if it is not."""

    @abc.abstractmethod
    def with_process(self, process: AbstractGaussianProcess) -> "AbstractModel":
        r"""The same denoiser under another process.

        $E[x\,|\,y]$ as a function of $y/\mu$ and the log-SNR belongs to the data, whichever
        Gaussian process carries them: with $\lambda_{old}(s_{old}) = \lambda_{new}(s)$ and
        $y_{old} = (\mu_{old}/\mu_{new})\,y$,

        $$\nabla\log p_{new}(y, s) =
          \frac{\mu_{old}}{\mu_{new}}\,\nabla\log p_{old}(y_{old}, s_{old}).$$

        A field that is exact stays exact. Differentiable in the new process; under its own process
        a model is itself, and only the last of several moves counts. At log-SNRs below those of the
        old process the posterior mean is taken to be linear in the state, above them the score of
        the data is held (`entropix.models.moved`).

        Args:
            process: a Gaussian process.

        Raises:
            ValueError: if it is not, or the model is a velocity field alone (`FlowMatching`).
        """

    @abc.abstractmethod
    def score(
        self, s: RealScalarLike, y: State, condition: PyTree = None, *, key: Key | None = None
    ) -> State:
        r"""$\nabla\log p_s(y)$ as the model has it."""

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
