"""The attributes of a record: what was measured on what, in words and in numbers."""

from typing import Any

from entropix.studies.axis import Cutoff
from entropix.studies.data import PreparedData
from entropix.studies.plan import MeasurePlan


def describe(plan: MeasurePlan, cutoff: Cutoff) -> dict[str, Any]:
    """Everything about a measurement that is no array.

    Args:
        plan: what ran.
        cutoff: that of the entropies, which may have been chosen after the plan was made.
    """
    data = plan.data
    return {
        "title": f"entropix measure: {data.dataset.name}",
        "name": data.dataset.name,
        "data_text": data_text(data),
        "source": data.dataset.source,
        "shape": list(data.dataset.shape or ()),
        "num_train": len(data.train),
        "num_held_out": len(data.held_out),
        "standardisation": data.standardisation.name,
        "coordinates_text": coordinates_text(data),
        "standardisation_log_det": data.log_det,
        "dequantised": data.dequantised,
        "components": 0 if data.projection is None else data.dim,
        "explained_variance": 1.0 if data.projection is None else data.projection.explained,
        "cutoff": 0.0 if cutoff.value is None else cutoff.value,
        "cutoff_text": cutoff_text(cutoff),
        **({} if data.condition is None else {"condition_text": data.condition.text}),
        **plan.run.attributes(),
        "precision": str(data.train.dtype),
    }


def data_text(data: PreparedData) -> str:
    """What the data are."""
    dataset = data.original
    shape = " x ".join(str(size) for size in dataset.shape or ())
    what = {"image": "images of", "table": "rows of", "points": "points of dimension"}[dataset.kind]
    text = f"{dataset.name}, {dataset.num_samples} {what} {shape}"
    if dataset.kind == "table":
        text += " columns"
    if dataset.levels is not None:
        text += f", {dataset.levels} integer levels"
        text += ", uniform noise of one level added" if data.dequantised else ", as they are"
    if data.distribution is not None:
        text += ", drawn from a known density"
    if data.projection is not None:
        share = 100 * data.projection.explained
        text += f"; their first {data.dim} principal components, {share:.3g}% of the variance"
    return "; note: ".join([text, *dataset.notes])


def coordinates_text(data: PreparedData) -> str:
    """How the model's coordinates follow from those of the data."""
    texts = {
        "identity": "those of the data, unchanged",
        "per-feature": "every feature to mean 0 and standard deviation 1",
        "global": f"mean 0, all divided by {float(data.standardisation.std[0]):.6g} "
        "(mean variance 1)",
    }
    return texts[data.standardisation.name]


def cutoff_text(cutoff: Cutoff) -> str:
    """Which noise is included, and why."""
    if cutoff.value is None:
        return cutoff.reason
    return f"noise of standard deviation {cutoff.value:.4g} and above ({cutoff.reason})"
