r"""A part of the tokens of a model, with the others unknown or given.

Under masking a model of all tokens is one of every part: $p(x_i|\text{unmasked})$ with all other
tokens masked belongs to the marginal law of the part, and with the other tokens unmasked to its
conditional law. One network thus has all mutual informations and conditional entropies (Foresti,
Franzese, Michiardi, 2502.19183).
"""

from collections.abc import Sequence
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key, RealScalarLike, as_float
from entropix.interfaces import AbstractPrior, AbstractTokenProcess
from entropix.models.tokens import AbstractTokenModel


class TokenBlock(AbstractTokenModel):
    r"""The law of the tokens at some sites, from a model of all of them.

    Without a condition it is their marginal law. With one, an array of the tokens at all other
    sites, it is their law given these; K stands for one that is not known. With samples (x, y) of
    both parts

    | quantity | call |
    |---|---|
    | H(X) | `differential_entropy(block, x, key=key)` |
    | H(X given Y) | `differential_entropy(block, x, condition=y, key=key)` |
    | I(X; Y) | `mutual_information(block, x, y, key=key)` |
    | samples of X given y | `sample(block, condition=y, ...)` |

    Args:
        model: of sequences of D tokens, under `Masking`, exact or with a network.
        sites: numbers of the sites of the part, in the order of its tokens.

    Raises:
        ValueError: if an argument is not as above.

    Example:
        Two spins that agree with probability 0.9 share 0.368 nats:

        >>> import jax, jax.numpy as jnp, entropix as ex
        >>> table = jnp.log(jnp.array([[0.45, 0.05], [0.05, 0.45]]))
        >>> model = ex.models.ExactDiscrete(table, ex.Masking(2, ex.LinearSchedule()))
        >>> both = model.sample(4000, key=jax.random.key(0))
        >>> first, key = ex.models.TokenBlock(model, [0]), jax.random.key(1)
        >>> shared = ex.mutual_information(first, both[:, :1], both[:, 1:], key=key)
        >>> bool(abs(shared.value - 0.368) < 4 * shared.stderr)
        True

    References:
        Foresti, Franzese, Michiardi, 2502.19183.
    """

    model: AbstractTokenModel
    sites: tuple[int, ...] = eqx.field(static=True)
    shape: tuple[int, ...] = eqx.field(static=True)

    def __init__(self, model: AbstractTokenModel, sites: Sequence[int]):
        if not isinstance(model, AbstractTokenModel) or not model.process.has_mask:
            kind = type(getattr(model, "process", model)).__name__
            raise ValueError(
                f"`model` must be one of tokens under Masking, got {kind}: without masks the other "
                "tokens cannot be left out."
            )
        self.model = model
        self.sites = tuple(int(i) for i in sites)
        length = model.shape[0] if len(model.shape) == 1 else 0
        if (
            not self.sites
            or len(set(self.sites)) < len(self.sites)
            or not all(0 <= i < length for i in self.sites)
        ):
            raise ValueError(
                "`sites` must be different sites of the sequences of the model, which have shape "
                f"{model.shape}, got {self.sites}."
            )
        self.shape = (len(self.sites),)

    @property
    def process(self) -> Any:
        return self.model.process

    @property
    def is_exact(self) -> bool:
        """Whether the model of all tokens is exact."""
        return getattr(self.model, "is_exact", False)

    @property
    def prior(self) -> AbstractPrior:
        return self.process.prior(self.shape)

    def with_process(self, process: AbstractTokenProcess) -> "TokenBlock":
        moved: Any = self.model.with_process(process)
        return TokenBlock(moved, self.sites)

    def entropy_field(
        self,
        s: RealScalarLike,
        y: Float[Array, " block"],
        condition: PyTree = None,
        *,
        key: Key | None = None,
    ) -> Float[Array, "block num_tokens"]:
        sites = np.array(self.sites)
        whole = jnp.full(self.model.shape, float(self.process.num_tokens), y.dtype)
        if condition is not None:
            others = np.delete(np.arange(whole.size), sites)
            given = as_float(condition, "condition")
            if given.shape != others.shape:
                raise ValueError(
                    f"`condition` must hold the {others.size} tokens at the other sites, got shape "
                    f"{given.shape}."
                )
            whole = whole.at[others].set(given.astype(y.dtype))
        return self.model.entropy_field(s, whole.at[sites].set(y), key=key)[sites]
