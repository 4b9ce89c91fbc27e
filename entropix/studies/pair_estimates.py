r"""What is measured between two data sets once a network knows both.

$$KL(A\|B) = KL(A_T\|B_T) + \int\frac{\sigma^2}{2}E_A\|s_A - s_B\|^2\,ds,$$

in its two forms (see `entropix.information.forms`), on samples held out of either set.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix.entropy import EntropyCurve
from entropix.information import ModelPair, curve_with_end_term, in_form
from entropix.interfaces import AbstractModel
from entropix.models import ExactModel
from entropix.studies.axis import time_per_log_snr
from entropix.studies.data import PreparedData
from entropix.studies.options import DivergenceOptions
from entropix.studies.pair_plan import SIDES
from entropix.studies.stages import Found, arrays
from entropix.transport.couplings import assignment, costs_of, sorted_coupling


# Where a pair of sets comes twice: A against B, then B against A.
DIRECTIONS = ("kl", "kl_reverse")


@dataclasses.dataclass(frozen=True, eq=False)
class PairSubject:
    """What a stage measures.

    Attributes:
        model: one trained model of both sets, told which by its condition.
        pair: what it was trained and is measured on.
        options: what to spend.
        times: where curves are reported.
        cutoff: smallest noise standard deviation included, or None.
        key: PRNG key.
    """

    model: AbstractModel
    pair: tuple[PreparedData, PreparedData]
    options: DivergenceOptions
    times: np.ndarray
    cutoff: float | None
    key: Key

    def with_stream(self, stream: int) -> "PairSubject":
        """The same with random numbers of its own."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, stream))

    def curve(self, pair: ModelPair, conditions: Any, data: PreparedData, form: str) -> Any:
        """The divergence of a pair of fields on held-out data, as it accumulates."""
        return curve_with_end_term(
            in_form(pair, form),
            data.held_out,
            key=self.key,
            condition=conditions,
            times=self.times,
            num_evaluations=self.options.evaluations,
            cutoff=self.cutoff,
            chunk_size=4096,
        )


def measure_divergence(subject: PairSubject, _: Found) -> Found:
    """KL in both directions and both forms, with its curve in the form of denoising errors."""
    found: Found = {}
    for i, name in enumerate(DIRECTIONS):
        data = subject.pair[i]
        told = jnp.ones((len(data.held_out), 1), data.held_out.dtype)
        conditions = (SIDES[i] * told, SIDES[1 - i] * told)
        pair, what = ModelPair(subject.model, subject.model), subject.with_stream(i)
        curve: EntropyCurve = what.curve(pair, conditions, data, "denoising")
        score: EntropyCurve = what.curve(pair, conditions, data, "score")
        stretch = time_per_log_snr(score)
        found |= {
            name: curve.total.value,
            f"{name}_stderr": curve.total.stderr,
            f"{name}_score": score.total.value,
            f"{name}_score_stderr": score.total.stderr,
            f"{name}_rate_log_snr": curve.rate * stretch,
            f"{name}_rate_log_snr_stderr": curve.rate_stderr * stretch,
            f"{name}_score_rate_log_snr": score.rate * stretch,
            f"{name}_score_rate_log_snr_stderr": score.rate_stderr * stretch,
        }
    return arrays(found)


STAGES = (("divergence", measure_divergence),)


def measure_distance(subject: PairSubject) -> Found:
    """W2 between the two sets, and within each of them, for as many samples."""
    first, second = (_all_points(data) for data in subject.pair)
    count = min(len(first) // 2, len(second) // 2, subject.options.samples)
    found: Found = {"wasserstein2_count": count}
    halves = {
        "wasserstein2": (first[:count], second[:count]),
        "wasserstein2_null_first": (first[:count], first[count : 2 * count]),
        "wasserstein2_null_second": (second[:count], second[count : 2 * count]),
    }
    for name, (x, y) in halves.items():
        found[name], found[f"{name}_stderr"] = _distance(jnp.asarray(x), jnp.asarray(y))
    return arrays(found)


def _all_points(data: PreparedData) -> np.ndarray:
    """Held-out samples and training ones: no network has a part in W2."""
    return np.concatenate([data.held_out, data.train])


def _distance(x: jax.Array, y: jax.Array) -> tuple[float, float]:
    """W2 of two samples, and its standard error by the dual potentials."""
    coupling = sorted_coupling(x, y) if x.shape[1] == 1 else assignment(x, y, 2.0)
    squared = float(jnp.mean(costs_of(x, y[coupling.partner], 2.0)))
    error = float(jnp.sqrt((jnp.var(coupling.u) + jnp.var(coupling.v)) / len(x)))
    root = float(np.sqrt(squared))
    return root, error / (2 * root) if root > 0 else 0.0


def measure_pair_truth(subject: PairSubject) -> Found:
    """KL and its rate where both distributions are known; empty otherwise."""
    known = [data.distribution for data in subject.pair]
    if any(distribution is None for distribution in known):
        return {}
    found: Found = {}
    for i, name in enumerate(DIRECTIONS):
        own, other = known[i], known[1 - i]
        assert own is not None
        assert other is not None
        data = subject.pair[i]
        points = jnp.asarray(data.held_out)
        ratio = np.asarray(own.log_prob(points) - other.log_prob(points))
        process = subject.model.process
        pair = ModelPair(ExactModel(own, process), ExactModel(other, process))
        curve = subject.with_stream(i).curve(pair, (None, None), data, "score")
        found |= {
            f"{name}_exact": ratio.mean(),
            f"{name}_exact_stderr": ratio.std(ddof=1) / np.sqrt(len(ratio)),
            f"{name}_exact_rate_log_snr": curve.rate * time_per_log_snr(curve),
        }
    return arrays(found)
