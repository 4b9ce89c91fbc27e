"""The study of storage: what has to be computed, the record, the report."""

import os
from functools import partial
from typing import TYPE_CHECKING

from entropix.datasets import Dataset
from entropix.studies.cells import Arrays, Task
from entropix.studies.files import MEMORISATION, STORAGE
from entropix.studies.outputs import write_outputs
from entropix.studies.stages import announce
from entropix.studies.storage.figures import plot_memorisation, plot_storage
from entropix.studies.storage.measurement import measure_cell
from entropix.studies.storage.options import StorageOptions
from entropix.studies.storage.plan import StoragePlan, prepare_storage
from entropix.studies.storage.record import describe, storage_record
from entropix.studies.storage.report import markdown_report, text_report


if TYPE_CHECKING:
    import xarray


def storage(
    source: str | os.PathLike[str] | Dataset = "digits", options: StorageOptions | None = None
) -> "xarray.Dataset":
    """S_NN of networks against the number of samples they were trained on, and against steps.

    The experiment of Neural Entropy (arXiv 2409.03817) on storage.

    Args:
        source: what `entropix.datasets.load` takes, or a data set.
        options: see `StorageOptions`; None for the defaults.

    Returns:
        The record, which has also been written, with report and plots, to the output folder.
        `entropix.studies.storage.record.SCHEMA` says what is in it.

    Raises:
        ValueError: in one line, before anything is trained or written, for whatever is wrong with
            the request.
        FolderError: if the folder cannot be written to any more; finished cells are kept.
    """
    return run_storage(prepare_storage(source, options))


def run_storage(plan: StoragePlan) -> "xarray.Dataset":
    """Run a prepared study, or help others to; what `storage` does after its checks."""
    grid = plan.grid
    announce(grid, describe(plan, plan.cutoff))
    places = {cell.name: cell for cell in plan.cells}

    def work(task: Task) -> Arrays:
        return measure_cell(plan, places[task.name], task)

    return grid.run(work, partial(_summarise, plan))


def _summarise(plan: StoragePlan, found: dict[str, Arrays]) -> "xarray.Dataset":
    """Record, report and figures of the cells there are."""
    grid, record = plan.grid, storage_record(plan, found)
    if record.attrs["cutoff_text"] != describe(plan, plan.cutoff)["cutoff_text"]:
        grid.say(f"  {'cutoff':<12} {record.attrs['cutoff_text']}")
    plots = {
        STORAGE: partial(plot_storage, record),
        MEMORISATION: partial(plot_memorisation, record),
    }
    write_outputs(grid, record, plots, partial(markdown_report, record))
    grid.say(f"\n{text_report(record)}\n\n  written to {grid.folder.path}{os.sep}")
    return record
