"""The record of a study of storage: names, axes, units and meanings."""

from typing import TYPE_CHECKING, Any

import numpy as np

from entropix.studies.axis import Cutoff
from entropix.studies.cells import Arrays, stacked
from entropix.studies.description import coordinates_text, cutoff_text, data_text
from entropix.studies.processes import process_parameters
from entropix.studies.record import Schema, assemble
from entropix.studies.storage.fit import fit_logarithm
from entropix.studies.storage.measurement import CUT
from entropix.studies.storage.plan import StoragePlan
from entropix.studies.theorems import SLACK


if TYPE_CHECKING:
    import xarray

_EACH, _STEPS = ("size", "steps", "seed"), ("steps",)

# name: (dimensions, unit, meaning); the dimension steps is epochs where these are asked for
SCHEMA: Schema = {
    "neural_entropy": (_EACH, "nats", "neural entropy S_NN on held-out data"),
    "neural_entropy_stderr": (_EACH, "nats", "its standard error, for the population"),
    "neural_entropy_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "neural_entropy_train": (_EACH, "nats", "neural entropy S_NN on the N training samples"),
    "neural_entropy_train_stderr": (_EACH, "nats", "its standard error, for the population"),
    "neural_entropy_train_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "total_entropy": (_EACH, "nats", "exact total entropy production S_tot, same samples"),
    "total_entropy_stderr": (_EACH, "nats", "its standard error, for the population"),
    "total_entropy_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "efficiency": (_EACH, "1", "encoding efficiency S_NN / S_tot"),
    "nearest_ratio": (_EACH, "1", "distance to nearest over second nearest training sample"),
    "nearest_ratio_stderr": (_EACH, "1", "its standard error"),
    "nearest_ratio_null": (_EACH, "1", "the same of held-out samples"),
    "nearest_ratio_null_stderr": (_EACH, "1", "its standard error"),
    "memorised": (_EACH, "1", "share of generated samples with a ratio below 1/3"),
    "memorised_null": (_EACH, "1", "the same of held-out samples"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "loss": (_EACH, "nats", "training loss over the last 100 steps"),
    "best_step": (_EACH, "1", "steps to the parameters that were measured"),
    "log_fit_intercept": (_STEPS, "nats", "a of S_NN = a + b log N"),
    "log_fit_slope": (_STEPS, "nats", "b, per e-fold of N"),
    "log_fit_slope_stderr": (_STEPS, "nats", "its standard error, from scatter over seeds"),
    "log_fit_slope_low": (_STEPS, "nats", "lower end of its 95% interval, Student's t"),
    "log_fit_slope_high": (_STEPS, "nats", "upper end of its 95% interval"),
    "log_fit_chi_squared": (_STEPS, "1", "chi^2 per degree of freedom of the fit"),
}


def storage_record(plan: StoragePlan, found: dict[str, Arrays]) -> "xarray.Dataset":
    """The cells there are, as one data set; the others are NaN.

    Args:
        plan: what ran.
        found: the results of cells by name, at least one.
    """
    seeds = plan.training.seeds
    shape = (len(plan.sizes), len(plan.lengths), len(seeds))
    cells = stacked([cell.name for cell in plan.cells], found)
    values = {name: value.reshape(shape) for name, value in cells.items()}
    values, cutoff = _one_cutoff(plan, values, found)
    if "total_entropy" in values:
        values["efficiency"] = values["neural_entropy"] / values["total_entropy"]
    schema = {
        name: (tuple(plan.unit if dim == "steps" else dim for dim in dims), unit, meaning)
        for name, (dims, unit, meaning) in SCHEMA.items()
    }
    return assemble(
        schema,
        values | _fits(plan, values["neural_entropy"]),
        {
            "size": (list(plan.sizes), "number N of training samples"),
            plan.unit: (list(plan.lengths), f"length of training, in {plan.unit}"),
            "seed": (list(seeds), "seed of training"),
        },
        describe(plan, cutoff) | plan.grid.attributes(len(found)),
    )


def _one_cutoff(
    plan: StoragePlan, values: Arrays, found: dict[str, Arrays]
) -> tuple[Arrays, Cutoff]:
    """Entropies of all cells with one cut-off: none, unless one of them is infinite then."""
    plain = {name: value for name, value in values.items() if not name.startswith(CUT)}
    entropies = ("neural_entropy", "neural_entropy_train")
    infinite = any(np.isnan(cell[name]).any() for cell in found.values() for name in entropies)
    if not infinite:
        return plain, plan.cutoff
    cut = {name.removeprefix(CUT): v for name, v in values.items() if name.startswith(CUT)}
    return plain | cut, plan.fallback


def _fits(plan: StoragePlan, entropy: np.ndarray) -> dict[str, list[float]]:
    names = {
        "intercept": "intercept",
        "slope": "slope",
        "slope_stderr": "stderr",
        "slope_low": "low",
        "slope_high": "high",
        "chi_squared": "chi_squared",
    }
    lines = [fit_logarithm(np.array(plan.sizes), entropy[:, i]) for i in range(len(plan.lengths))]
    return {
        f"log_fit_{name}": [
            float("nan") if line is None else getattr(line, field) for line in lines
        ]
        for name, field in names.items()
    }


def describe(plan: StoragePlan, cutoff: Cutoff) -> dict[str, Any]:
    """The attributes of the record: what was trained on what, in words and in numbers."""
    options, t, data = plan.options, plan.training, plan.data
    numbers = process_parameters(options.process)
    process = ", ".join(f"{name} {value:g}" for name, value in numbers.items())
    network = f"hidden layers {', '.join(map(str, options.training.widths))}"
    if options.training.network == "unet":
        network = "U-Net"
    stopping = (
        ""
        if t.patience is None
        else (
            f"; each network is that of its least held-out loss, stopped {t.patience} steps after"
        )
    )
    return {
        "title": f"entropix storage: {data.dataset.name}",
        "name": data.dataset.name,
        "data_text": data_text(data),
        "source": data.dataset.source,
        "num_held_out": len(data.held_out),
        "standardisation": data.standardisation.name,
        "standardisation_log_det": data.log_det,
        "coordinates_text": f"{coordinates_text(data)}; the same for all N",
        "dequantised": data.dequantised,
        "process": options.process.process,
        "process_text": type(plan.process).__name__ + (f" ({process})" if process else ""),
        "training_text": f"entropy matching, seeds {', '.join(map(str, t.seeds))}, {network}, "
        f"{t.batch_size} samples a step with {t.num_draws} noise draws, "
        f"learning rate {t.learning_rate:g} falling to zero with the last step{stopping}",
        "grid_text": f"N = {', '.join(map(str, plan.sizes))}; "
        f"{', '.join(map(str, plan.lengths))} {plan.unit}; {len(plan.cells)} cells",
        "unit_of_length": plan.unit,
        "cutoff": 0.0 if cutoff.value is None else cutoff.value,
        "cutoff_text": cutoff_text(cutoff),
        "evaluations": options.estimation.evaluations,
        "num_generated": options.estimation.samples,
        "precision": str(data.train.dtype),
    }
