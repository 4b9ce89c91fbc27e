"""What `schedule` measures for one seed, and of networks trained with two schedules."""

import dataclasses
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix.density import PathBound, log_prob
from entropix.entropy import neural_entropy, path_kl
from entropix.interfaces import AbstractModel
from entropix.models import ExactModel
from entropix.optimise import FewStepSampler, schedule_cost, uniform_levels
from entropix.studies.cutoff import choose_cutoff, default_cutoff, with_cutoff
from entropix.studies.estimates import errors_of
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.search import search
from entropix.studies.study import Found, on_host
from entropix.training import EnsembleFit
from entropix.transport import wasserstein


if TYPE_CHECKING:
    from entropix.studies.schedule.study import ScheduleStudy

# Data points and noises over which costs are averaged; times at which schedules are recorded.
_POINTS, _TIMES = 2048, 201
# Titles of the optimised schedules in tables.
TITLES = {
    "action": "optimised: action",
    "length": "optimised: length",
    "entropic-time": "optimised: entropic time",
    "variance": "optimised: variance",
    "girsanov": "optimised: Girsanov",
    "sampler": "optimised: sampler",
}
_RETRAINED = 0x4E72
_EVALUATIONS, _DENSITY_EVALUATIONS, _RATED = 16_384, 128, 512


def measure_seed(
    study: "ScheduleStudy", model: AbstractModel, key: Key, bar: Any
) -> tuple[Found, list[Candidate]]:
    """Optimise schedules for one seed, and compare them with the others.

    Args:
        study: what runs.
        model: the exact model, or a trained one.
        key: PRNG key of the seed.
        bar: progress, of which each schedule that is optimised or measured is a step.

    Returns:
        Arrays with a leading axis of schedules, and the schedules.
    """
    search_key, points_key, target_key, sample_key, other_key = jax.random.split(key, 5)
    comparison, candidates = study.options.comparison, []
    found: Found = {"objective": []}
    for j, objective in enumerate(study.objectives):
        bar.update(text=objective)
        best = search(
            objective,
            model,
            study.process,
            study.data.train,
            study.options.search,
            sampler=comparison.sampler,
            key=jax.random.fold_in(search_key, j),
        )
        found["objective"].append(best.history)
        title = TITLES[objective]
        candidates.append(
            Candidate(objective, title, best.process, hand_designed=False, cutoff=best.cutoff)
        )
        bar.update(1)
    candidates.extend(study.hand_designed())

    count = study.num_samples
    sampler = FewStepSampler(model, comparison.sampler)
    x, z = _points(study, points_key)
    target, other = _targets(study, target_key)
    limit = sampler.limit(sample_key, count)
    found["wasserstein2_null"] = float(wasserstein(target, other))
    found["wasserstein2_limit"] = float(wasserstein(target, limit))
    rows = []
    for candidate in candidates:
        bar.update(text=candidate.title)
        process, evaluations = candidate.process, comparison.evaluations
        cost = schedule_cost(
            sampler.model, process, x, z, evaluations=evaluations, max_pairs=min(count, 1000)
        )
        distances, own, errors = [], [], []
        for steps in comparison.steps_compared:
            levels = candidate.levels(steps)
            made = sampler(levels, sample_key, count)
            distances.append(float(wasserstein(target, made)))
            own.append(float(wasserstein(made, sampler(levels, other_key, count))))
            errors.append(float(jnp.sqrt(jnp.mean(jnp.sum((made - limit) ** 2, axis=-1)))))
        rows.append(
            {
                "action": cost.action[0],
                "action_stderr": cost.action[1],
                "length": cost.length,
                "total_entropy": cost.entropy,
                "efficiency": cost.efficiency,
                "entropy_error": cost.entropy_error,
                "path_kl_error": cost.path_kl_error,
                "wasserstein2": distances,
                "wasserstein2_own": own,
                "sampler_error": errors,
                "log_snr": process.log_snr(jnp.linspace(process.t0, process.t1, _TIMES)),
            }
        )
        bar.update(1)
    found |= {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    return on_host(found), candidates


def _points(study: "ScheduleStudy", key: Key) -> tuple[jax.Array, jax.Array]:
    """Data and noise for the costs."""
    data_key, noise_key = jax.random.split(key)
    if study.data.distribution is not None:
        x = study.data.distribution.sample(_POINTS, key=data_key)
    else:
        x = jax.random.permutation(data_key, jnp.asarray(study.data.train))[:_POINTS]
    return x, jax.random.normal(noise_key, x.shape, x.dtype)


def _targets(study: "ScheduleStudy", key: Key) -> tuple[jax.Array, jax.Array]:
    """Two sets of data of equal size, to compare with samples and with one another."""
    one, two = jax.random.split(key)
    count, distribution = study.num_samples, study.data.distribution
    if distribution is not None:
        return distribution.sample(count, key=one), distribution.sample(count, key=two)
    held_out = jax.random.permutation(one, jnp.asarray(study.data.held_out))[:count]
    return held_out, jax.random.permutation(two, jnp.asarray(study.data.train))[:count]


def compare_training(study: "ScheduleStudy", before: EnsembleFit, after: EnsembleFit) -> Found:
    """Measure networks that were trained with two schedules; arrays have shape (2, seeds)."""
    keys = study.training.keys(_RETRAINED)
    rows = [
        [_measure_network(study, fits.member(i), key) for i, key in enumerate(keys)]
        for fits in (before, after)
    ]
    return {
        f"retrained_{name}": np.array([[float(row[name]) for row in each] for each in rows])
        for name in rows[0][0]
    }


def _measure_network(study: "ScheduleStudy", model: AbstractModel, key: Key) -> Found:
    """One network, under the schedule it was trained with; the key is the same for both."""
    data = study.data
    entropy_key, kl_key, density_key, sample_key = jax.random.split(key, 4)
    total, _ = with_cutoff(
        lambda cutoff: neural_entropy(
            model,
            data.held_out,
            key=entropy_key,
            num_evaluations=_EVALUATIONS,
            cutoff=cutoff.value,
        ),
        choose_cutoff(None, model.process, data),
        lambda: default_cutoff(data, ""),
    )
    method = PathBound(num_evaluations=_DENSITY_EVALUATIONS, reference=data.train)
    rated = data.held_out[:_RATED]
    density = log_prob(model, rated, key=density_key, method=method)
    density = dataclasses.replace(density, value=density.value + data.log_jacobian(rated)).mean
    count = min(study.num_samples, len(data.held_out))
    sampler = FewStepSampler(model, study.options.comparison.sampler)
    levels = uniform_levels(model.process, study.options.search.target_steps)
    generated = sampler(levels, sample_key, count)
    found = {
        **errors_of("neural_entropy", total),
        "negative_log_likelihood": -density.value,
        "negative_log_likelihood_stderr": density.stderr,
        "wasserstein2": wasserstein(data.held_out[:count], generated).value,
    }
    if data.distribution is not None:
        truth = ExactModel(data.distribution, model.process)
        kl = path_kl(model, truth, data.held_out, key=kl_key, num_evaluations=_EVALUATIONS)
        found |= errors_of("path_kl", kl)
    return found
