r"""The entropy production of an ensemble, in its parts.

$$\dot S_{tot} = \frac{2}{\sigma^2}E\|v\|^2 = \underbrace{-E[v\cdot\nabla\log p]}_{\text{system}} +
  \underbrace{\frac{2}{\sigma^2}E[b\cdot v]}_{\text{medium}}$$

(Seifert, 2012): the growth of the differential entropy of $p_s$, and the heat given to the medium.
"""

import equinox as eqx
import jax
from jaxtyping import PyTree

from entropix._core.arrays import DataLike, Key
from entropix._core.precision import full_precision
from entropix.entropy.curve import EntropyProduction
from entropix.entropy.functionals import MediumEntropy, SystemEntropy
from entropix.estimators import EntropyCurve, integrate
from entropix.interfaces import AbstractModel


class EntropyRates(eqx.Module):
    """Entropy production and its two parts along a process, each an `EntropyCurve` in nats.

    The three are estimated independently of one another: that system and medium add up to the total
    within their errors is a check.
    """

    total: EntropyCurve
    system: EntropyCurve
    medium: EntropyCurve


@full_precision
def entropy_rates(
    model: AbstractModel,
    data: DataLike,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: PyTree = None,
    cutoff: DataLike | None = None,
    times: DataLike | None = None,
    num_times: int = 65,
    chunk_size: int = 4096,
) -> EntropyRates:
    r"""The rates of total, system and medium entropy along the process of a model.

    For a process that is not Gaussian, and for single trajectories, see `path_entropy`, which also
    separates housekeeping from excess.

    Args:
        model: any model of a Gaussian process; for an `ExactModel` these are the true rates.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the model's field, for each of the three.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        times: where to report, increasing; None chooses `num_times` times.
        num_times: see `times`.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `EntropyRates`. For an exact model, `.system.total` is $h(p_T) - h(p_d)$.

    Raises:
        ValueError: as `entropy_curve`.
        DivergenceError: as `entropy_curve`.

    References:
        Seifert, Rep. Prog. Phys. 75, 126001 (2012).
    """
    parts = (EntropyProduction(model), SystemEntropy(model), MediumEntropy(model))
    curves = (
        integrate(
            part,
            data,
            key=part_key,
            num_evaluations=num_evaluations,
            condition=condition,
            cutoff=cutoff,
            times=times,
            num_times=num_times,
            chunk_size=chunk_size,
            divergence=model.divergence,
        )
        for part, part_key in zip(parts, jax.random.split(key, 3), strict=True)
    )
    return EntropyRates(*curves)
