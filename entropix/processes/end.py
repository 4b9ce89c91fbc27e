"""What is left of the data at the noise end of a process, by one program for all who ask."""

from jaxtyping import Array, Float

from entropix._core.compiled import lightly_compiled
from entropix.interfaces import AbstractGaussianProcess


@lightly_compiled
def end_scale_and_std(
    process: AbstractGaussianProcess,
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    r"""$\mu(t_1)$ and $\Sigma(t_1)$."""
    return process.scale(process.t1), process.std(process.t1)
