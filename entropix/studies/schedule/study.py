"""The study of schedules: train if need be, search, compare, record, report."""

import os
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from entropix._core.arrays import Key
from entropix.datasets import Dataset
from entropix.interfaces import AbstractModel
from entropix.models import ExactModel
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.options import ScheduleOptions
from entropix.studies.schedule.outputs import write_study
from entropix.studies.schedule.plan import SchedulePlan, prepare_schedule
from entropix.studies.schedule.pricing import price
from entropix.studies.schedule.record import describe, schedule_record
from entropix.studies.schedule.report import text_report
from entropix.studies.schedule.retraining import retrain
from entropix.studies.schedule.sampling import FewStepSampler
from entropix.studies.schedule.search import search
from entropix.training import EnsembleFit, UniformTimes
from entropix.transport import wasserstein


if TYPE_CHECKING:
    import xarray

Found = dict[str, Any]
# Folded into the key of a seed, so that what follows training draws other numbers than it.
_STUDY = 0x5C4E
# Data points and noises over which prices are averaged; times at which schedules are recorded.
_POINTS, _TIMES = 2048, 201
# What the objectives are called in tables.
TITLES = {
    "action": "found: action",
    "length": "found: length",
    "entropic-time": "found: entropic time",
    "variance": "found: variance",
    "girsanov": "found: Girsanov",
    "sampler": "found: sampler",
}


def schedule(
    source: str | os.PathLike[str] | Dataset, options: ScheduleOptions | None = None
) -> "xarray.Dataset":
    """Optimise noise schedules for data, and compare them with those made by hand.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `ScheduleOptions`; None for the defaults.

    Returns:
        The record, which has also been written, with report, plots and schedules, to the output
        folder. `entropix.studies.schedule.record.SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the folder cannot be written to any more; `resume` takes the run up.
    """
    return run_schedule(prepare_schedule(source, options))


def run_schedule(plan: SchedulePlan) -> "xarray.Dataset":
    """Run a prepared study; what `schedule` does after its checks."""
    with plan.run.folder.at_work():
        return _run(plan)


def _run(plan: SchedulePlan) -> "xarray.Dataset":
    say = plan.run.say
    for name, text in describe(plan).items():
        if name.endswith("_text"):
            say(f"  {name.removesuffix('_text'):<12} {text}")
    fits = None if plan.exact else _train(plan)
    per_seed, schedules = [], []
    stages = len(plan.objectives) + len(plan.objectives + plan.made_by_hand())
    with plan.run.bar(len(plan.run.seeds) * stages) as bar:
        for i, seed in enumerate(plan.run.seeds):
            key = jax.random.fold_in(jax.random.key(seed), _STUDY)
            found, candidates = _of_seed(plan, _model(plan, fits, i), key, bar)
            per_seed.append(found)
            schedules.append(candidates)
    values = {name: np.stack([found[name] for found in per_seed], -1) for name in per_seed[0]}
    after = None
    if plan.options.comparison.train:
        assert fits is not None
        after, retrained = retrain(plan, fits, schedules[0][0])
        values |= retrained
    record = schedule_record(plan, values, schedules[0])
    write_study(plan, record, schedules, fits, after)
    say(f"\n{text_report(record)}\n\n  written to {plan.run.folder.path}{os.sep}")
    return record


def _train(plan: SchedulePlan) -> EnsembleFit:
    # With times uniform in the schedule, it matters to training which one that is.
    times = UniformTimes() if plan.options.comparison.train else None
    make = plan.make_model(plan.run.process)
    return plan.run.train(make, plan.data.augmented, plan.data.held_out, times=times)


def _model(plan: SchedulePlan, fits: EnsembleFit | None, index: int) -> AbstractModel:
    if fits is not None:
        return fits.member(index)
    assert plan.data.distribution is not None
    return ExactModel(plan.data.distribution, plan.run.process)


def _of_seed(
    plan: SchedulePlan, model: AbstractModel, key: Key, bar: Any
) -> tuple[Found, list[Candidate]]:
    """Everything but training, for one seed."""
    search_key, points_key, target_key, sample_key, other_key = jax.random.split(key, 5)
    options = plan.options
    found: Found = {"objective": []}
    candidates = []
    for j, objective in enumerate(plan.objectives):
        bar.set_postfix_str(objective)
        best = search(
            objective,
            model,
            plan.run.process,
            plan.data.train,
            options.search,
            sampler=options.comparison.sampler,
            key=jax.random.fold_in(search_key, j),
        )
        found["objective"].append(best.history)
        title = TITLES[objective]
        candidates.append(
            Candidate(objective, title, best.process, made_by_hand=False, cutoff=best.cutoff)
        )
        bar.update()
    candidates.extend(plan.made_by_hand())

    count = plan.num_samples
    sampler = FewStepSampler(model, options.comparison.sampler)
    x, z = _points(plan, points_key)
    target, other = _targets(plan, target_key)
    limit = sampler.limit(sample_key, count)
    found["wasserstein2_null"] = float(wasserstein(target, other))
    found["wasserstein2_limit"] = float(wasserstein(target, limit))
    rows = []
    for candidate in candidates:
        bar.set_postfix_str(candidate.title)
        cost = price(
            sampler.model,
            candidate.process,
            x,
            z,
            evaluations=options.comparison.evaluations,
            max_pairs=min(count, 1000),
        )
        distances, own, errors = [], [], []
        for steps in options.comparison.steps_compared:
            made = sampler(candidate.levels(steps), sample_key, count)
            distances.append(float(wasserstein(target, made)))
            own.append(float(wasserstein(made, sampler(candidate.levels(steps), other_key, count))))
            errors.append(float(jnp.sqrt(jnp.mean(jnp.sum((made - limit) ** 2, axis=-1)))))
        times = jnp.linspace(candidate.process.t0, candidate.process.t1, _TIMES)
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
                "log_snr": candidate.process.log_snr(times),
            }
        )
        bar.update()
    found |= {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
    return {name: np.asarray(value) for name, value in found.items()}, candidates


def _points(plan: SchedulePlan, key: Key) -> tuple[jax.Array, jax.Array]:
    """Data and noise for the prices."""
    data_key, noise_key = jax.random.split(key)
    if plan.data.distribution is not None:
        x = plan.data.distribution.sample(_POINTS, key=data_key)
    else:
        x = jax.random.permutation(data_key, jnp.asarray(plan.data.train))[:_POINTS]
    return x, jax.random.normal(noise_key, x.shape, x.dtype)


def _targets(plan: SchedulePlan, key: Key) -> tuple[jax.Array, jax.Array]:
    """Two sets of data of one size, to compare samples with and with one another."""
    one, two = jax.random.split(key)
    count, distribution = plan.num_samples, plan.data.distribution
    if distribution is not None:
        return distribution.sample(count, key=one), distribution.sample(count, key=two)
    parts = plan.data.held_out, plan.data.train
    held_out, train = (
        jax.random.permutation(k, jnp.asarray(part))[:count]
        for k, part in zip((one, two), parts, strict=True)
    )
    return held_out, train
