"""Everything a study of schedules writes: all of it or nothing."""

from typing import TYPE_CHECKING

from entropix.studies.files import (
    PRICES,
    RECORD,
    REPORT,
    SCHEDULES,
    STEPS,
    model_file,
    schedule_file,
)
from entropix.studies.record import write_record
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.figures import plot_prices, plot_schedules, plot_steps
from entropix.studies.schedule.plan import SchedulePlan
from entropix.studies.schedule.report import markdown_report
from entropix.training import EnsembleFit, save


if TYPE_CHECKING:
    import xarray


def write_outputs(
    plan: SchedulePlan,
    record: "xarray.Dataset",
    schedules: list[list[Candidate]],
    before: EnsembleFit | None,
    after: EnsembleFit | None,
) -> None:
    """Write all files aside, then move them into the output folder.

    Args:
        plan: what ran.
        record: what was measured.
        schedules: those of each seed.
        before: the networks, if there are any.
        after: those trained again; they are saved in place of the others.
    """
    fits = before if after is None else after
    with plan.run.folder.staged() as staging:
        for i, seed in enumerate(plan.run.seeds):
            for candidate in schedules[i][: len(plan.objectives)]:
                save(staging / schedule_file(candidate.name, seed), candidate.process)
            if fits is not None:
                save(staging / model_file(seed), fits.member(i))
        write_record(record, staging / RECORD)
        if plan.options.output.plots:
            plot_schedules(record, staging / SCHEDULES)
            plot_prices(record, staging / PRICES)
            plot_steps(record, staging / STEPS)
        figures = [file.name for file in staging.glob("*.png")]
        (staging / REPORT).write_text(markdown_report(record, figures), encoding="utf-8")
