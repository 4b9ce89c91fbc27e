r"""The entropy production of an ensemble, in its parts.

$$\dot S_{tot} = \frac{2}{\sigma^2}E\|v\|^2 = \underbrace{-E[v\cdot\nabla\log p]}_{\text{system}} +
  \underbrace{\frac{2}{\sigma^2}E[b\cdot v]}_{\text{medium}}$$

(Seifert, 2012): the growth of the differential entropy of $p_s$, and the heat given to the medium.
"""

from typing import Any

import equinox as eqx
import jax

from entropix._core.arrays import Key
from entropix._core.precision import full_precision
from entropix.entropy.curve import EntropyCurve, curve_of
from entropix.entropy.integrands import EntropyProduction, MediumEntropy, SystemEntropy
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
    data: Any,
    *,
    key: Key,
    num_evaluations: int = 16_384,
    condition: Any = None,
    cutoff: Any = None,
    times: Any = None,
    num_times: int = 65,
    chunk_size: int = 4096,
) -> EntropyRates:
    r"""The rates of total, system and medium entropy along the process of a model.

    For a process that is not Gaussian, and for single trajectories, see `path_entropy`, which also
    tells housekeeping from excess.

    Args:
        model: any model of a Gaussian process; of an `ExactModel` these are the true rates.
        data: samples of the data distribution, shape (N, *shape).
        key: PRNG key.
        num_evaluations: evaluations of the model's field, for each of the three.
        condition: None, or conditions of the samples: a pytree of arrays with leading axis N.
        cutoff: smallest noise standard deviation included. None takes the whole axis.
        times: where to report, increasing; None chooses `num_times` times.
        num_times: see `times`.
        chunk_size: evaluations held in memory at once.

    Returns:
        An `EntropyRates`. Of an exact model, `.system.total` is $h(p_T) - h(p_d)$.

    Raises:
        ValueError: as `entropy_curve`.
    """
    options = {
        "num_evaluations": num_evaluations,
        "condition": condition,
        "cutoff": cutoff,
        "times": times,
        "num_times": num_times,
        "control_variate": True,
        "chunk_size": chunk_size,
        "divergence": model.divergence,
    }
    parts = (EntropyProduction(model), SystemEntropy(model), MediumEntropy(model))
    keys = jax.random.split(key, 3)
    return EntropyRates(
        *(curve_of(part, data, key=k, **options) for part, k in zip(parts, keys, strict=True))
    )
