r"""The denoising loss of models of rows of tokens and numbers.

$$J(\theta) = \int E\left[\nu\,d(f_x, f_\theta)(Y_s) + \frac{\sigma^2}{2}\left(
  \|e_x - e_\theta\|^2 - \|e_x\|^2\right)\right]ds,$$

the sum of the losses of `TokenDenoising` and of `Denoising` with the likelihood weighting, at one
time and for one state of the whole row. The fields with index $\theta$ are those of the model;
$f_x$ and $e_x$ are the fields given the data point x, of tokens and of numbers. $\nu$ is the
measure of the tokens per unit time. Up to a constant the loss is the path KL in nats.
"""

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix.interfaces import AbstractLoss, AbstractModel, AbstractTimes
from entropix.models import GaussianScaling
from entropix.processes import Multimodal
from entropix.training.losses import check_draws, check_times_proposal, relative_loss
from entropix.training.times import LogisticTimes


class MultimodalDenoising(AbstractLoss):
    r"""The loss of the module; the default of `fit` for models of a `Multimodal` process.

    Args:
        num_draws: times and noises for each row.
        antithetic: whether they come in pairs. None: if `num_draws` is even.
        times: the distribution of times; None for `LogisticTimes.matched` to the numbers.

    Raises:
        ValueError: if an argument is not as above, or the process of the model is not `Multimodal`.

    References:
        Sahoo et al., 2406.07524; Neural Entropy, 2409.03817.
    """

    times: AbstractTimes | None
    num_draws: int = eqx.field(static=True)
    antithetic: bool = eqx.field(static=True)

    coupling = None
    num_steps = 0

    def __init__(
        self,
        num_draws: int = 10,
        antithetic: bool | None = None,
        times: AbstractTimes | None = None,
    ):
        self.num_draws, self.antithetic = check_draws(num_draws, antithetic)
        self.times = check_times_proposal(times, "LogisticTimes")

    def for_model(self, model: AbstractModel, data: Float[Array, "_ row"]) -> "MultimodalDenoising":
        process = model.process
        if not isinstance(process, Multimodal):
            raise ValueError(
                "`loss` must be None or another for a model of "
                f"{type(process).__name__}, got MultimodalDenoising."
            )
        times = self.times
        if times is None:
            scaling = getattr(model, "scaling", None)
            if scaling is None:
                scaling = GaussianScaling.from_data(process.split(data)[1], process.numbers)
            times = LogisticTimes.matched(process.numbers, scaling)
        return MultimodalDenoising(self.num_draws, self.antithetic, times)

    def noise_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        # The process of the tokens takes three values for each; the numbers use the first row.
        return (3, *shape)

    def one(
        self,
        model: AbstractModel,
        start: Float[Array, " row"],
        condition: PyTree,
        u: Float[Array, ""],
        z: Float[Array, "3 row"],
        key: Key | None,
    ) -> Float[Array, ""]:
        assert self.times is not None  # `for_model` fills it in
        process: Multimodal = model.process
        s, density = self.times(process.numbers, u)
        noise = z[:, : process.num_sites], z[0, process.num_sites :]
        y = process.perturb(s, start, noise)
        of_tokens, of_numbers = model.entropy_field(s, y, condition, key=key)
        tokens, numbers = process.split(start)
        lost = process.split(y)[0]
        known = process.tokens.denoising_divergence(s, tokens, lost, of_tokens)
        loss = process.token_measure(s) * jnp.sum(known)
        loss = loss + relative_loss(process.numbers, s, numbers, noise[1], of_numbers) / 2
        return process.weight(s, start, noise) * loss / density
