r"""The Jarzynski estimator of log densities: exponential averages over forward paths."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from entropix._core.arrays import Key
from entropix._core.checks import positive_integer
from entropix.entropy import path_log_ratio
from entropix.interfaces import AbstractDensityMethod, AbstractModel, SampleEstimates


class Jarzynski(AbstractDensityMethod):
    r"""$\log p_\theta(x) = \log E[e^{W}]$, $W$ the Girsanov weight of a path from $x$.

    The density of the reverse SDE itself, where `PathBound` bounds it from below by $E[W]$. The
    estimate is low by about $\mathrm{Var}(W)/(2\,\mathrm{num\_paths})$ for well-behaved weights:
    where its standard error is not small, trust neither. See `path_log_ratio`.

    Args:
        num_paths: paths from each sample, at least 2.
        num_steps: steps of a path, at least 2.

    Raises:
        ValueError: if an argument is not as above; when called, without a key or with a cut-off.

    References:
        Jarzynski, Phys. Rev. Lett. 78, 2690 (1997); Neural Entropy, 2409.03817.
    """

    num_paths: int = eqx.field(static=True)
    num_steps: int = eqx.field(static=True)

    def __init__(self, num_paths: int = 256, num_steps: int = 128):
        self.num_paths = positive_integer(num_paths, "num_paths", 2)
        self.num_steps = positive_integer(num_steps, "num_steps", 2)

    def evaluate(
        self,
        model: AbstractModel,
        x: Float[Array, "n *shape"],
        *,
        prior: Any,
        condition: PyTree,
        cutoff: Array | None,
        key: Key | None,
        chunk_size: int,
    ) -> SampleEstimates:
        if key is None:
            raise ValueError("`key` must be given: Jarzynski draws random numbers.")
        if cutoff is not None:
            raise ValueError("`cutoff` must be None for Jarzynski, whose paths start at the data.")
        weights = path_log_ratio(
            model,
            x,
            key=key,
            num_paths=self.num_paths,
            num_steps=self.num_steps,
            prior=prior,
            condition=condition,
            chunk_size=chunk_size,
        )
        value, stderr = _averages(weights)
        return SampleEstimates(value, stderr, self.num_paths * self.num_steps)


@jax.jit
def _averages(weights: Array) -> tuple[Array, Array]:
    """Logarithms of exponential averages over the paths of each sample, and their errors."""
    count = weights.shape[1]
    value = jax.nn.logsumexp(weights, axis=1) - jnp.log(count)
    relative = jnp.exp(weights - value[:, None])
    return value, jnp.std(relative, axis=1, ddof=1) / jnp.sqrt(count)
