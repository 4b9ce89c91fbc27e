"""Measuring: train, estimate, record, report."""

import os
from functools import partial
from typing import TYPE_CHECKING

import jax
import numpy as np

from entropix.datasets import Dataset
from entropix.studies.axis import Cutoff, default_cutoff, report_times
from entropix.studies.curves import plot_entropy, plot_loss
from entropix.studies.description import describe
from entropix.studies.estimates import STAGES, Subject, measure_data, measure_truth
from entropix.studies.files import ENTROPY, LOG_DENSITY, LOSS, SAMPLES
from entropix.studies.options import MeasureOptions
from entropix.studies.outputs import models, write_outputs
from entropix.studies.pictures import plot_log_density, plot_samples
from entropix.studies.plan import MeasurePlan, prepare_measure
from entropix.studies.record import SCHEMA
from entropix.studies.report import markdown_report, text_table
from entropix.studies.stages import Found, announce, for_each_seed, record_of, with_cutoff
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray

# What is estimated of the data alone draws other numbers than any seed does.
_TRUTH = 0x7A17


def measure(
    source: str | os.PathLike[str] | Dataset, options: MeasureOptions = MeasureOptions()
) -> "xarray.Dataset":
    """Train entropy-matching models on data and measure what they store.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `MeasureOptions`.

    Returns:
        The record, which has also been written, with report, plots and models, to the output
        folder. `entropix.studies.record.SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the folder cannot be written to any more; `resume` takes the run up.
    """
    return run_measure(prepare_measure(source, options))


def run_measure(plan: MeasurePlan) -> "xarray.Dataset":
    """Run a prepared measurement; what `measure` does after its checks."""
    with plan.run.folder.at_work():
        return _run(plan)


def _run(plan: MeasurePlan) -> "xarray.Dataset":
    run, data = plan.run, plan.data
    announce(run, describe(plan, plan.cutoff))
    fits = run.train(
        plan.make_model(),
        data.augmented,
        data.held_out,
        data.condition_augmented,
        data.condition_held_out,
    )
    (found, times), cutoff = with_cutoff(
        lambda cutoff: _estimate(plan, fits, cutoff),
        plan.cutoff,
        lambda: default_cutoff(data, "chosen, because the entropy does not converge without"),
    )
    attributes = describe(plan, cutoff)
    if cutoff is not plan.cutoff:
        run.say(f"  {'cutoff':<12} {attributes['cutoff_text']}")
    record = record_of(run, fits, found, times, attributes, SCHEMA)
    plots = {
        ENTROPY: partial(plot_entropy, record),
        SAMPLES: partial(plot_samples, record, data),
        LOG_DENSITY: partial(plot_log_density, record),
        LOSS: partial(plot_loss, record),
    }
    write_outputs(run, record, plots, partial(markdown_report, record), models(run, fits))
    run.say(f"\n{text_table(record)}\n\n  written to {run.folder.path}{os.sep}")
    return record


def _estimate(plan: MeasurePlan, fits: EnsembleFit, cutoff: Cutoff) -> tuple[Found, np.ndarray]:
    """All numbers, and the times of the curves among them."""
    times = report_times(plan.run.process, plan.data, cutoff)

    def subject(index: int, key: jax.Array) -> Subject:
        return Subject(
            fits.member(index), plan.data, plan.options.estimation, times, cutoff.value, key
        )

    first = jax.random.key(plan.options.data.data_seed)
    any_seed = subject(0, jax.random.fold_in(first, _TRUTH))
    found = measure_data(any_seed) | measure_truth(any_seed)
    found |= for_each_seed(plan.run, STAGES, subject)
    if "path_kl" in found:
        found["kl_bound"] = found["path_kl"] + found["prior_kl"]
        found["kl_bound_stderr"] = np.hypot(found["path_kl_stderr"], found["prior_kl_stderr"])
    return found, times
