"""What `fit` minimises: a mean over examples, and over random draws for each of them."""

import abc
from collections.abc import Callable

import equinox as eqx
from equinox import AbstractVar
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix.interfaces.model import AbstractModel
from entropix.interfaces.process import AbstractProcess


class AbstractLoss(eqx.Module):
    r"""A loss, the mean over n examples $x_i$ of a batch and m draws for each,

    $$J(\theta) \approx \frac{1}{nm}\sum_{i=1}^{n}\sum_{j=1}^{m} \ell_\theta(a_{ij}, u_{ij},
      z_{ij}), \qquad a_{ij} = a(x_i, u_{ij}),$$

    of a quantile of time $u \in (0, 1)$, stratified over the whole batch, and standard normal noise
    z. `one` is $\ell$, `starts` is a. The mean is taken by `entropix.training.objective`.

    Attributes:
        num_draws: m, times and noises for each example.
        antithetic: whether noise comes in pairs (u, z), (u, -z); `num_draws` is even then.
        coupling: `coupling(x, z, *, key) -> z`, the noise of a batch in the order in which it goes
            with the examples; None where all examples are independent.
    """

    num_draws: AbstractVar[int]
    antithetic: AbstractVar[bool]
    coupling: AbstractVar[Callable | None]

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
    def starts(
        self, process: AbstractProcess, x: Float[Array, "*shape"], u: Float[Array, " m"], key: Key
    ) -> Float[Array, "m ..."]:
        """What the noise is added to in each draw of one example."""

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
        """The weighted loss of one draw; `key` is for networks with dropout."""
