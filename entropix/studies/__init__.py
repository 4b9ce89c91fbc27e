"""Studies: multi-seed experiments, their records and plots; each is a command of `entropix`."""

from entropix.studies.comparison import information as information
from entropix.studies.comparison import run_information as run_information
from entropix.studies.folder import FolderError as FolderError
from entropix.studies.measurement import measure as measure
from entropix.studies.measurement import run_measure as run_measure
from entropix.studies.options import ConditionOptions as ConditionOptions
from entropix.studies.options import DataOptions as DataOptions
from entropix.studies.options import DivergenceOptions as DivergenceOptions
from entropix.studies.options import EstimationOptions as EstimationOptions
from entropix.studies.options import InformationOptions as InformationOptions
from entropix.studies.options import MeasureOptions as MeasureOptions
from entropix.studies.options import OutputOptions as OutputOptions
from entropix.studies.options import ProcessOptions as ProcessOptions
from entropix.studies.options import TrainingOptions as TrainingOptions
from entropix.studies.pair_plan import InformationPlan as InformationPlan
from entropix.studies.pair_plan import prepare_information as prepare_information
from entropix.studies.pair_record import PAIR_SCHEMA as PAIR_SCHEMA
from entropix.studies.plan import MeasurePlan as MeasurePlan
from entropix.studies.plan import prepare_measure as prepare_measure
from entropix.studies.record import SCHEMA as SCHEMA
