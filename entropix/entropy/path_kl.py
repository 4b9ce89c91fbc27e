r"""The path KL between two models of one process.

$$L = \int_{t_0}^{t_1}\frac{\sigma^2}{2}\,E_p\|e_1 - e_2\|^2\,ds$$

bounds how far the generated density lies from the data: $KL(p_d\|p_\theta) \le KL(p_T\|prior) + L$
with the exact field as $e_2$ (Neural Entropy, 2409.03817; Song et al., 2101.09258). On tokens the
integrand is $d(f_2, f_1)$ of `entropix.interfaces.AbstractTokenProcess` (Lou et al., 2310.16834).
"""

from jaxtyping import PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.checks import check_same_process, samples
from entropix._core.precision import full_precision
from entropix.entropy.functionals import PathDivergence
from entropix.estimators import Proposal, integrate
from entropix.interfaces import AbstractModel, Estimate
from entropix.processes import check_example_shape


@full_precision
def path_kl(
    model: AbstractModel,
    reference_model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    chunk_size: int = 4096,
    proposal: Proposal | None = None,
) -> Estimate:
    r"""$\int\frac{\sigma^2}{2}E\|e_1 - e_2\|^2 ds$ in nats, the expectation over diffused `data`.

    Args:
        model: gives $e_1$ (with `condition`, if any).
        reference_model: gives $e_2$, on the same process; usually an `ExactModel`.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of each field.
        condition: None, or conditions of the samples, passed to `model` only.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        chunk_size: evaluations held in memory at once.
        proposal: where to place the evaluations, as in `entropy_curve`.

    Returns:
        An `Estimate`.

    Raises:
        ValueError: if the processes differ.
        DivergenceError: if the rate does not decay at an end of the axis and, at the data end, no
            cut-off was given.

    Example:
        >>> import jax, entropix as ex
        >>> process = ex.VariancePreserving(ex.LinearSchedule(0.1, 16.0))
        >>> exact = ex.ExactModel(ex.Gaussian([0.0], [[1.0]]), process)
        >>> shifted = ex.ExactModel(ex.Gaussian([0.5], [[1.0]]), process)
        >>> data = exact.distribution.sample(100, key=jax.random.key(0))
        >>> value = ex.path_kl(shifted, exact, data, key=jax.random.key(1), num_evaluations=512)
        >>> bool(abs(value.value - 0.125) < 0.01)  # half the squared distance of the means
        True

    References:
        Neural Entropy, 2409.03817; Song et al., 2101.09258.
    """
    check_same_process(model.process, reference_model.process)
    data = samples(data)
    check_example_shape(model, data, "data")
    return integrate(
        PathDivergence(model, reference_model),
        data,
        key=key,
        num_evaluations=num_evaluations,
        condition=condition,
        cutoff=cutoff,
        chunk_size=chunk_size,
        proposal=proposal,
    ).total
