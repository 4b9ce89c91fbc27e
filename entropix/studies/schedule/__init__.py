"""`entropix schedule`: a noise schedule optimised for data, compared with common schedules."""

from entropix.studies.options import ComparisonOptions as ComparisonOptions
from entropix.studies.options import ScheduleOptions as ScheduleOptions
from entropix.studies.options import SearchOptions as SearchOptions
from entropix.studies.schedule.study import ScheduleStudy as ScheduleStudy
from entropix.studies.schedule.study import prepare_schedule as prepare_schedule
from entropix.studies.schedule.study import schedule as schedule
