"""Information between data sets, variables and conditions, from the fields of models."""

from entropix.information.measures import differential_entropy as differential_entropy
from entropix.information.measures import kl_divergence as kl_divergence
from entropix.information.measures import mutual_information as mutual_information
from entropix.information.measures import total_correlation as total_correlation
