"""Information between data sets, variables and conditions, from the fields of models."""

from entropix.information.class_entropy import ClassEntropy as ClassEntropy
from entropix.information.critical_times import CriticalTimes as CriticalTimes
from entropix.information.critical_times import critical_times as critical_times
from entropix.information.crossing import CriticalTime as CriticalTime
from entropix.information.differential_entropy import (
    differential_entropy as differential_entropy,
)
from entropix.information.divergences import kl_divergence as kl_divergence
from entropix.information.divergences import total_correlation as total_correlation
from entropix.information.end_term import curve_with_end_term as curve_with_end_term
from entropix.information.entropic_time import EntropicTimeCurve as EntropicTimeCurve
from entropix.information.entropic_time import entropic_time as entropic_time
from entropix.information.forms import ModelPair as ModelPair
from entropix.information.forms import in_form as in_form
from entropix.information.mutual_information import (
    conditional_mutual_information as conditional_mutual_information,
)
from entropix.information.mutual_information import mutual_information as mutual_information
