from .dequantisation import dequantise as dequantise
from .empirical import Empirical as Empirical
from .empirical import SmoothedEmpirical as SmoothedEmpirical
from .gaussian import Gaussian as Gaussian
from .gaussian import IsotropicGaussian as IsotropicGaussian
from .mixture import GaussianMixture as GaussianMixture
