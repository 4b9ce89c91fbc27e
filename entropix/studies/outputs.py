"""Everything a study writes: record, report, figures and models, all of them or none."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from entropix.persistence import save
from entropix.studies.files import RECORD, REPORT, model_file
from entropix.studies.grid import Grid
from entropix.studies.record import write_record
from entropix.studies.run import Run
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray


def write_outputs(
    run: Run | Grid,
    record: "xarray.Dataset",
    plots: dict[str, Callable[[Path], None]],
    report: Callable[[list[str]], str],
    modules: dict[str, Any] | None = None,
) -> None:
    """Write all files aside, then move them into the output folder.

    Args:
        run: where to.
        record: what was measured.
        plots: functions that draw a figure into a file, by the name of the file.
        report: from the names of the figures to the report.
        modules: models and processes, by the name of the file.

    Raises:
        FolderError: if the folder cannot be written to; what was there stays.
    """
    with run.folder.staged() as staging:
        for name, module in (modules or {}).items():
            save(staging / name, module)
        write_record(record, staging / RECORD)
        figures = list(plots) if run.output.plots else []
        for name in figures:
            plots[name](staging / name)
        (staging / REPORT).write_text(report(figures), encoding="utf-8")


def models(run: Run, fits: EnsembleFit) -> dict[str, Any]:
    """The trained models, by the names of their files."""
    return {model_file(seed): fits.member(i) for i, seed in enumerate(run.seeds)}
