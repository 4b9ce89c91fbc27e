"""One cell of `storage`: what networks trained on N samples store and memorise."""

from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix._core.arrays import Key
from entropix.entropy import neural_entropy
from entropix.interfaces import AbstractGaussianProcess, AbstractModel, DivergenceError
from entropix.models import ExactModel
from entropix.studies import paper
from entropix.studies.cells import Arrays, Task
from entropix.studies.cutoff import Cutoff
from entropix.studies.estimates import errors_of, generate
from entropix.studies.storage.memorisation import (
    THRESHOLD,
    generated_points,
    held_out_points,
    nearest_ratio,
    training_points,
)
from entropix.studies.study import Found, on_host
from entropix.studies.tokens import TokenData
from entropix.studies.training import last_loss


if TYPE_CHECKING:
    from entropix.studies.storage.study import StorageCell, StorageStudy

# Folded into the key of a seed: what follows training draws other numbers than training.
_ESTIMATES, _TRUTH = 0xCE11, 0x7A17
# Prefix of entropies with the fallback cut-off, which all cells take if one cell needs it.
CUT = "cut_"


def measure_cell(study: "StorageStudy", cell: "StorageCell", task: Task) -> Arrays:
    """Train the networks of a cell and measure them; the last axis of all results is the seed."""
    rows, conditions = study.training_rows(cell.size), study.training_conditions(cell.size)
    if conditions is not None:
        conditions = np.tile(conditions, (len(rows) // len(conditions), 1))
    held_out = study.data.held_out.reshape(-1, *study.shape)
    early = study.training.patience is not None
    fits = study.training.fit(
        task,
        study.make_model(rows),
        data=rows,
        steps=cell.steps,
        process=study.process,
        condition=conditions,
        holdout=held_out if early else None,
        holdout_condition=study.data.condition_held_out if early else None,
    )
    known = training_points(study.data, cell.size)
    model = paper.measured if study.training.plain else lambda member: member
    per_seed = [
        _measure_network(study, model(fits.member(i)), rows, conditions, known, key)
        for i, key in enumerate(study.training.keys(_ESTIMATES))
    ]
    found: Found = {name: np.stack([found[name] for found in per_seed]) for name in per_seed[0]}
    found |= {"loss": last_loss(fits), "best_step": fits.history.best_step}
    # The same for all seeds, but each seed is an entry of the grid.
    of_data = _measure_data(study, known)
    found |= {name: np.full(len(per_seed), value) for name, value in of_data.items()}
    return on_host(found)


def _measure_network(
    study: "StorageStudy",
    model: AbstractModel,
    rows: np.ndarray,
    conditions: np.ndarray | None,
    known: np.ndarray,
    key: Key,
) -> dict[str, Any]:
    """The entropies of one network, and how many of its samples are memorised."""
    entropy_key, train_key, sample_key = jax.random.split(key, 3)
    held_out = study.data.held_out.reshape(-1, *study.shape)
    of_held_out, made_of = study.data.condition_held_out, None
    found = _entropy(study, model, "neural_entropy", held_out, of_held_out, entropy_key)
    found |= _entropy(study, model, "neural_entropy_train", rows, conditions, train_key)
    effort, size = study.options.estimation, study.numbers
    if conditions is not None:
        made_of = np.resize(conditions, (effort.samples, conditions.shape[1]))
    made = generate(model, effort.samples, effort.sampling_steps, size, sample_key, made_of)
    flat = np.asarray(made).reshape(effort.samples, -1)
    return found | _ratios(study, generated_points(study.data, flat), known, "")


def _measure_data(study: "StorageStudy", known: np.ndarray) -> dict[str, Any]:
    """The ratios of held-out samples, and the exact entropy where it is known."""
    found = _ratios(study, held_out_points(study.data), known, "_null")
    if study.distribution is not None:
        assert isinstance(study.process, AbstractGaussianProcess)
        exact = ExactModel(study.distribution, study.process)
        key = jax.random.fold_in(jax.random.key(study.options.data.data_seed), _TRUTH)
        found |= _entropy(study, exact, "total_entropy", study.data.held_out, None, key)
    return found


def _entropy(
    study: "StorageStudy",
    model: AbstractModel,
    name: str,
    points: np.ndarray,
    condition: np.ndarray | None,
    key: Key,
) -> dict[str, float]:
    """An entropy, NaN if it is infinite; without a cut-off also that with the fallback cut-off."""

    def estimate(cutoff: Cutoff) -> dict[str, float]:
        try:
            found = neural_entropy(
                model,
                points,
                key=key,
                condition=condition,
                num_evaluations=study.options.estimation.evaluations,
                cutoff=cutoff.value,
                # In bounded memory for networks of images too.
                chunk_size=max(16, min(4096, 2**19 // study.numbers)),
            )
        except DivergenceError as error:
            if error.remedy != "cutoff":
                raise
            return dict.fromkeys((name, f"{name}_stderr", f"{name}_mc_stderr"), np.nan)
        return {n: float(v) for n, v in errors_of(name, found, "stderr", "mc_stderr").items()}

    found = estimate(study.cutoff)
    if study.cutoff.value is None and study.fallback is not None:
        found |= {f"{CUT}{name}": value for name, value in estimate(study.fallback).items()}
    return found


def _ratios(
    study: "StorageStudy", points: np.ndarray, known: np.ndarray, suffix: str
) -> dict[str, float]:
    metric = "hamming" if isinstance(study.data, TokenData) else "euclidean"
    ratios = nearest_ratio(points, known, metric)
    return {
        f"nearest_ratio{suffix}": float(ratios.mean()),
        f"nearest_ratio{suffix}_stderr": float(ratios.std(ddof=1) / np.sqrt(len(ratios))),
        f"memorised{suffix}": float((ratios < THRESHOLD).mean()),
    }
