"""One cell: networks trained on N samples for so many steps, and what they store and repeat."""

from typing import Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.dynamics import sample
from entropix.entropy import neural_entropy
from entropix.interfaces import AbstractModel, Estimate
from entropix.models import ExactModel
from entropix.studies.axis import Cutoff
from entropix.studies.cells import Arrays, Task
from entropix.studies.stages import asks_for_cutoff
from entropix.studies.storage.memorisation import (
    THRESHOLD,
    generated_points,
    held_out_points,
    nearest_ratio,
    training_points,
)
from entropix.studies.storage.plan import StorageCell, StoragePlan


_TRUTH = 0x7A17
# Variables under this prefix are entropies with the cut-off that all take if one needs one.
CUT = "cut_"


def measure_cell(plan: StoragePlan, cell: StorageCell, task: Task) -> Arrays:
    """Everything measured in a cell; the last axis is the seed.

    Args:
        plan: what runs.
        cell: its place in the grid.
        task: the claim to it.
    """
    rows = plan.training_rows(cell.size)
    held_out = plan.data.held_out.reshape(-1, *plan.shape)
    fits, loss = plan.training.train(
        task, plan.make_model(rows), rows, cell.steps, plan.process, held_out
    )
    known = training_points(plan.data, cell.size)
    per_seed = [
        _of_network(plan, fits.member(i), rows, known, key)
        for i, key in enumerate(plan.training.keys())
    ]
    found = {name: np.stack([found[name] for found in per_seed]) for name in per_seed[0]}
    found |= {"loss": loss, "best_step": fits.history.best_step}
    found |= {**_of_data(plan, known, len(per_seed))}
    return {name: np.asarray(value) for name, value in found.items()}


def _of_network(
    plan: StoragePlan, model: AbstractModel, rows: np.ndarray, known: np.ndarray, key: Key
) -> dict[str, Any]:
    """What one network stores, and how much of what it makes it has by heart."""
    entropy_key, train_key, sample_key = jax.random.split(key, 3)
    held_out = plan.data.held_out.reshape(-1, *plan.shape)
    found = _entropy(plan, model, "neural_entropy", held_out, entropy_key)
    found |= _entropy(plan, model, "neural_entropy_train", rows, train_key)
    options = plan.options.estimation
    made = sample(
        model,
        key=sample_key,
        num_samples=options.samples,
        num_steps=options.sampling_steps,
        chunk_size=max(1, min(4096, 2**22 // plan.data.dim)),  # bounded memory
    )
    flat = np.asarray(made).reshape(options.samples, -1)
    return found | _ratios("nearest_ratio", generated_points(plan.data, flat), known)


def _of_data(plan: StoragePlan, known: np.ndarray, seeds: int) -> dict[str, Any]:
    """What held-out samples would be taken for, and the truth where it is known."""
    found = _ratios("nearest_ratio", held_out_points(plan.data), known)
    found = {name.replace("nearest_ratio", "nearest_ratio_null"): v for name, v in found.items()}
    found["memorised_null"] = found.pop("memorised")
    distribution = plan.data.distribution
    if distribution is not None:
        exact = ExactModel(distribution, plan.process)
        first = jax.random.fold_in(jax.random.key(plan.options.data.data_seed), _TRUTH)
        found |= _entropy(plan, exact, "total_entropy", plan.data.held_out, first)
    return {name: np.full(seeds, value) for name, value in found.items()}


def _entropy(
    plan: StoragePlan, model: AbstractModel, name: str, points: np.ndarray, key: Key
) -> dict[str, float]:
    """An entropy, with the cut-off that all take if one needs one as well as without."""
    found = _with_cutoff(plan, model, name, points, key, plan.cutoff)
    if plan.cutoff.value is None:
        cut = _with_cutoff(plan, model, name, points, key, plan.fallback)
        found |= {f"{CUT}{name}": value for name, value in cut.items()}
    return found


def _with_cutoff(
    plan: StoragePlan,
    model: AbstractModel,
    name: str,
    points: np.ndarray,
    key: Key,
    cutoff: Cutoff,
) -> dict[str, float]:
    """An entropy; NaN where it is infinite without a cut-off."""
    try:
        found: Estimate | None = neural_entropy(
            model,
            points,
            key=key,
            num_evaluations=plan.options.estimation.evaluations,
            cutoff=cutoff.value,
        )
    except ValueError as error:
        if cutoff.value is not None or not asks_for_cutoff(error):
            raise
        found = None
    parts = ("value", "stderr", "mc_stderr")
    values = [np.nan if found is None else float(getattr(found, part)) for part in parts]
    names = (name, f"{name}_stderr", f"{name}_mc_stderr")
    return dict(zip(names, values, strict=True))


def _ratios(name: str, points: np.ndarray, known: np.ndarray) -> dict[str, float]:
    ratios = nearest_ratio(points, known)
    return {
        name: float(ratios.mean()),
        f"{name}_stderr": float(ratios.std(ddof=1) / np.sqrt(len(ratios))),
        "memorised": float((ratios < THRESHOLD).mean()),
    }
