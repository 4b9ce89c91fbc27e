"""The record of a study of schedules: names, axes, units and meanings."""

from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.description import coordinates_text, data_text
from entropix.studies.record import assemble
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.plan import SchedulePlan
from entropix.studies.theorems import SLACK


if TYPE_CHECKING:
    import xarray

_EACH = ("schedule", "seed")
_STEPS = ("schedule", "steps", "seed")
_TRAINING = ("training", "seed")

# name: (dimensions, unit, meaning)
SCHEMA: dict[str, tuple[tuple[str, ...], str, str]] = {
    "log_snr": (("schedule", "time", "seed"), "1", "log-SNR at each time"),
    "made_by_hand": (("schedule",), "1", "1 for schedules that were there before the data"),
    "objective": (("found", "iteration", "seed"), "1", "the objective as the search went on"),
    "action": (_EACH, "model units squared", "kinetic action of the path, at least length^2"),
    "action_stderr": (_EACH, "model units squared", "its standard error"),
    "length": (_EACH, "model units", "length of the path, at least W2 from data to noise"),
    "total_entropy": (_EACH, "nats", "entropy S_NN of the model; S_tot if it is exact"),
    "efficiency": (_EACH, "1", "W2^2 / (S_NN x noise budget), at most 1"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "entropy_error": (
        _EACH,
        "nats",
        "Monte Carlo error of S_NN, times uniform in the schedule",
    ),
    "path_kl_error": (_EACH, "nats", "the same of the path KL to the moment-matched Gaussian"),
    "wasserstein2": (_STEPS, "model units", "W2 between data and samples of so many steps"),
    "wasserstein2_own": (_STEPS, "model units", "W2 between two sets of samples of so many steps"),
    "wasserstein2_null": (("seed",), "model units", "W2 between two sets of data of that size"),
    "wasserstein2_limit": (("seed",), "model units", "W2 between data and samples of many steps"),
    "sampler_error": (_STEPS, "model units", "root mean square distance to many steps"),
    "retrained_neural_entropy": (_TRAINING, "nats", "S_NN on held-out data"),
    "retrained_neural_entropy_stderr": (_TRAINING, "nats", "its standard error"),
    "retrained_path_kl": (_TRAINING, "nats", "path KL to the exact field"),
    "retrained_path_kl_stderr": (_TRAINING, "nats", "its standard error"),
    "retrained_negative_log_likelihood": (_TRAINING, "nats", "bound on -E log p, held-out data"),
    "retrained_negative_log_likelihood_stderr": (_TRAINING, "nats", "its standard error"),
    "retrained_wasserstein2": (_TRAINING, "model units", "W2 at the target number of steps"),
}


def schedule_record(
    plan: SchedulePlan, values: dict[str, Any], candidates: list[Candidate]
) -> "xarray.Dataset":
    """A labelled data set of everything measured; the last axis of most variables is the seed."""
    values = values | {"made_by_hand": [int(c.made_by_hand) for c in candidates]}
    coordinates = {
        "schedule": ([c.name for c in candidates], "schedule"),
        "title": ([c.title for c in candidates], "schedule"),
        "found": (list(plan.objectives), "objective"),
        "steps": (list(plan.options.comparison.steps_compared), "steps of the sampler"),
        "seed": (plan.run.seeds, "seed of networks, of the search and of samples"),
        "iteration": (np.arange(plan.options.search.iterations), "step of the search"),
        "time": (np.linspace(0.0, 1.0, values["log_snr"].shape[1]), "fraction of time, from data"),
        "training": ([plan.given, plan.objectives[0]], "schedule of training"),
    }
    if not plan.options.comparison.train:
        del coordinates["training"]
    titles = coordinates.pop("title")[0]
    record = assemble(SCHEMA, values, coordinates, describe(plan) | {"titles": titles})
    return record


def describe(plan: SchedulePlan) -> dict[str, Any]:
    """The attributes of the record: what was compared on what, in words and in numbers."""
    data, options = plan.data, plan.options
    run = plan.run.attributes()
    fields = "exact fields of the known density"
    if not plan.exact:
        fields = run["training_text"]
        fields += ", times uniform in the schedule" if options.comparison.train else ""
    del run["training_text"]
    which = ", ".join(plan.objectives)
    sampler = {"ddim": "DDIM, first order", "dpm": "DPM-Solver++, second order"}
    return {
        **run,
        "title": f"entropix schedule: {data.dataset.name}",
        "name": data.dataset.name,
        "data_text": data_text(data),
        "source": data.dataset.source,
        "num_train": len(data.train),
        "num_held_out": len(data.held_out),
        "components": 0 if data.projection is None else data.dim,
        "explained_variance": 1.0 if data.projection is None else data.projection.explained,
        "standardisation": data.standardisation.name,
        "coordinates_text": coordinates_text(data),
        "model": "exact" if plan.exact else "trained",
        "model_text": fields,
        "search_text": f"{which}; at most {options.search.iterations} steps, "
        f"{options.search.knots} knots, sampler of {options.search.target_steps} steps",
        "sampler": options.comparison.sampler,
        "sampler_text": f"{sampler[options.comparison.sampler]}, one evaluation a step",
        "num_samples": plan.num_samples,
        "target_steps": options.search.target_steps,
        "evaluations": options.comparison.evaluations,
        "precision": str(data.train.dtype),
    }
