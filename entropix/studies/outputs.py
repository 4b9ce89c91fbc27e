"""Everything a study writes: record, report, figures and models, all of them or none."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from entropix.studies.files import RECORD, REPORT, model_file
from entropix.studies.grid import Grid
from entropix.studies.record import write_record
from entropix.studies.run import Run
from entropix.training import EnsembleFit, save


if TYPE_CHECKING:
    import xarray


def write_outputs(
    run: Run,
    fits: EnsembleFit,
    record: "xarray.Dataset",
    plots: dict[str, Callable[[Path], None]],
    report: Callable[[list[str]], str],
) -> None:
    """Write all files aside, then move them into the output folder.

    Args:
        run: where to.
        fits: the models.
        record: what was measured.
        plots: functions that draw a figure into a file, by the name of the file.
        report: from the names of the figures to the report.
    """
    with run.folder.staged() as staging:
        for i, seed in enumerate(run.seeds):
            save(staging / model_file(seed), fits.member(i))
        write_record(record, staging / RECORD)
        figures = list(plots) if run.output.plots else []
        for name in figures:
            plots[name](staging / name)
        (staging / REPORT).write_text(report(figures), encoding="utf-8")


def write_summary(
    grid: Grid,
    record: "xarray.Dataset",
    plots: dict[str, Callable[[Path], None]],
    report: Callable[[list[str]], str],
) -> None:
    """Write what the cells of a grid come to, aside, then move it into the output folder.

    Args:
        grid: where to.
        record: what was measured.
        plots: functions that draw a figure into a file, by the name of the file.
        report: from the names of the figures to the report.

    Raises:
        FolderError: if the folder cannot be written to.
    """
    with grid.staged() as staging:
        write_record(record, staging / RECORD)
        figures = list(plots) if grid.output.plots else []
        for name in figures:
            plots[name](staging / name)
        (staging / REPORT).write_text(report(figures), encoding="utf-8")
