"""Comparing two data sets: one network for both, KL in both directions, and W2."""

import json
import os
from functools import partial
from typing import TYPE_CHECKING, Any

import jax
import numpy as np

from entropix.datasets import Dataset
from entropix.studies.axis import Cutoff, default_cutoff, report_times
from entropix.studies.curves import plot_divergence, plot_loss
from entropix.studies.description import coordinates_text, cutoff_text, data_text
from entropix.studies.files import DIVERGENCE, LOSS
from entropix.studies.options import InformationOptions
from entropix.studies.outputs import models, write_outputs
from entropix.studies.pair_estimates import (
    DIRECTIONS,
    STAGES,
    PairSubject,
    measure_distance,
    measure_pair_truth,
)
from entropix.studies.pair_plan import InformationPlan, prepare_information
from entropix.studies.pair_record import PAIR_SCHEMA, pair_rows
from entropix.studies.report import compose, spread_text, text_table
from entropix.studies.stages import Found, announce, for_each_seed, record_of, with_cutoff
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray

# What is estimated of the data alone draws other numbers than any seed does.
_TRUTH = 0x7A18
_FIGURES = (
    (DIVERGENCE, "Rate of KL against log-SNR, in both directions"),
    (LOSS, "Training loss"),
)


def information(
    first: str | os.PathLike[str] | Dataset,
    second: str | os.PathLike[str] | Dataset,
    options: InformationOptions = InformationOptions(),
) -> "xarray.Dataset":
    """Train one model of two data sets and measure what separates them.

    Args:
        first: what `entropix.datasets.load` takes, or a data set.
        second: the same, in the same coordinates.
        options: see `InformationOptions`.

    Returns:
        The record, which has also been written, with report, plots and models, to the output
        folder. `entropix.studies.pair_record.PAIR_SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the folder cannot be written to any more; `resume` takes the run up.
    """
    return run_information(prepare_information(first, second, options))


def run_information(plan: InformationPlan) -> "xarray.Dataset":
    """Run a prepared comparison; what `information` does after its checks."""
    with plan.run.folder.at_work():
        return _run(plan)


def _run(plan: InformationPlan) -> "xarray.Dataset":
    run = plan.run
    announce(run, _describe(plan, plan.cutoff))
    (points, sides), (held_out, held_out_sides) = plan.both("augmented"), plan.both("held_out")
    fits = run.train(plan.make_model(), points, held_out, sides, held_out_sides)
    (found, times), cutoff = with_cutoff(
        lambda cutoff: _estimate(plan, fits, cutoff),
        plan.cutoff,
        lambda: default_cutoff(plan.pair[1], "chosen, because KL does not converge without"),
    )
    attributes = _describe(plan, cutoff)
    if cutoff is not plan.cutoff:
        run.say(f"  {'cutoff':<12} {attributes['cutoff_text']}")
    record = record_of(run, fits, found, times, attributes, PAIR_SCHEMA)
    rows = pair_rows(*plan.names)
    plots = {
        DIVERGENCE: partial(plot_divergence, record),
        LOSS: partial(plot_loss, record),
    }
    write_outputs(run, record, plots, partial(pair_report, record), models(run, fits))
    run.say(f"\n{text_table(record, rows)}\n")
    for note in _warnings(record):
        run.say(f"  {note}\n")
    run.say(f"  written to {run.folder.path}{os.sep}")
    return record


def _estimate(plan: InformationPlan, fits: EnsembleFit, cutoff: Cutoff) -> tuple[Found, np.ndarray]:
    """All numbers, and the times of the curves among them."""
    times = report_times(plan.run.process, plan.pair[1], cutoff)

    def subject(index: int, key: jax.Array) -> PairSubject:
        return PairSubject(
            fits.member(index), plan.pair, plan.options.estimation, times, cutoff.value, key
        )

    first = jax.random.key(plan.options.data.data_seed)
    any_seed = subject(0, jax.random.fold_in(first, _TRUTH))
    found = measure_distance(any_seed) | measure_pair_truth(any_seed)
    return found | for_each_seed(plan.run, STAGES, subject), times


def _describe(plan: InformationPlan, cutoff: Cutoff) -> dict[str, Any]:
    """Everything about a comparison that is no array."""
    first, second = plan.pair
    mean = "the two sets together, each with half of the weight"
    return {
        "title": f"entropix information: {' and '.join(plan.names)}",
        "first": plan.names[0],
        "second": plan.names[1],
        "first_text": data_text(first),
        "second_text": data_text(second),
        "num_train": [len(data.train) for data in plan.pair],
        "num_held_out": [len(data.held_out) for data in plan.pair],
        "standardisation": first.standardisation.name,
        "coordinates_text": f"{coordinates_text(first)}, by the moments of {mean}",
        "cutoff": 0.0 if cutoff.value is None else cutoff.value,
        "cutoff_text": cutoff_text(cutoff),
        **plan.run.attributes(),
        "precision": str(first.train.dtype),
    }


def pair_report(record: "xarray.Dataset", figures: list[str]) -> str:
    """The report: what was compared, the numbers, how to read them, and the figures."""
    a = record.attrs
    trained, held_out = _numbers(a["num_train"]), _numbers(a["num_held_out"])
    facts = [
        f"First: {a['first_text']}.",
        f"Second: {a['second_text']}.",
        f"Split: {trained[0]} and {trained[1]} samples to train on, {held_out[0]} and "
        f"{held_out[1]} held out.",
        f"Coordinates of the model: {a['coordinates_text']}. W2 is measured in them; KL is the "
        "same in all coordinates.",
    ]
    reading = [
        f"± is {spread_text(record)}; of W2, that of samples of this size.",
        "KL from denoising errors is the headline: how much worse the field of the other set "
        "removes the noise from held-out samples, not clipped. KL from scores is the squared "
        "difference of the two fields, never negative. Where they differ by more than their "
        "errors, the network has not learnt one of the fields where the samples lie.",
        f"W2 compares {int(record['wasserstein2_count'])} samples on each side. It is biased "
        "upwards by sampling: W2 of two parts of one set, as large, is what equal sets would have.",
        *_warnings(record),
    ]
    names = (a["first"], a["second"])
    per_seed = {
        name: f"KL({one} || {other})"
        for name, (one, other) in zip(DIRECTIONS, (names, names[::-1]), strict=True)
    }
    title = f"information: {' and '.join(names)}"
    return compose(record, title, facts, pair_rows(*names), reading, per_seed, _FIGURES, figures)


def _warnings(record: "xarray.Dataset") -> list[str]:
    """What must not be overlooked."""
    names = (record.attrs["first"], record.attrs["second"])
    counts = _numbers(record.attrs["num_train"])
    notes = []
    for name, other, count in zip(DIRECTIONS, names[::-1], counts[::-1], strict=True):
        value = float(record[f"{name}_score"].mean())
        if value > np.log(count):
            notes.append(
                f"The sets barely overlap: {count} samples of {other} cannot bear out a KL above "
                f"ln {count} = {np.log(count):.1f} nats (McAllester and Stratos, 1811.04251). Its "
                f"field where it has no samples is the network's extrapolation, and "
                f"{value:.3g} nats say no more than that KL is large."
            )
    return notes


def _numbers(text: str) -> list[int]:
    """What a record, which holds no lists, was given as a list."""
    return json.loads(text)
