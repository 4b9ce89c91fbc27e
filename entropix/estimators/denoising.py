"""The difference of the denoising errors of two fields."""

from jaxtyping import Array, Float

from entropix._core.arrays import RealScalarLike, inner
from entropix.estimators.transforms import Partition
from entropix.interfaces import AbstractGaussianProcess


def error_difference(
    process: AbstractGaussianProcess,
    s: RealScalarLike,
    y: Float[Array, "*shape"],
    z: Float[Array, "*shape"],
    field: Float[Array, "*shape"],
    reference: Float[Array, "*shape"],
    partition: Partition | None = None,
) -> Float[Array, "..."]:
    r"""$\|s_1 + z/\Sigma\|^2 - \|s_2 + z/\Sigma\|^2$ of two scores, per $\frac{\sigma^2}{2}ds$.

    It is multiplied out as $(s_1 - s_2)\cdot(s_1 + s_2 + 2z/\Sigma)$, so that no large squares are
    subtracted. Over a pair (z, -z) the term in $z/\Sigma$ cancels to its first order in $\Sigma$.

    Args:
        process: the process.
        s: time.
        y: $\mu x + \Sigma z$.
        z: the noise in it.
        field: $e_1$.
        reference: $e_2$.
        partition: None for the difference, or how it is divided into parts.
    """
    # Both scores are these fields plus the equilibrium score.
    scores = field + reference + 2 * process.equilibrium_score(s, y)
    product = inner if partition is None else partition.inner
    return product(field - reference, scores + 2 * z / process.std(s))
