"""Studies: experiments with several seeds, their records and figures; each is a command."""

from entropix.studies.comparison import PAIR_SCHEMA as PAIR_SCHEMA
from entropix.studies.comparison import InformationStudy as InformationStudy
from entropix.studies.comparison import information as information
from entropix.studies.comparison import prepare_information as prepare_information
from entropix.studies.folder import FolderError as FolderError
from entropix.studies.measurement import SCHEMA as SCHEMA
from entropix.studies.measurement import MeasureStudy as MeasureStudy
from entropix.studies.measurement import measure as measure
from entropix.studies.measurement import prepare_measure as prepare_measure
from entropix.studies.options import BudgetOptions as BudgetOptions
from entropix.studies.options import ConditionOptions as ConditionOptions
from entropix.studies.options import DataOptions as DataOptions
from entropix.studies.options import DivergenceOptions as DivergenceOptions
from entropix.studies.options import EstimationOptions as EstimationOptions
from entropix.studies.options import InformationOptions as InformationOptions
from entropix.studies.options import MeasureOptions as MeasureOptions
from entropix.studies.options import ModelOptions as ModelOptions
from entropix.studies.options import OutputOptions as OutputOptions
from entropix.studies.options import ProcessOptions as ProcessOptions
from entropix.studies.options import TrainingOptions as TrainingOptions
from entropix.studies.pretrained import PRETRAINED_SCHEMA as PRETRAINED_SCHEMA
from entropix.studies.pretrained import PretrainedStudy as PretrainedStudy
from entropix.studies.study import AbstractStudy as AbstractStudy
