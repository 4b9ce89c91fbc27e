"""The public interfaces: what a class of your own implements to go wherever the library's go.

Every class here is an interface: abstract methods state what differs, concrete methods state what
follows from them and are never overridden.
"""

from entropix.interfaces.density import AbstractDensityMethod as AbstractDensityMethod
from entropix.interfaces.density import SampleEstimates as SampleEstimates
from entropix.interfaces.distribution import AbstractDistribution as AbstractDistribution
from entropix.interfaces.distribution import AbstractPrior as AbstractPrior
from entropix.interfaces.errors import DivergenceError as DivergenceError
from entropix.interfaces.estimate import Estimate as Estimate
from entropix.interfaces.functional import AbstractControlVariate as AbstractControlVariate
from entropix.interfaces.functional import AbstractFunctional as AbstractFunctional
from entropix.interfaces.loss import AbstractLoss as AbstractLoss
from entropix.interfaces.model import AbstractModel as AbstractModel
from entropix.interfaces.process import AbstractGaussianProcess as AbstractGaussianProcess
from entropix.interfaces.process import AbstractKernel as AbstractKernel
from entropix.interfaces.process import AbstractKernelProcess as AbstractKernelProcess
from entropix.interfaces.process import AbstractLearnable as AbstractLearnable
from entropix.interfaces.process import AbstractProcess as AbstractProcess
from entropix.interfaces.process import AbstractSchedule as AbstractSchedule
from entropix.interfaces.process import AbstractWarp as AbstractWarp
from entropix.interfaces.result import AbstractResult as AbstractResult
from entropix.interfaces.sampler import AbstractDenoiser as AbstractDenoiser
from entropix.interfaces.sampler import AbstractSampler as AbstractSampler
from entropix.interfaces.sampler import NoiseLevel as NoiseLevel
from entropix.interfaces.speed import AbstractSpeed as AbstractSpeed
from entropix.interfaces.stream import AbstractStream as AbstractStream
from entropix.interfaces.times import AbstractTimes as AbstractTimes
from entropix.interfaces.tokens import AbstractTokenProcess as AbstractTokenProcess
