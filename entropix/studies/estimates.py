"""What `measure` estimates of models: every number of its record but the loss."""

import dataclasses
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix._core.checks import positive, positive_integer
from entropix.density import PathBound, log_prob
from entropix.dynamics import sample
from entropix.entropy import EntropyCurve, entropy_curve, neural_entropy, path_kl
from entropix.information import mutual_information
from entropix.interfaces import (
    AbstractDistribution,
    AbstractModel,
    AbstractPrior,
    DivergenceError,
    Estimate,
    SampleEstimates,
)
from entropix.models import ExactModel
from entropix.studies.baselines import measure_gaussians
from entropix.studies.cutoff import Cutoff, default_cutoff, time_per_log_snr, with_cutoff
from entropix.studies.data import PreparedData
from entropix.studies.labels import label_entropy
from entropix.studies.options import EstimationOptions
from entropix.studies.study import Found, nothing, on_host
from entropix.transport import speed_limit, unbiased_w2_bound, wasserstein


# The evaluations of a pilot estimate, a factor for its own error, and the least and largest number
# of evaluations that are chosen from it.
PILOT, _MARGIN, _FEWEST, _MOST = 2048, 1.25, 256, 2**26


def check_effort(effort: EstimationOptions) -> None:
    """Refuse an effort that is out of its range, with a `ValueError`."""
    positive_integer(effort.evaluations, "evaluations", 256)
    positive_integer(effort.density_evaluations, "density_evaluations", 16)
    if effort.density_evaluations % 2:
        raise ValueError(f"`density_evaluations` must be even, got {effort.density_evaluations}.")
    positive_integer(effort.samples, "samples", 2)
    positive_integer(effort.sampling_steps, "sampling_steps")
    if effort.relative_error is not None:
        positive(effort.relative_error, "relative_error")
        if effort.evaluations != EstimationOptions().evaluations:
            raise ValueError(
                "`evaluations` must be omitted together with `relative_error`, got "
                f"{effort.evaluations}."
            )


@dataclasses.dataclass(frozen=True, eq=False)
class Subject:
    """What a stage measures.

    Attributes:
        model: one trained model, in its coordinates.
        data: what it was trained on, and is measured on.
        options: the effort to spend.
        times: where curves are reported.
        cutoff: see `entropy_curve`.
        conditions: of the held-out and of the training samples, for a model that cannot be
            evaluated without; None otherwise.
        path_samples: the largest number of samples on which the speed limit is measured.
        advance: called after each part of a stage.
    """

    model: AbstractModel
    data: PreparedData
    options: EstimationOptions
    times: np.ndarray
    cutoff: float | None
    conditions: tuple[Any, Any] = (None, None)
    path_samples: int = 4096
    advance: Callable[[], None] = nothing

    @property
    def parts(self) -> dict[str, int]:
        """Of how many parts the stages consist, those of more than one."""
        labels = self.data.condition is not None
        return {"entropy": 2, "densities": 3} | ({"information": 2} if labels else {})

    def curve(
        self, model: AbstractModel, points: np.ndarray, key: Key, condition: Any = None
    ) -> EntropyCurve:
        """The entropy curve of a model on some points."""
        return entropy_curve(
            model,
            points,
            key=key,
            num_evaluations=self.options.evaluations,
            condition=condition,
            cutoff=self.cutoff,
            times=self.times,
            chunk_size=self.chunk_size,
        )

    @property
    def chunk_size(self) -> int:
        """Evaluations held in memory at once."""
        return max(1, min(4096, 2**22 // self.data.dim))

    def generated_conditions(self, count: int) -> Any:
        """Those of generated samples: of the held-out samples, again and again."""
        held_out = self.conditions[0]
        if held_out is None:
            return None
        return np.resize(held_out, (count, *held_out.shape[1:]))

    @property
    def exact(self) -> ExactModel | None:
        """The exact model of the data, if it is known."""
        if self.data.distribution is None:
            return None
        return ExactModel(self.data.distribution, self.model.process)

    @property
    def num_rated(self) -> int:
        """The number of held-out, training and generated samples whose log density is bounded."""
        return min(len(self.data.held_out), self.data.num_train, self.options.samples)

    @property
    def num_pairs(self) -> int:
        """The number of samples on each side of a W2, which takes cubic time."""
        return min(self.num_rated, 1000)


def errors_of(name: str, estimate: Estimate, *suffixes: str) -> Found:
    """An estimate and its errors as variables of a record."""
    found = {name: estimate.value}
    return found | {f"{name}_{s}": getattr(estimate, s) for s in suffixes or ("stderr",)}


def with_relative_error(subject: Subject, key: Key) -> Subject:
    """The subject with the number of evaluations that the requested relative error needs."""
    options = subject.options
    if options.relative_error is None:
        return subject
    pilot = neural_entropy(
        subject.model,
        subject.data.held_out,
        key=key,
        num_evaluations=PILOT,
        condition=subject.conditions[0],
        cutoff=subject.cutoff,
        chunk_size=subject.chunk_size,
    )
    count = evaluations_for(pilot, options.relative_error)
    return dataclasses.replace(subject, options=dataclasses.replace(options, evaluations=count))


def evaluations_for(pilot: Estimate, relative_error: float) -> int:
    r"""The number of evaluations that a relative error needs.

    The Monte Carlo error of S_NN falls like $1/\sqrt n$ or faster with the number n of evaluations,
    so that after a pilot of m evaluations with relative error r, $n = m (r/target)^2$ are enough.

    Args:
        pilot: an estimate with `PILOT` evaluations.
        relative_error: the target.
    """
    relative = float(pilot.mc_stderr) / max(abs(float(pilot.value)), np.finfo(float).tiny)
    wanted = _MARGIN * PILOT * (relative / relative_error) ** 2
    return 2 * math.ceil(min(max(wanted, _FEWEST), _MOST) / 2)


def measure_entropy(subject: Subject, key: Key, _: Found) -> Found:
    """S_NN and its curve, on held-out data and on training data."""
    data, (condition, other) = subject.data, subject.conditions
    held_out = subject.curve(subject.model, data.held_out, jax.random.fold_in(key, 0), condition)
    subject.advance()
    # As many points as are held out: one compiled program, and errors of equal size.
    count = len(data.held_out)
    some, other = data.train[:count], None if other is None else other[:count]
    train = subject.curve(subject.model, some, jax.random.fold_in(key, 1), other)
    subject.advance()
    stretch = time_per_log_snr(held_out)
    found = {
        **errors_of("neural_entropy", held_out.total, "stderr", "mc_stderr"),
        **errors_of("neural_entropy_train", train.total),
        "entropy_rate": held_out.rate,
        "entropy_rate_stderr": held_out.rate_stderr,
        "entropy_rate_log_snr": np.asarray(held_out.rate) * stretch,
        "entropy_rate_log_snr_stderr": np.asarray(held_out.rate_stderr) * stretch,
        "cumulative_entropy": held_out.cumulative,
        "cumulative_entropy_stderr": held_out.stderr,
        "cumulative_entropy_train": train.cumulative,
    }
    if held_out.total.slope is not None:
        found["entropy_slope"] = held_out.total.slope
    return found


def measure_path_kl(subject: Subject, key: Key, _: Found) -> Found:
    """Path KL to the exact field, where that is known."""
    if subject.exact is None:
        return {}
    try:
        # The whole axis, whatever the cut-off of the entropies: only then does it bound KL.
        kl = path_kl(
            subject.model,
            subject.exact,
            subject.data.held_out,
            key=key,
            num_evaluations=subject.options.evaluations,
        )
    except DivergenceError as error:
        if error.remedy != "cutoff":
            raise
        return {"path_kl": np.inf, "path_kl_stderr": 0.0, "path_kl_mc_stderr": 0.0}
    return errors_of("path_kl", kl, "stderr", "mc_stderr")


def measure_samples(subject: Subject, key: Key, _: Found) -> Found:
    """Samples of the model, in the units of the data."""
    options, data = subject.options, subject.data
    condition = subject.generated_conditions(options.samples)
    return {
        "samples": data.standardisation.inverse(
            generate(
                subject.model, options.samples, options.sampling_steps, data.dim, key, condition
            )
        )
    }


def generate(
    model: AbstractModel, count: int, steps: int, dim: int, key: Key, condition: Any = None
) -> jax.Array:
    """Samples of a model of D-dimensional data, in bounded memory."""
    chunk = max(1, min(4096, 2**22 // dim))
    return sample(
        model,
        key=key,
        num_samples=count,
        num_steps=steps,
        condition=condition,
        chunk_size=chunk,
    )


def measure_densities(subject: Subject, key: Key, found: Found) -> Found:
    """The path bound on held-out, training and generated samples, in the units of the data."""
    data, options = subject.data, subject.options
    method = PathBound(num_evaluations=options.density_evaluations, reference=data.train)

    def bound(points: Any, stream: int, condition: Any) -> SampleEstimates:
        count = subject.num_rated

        def estimate(cutoff: Cutoff) -> SampleEstimates:
            return log_prob(
                subject.model,
                points[:count],
                key=jax.random.fold_in(key, stream),
                method=method,
                condition=None if condition is None else condition[:count],
                chunk_size=subject.chunk_size,
                cutoff=cutoff.value,
            )

        # The whole axis where the bound is finite, whatever the cut-off of the entropies.
        whole, fallback = Cutoff(None, ""), Cutoff(subject.cutoff, "")
        rated = with_cutoff(estimate, whole, lambda: fallback)[0]
        in_data_units = rated.value + data.log_jacobian(points[:count])
        subject.advance()
        return dataclasses.replace(rated, value=in_data_units)

    first, second = subject.conditions
    held_out, train = bound(data.held_out, 0, first), bound(data.train, 1, second)
    made = data.standardisation.forward(found["samples"])
    generated = bound(made, 2, subject.generated_conditions(options.samples))
    out = {
        "log_prob": held_out.value,
        "log_prob_stderr": held_out.stderr,
        "log_prob_train": train.value,
        "log_prob_generated": generated.value,
        "negative_log_likelihood": -np.asarray(held_out.mean.value),
        "negative_log_likelihood_stderr": held_out.mean.stderr,
        "negative_log_likelihood_train": -np.asarray(train.mean.value),
        "negative_log_likelihood_train_stderr": train.mean.stderr,
    }
    if data.dequantised and data.projection is None:
        # log p is per grey level, and the noise is one level wide: Theis et al., 1511.01844.
        per_dim = 1 / (data.dim * np.log(2))
        out["bits_per_dim"] = out["negative_log_likelihood"] * per_dim
        out["bits_per_dim_stderr"] = out["negative_log_likelihood_stderr"] * per_dim
    return out


def measure_transport(subject: Subject, key: Key, found: Found) -> Found:
    """W2 between held-out data and samples, and the speed limit of the process."""
    count, data, model = subject.num_pairs, subject.data, subject.model
    generated = data.standardisation.forward(found["samples"])
    limit = speed_limit(
        model,
        data.held_out,
        key=key,
        num_samples=subject.path_samples,
        num_evaluations=min(16_384, subject.options.evaluations),
        condition=subject.conditions[0],
        cutoff=subject.cutoff,
        chunk_size=subject.chunk_size,
    )
    lower, error = unbiased_w2_bound(model.process, data.held_out, data.train)
    out = {
        "wasserstein2": wasserstein(data.held_out[:count], generated[:count]).value,
        "transport_budget": limit.budget,
        "transport_w2_lower": lower,
        "transport_w2_lower_stderr": error,
    }
    for name in ("w2", "length", "action", "efficiency"):
        out |= errors_of(f"transport_{name}", getattr(limit, name))
    return out


def measure_information(subject: Subject, key: Key, _: Found) -> Found:
    """The mutual information of labels and held-out data, in both forms; empty without labels."""
    labels = subject.data.condition_held_out
    if labels is None:
        return {}

    def estimate(cutoff: Cutoff) -> Found:
        return information_of_labels(
            subject.model,
            subject.data.held_out,
            labels,
            key=key,
            advance=subject.advance,
            num_evaluations=subject.options.evaluations,
            cutoff=cutoff.value,
            chunk_size=subject.chunk_size,
        )

    def fallback() -> Cutoff:
        return Cutoff(subject.cutoff or default_cutoff(subject.data, "").value, "")

    # The whole axis, whatever the cut-off of the entropies: information is mostly finite.
    found, cutoff = with_cutoff(estimate, Cutoff(None, ""), fallback)
    return found | {"mutual_information_cutoff": cutoff.value or 0.0}


def information_of_labels(
    model: AbstractModel,
    points: np.ndarray,
    labels: np.ndarray,
    *,
    advance: Callable[[], None],
    **options: Any,
) -> Found:
    """I(X; label) in both forms; `advance` is called after each, see `mutual_information`."""
    found: Found = {}
    for name, form in (("", "denoising"), ("_score", "score")):
        value = mutual_information(model, points, labels, form=form, **options)
        found |= errors_of(f"mutual_information{name}", value)
        advance()
    return found


STAGES: dict[str, Callable[[Subject, Key, Found], Found]] = {
    "entropy": measure_entropy,
    "path KL": measure_path_kl,
    "samples": measure_samples,
    "densities": measure_densities,
    "transport": measure_transport,
    "information": measure_information,
}


# ------------------------------------------------------------------ without a network


def measure_data(subject: Subject) -> Found:
    """W2 of two sets of data of equal size, the entropy of labels, and Gaussian baselines."""
    count, data = subject.num_pairs, subject.data
    null = wasserstein(data.held_out[:count], data.train[:count]).value
    found = {"wasserstein2_null": null, "wasserstein2_count": count}
    found["evaluations"] = subject.options.evaluations
    found["storage_limit"] = np.log(data.num_train)
    found |= measure_gaussians(data, subject.num_rated)
    return on_host(found | label_entropy(data.condition))


def measure_truth(subject: Subject, key: Key) -> Found:
    """Results for the known density, with the prior of the model; empty if it is unknown."""
    exact, data = subject.exact, subject.data
    if exact is None:
        return {}
    curve = subject.curve(exact, data.held_out, jax.random.fold_in(key, 0))
    points = jnp.asarray(data.held_out[: subject.num_rated])  # those of the path bound
    truth = np.asarray(exact.distribution.log_prob(points) + data.log_jacobian(points))
    kl, kl_stderr = _prior_kl(exact, subject.model.prior, jax.random.fold_in(key, 1))
    return on_host(
        {
            **errors_of("total_entropy", curve.total, "stderr", "mc_stderr"),
            "cumulative_total_entropy": curve.cumulative,
            "total_entropy_rate_log_snr": curve.rate * time_per_log_snr(curve),
            "log_prob_exact": truth,
            "negative_log_likelihood_exact": -truth.mean(),
            "negative_log_likelihood_exact_stderr": truth.std(ddof=1) / np.sqrt(len(truth)),
            "prior_kl": kl,
            "prior_kl_stderr": kl_stderr,
        }
    )


def _prior_kl(
    exact: ExactModel, prior: AbstractDistribution | AbstractPrior, key: Key, count: int = 65_536
) -> tuple[jax.Array, jax.Array]:
    r"""$KL(p_T\|prior)$ as the mean of $e^{-r} - 1 + r$, $r = \log p_T - \log prior$.

    The added terms have mean zero under $p_T$; every summand is positive and of second order.
    """
    end = exact.prior
    y = end.sample(count, key=key)
    ratio = end.log_prob(y) - prior.log_prob(y)
    terms = jnp.expm1(-ratio) + ratio
    return jnp.mean(terms), jnp.std(terms) / jnp.sqrt(count)
