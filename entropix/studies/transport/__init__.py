"""`entropix transport`: what a network stores of a known density, the longer it is trained."""

from entropix.studies.transport.options import MixtureOptions as MixtureOptions
from entropix.studies.transport.options import TransportEstimation as TransportEstimation
from entropix.studies.transport.options import TransportOptions as TransportOptions
from entropix.studies.transport.options import TransportTraining as TransportTraining
from entropix.studies.transport.plan import TransportPlan as TransportPlan
from entropix.studies.transport.plan import prepare_transport as prepare_transport
from entropix.studies.transport.study import run_transport as run_transport
from entropix.studies.transport.study import transport as transport
