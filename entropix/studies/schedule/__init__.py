"""`entropix schedule`: a noise schedule optimised for data, beside those made by hand."""

from entropix.studies.schedule.options import ComparisonOptions as ComparisonOptions
from entropix.studies.schedule.options import ScheduleOptions as ScheduleOptions
from entropix.studies.schedule.options import SearchOptions as SearchOptions
from entropix.studies.schedule.plan import SchedulePlan as SchedulePlan
from entropix.studies.schedule.plan import prepare_schedule as prepare_schedule
from entropix.studies.schedule.study import run_schedule as run_schedule
from entropix.studies.schedule.study import schedule as schedule
