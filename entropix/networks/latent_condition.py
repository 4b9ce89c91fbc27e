r"""A condition that tells of a latent class, so that what it is worth can be measured.

Information is the difference of a conditional field and the marginal one, and so holds the
difference of their errors. A network that is told the condition is spared an inference from $y$,
which a network of the same size without it does less well: the difference is mistaken for
information. And one that is free to use the condition in any way remembers single samples by it.
Here both fields are one function of $y$ and of what is known of a latent class z,

$$e(y, s\,|\,c) = \mathrm{network}(\lambda, y, p_s(z|y, c)), \qquad
  p_s(z|y, c) \propto p_s(z|y)\,p(c|z),$$

by Bayes' rule for a condition that depends on $y$ through z alone: $\log p_s(z|y)$ is a guess from
y, $\log p(c|z)$ is linear in the condition, and without one it is left out. Both are learnt from
the loss of the field: evidence that helps to remove noise grows, and evidence that does not fades.
"""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike
from entropix._core.checks import exact_shape, finite, positive_integer


class LatentCondition(eqx.Module):
    """`network(log_snr, y, condition)`, for `ConditionDropout`, with a latent class in between.

    The condition should name classes, as one-hot vectors do: through `num_classes` latent classes
    it can tell at most the logarithm of their number. In the beginning each class of the condition
    is evidence for one latent class, of odds $e^{strength}$.

    Args:
        network: `network(log_snr, y, probabilities)`, such as
            `FourierMLP(dim, condition_dim=num_classes, key=key)`.
        guess: `guess(log_snr, y)`, unnormalised log-probabilities of the latent classes, such as
            `FourierMLP(dim, out_dim=num_classes, key=key)`.
        condition_dim: size of a condition. The mark that `ConditionDropout` adds is not needed:
            zeros tell nothing.
        num_classes: number of latent classes, at least `condition_dim`; better some more.
        strength: of the evidence in the beginning.

    Raises:
        ValueError: if an argument is not allowed, or a vector has another size.
    """

    network: Callable
    guess: Callable
    evidence: Float[Array, "latent condition"]

    def __init__(
        self,
        network: Callable,
        guess: Callable,
        *,
        condition_dim: int,
        num_classes: int,
        strength: Any = 2.0,
    ):
        for name, part in (("network", network), ("guess", guess)):
            if not callable(part):
                raise ValueError(f"`{name}` must be callable, got {type(part).__name__}.")
        self.network = network
        self.guess = guess
        positive_integer(condition_dim, "condition_dim")
        positive_integer(num_classes, "num_classes", max(condition_dim, 2))
        strength = finite(strength, "strength", shape=())
        self.evidence = strength * np.eye(num_classes, condition_dim, dtype=strength.dtype)

    @property
    def dim(self) -> Any:
        """The dimension of the wrapped network, where it has one."""
        return getattr(self.network, "dim", None)

    def __call__(
        self, log_snr: RealScalarLike, y: Float[Array, "*shape"], condition: Float[Array, " c"]
    ) -> Float[Array, "*shape"]:
        latent, size = self.evidence.shape
        told = (self.evidence @ condition[:size]).astype(y.dtype)
        guess = self.guess(log_snr, y)
        exact_shape(guess, (latent,), "guess")
        return self.network(log_snr, y, jax.nn.softmax(guess + told))
