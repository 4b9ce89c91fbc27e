from .any_order import AnyOrder as AnyOrder
from .bits import bits_per_dimension as bits_per_dimension
from .jarzynski import Jarzynski as Jarzynski
from .log_prob import log_prob as log_prob
from .path_bound import DenoisingError as DenoisingError
from .path_bound import PathBound as PathBound
from .probability_flow import ProbabilityFlow as ProbabilityFlow
