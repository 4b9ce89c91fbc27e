r"""A condition that acts through a latent class, for accurate mutual information.

An estimate of information contains the difference of the errors of a conditional and a marginal
field. Without the condition a network must infer it from $y$, which increases its error, and the
difference appears as information. A network that can use the condition in any way also memorises
single samples. Here both fields are one function of $y$ and of the probabilities of a latent class
z,

$$e(y, s\,|\,c) = \mathrm{network}(\lambda, y, p_s(z|y, c)), \qquad
  p_s(z|y, c) \propto p_s(z|y)\,p(c|z),$$

by Bayes' rule for a condition that depends on $y$ only through z. A network `guess` computes
$\log p_s(z|y)$; $\log p(c|z)$ is linear in the condition, and zero without a condition. Both are
learnt from the loss of the field.
"""

from collections.abc import Callable

import equinox as eqx
import jax
import numpy as np
from jaxtyping import Array, Float

from entropix._core.arrays import DataLike, RealScalarLike
from entropix._core.checks import exact_shape, finite, positive_integer
from entropix._core.formatting import short_repr


class LatentCondition(eqx.Module):
    """`network(log_snr, y, condition)`, for `ConditionDropout`, with an intermediate latent class.

    The condition should be a one-hot vector of classes: its information is at most the logarithm
    of `num_classes`. Initially each class of the condition is evidence for one latent class, with
    odds $e^{strength}$.

    Args:
        network: `network(log_snr, y, probabilities)`, such as
            `FourierMLP(dim, condition_dim=num_classes, key=key)`.
        guess: `guess(log_snr, y)`, unnormalised log-probabilities of the latent classes, such as
            `FourierMLP(dim, out_dim=num_classes, key=key)`.
        condition_dim: size of a condition, without the flag of `ConditionDropout`, which is not
            needed: zeros are no evidence.
        num_classes: number of latent classes, at least `condition_dim` and preferably larger.
        strength: strength of the initial evidence.

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
        strength: DataLike = 2.0,
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
    def dim(self) -> int | None:
        """The dimension of the wrapped network, if it has one."""
        return getattr(self.network, "dim", None)

    __repr__ = short_repr

    def __call__(
        self, log_snr: RealScalarLike, y: Float[Array, "*shape"], condition: Float[Array, " c"]
    ) -> Float[Array, "*shape"]:
        latent, size = self.evidence.shape
        evidence = (self.evidence @ condition[:size]).astype(y.dtype)
        guess = self.guess(log_snr, y)
        exact_shape(guess, (latent,), "guess")
        return self.network(log_snr, y, jax.nn.softmax(guess + evidence))
