"""What `measure` estimates of models of tokens."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.density import PathBound, log_prob
from entropix.dynamics import FirstHitting, sample
from entropix.entropy import entropy_curve, neural_entropy
from entropix.estimators import EntropyCurve
from entropix.interfaces import AbstractModel, AbstractTokenProcess
from entropix.studies.estimates import PILOT, errors_of, evaluations_for, information_of_labels
from entropix.studies.labels import LABEL_SCHEMA
from entropix.studies.options import EstimationOptions
from entropix.studies.record import TRAINING, Schema
from entropix.studies.study import Found, nothing
from entropix.studies.tokens.data import TokenData


# Shares of lost tokens at which curves are reported; the least number of evaluations.
SHARES, _FEWEST = np.linspace(0, 1, 33), 256
_PILOT_STREAM = 0x9110

_SEED, _LOST, _BITS = ("seed",), ("seed", "lost"), "bits per token"
TOKEN_SCHEMA: Schema = {name: v for name, v in TRAINING.items() if name != "log_snr"} | {
    "neural_entropy": (_SEED, "nats", "neural entropy S_NN on held-out data"),
    "neural_entropy_train": (_SEED, "nats", "neural entropy S_NN on training data"),
    "neural_entropy_bits": (_SEED, _BITS, "S_NN on held-out data, per token"),
    "evaluations": ((), "1", "evaluations of the field in each estimate of an entropy"),
    "token_information": (_LOST, "bits per lost token", "S_NN of a lost token, held-out data"),
    "token_information_train": (_LOST, "bits per lost token", "the same on training data"),
    "cumulative_entropy": (_LOST, "nats", "entropy between the data end and each share"),
    "cumulative_entropy_train": (_LOST, "nats", "the same on training data"),
    "position_entropy": (("seed", "position"), "nats", "S_NN at each position, held-out data"),
    "negative_log_likelihood": (_SEED, "nats", "upper bound on -E log p, held-out data"),
    "negative_log_likelihood_train": (_SEED, "nats", "the same on training data"),
    "bits_per_token": (_SEED, _BITS, "the bound on held-out data, per token"),
    "bits_per_token_train": (_SEED, _BITS, "the same on training data"),
    "perplexity": (_SEED, "1", "exponential of the bound in nats per token, held-out data"),
    "log_prob": (("seed", "rated_sample"), "nats", "lower bound on log p, held-out samples"),
    "log_prob_train": (("seed", "rated_sample"), "nats", "the same for training samples"),
    "baseline_log_prob": (("baseline", "rated_sample"), "nats", "log p of held-out samples"),
    "baseline_bits": (("baseline",), _BITS, "-E log p of held-out samples, per token"),
    "compressed_bits": (("compressor",), _BITS, "what held-out data add to a packed file"),
    "samples": (("seed", "generated_sample", "position"), "1", "generated samples"),
    **LABEL_SCHEMA,
}


def sampling(
    effort: EstimationOptions, data: TokenData, process: AbstractTokenProcess
) -> dict[str, Any]:
    """How samples are drawn: one token after the other, where that takes no more steps."""
    if process.has_mask and data.dataset.dim <= effort.sampling_steps:
        return {"solver": FirstHitting(), "num_steps": data.dataset.dim}
    return {"solver": None, "num_steps": effort.sampling_steps}


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a stage measures.

    Attributes:
        model: one trained model.
        data: what it was trained on, and is measured on.
        options: the effort to spend.
        advance: called after each part of a stage.
    """

    model: AbstractModel
    data: TokenData
    options: EstimationOptions
    advance: Callable[[], None] = nothing

    @property
    def parts(self) -> dict[str, int]:
        """Of how many parts the stages consist, those of more than one."""
        labels = self.data.condition is not None
        return {"entropy": 2, "likelihoods": 2} | ({"information": 2} if labels else {})

    @property
    def process(self) -> AbstractTokenProcess:
        """Of the model."""
        process = self.model.process
        assert isinstance(process, AbstractTokenProcess)
        return process

    @property
    def chunk_size(self) -> int:
        """Evaluations held in memory at once."""
        return max(1, min(4096, 2**22 // (self.data.dataset.dim * max(self.data.num_tokens, 128))))

    @property
    def num_rated(self) -> int:
        """The number of held-out and of training samples whose likelihood is bounded."""
        return min(len(self.data.held_out), self.data.num_train, self.options.samples)

    def curve(self, points: np.ndarray, key: Key) -> EntropyCurve:
        """S_NN by the share of lost tokens."""
        return entropy_curve(
            self.model,
            points,
            key=key,
            num_evaluations=self.options.evaluations,
            times=self.process.time_of_lost(SHARES),
            chunk_size=self.chunk_size,
        )


def measure_entropy(subject: Subject, key: Key, _: Found) -> Found:
    """S_NN of held-out and of training data, by the share of lost tokens."""
    data, found = subject.data, {}
    per_token = 1 / (data.dataset.dim * np.log(2))
    # As many points of both: one compiled program, and errors of equal size.
    parts = {"": data.held_out, "_train": data.train[: len(data.held_out)]}
    for i, (suffix, points) in enumerate(parts.items()):
        curve = subject.curve(points, jax.random.fold_in(key, i))
        rate, error = curve.rates_along(subject.process.lost(curve.times))
        found |= {
            **errors_of(f"neural_entropy{suffix}", curve.total, "stderr", "mc_stderr"),
            f"token_information{suffix}": rate * per_token,
            f"token_information{suffix}_stderr": error * per_token,
            f"cumulative_entropy{suffix}": curve.cumulative,
            f"cumulative_entropy{suffix}_stderr": curve.stderr,
        }
        subject.advance()
    for error in ("", "_stderr", "_mc_stderr"):
        found[f"neural_entropy_bits{error}"] = found[f"neural_entropy{error}"] * per_token
    return found


def measure_positions(subject: Subject, key: Key, _: Found) -> Found:
    """S_NN at each position, on held-out data."""
    curve = entropy_curve(
        subject.model,
        subject.data.held_out,
        key=key,
        num_evaluations=of_positions(subject.options),
        num_times=2,
        per_coordinate=True,
        chunk_size=subject.chunk_size,
    )
    errors = {"": curve.value, "_stderr": curve.stderr, "_mc_stderr": curve.mc_stderr}
    return {f"position_entropy{name}": np.ravel(value) for name, value in errors.items()}


def of_positions(effort: EstimationOptions) -> int:
    """The evaluations of the map of positions: a quarter of those of an entropy."""
    return max(_FEWEST, effort.evaluations // 4)


def measure_samples(subject: Subject, key: Key, _: Found) -> Found:
    """Samples of the model."""
    options = subject.options
    drawn = sample(
        subject.model,
        key=key,
        num_samples=options.samples,
        chunk_size=subject.chunk_size,
        **sampling(options, subject.data, subject.process),
    )
    dtype = np.int16 if subject.data.num_tokens < 2**15 else np.int32
    return {"samples": np.asarray(drawn).reshape(options.samples, -1).astype(dtype)}


def measure_likelihoods(subject: Subject, key: Key, _: Found) -> Found:
    """The bound on the likelihood of held-out and of training samples."""
    found: Found = {}
    per_token = 1 / (subject.data.dataset.dim * np.log(2))
    parts = {"": subject.data.held_out, "_train": subject.data.train}
    for i, (suffix, points) in enumerate(parts.items()):
        rated = log_prob(
            subject.model,
            points[: subject.num_rated],
            key=jax.random.fold_in(key, i),
            method=PathBound(num_evaluations=subject.options.density_evaluations),
            chunk_size=subject.chunk_size,
        )
        subject.advance()
        mean, error = -np.asarray(rated.mean.value), np.asarray(rated.mean.stderr)
        found |= {
            f"log_prob{suffix}": rated.value,
            f"negative_log_likelihood{suffix}": mean,
            f"negative_log_likelihood{suffix}_stderr": error,
            f"bits_per_token{suffix}": mean * per_token,
            f"bits_per_token{suffix}_stderr": error * per_token,
        }
    found["perplexity"] = 2 ** found["bits_per_token"]
    found["perplexity_stderr"] = np.log(2) * found["perplexity"] * found["bits_per_token_stderr"]
    return found


def measure_information(subject: Subject, key: Key, _: Found) -> Found:
    """The mutual information of labels and held-out sequences; empty without labels."""
    labels = subject.data.condition_held_out
    if labels is None:
        return {}
    return information_of_labels(
        subject.model,
        subject.data.held_out,
        labels,
        key=key,
        advance=subject.advance,
        num_evaluations=subject.options.evaluations,
        chunk_size=subject.chunk_size,
    )


STAGES: dict[str, Callable[[Subject, Key, Found], Found]] = {
    "entropy": measure_entropy,
    "positions": measure_positions,
    "samples": measure_samples,
    "likelihoods": measure_likelihoods,
    "information": measure_information,
}


def with_relative_error(subject: Subject, key: Key) -> EstimationOptions:
    """The effort with the number of evaluations that the requested relative error needs."""
    options = subject.options
    if options.relative_error is None:
        return options
    pilot = neural_entropy(
        subject.model,
        subject.data.held_out,
        key=jax.random.fold_in(key, _PILOT_STREAM),
        num_evaluations=PILOT,
        chunk_size=subject.chunk_size,
    )
    count = evaluations_for(pilot, options.relative_error)
    return dataclasses.replace(options, evaluations=count)
