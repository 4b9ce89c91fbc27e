"""What `fit` minimises: a mean over examples, and over random draws for each of them."""

import abc
from collections.abc import Callable

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix.interfaces.model import AbstractModel


class AbstractLoss(eqx.Module):
    r"""A loss, the mean over n examples $x_i$ of a batch and m draws for each,

    $$J(\theta) \approx \frac{1}{nm}\sum_{i=1}^{n}\sum_{j=1}^{m} \ell_\theta(a_{ij}, u_{ij},
      z_{ij}), \qquad a_{ij} = a(x_i, u_{ij}),$$

    of a quantile of time $u \in (0, 1)$, stratified over the whole batch, and standard normal noise
    z. `one` is $\ell$; a is the example itself, or a point of a path from it. The mean is taken by
    `entropix.training.objective`.

    Attributes:
        num_draws: m, times and noises for each example.
        antithetic: whether noise comes in pairs (u, z), (u, -z); `num_draws` is even then.
        coupling: `coupling(x, z, *, key) -> z`, the noise of a batch in the order in which it goes
            with the examples; None where all examples are independent.
        num_steps: of an Euler-Maruyama path simulated from each example, of which a draw sees the
            end of the step at u, without its noise; 0: a draw sees the example itself.
    """

    num_draws: AbstractVar[int]
    antithetic: AbstractVar[bool]
    coupling: AbstractVar[Callable | None]
    num_steps: AbstractVar[int]

    @abc.abstractmethod
    def for_model(self, model: AbstractModel, data: Float[Array, "_ *shape"]) -> "AbstractLoss":
        """The loss with everything filled in that was left to the model.

        Args:
            model: what is trained.
            data: samples, for their moments.

        Raises:
            ValueError: if the loss cannot train this model.
        """

    @abc.abstractmethod
    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Shape of the noise of one draw, for examples of shape `shape`."""

    @abc.abstractmethod
    def one(
        self,
        model: AbstractModel,
        start: Float[Array, "..."],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "..."],
        key: Key | None,
    ) -> Float[Array, ""]:
        """The weighted loss of one draw.

        Args:
            model: what is trained.
            start: the example, or the point of its path.
            condition: what the network takes besides.
            u: the quantile of time.
            z: standard normal, of the shape `noise_shape`.
            key: for networks with dropout; None in evaluations.
        """
