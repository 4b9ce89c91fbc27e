"""Distributions with exact, differentiable densities before and after Gaussian diffusion."""

from entropix.distributions.dequantisation import dequantise as dequantise
from entropix.distributions.empirical import Empirical as Empirical
from entropix.distributions.empirical import SmoothedEmpirical as SmoothedEmpirical
from entropix.distributions.gaussian import Gaussian as Gaussian
from entropix.distributions.gaussian import IsotropicGaussian as IsotropicGaussian
from entropix.distributions.mixture import GaussianMixture as GaussianMixture
