r"""Samplers of models of rows of tokens and numbers.

Within a step both parts of the field are frozen: the tokens jump as in `TauLeaping`, and the
numbers take a step of `DDIM`. In continuous time, reverse jumps of the tokens and the probability
flow of the numbers together reverse the evolution of the law of the rows. Frozen fields cause an
error in distribution, which decreases with the step.
"""

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import RealLike, RealScalarLike
from entropix.dynamics.coordinates import ReverseCoordinates
from entropix.dynamics.samplers import DDIM, Denoiser, ddim_step
from entropix.dynamics.tokens import leap
from entropix.interfaces import AbstractDenoiser, AbstractModel, AbstractSampler, NoiseLevel
from entropix.processes import Multimodal


class MultimodalDenoiser(AbstractDenoiser):
    """The field of the tokens and the denoiser of the numbers, for a batch of rows.

    Attributes:
        model: a model of a `Multimodal` process.
        coordinates: of the process of the numbers.
        condition: None, or arrays with a leading axis of the batch.
    """

    model: AbstractModel
    coordinates: ReverseCoordinates
    condition: PyTree = None

    @property
    def process(self) -> Multimodal:
        return self.model.process

    def steps(self, num_steps: int) -> Float[Array, " knots"]:
        return self.coordinates.steps(num_steps)[0]

    def level(self, s: RealLike) -> NoiseLevel:
        return Denoiser(model=self.model, coordinates=self.coordinates).level(s)

    def __call__(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, level: NoiseLevel, y: Float[Array, "n row"]
    ) -> tuple[Array, Array]:
        tokens, numbers = self.process.split(y)
        numbers = level.gain * numbers
        y = jnp.concatenate([tokens, numbers], axis=1)
        of_tokens, field = jax.vmap(self.model.entropy_field, in_axes=(None, 0, 0))(
            level.at, y, self.condition
        )
        score = field + self.coordinates.process.equilibrium_score(level.at, numbers)
        return of_tokens, (numbers + level.at_var * score) / level.at_scale


class JointDDIM(AbstractSampler):
    r"""In each step the tokens jump independently, and the numbers take a step of `DDIM`.

    The default for models of a `Multimodal` process. One evaluation per step.

    Args:
        eta: how much of the noise of the numbers is drawn again, see `DDIM`.

    Raises:
        ValueError: if `eta` is not between 0 and 1.

    References:
        Song et al., 2010.02502; Lou et al., 2310.16834.
    """

    eta: Float[Array, ""]

    def __init__(self, eta: RealScalarLike = 0.0):
        self.eta = DDIM(eta).eta

    def init(self, y, num_steps):
        return None

    def step(self, denoiser, now, then, y, carry, keys):
        process = denoiser.process
        tokens, numbers = process.split(y)
        field, denoised = denoiser(now, y)
        keys, token_keys = jnp.moveaxis(jax.vmap(jax.random.split)(keys), 1, 0)
        tokens = leap(process.tokens, now, then, tokens, field, token_keys)
        numbers = ddim_step(denoised, self.eta, now, then, numbers, keys)
        return jnp.concatenate([tokens, numbers], axis=1), carry
