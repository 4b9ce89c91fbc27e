"""`entropix transport`: what networks store of known densities, by the length of training."""

from entropix.studies.options import MixtureOptions as MixtureOptions
from entropix.studies.options import TransportEstimation as TransportEstimation
from entropix.studies.options import TransportOptions as TransportOptions
from entropix.studies.options import TransportTraining as TransportTraining
from entropix.studies.transport.study import TransportStudy as TransportStudy
from entropix.studies.transport.study import prepare_transport as prepare_transport
from entropix.studies.transport.study import transport as transport
