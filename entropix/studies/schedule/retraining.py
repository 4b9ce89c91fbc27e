"""What a schedule means for training: networks trained with times uniform in one and in another."""

import dataclasses
from typing import Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.density import PathBound, log_prob
from entropix.entropy import neural_entropy, path_kl
from entropix.interfaces import AbstractModel
from entropix.models import ExactModel
from entropix.studies.axis import choose_cutoff, default_cutoff
from entropix.studies.estimates import asks_for_cutoff
from entropix.studies.files import RETRAINING
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.plan import SchedulePlan
from entropix.studies.schedule.sampling import FewStepSampler, uniform_levels
from entropix.training import EnsembleFit, UniformTimes
from entropix.transport import wasserstein


Found = dict[str, np.ndarray]
_RETRAINED = 0x4E72
_EVALUATIONS, _DENSITY_EVALUATIONS, _RATED = 16_384, 128, 512


def retrain(plan: SchedulePlan, before: EnsembleFit, found: Candidate) -> tuple[EnsembleFit, Found]:
    """Train again with a schedule that was found, and measure both.

    Args:
        plan: what runs.
        before: networks trained with the schedule of the plan.
        found: the schedule to train with, that of the first seed for all of them.

    Returns:
        The networks, and arrays of shape (2, seeds), before and after.
    """
    run = dataclasses.replace(plan.run, process=found.process)
    after = run.train(
        plan.make_model(found.process),
        plan.data.augmented,
        plan.data.held_out,
        times=UniformTimes(),
        checkpoint=RETRAINING,
    )
    rows = [
        [
            _measure(plan, fits.member(i), jax.random.fold_in(jax.random.key(seed), _RETRAINED))
            for i, seed in enumerate(plan.run.seeds)
        ]
        for fits in (before, after)
    ]
    names = rows[0][0]
    return after, {
        f"retrained_{name}": np.array([[float(row[name]) for row in each] for each in rows])
        for name in names
    }


def _measure(plan: SchedulePlan, model: AbstractModel, key: Key) -> dict[str, Any]:
    """One network, under the schedule it was trained with; the same numbers are drawn for both."""
    data = plan.data
    entropy_key, kl_key, density_key, sample_key = jax.random.split(key, 4)
    cutoff = choose_cutoff(None, model.process, data).value

    def entropy(cutoff: float | None) -> Any:
        return neural_entropy(
            model, data.held_out, key=entropy_key, num_evaluations=_EVALUATIONS, cutoff=cutoff
        )

    try:
        total = entropy(cutoff)
    except ValueError as error:
        if cutoff is not None or not asks_for_cutoff(error):
            raise
        total = entropy(default_cutoff(data, "").value)
    rated = data.held_out[:_RATED]
    method = PathBound(num_evaluations=_DENSITY_EVALUATIONS, reference=data.train)
    density = log_prob(model, rated, key=density_key, method=method).mean
    sampler = FewStepSampler(model, plan.options.comparison.sampler)
    count = min(plan.num_samples, len(data.held_out))
    levels = uniform_levels(model.process, plan.options.search.target_steps)
    made = sampler(levels, sample_key, count)
    found = {
        "neural_entropy": total.value,
        "neural_entropy_stderr": total.stderr,
        "negative_log_likelihood": -(density.value + data.log_det),
        "negative_log_likelihood_stderr": density.stderr,
        "wasserstein2": wasserstein(data.held_out[:count], made).value,
    }
    if data.distribution is not None:
        truth = ExactModel(data.distribution, model.process)
        kl = path_kl(model, truth, data.held_out, key=kl_key, num_evaluations=_EVALUATIONS)
        found |= {"path_kl": kl.value, "path_kl_stderr": kl.stderr}
    return found
