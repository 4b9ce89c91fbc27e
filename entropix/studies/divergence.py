r"""What `information` measures between two data sets.

$$KL(A\|B) = KL(A_T\|B_T) + \int\frac{\sigma^2}{2}E_A\|s_A - s_B\|^2\,ds,$$

in its two forms (see `entropix.information.forms`), on held-out samples of each set. One network
knows both fields; its condition says which is meant. With labels c, given to the network too, the
divergences are $E_{c\sim A}KL(A(\cdot|c)\|B(\cdot|c))$.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix.entropy import EntropyCurve
from entropix.information import ModelPair, curve_with_end_term, in_form
from entropix.interfaces import AbstractModel
from entropix.models import ExactModel
from entropix.studies.cutoff import time_per_log_snr
from entropix.studies.data import PreparedData
from entropix.studies.estimates import errors_of
from entropix.studies.options import DivergenceOptions
from entropix.studies.study import Found, nothing, on_host
from entropix.transport import wasserstein


# The condition of the network, for the first and for the second set.
SIDES = (1.0, -1.0)
# The first set against the second, and the reverse.
DIRECTIONS = ("kl", "kl_reverse")


@dataclasses.dataclass(frozen=True, eq=False)
class PairSubject:
    """What is measured.

    Attributes:
        model: one trained model of both sets.
        pair: what it was trained on, and is measured on.
        options: the effort to spend.
        times: where curves are reported.
        cutoff: smallest noise standard deviation included, or None.
        advance: called after each part of a stage.
    """

    model: AbstractModel
    pair: tuple[PreparedData, PreparedData]
    options: DivergenceOptions
    times: np.ndarray
    cutoff: float | None
    advance: Callable[[], None] = nothing

    @property
    def parts(self) -> dict[str, int]:
        """Of how many parts the stages consist, those of more than one."""
        return {"divergence": 4}

    def curve(
        self, models: ModelPair, conditions: Any, points: np.ndarray, form: str, key: Key
    ) -> EntropyCurve:
        """The divergence of two fields on some points, as it accumulates over noise levels."""
        return curve_with_end_term(
            in_form(models, form),
            points,
            key=key,
            condition=conditions,
            times=self.times,
            num_evaluations=self.options.evaluations,
            cutoff=self.cutoff,
            chunk_size=4096,
        )


def side_of(side: float, data: PreparedData, *, augmented: bool = False) -> np.ndarray:
    """The conditions that select the field of a set, with the labels of these samples if any.

    Args:
        side: one of `SIDES`.
        data: whose samples.
        augmented: whether its training samples, in all noise draws, or else the held-out ones.
    """
    points, labels = data.held_out, data.condition_held_out
    if augmented:
        points, labels = data.augmented, data.condition_augmented
    column = np.full((len(points), 1), side, points.dtype)
    return column if labels is None else np.concatenate([column, labels], axis=1)


def measure_divergence(subject: PairSubject, key: Key, _: Found) -> Found:
    """KL in both directions and both forms, with its rates."""
    found: Found = {}
    for i, direction in enumerate(DIRECTIONS):
        data = subject.pair[i]
        points = data.held_out
        conditions = (side_of(SIDES[i], data), side_of(SIDES[1 - i], data))
        models = ModelPair(subject.model, subject.model)
        for name, form in ((direction, "denoising"), (f"{direction}_score", "score")):
            stream = jax.random.fold_in(key, i)
            curve = subject.curve(models, conditions, points, form, stream)
            stretch = time_per_log_snr(curve)
            subject.advance()
            found |= errors_of(name, curve.total)
            found[f"{name}_rate_log_snr"] = curve.rate * stretch
            found[f"{name}_rate_log_snr_stderr"] = curve.rate_stderr * stretch
    return found


def measure_distance(subject: PairSubject) -> Found:
    """W2 between the two sets, and within each of them, for the same number of samples."""
    # No network is involved, so that training samples may be used as well.
    first, second = (np.concatenate([data.held_out, data.train]) for data in subject.pair)
    count = min(len(first) // 2, len(second) // 2, subject.options.samples)
    found: Found = {"wasserstein2_count": count}
    halves = {
        "wasserstein2": (first[:count], second[:count]),
        "wasserstein2_null_first": (first[:count], first[count : 2 * count]),
        "wasserstein2_null_second": (second[:count], second[count : 2 * count]),
    }
    for name, (x, y) in halves.items():
        distance = wasserstein(x, y, max_exact=count)
        found |= {name: float(distance.value), f"{name}_stderr": float(distance.stderr)}
    return on_host(found)


def measure_pair_truth(subject: PairSubject, key: Key) -> Found:
    """KL and its rate where both densities are known; empty otherwise, and with labels."""
    first, second = (data.distribution for data in subject.pair)
    if first is None or second is None or subject.pair[0].condition is not None:
        return {}
    found: Found = {}
    process, pairs = subject.model.process, ((first, second), (second, first))
    for i, (name, (own, other)) in enumerate(zip(DIRECTIONS, pairs, strict=True)):
        points = subject.pair[i].held_out
        ratio = np.asarray(own.log_prob(jnp.asarray(points)) - other.log_prob(jnp.asarray(points)))
        models = ModelPair(ExactModel(own, process), ExactModel(other, process))
        stream = jax.random.fold_in(key, i)
        curve = subject.curve(models, (None, None), points, "score", stream)
        found |= {
            f"{name}_exact": ratio.mean(),
            f"{name}_exact_stderr": ratio.std(ddof=1) / np.sqrt(len(ratio)),
            f"{name}_exact_rate_log_snr": curve.rate * time_per_log_snr(curve),
        }
    return on_host(found)
