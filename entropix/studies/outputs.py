"""Everything a measurement writes: record, report, figures and models, all of them or none."""

from typing import TYPE_CHECKING

from entropix.studies.curves import plot_entropy, plot_loss
from entropix.studies.files import ENTROPY, LOG_DENSITY, LOSS, RECORD, REPORT, SAMPLES, model_file
from entropix.studies.pictures import plot_log_density, plot_samples
from entropix.studies.plan import MeasurePlan
from entropix.studies.record import write_record
from entropix.studies.report import markdown_report
from entropix.training import EnsembleFit, save


if TYPE_CHECKING:
    import xarray


def write_outputs(plan: MeasurePlan, fits: EnsembleFit, record: "xarray.Dataset") -> None:
    """Write all files aside, then move them into the output folder."""
    with plan.folder.staged() as staging:
        for i, seed in enumerate(plan.seeds):
            save(staging / model_file(seed), fits.member(i))
        write_record(record, staging / RECORD)
        if plan.options.output.plots:
            plot_entropy(record, staging / ENTROPY)
            plot_samples(record, plan.data, staging / SAMPLES)
            plot_log_density(record, staging / LOG_DENSITY)
            plot_loss(record, staging / LOSS)
        figures = [file.name for file in staging.glob("*.png")]
        (staging / REPORT).write_text(markdown_report(record, figures), encoding="utf-8")
