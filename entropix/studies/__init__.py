"""Studies: multi-seed experiments, their records and plots. `entropix measure` is the first."""

from entropix.studies.measurement import measure as measure
from entropix.studies.measurement import run_measure as run_measure
from entropix.studies.options import DataOptions as DataOptions
from entropix.studies.options import EstimationOptions as EstimationOptions
from entropix.studies.options import MeasureOptions as MeasureOptions
from entropix.studies.options import OutputOptions as OutputOptions
from entropix.studies.options import ProcessOptions as ProcessOptions
from entropix.studies.options import TrainingOptions as TrainingOptions
from entropix.studies.plan import MeasurePlan as MeasurePlan
from entropix.studies.plan import prepare_measure as prepare_measure
from entropix.studies.record import SCHEMA as SCHEMA
