"""Array types, argument checks, `Estimate` and the abstract interfaces: imported by every room."""

from entropix._core.estimate import Estimate as Estimate
from entropix._core.interfaces import AbstractDistribution as AbstractDistribution
from entropix._core.interfaces import AbstractGaussianProcess as AbstractGaussianProcess
from entropix._core.interfaces import AbstractModel as AbstractModel
from entropix._core.interfaces import AbstractPrior as AbstractPrior
from entropix._core.interfaces import AbstractProcess as AbstractProcess
from entropix._core.interfaces import AbstractSchedule as AbstractSchedule
from entropix._core.mesh import make_mesh as make_mesh
