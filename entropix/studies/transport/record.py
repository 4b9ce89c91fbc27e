"""The record of a study of transport: names, axes, units and meanings."""

from typing import TYPE_CHECKING, Any

from entropix.studies.cells import Arrays, stacked
from entropix.studies.record import Schema, assemble
from entropix.studies.theorems import SLACK
from entropix.studies.transport.plan import TransportPlan


if TYPE_CHECKING:
    import xarray

_EACH = ("dimension", "process", "epochs", "seed")

# name: (dimensions, unit, meaning)
SCHEMA: Schema = {
    "neural_entropy": (_EACH, "nats", "neural entropy S_NN on samples not trained on"),
    "neural_entropy_stderr": (_EACH, "nats", "its standard error, for the population"),
    "neural_entropy_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "total_entropy": (_EACH, "nats", "exact total entropy production S_tot, same samples"),
    "total_entropy_stderr": (_EACH, "nats", "its standard error, for the population"),
    "total_entropy_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "path_kl": (_EACH, "nats", "path KL L between the exact field and the network's"),
    "path_kl_stderr": (_EACH, "nats", "its standard error, for the population"),
    "path_kl_mc_stderr": (_EACH, "nats", "its standard error, for these samples"),
    "gap": (_EACH, "nats^(1/2)", "sqrt(L) - |sqrt(S_NN) - sqrt(S_tot)|, not negative"),
    "gap_stderr": (_EACH, "nats^(1/2)", "its standard error, for these samples"),
    "theorem_slack": (("theorem", *_EACH), "1", SLACK),
    "loss": (_EACH, "nats", "training loss over the last 100 steps; a perfect network has -S_tot"),
}


def transport_record(plan: TransportPlan, found: dict[str, Arrays]) -> "xarray.Dataset":
    """The cells there are, as one data set; the others are NaN.

    Args:
        plan: what ran.
        found: the results of cells by name, at least one.
    """
    seeds = plan.training.seeds
    shape = (len(plan.mixtures), len(plan.processes), len(plan.epochs), len(seeds))
    values = stacked([cell.name for cell in plan.cells], found)
    return assemble(
        SCHEMA,
        {name: value.reshape(shape) for name, value in values.items()},
        {
            "dimension": (list(plan.mixtures), "dimension D of the mixture"),
            "process": (list(plan.processes), "forward process"),
            "epochs": (list(plan.epochs), "length of training, in epochs"),
            "seed": (list(seeds), "seed of training"),
        },
        describe(plan) | plan.grid.attributes(len(found)),
    )


def describe(plan: TransportPlan) -> dict[str, Any]:
    """The attributes of the record: what was trained on what, in words and in numbers."""
    options, t = plan.options, plan.training
    mixtures = "; ".join(f"D = {dim} ({source})" for dim, source in plan.sources.items())
    widths = ", ".join(map(str, options.training.widths))
    return {
        "title": "entropix transport",
        "data_text": f"Gaussian mixtures, {mixtures}; {options.mixtures.num_samples} samples to "
        "train on and as many to measure on",
        "process_text": "VP (kappa 1), VPx (kappa 0.1), SL (sigma0 0.1): "
        + ", ".join(plan.processes),
        "training_text": f"entropy matching, seeds {', '.join(map(str, t.seeds))}, hidden layers "
        f"{widths}, {t.batch_size} samples a step with {t.num_draws} noise draws, "
        f"learning rate {t.learning_rate:g} falling to zero with the last epoch",
        "grid_text": f"{', '.join(map(str, plan.epochs))} epochs, {len(plan.cells)} cells",
        "num_samples": options.mixtures.num_samples,
        "evaluations": options.estimation.evaluations,
    }
