"""What is measured once models are trained: every number of the record but the loss.

The stages of `measure` (see `entropix.studies.stages`).
"""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from entropix._core.arrays import Key
from entropix.density import PathBound, log_prob
from entropix.dynamics import sample
from entropix.entropy import EntropyCurve, entropy_curve, path_kl
from entropix.information import mutual_information
from entropix.interfaces import AbstractModel, Estimate, SampleEstimates
from entropix.models import ExactModel
from entropix.studies.axis import default_cutoff, time_per_log_snr
from entropix.studies.data import PreparedData
from entropix.studies.distance import distance_at_least
from entropix.studies.options import EstimationOptions
from entropix.studies.stages import Found, arrays, asks_for_cutoff
from entropix.transport import speed_limit, wasserstein


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a stage measures.

    Attributes:
        model: one trained model, in its coordinates.
        data: what it was trained and is measured on.
        options: what to spend.
        times: where curves are reported.
        cutoff: see `entropy_curve`.
        key: PRNG key.
    """

    model: AbstractModel
    data: PreparedData
    options: EstimationOptions
    times: np.ndarray
    cutoff: float | None
    key: Key

    def with_stream(self, stream: int) -> "Subject":
        """The same with random numbers of its own."""
        return dataclasses.replace(self, key=jax.random.fold_in(self.key, stream))

    def curve(self, model: AbstractModel, points: np.ndarray, stream: int) -> EntropyCurve:
        """The entropy curve of a model on some points."""
        return entropy_curve(
            model,
            points,
            key=jax.random.fold_in(self.key, stream),
            num_evaluations=self.options.evaluations,
            cutoff=self.cutoff,
            times=self.times,
        )

    @property
    def exact(self) -> ExactModel | None:
        """The exact model of the data, if it is known."""
        if self.data.distribution is None:
            return None
        return ExactModel(self.data.distribution, self.model.process)

    @property
    def num_rated(self) -> int:
        """How many samples of each kind (held-out, training, generated) get a log density."""
        return min(len(self.data.held_out), len(self.data.train), self.options.samples)

    @property
    def num_pairs(self) -> int:
        """Samples on each side of a W2: as many as there are, in time that is bearable."""
        return min(self.num_rated, 1000)


def measure_entropy(subject: Subject, _: Found) -> Found:
    """S_NN and its curve, on held-out data and on training data."""
    held_out = subject.curve(subject.model, subject.data.held_out, 0)
    # As many points as are held out: one compiled program, and errors of one size.
    some = subject.data.train[: len(subject.data.held_out)]
    train = subject.curve(subject.model, some, 1)
    stretch = time_per_log_snr(held_out)
    found = {
        "neural_entropy": held_out.total.value,
        "neural_entropy_stderr": held_out.total.stderr,
        "neural_entropy_mc_stderr": held_out.total.mc_stderr,
        "neural_entropy_train": train.total.value,
        "neural_entropy_train_stderr": train.total.stderr,
        "entropy_rate": held_out.rate,
        "entropy_rate_stderr": held_out.rate_stderr,
        "entropy_rate_log_snr": held_out.rate * stretch,
        "entropy_rate_log_snr_stderr": held_out.rate_stderr * stretch,
        "cumulative_entropy": held_out.cumulative,
        "cumulative_entropy_stderr": held_out.stderr,
        "cumulative_entropy_train": train.cumulative,
    }
    if held_out.total.slope is not None:
        found["entropy_slope"] = held_out.total.slope
    return arrays(found)


def measure_path_kl(subject: Subject, _: Found) -> Found:
    """Path KL to the exact field, where that is known."""
    if subject.exact is None:
        return {}
    try:
        # The whole axis, whatever the cut-off of the entropies: only then does it bound KL.
        kl = path_kl(
            subject.model,
            subject.exact,
            subject.data.held_out,
            key=subject.key,
            num_evaluations=subject.options.evaluations,
        )
    except ValueError as error:
        if not asks_for_cutoff(error):
            raise
        return arrays({"path_kl": np.inf, "path_kl_stderr": 0.0, "path_kl_mc_stderr": 0.0})
    return arrays(
        {"path_kl": kl.value, "path_kl_stderr": kl.stderr, "path_kl_mc_stderr": kl.mc_stderr}
    )


def measure_samples(subject: Subject, _: Found) -> Found:
    """Samples of the model, in the units of the data."""
    made = sample(
        subject.model,
        key=subject.key,
        num_samples=subject.options.samples,
        num_steps=subject.options.sampling_steps,
        chunk_size=max(1, min(4096, 2**22 // subject.data.dim)),  # bounded memory
    )
    return arrays({"samples": subject.data.standardisation.inverse(made)})


def measure_densities(subject: Subject, found: Found) -> Found:
    """The path bound on held-out, training and generated samples, in the units of the data."""
    data, options = subject.data, subject.options
    method = PathBound(num_evaluations=options.density_evaluations, reference=data.train)

    def bound(points: Array | np.ndarray, stream: int) -> SampleEstimates:
        key = jax.random.fold_in(subject.key, stream)
        arguments: dict[str, Any] = {"key": key, "method": method}
        try:  # the whole axis where it has a finite value, whatever the cut-off of the entropies
            return log_prob(subject.model, points[: subject.num_rated], **arguments)
        except ValueError as error:
            if subject.cutoff is None or not asks_for_cutoff(error):
                raise
        arguments["cutoff"] = subject.cutoff
        return log_prob(subject.model, points[: subject.num_rated], **arguments)

    held_out, train = bound(data.held_out, 0), bound(data.train, 1)
    made = bound(data.standardisation.forward(found["samples"]), 2)
    out = {
        "log_prob": held_out.value + data.log_det,
        "log_prob_stderr": held_out.stderr,
        "log_prob_train": train.value + data.log_det,
        "log_prob_generated": made.value + data.log_det,
        "negative_log_likelihood": -(held_out.mean.value + data.log_det),
        "negative_log_likelihood_stderr": held_out.mean.stderr,
        "negative_log_likelihood_train": -(train.mean.value + data.log_det),
        "negative_log_likelihood_train_stderr": train.mean.stderr,
    }
    if data.dequantised and data.projection is None:
        # log p is per grey level, and the noise is one level wide: Theis et al., 1511.01844.
        per_dim = 1 / (data.dim * np.log(2))
        out["bits_per_dim"] = out["negative_log_likelihood"] * per_dim
        out["bits_per_dim_stderr"] = out["negative_log_likelihood_stderr"] * per_dim
    return arrays(out)


def measure_transport(subject: Subject, found: Found) -> Found:
    """W2 between held-out data and samples, and the speed limit of the process."""
    count, data = subject.num_pairs, subject.data
    made = data.standardisation.forward(found["samples"])
    limit = speed_limit(subject.model, data.held_out, key=subject.key, cutoff=subject.cutoff)
    out = {
        "wasserstein2": wasserstein(data.held_out[:count], made[:count]).value,
        "transport_budget": limit.budget,
    }
    lower, error = distance_at_least(subject.model.process, data.held_out, data.train)
    out |= {"transport_w2_lower": lower, "transport_w2_lower_stderr": error}
    for name in ("w2", "length", "action", "efficiency"):
        estimate = getattr(limit, name)
        out |= {f"transport_{name}": estimate.value, f"transport_{name}_stderr": estimate.stderr}
    return arrays(out)


def measure_information(subject: Subject, _: Found) -> Found:
    """What the labels tell of held-out data, in both forms; empty without labels."""
    labels = subject.data.condition_held_out
    if labels is None:
        return {}

    def information(form: str, cutoff: float | None) -> Estimate:
        return mutual_information(
            subject.model,
            subject.data.held_out,
            labels,
            key=subject.key,
            form=form,
            num_evaluations=subject.options.evaluations,
            cutoff=cutoff,
        )

    try:
        # The whole axis, whatever the cut-off of the entropies: information is mostly finite.
        cutoff = None
        estimates = [information(form, cutoff) for form in ("denoising", "score")]
    except ValueError as error:
        if not asks_for_cutoff(error):
            raise
        cutoff = subject.cutoff or default_cutoff(subject.data, "").value
        estimates = [information(form, cutoff) for form in ("denoising", "score")]
    found = {"mutual_information_cutoff": 0.0 if cutoff is None else cutoff}
    for name, estimate in zip(("", "_score"), estimates, strict=True):
        found |= {
            f"mutual_information{name}": estimate.value,
            f"mutual_information{name}_stderr": estimate.stderr,
        }
    return arrays(found)


STAGES: tuple[tuple[str, Callable[[Subject, Found], Found]], ...] = (
    ("entropy", measure_entropy),
    ("path KL", measure_path_kl),
    ("samples", measure_samples),
    ("densities", measure_densities),
    ("transport", measure_transport),
    ("information", measure_information),
)


def measure_data(subject: Subject) -> Found:
    """What the data alone say: the W2 of two sets of one size, and how well a Gaussian does."""
    count, data = subject.num_pairs, subject.data
    null = wasserstein(data.held_out[:count], data.train[:count]).value
    found = {"wasserstein2_null": null, "wasserstein2_count": count}
    found |= _gaussian_baseline(data, subject.num_rated)
    if data.condition is not None and data.condition.entropy is not None:
        found["label_entropy"], found["label_entropy_stderr"] = data.condition.entropy
    return arrays(found)


def _gaussian_baseline(data: PreparedData, count: int) -> Found:
    """-E log g of the Gaussian of the training data; empty where that has no density."""
    train, points = (np.asarray(part, np.float64) for part in (data.train, data.held_out[:count]))
    mean = train.mean(axis=0)
    try:
        factor = np.linalg.cholesky(np.atleast_2d(np.cov(train, rowvar=False)))
    except np.linalg.LinAlgError:
        return {}
    diagonal = np.diag(factor)
    if diagonal.min() < 1e-5 * diagonal.max():
        return {}
    whitened = np.linalg.solve(factor, (points - mean).T)
    surprise = (whitened**2).sum(axis=0) / 2 + np.log(diagonal).sum()
    surprise += data.dim * np.log(2 * np.pi) / 2 - data.log_det
    return {
        "negative_log_likelihood_gaussian": surprise.mean(),
        "negative_log_likelihood_gaussian_stderr": surprise.std(ddof=1) / np.sqrt(count),
    }


def measure_truth(subject: Subject) -> Found:
    """What the known distribution says, with the prior of the model; empty if it is unknown."""
    exact, data = subject.exact, subject.data
    if exact is None:
        return {}
    curve = subject.curve(exact, data.held_out, 0)
    points = jnp.asarray(data.held_out[: subject.num_rated])  # those of the path bound
    truth = np.asarray(exact.distribution.log_prob(points)) + data.log_det
    kl, kl_stderr = _prior_kl(exact, subject.model.prior, jax.random.fold_in(subject.key, 1))
    return arrays(
        {
            "total_entropy": curve.total.value,
            "total_entropy_stderr": curve.total.stderr,
            "total_entropy_mc_stderr": curve.total.mc_stderr,
            "cumulative_total_entropy": curve.cumulative,
            "total_entropy_rate_log_snr": curve.rate * time_per_log_snr(curve),
            "log_prob_exact": truth,
            "negative_log_likelihood_exact": -truth.mean(),
            "negative_log_likelihood_exact_stderr": truth.std(ddof=1) / np.sqrt(len(truth)),
            "prior_kl": kl,
            "prior_kl_stderr": kl_stderr,
        }
    )


def _prior_kl(exact: ExactModel, prior: Any, key: Key, count: int = 65_536) -> tuple[Array, Array]:
    r"""$KL(p_T\|prior)$ as the mean of $e^{-r} - 1 + r$, $r = \log p_T - \log prior$.

    The added terms have mean zero under $p_T$; every summand is positive and of second order.
    """
    end = exact.prior
    y = end.sample(count, key=key)
    ratio = end.log_prob(y) - prior.log_prob(y)
    terms = jnp.expm1(-ratio) + ratio
    return jnp.mean(terms), jnp.std(terms) / jnp.sqrt(count)
