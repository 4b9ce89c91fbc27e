"""Log densities of samples under a model."""

from entropix.density.any_order import AnyOrder as AnyOrder
from entropix.density.bits import bits_per_dimension as bits_per_dimension
from entropix.density.jarzynski import Jarzynski as Jarzynski
from entropix.density.log_prob import log_prob as log_prob
from entropix.density.path_bound import DenoisingError as DenoisingError
from entropix.density.path_bound import PathBound as PathBound
from entropix.density.probability_flow import ProbabilityFlow as ProbabilityFlow
