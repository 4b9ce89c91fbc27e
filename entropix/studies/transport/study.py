"""The study of transport: what has to be computed, the record, the report."""

import os
from functools import partial
from typing import TYPE_CHECKING

from entropix.studies.cells import Arrays, Task
from entropix.studies.files import EPOCHS, MATCHING
from entropix.studies.outputs import write_outputs
from entropix.studies.stages import announce
from entropix.studies.transport.figures import plot_epochs, plot_matching
from entropix.studies.transport.measurement import measure_cell
from entropix.studies.transport.options import TransportOptions
from entropix.studies.transport.plan import TransportPlan, prepare_transport
from entropix.studies.transport.record import describe, transport_record
from entropix.studies.transport.report import markdown_report, text_report


if TYPE_CHECKING:
    import xarray


def transport(options: TransportOptions | None = None) -> "xarray.Dataset":
    """S_NN of networks trained on Gaussian mixtures, against epochs and against the path KL.

    The experiment of Neural Entropy (arXiv 2409.03817) on transport.

    Args:
        options: see `TransportOptions`; None for the defaults.

    Returns:
        The record, which has also been written, with report and plots, to the output folder.
        `entropix.studies.transport.record.SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the folder cannot be written to any more; finished cells are kept.
    """
    return run_transport(prepare_transport(options))


def run_transport(plan: TransportPlan) -> "xarray.Dataset":
    """Run a prepared study, or help others to; what `transport` does after its checks."""
    grid = plan.grid
    announce(grid, describe(plan))
    places = {cell.name: cell for cell in plan.cells}

    def work(task: Task) -> Arrays:
        return measure_cell(plan, places[task.name], task)

    return grid.run(work, partial(_summarise, plan))


def _summarise(plan: TransportPlan, found: dict[str, Arrays]) -> "xarray.Dataset":
    """Record, report and figures of the cells there are."""
    grid, record = plan.grid, transport_record(plan, found)
    plots = {EPOCHS: partial(plot_epochs, record), MATCHING: partial(plot_matching, record)}
    write_outputs(grid, record, plots, partial(markdown_report, record))
    grid.say(f"\n{text_report(record)}\n\n  written to {grid.folder.path}{os.sep}")
    return record
