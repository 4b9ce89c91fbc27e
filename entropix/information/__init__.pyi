from .canonical import CanonicalCoordinates as CanonicalCoordinates
from .class_entropy import ClassEntropy as ClassEntropy
from .critical_times import CriticalTimes as CriticalTimes
from .critical_times import critical_times as critical_times
from .crossfit import Recipe as Recipe
from .crossing import CriticalTime as CriticalTime
from .differential_entropy import differential_entropy as differential_entropy
from .divergences import kl_divergence as kl_divergence
from .divergences import total_correlation as total_correlation
from .end_term import curve_with_end_term as curve_with_end_term
from .entropic_time import EntropicTimeCurve as EntropicTimeCurve
from .entropic_time import entropic_time as entropic_time
from .estimates import InformationEstimate as InformationEstimate
from .estimates import check_pair as check_pair
from .estimates import (
    estimate_conditional_mutual_information as estimate_conditional_mutual_information,
)
from .estimates import estimate_entropy as estimate_entropy
from .estimates import estimate_kl as estimate_kl
from .estimates import estimate_mutual_information as estimate_mutual_information
from .estimates import estimate_total_correlation as estimate_total_correlation
from .forms import ModelPair as ModelPair
from .forms import in_form as in_form
from .mutual_information import conditional_mutual_information as conditional_mutual_information
from .mutual_information import mutual_information as mutual_information
