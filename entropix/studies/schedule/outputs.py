"""Everything a study of schedules writes: all of it or nothing."""

from functools import partial
from typing import TYPE_CHECKING, Any

from entropix.studies.files import PRICES, SCHEDULES, STEPS, schedule_file
from entropix.studies.outputs import models, write_outputs
from entropix.studies.schedule.candidates import Candidate
from entropix.studies.schedule.figures import plot_prices, plot_schedules, plot_steps
from entropix.studies.schedule.plan import SchedulePlan
from entropix.studies.schedule.report import markdown_report
from entropix.training import EnsembleFit


if TYPE_CHECKING:
    import xarray


def write_study(
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

    Raises:
        FolderError: if the folder cannot be written to; what was there stays.
    """
    modules: dict[str, Any] = {
        schedule_file(candidate.name, seed): candidate.process
        for i, seed in enumerate(plan.run.seeds)
        for candidate in schedules[i][: len(plan.objectives)]
    }
    fits = before if after is None else after
    if fits is not None:
        modules |= models(plan.run, fits)
    plots = {
        SCHEDULES: partial(plot_schedules, record),
        PRICES: partial(plot_prices, record),
        STEPS: partial(plot_steps, record),
    }
    write_outputs(plan.run, record, plots, partial(markdown_report, record), modules)
